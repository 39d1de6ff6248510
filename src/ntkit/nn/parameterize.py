"""A plain torch model rewritten in NTK parameterisation."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ntkit.errors import InvalidInput
from ntkit.nn.layers import COUNTERPARTS, Linear


def ntk_parameterize(model: torch.nn.Module, w_std: float = 1.0, b_std: float = 0.0) -> torch.nn.Module:
    """A copy of a plain model whose linear and convolution layers are in NTK parameterisation, redrawn from N(0, 1).

    Layers already in NTK parameterisation keep their scales and are redrawn too. A layer without bias gets none;
    a layer with bias loses it where b_std = 0. `requires_grad` of each parameter is kept.

    Args:
        model: any torch model; it is left as it is.
        w_std: scale of the weights of every replaced layer.
        b_std: scale of the biases of every replaced layer that has one.

    Returns:
        The new model.

    Raises:
        InvalidInput: model is no module, a scale is negative or not finite, or a layer has no counterpart here: a
            subclass whose forward may differ, a parameter that two layers share.

    Example:
        >>> plain = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> ntk_parameterize(plain, w_std=2**0.5, b_std=0.1)[0]
        Linear(4, 8, w_std=1.41421, b_std=0.1)
    """
    if not isinstance(model, torch.nn.Module):
        raise InvalidInput(f"ntk_parameterize: model must be a torch.nn.Module, got {type(model).__name__}")
    _require_counterparts(model)
    copied = copy.deepcopy(model)
    if replacement := _replacement(copied, w_std, b_std):
        return replacement
    done: dict[torch.nn.Module, torch.nn.Module] = {}  # a module used twice stays one module
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            new = done.get(child) or _replacement(child, w_std, b_std)
            if new is not None:
                done[child] = new
                setattr(parent, name, new)
    return copied


def _require_counterparts(model: torch.nn.Module) -> None:
    """Only torch's own classes are rewritten: a subclass, or one with parameters of its own, may compute otherwise."""
    owners: dict[int, str] = {}
    for path, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
            continue
        parameters = dict(module.named_parameters(recurse=False))
        if type(module) not in _KNOWN or not set(parameters) <= {"weight", "bias"} or "weight" not in parameters:
            raise InvalidInput(
                f"ntk_parameterize: {type(module).__name__} at '{path}' has no counterpart in NTK parameterisation; "
                "use torch's Linear, Conv1d to Conv3d and ConvTranspose1d to ConvTranspose3d as they are"
            )
        for name, parameter in parameters.items():
            if id(parameter) in owners:
                raise InvalidInput(
                    f"ntk_parameterize: '{path}.{name}' is shared with '{owners[id(parameter)]}'; give each layer its "
                    "own"
                )
            owners[id(parameter)] = f"{path}.{name}"


_OWN = tuple(COUNTERPARTS.values())
_KNOWN = (*COUNTERPARTS, *_OWN)


def _replacement(layer: torch.nn.Module, w_std: float, b_std: float) -> torch.nn.Module | None:
    """The layer in NTK parameterisation, or None for what is no linear or convolution layer."""
    if isinstance(layer, _OWN):
        layer.reset_parameters()
        return layer
    if not isinstance(layer, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
        return None
    bias_std = 0.0 if layer.bias is None else b_std
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    new: torch.nn.Linear | torch.nn.modules.conv._ConvNd
    if isinstance(layer, torch.nn.Linear):
        new = Linear(layer.in_features, layer.out_features, w_std, bias_std, **place)
    else:
        make: Any = COUNTERPARTS[type(layer)]
        only = {"output_padding": layer.output_padding} if layer.transposed else {"padding_mode": layer.padding_mode}
        new = make(
            layer.in_channels, layer.out_channels, layer.kernel_size, w_std=w_std, b_std=bias_std,
            stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups, **only, **place,
        )  # fmt: skip
    new.weight.requires_grad_(layer.weight.requires_grad)
    if new.bias is not None and layer.bias is not None:
        new.bias.requires_grad_(layer.bias.requires_grad)
    return new.train(layer.training)
