"""The network that a study is about: `mlp:3x512:relu`, `FILE.py:FUNCTION`, or a module as it is."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import ntkit.nn
from ntkit.errors import InvalidInput
from ntkit.nn.layers import COUNTERPARTS

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "erf": ntkit.nn.Erf,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "sin": ntkit.nn.Sin,
    "cos": ntkit.nn.Cos,
    "abs": ntkit.nn.Abs,
}
_MLP = re.compile(r"mlp:(\d+)x(\d+):(\w+)")
_LARGEST = 50_000_000  # parameters of an mlp: 200 MB in float32, and several copies are trained


@dataclass(frozen=True)
class StudiedNetwork:
    """A network ready to be studied.

    Args:
        model: the network, in eval mode.
        name: as the user gave it.
        parameterization: "ntk" where its layers state their own scales, else "standard".
    """

    model: nn.Module
    name: str
    parameterization: str


def build_network(
    spec: str | nn.Module, input_shape: tuple[int, ...], n_outputs: int, *, seed: int, w_std: float, b_std: float
) -> StudiedNetwork:
    """The network of a spec, drawn by the seed.

    Args:
        spec: `mlp:DEPTHxWIDTH:ACTIVATION` (hidden layers, in NTK parameterisation), `FILE.py:FUNCTION` whose function
            returns a module and may take (input_shape, n_outputs), or a module, which is copied.
        input_shape: of one sample.
        n_outputs: wanted outputs.
        seed: of the draw.
        w_std: scale of an mlp's hidden layers.
        b_std: scale of an mlp's biases.

    Raises:
        InvalidInput: the spec is not understood, the file or function is missing or broken, or the network does not
            take the data or has another number of outputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(spec, nn.Module):
            model, name = copy.deepcopy(spec), type(spec).__name__
        elif not isinstance(spec, str):
            raise InvalidInput(f"the network must be a string or a torch.nn.Module, got {type(spec).__name__}")
        elif spec.startswith("mlp:"):
            model, name = _mlp(spec, math.prod(input_shape), n_outputs, w_std, b_std), spec
        elif ".py:" in spec:
            model, name = _from_file(spec, input_shape, n_outputs), Path(spec).name
        else:
            raise InvalidInput(
                "the network must be mlp:DEPTHxWIDTH:ACTIVATION (such as mlp:3x512:relu) or FILE.py:FUNCTION, "
                f"got {spec!r}"
            )
    model.eval()
    _check_fits(model, name, input_shape, n_outputs)
    own = [m for m in model.modules() if isinstance(m, tuple(COUNTERPARTS.values()))]
    plain = [m for m in model.modules() if isinstance(m, tuple(COUNTERPARTS)) and m not in own]
    return StudiedNetwork(model, name, "standard" if plain or not own else "ntk")


def _mlp(spec: str, features: int, n_outputs: int, w_std: float, b_std: float) -> nn.Module:
    """Hidden layers of one width and a read-out of scale 1, in NTK parameterisation."""
    match = _MLP.fullmatch(spec)
    if not match or match[3] not in ACTIVATIONS or int(match[1]) == 0 or int(match[2]) == 0:
        raise InvalidInput(
            f"an mlp must be mlp:DEPTHxWIDTH:ACTIVATION with at least one hidden layer and one of the activations "
            f"{', '.join(ACTIVATIONS)}, got {spec!r}"
        )
    depth, width, activation = int(match[1]), int(match[2]), ACTIVATIONS[match[3]]
    sizes = [features] + [width] * depth
    n_parameters = sum(i * o for i, o in pairwise(sizes)) + width * n_outputs
    if n_parameters > _LARGEST:
        raise InvalidInput(
            f"{spec} has {n_parameters:,} weights, and at most {_LARGEST:,} are studied; make it narrower"
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in pairwise(sizes):
        layers += [ntkit.nn.Linear(i, o, w_std, b_std), activation()]
    return nn.Sequential(*layers, ntkit.nn.Linear(width, n_outputs, 1.0, b_std))


def _from_file(spec: str, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InvalidInput(f"there is no file {file!r}; the network is given as FILE.py:FUNCTION, got {spec!r}")
    module_spec = importlib.util.spec_from_file_location(f"_ntkit_network_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickling look their module up
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises is said with the file's name
        raise InvalidInput(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [k for k, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module_spec.name]
        raise InvalidInput(f"{file} has no function {name!r}; its functions are {', '.join(functions) or 'none'}")
    try:
        wanted = len([p for p in inspect.signature(function).parameters.values() if p.default is p.empty])
        model = function(input_shape, n_outputs) if wanted == 2 else function()
    except (Exception, SystemExit) as error:
        raise InvalidInput(
            f"{spec} failed: {type(error).__name__}: {error}; ntkit calls it with nothing, or with "
            "(input_shape, n_outputs) where it has two parameters"
        ) from error
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"{spec} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _check_fits(model: nn.Module, name: str, input_shape: tuple[int, ...], n_outputs: int) -> None:
    """One forward pass of two samples gives (2, n_outputs)."""
    parameters = list(model.parameters())
    if not any(p.requires_grad for p in parameters):
        raise InvalidInput(f"{name} has no parameter that requires grad, so there is nothing to train")
    x = torch.zeros(2, *input_shape, dtype=parameters[0].dtype)
    try:
        with torch.no_grad():
            out = model(x)
    except Exception as error:  # shape errors of torch come in many types
        raise InvalidInput(
            f"{name} does not take samples of shape {input_shape}: {type(error).__name__}: {error}"
        ) from error
    shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if shape != (2, n_outputs):
        raise InvalidInput(
            f"{name} must give {n_outputs} outputs a sample for these data, so (2, {n_outputs}) for two, got {shape}"
        )
