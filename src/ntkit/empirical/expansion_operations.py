"""Operations as expansions need them: with right derivatives of every order, in forward mode too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ntkit.empirical.directional import plain_attention


class AsAutogradDoes(TorchFunctionMode):
    """Derivatives of every order are those of what the model computes, where torch's own are not.

    What is computed under no_grad, and `.data`, are constants, for forward mode too. Normalisations are computed by
    simple operations, as torch's formulas for their forward mode have wrong derivatives (PyTorch issues 196699, 196700,
    198017); so have the operations that are refused.

    Args:
        forward_mode: whether forward mode is used.
    """

    def __init__(self, forward_mode: bool):
        super().__init__()
        self.forward_mode = forward_mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            torch._C._set_fwd_grad_enabled(args[0])  # pyright: ignore[reportAttributeAccessIssue]
        if func is torch.Tensor.data.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return args[0].detach()
        name = getattr(func, "__name__", "")
        simple = _NORMALISATIONS.get(func)
        found = None if simple is None else simple(*args, **(kwargs or {}))
        if found is NotImplemented or name in _WRONG_TWICE:
            if self.forward_mode:
                raise NotImplementedError(f"forward AD with {name} has wrong derivatives of its own")
            found = None
        return func(*args, **(kwargs or {})) if found is None else found


_WRONG_TWICE = {
    "cholesky_inverse", "cholesky_solve", "det", "linalg_det", "linalg_householder_product", "linalg_slogdet",
    "linalg_solve", "linalg_solve_ex", "logdet", "orgqr", "slogdet",
}  # fmt: skip


def _normalised(x: Tensor, axes: list[int], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    return _scaled(_normalised(input, list(range(-len(normalized_shape), 0)), eps), weight, bias)


def _by_channel(x: Tensor, axes: list[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalised over some axes, with a scale and a shift for each entry of axis 1."""
    weight, bias = (p if p is None else p.view(-1, *[1] * (x.dim() - 2)) for p in (weight, bias))
    return _scaled(_normalised(x, axes, eps), weight, bias)


def _instance_norm(
    input: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    """None where statistics are running ones, of which torch's formulas are right."""
    return _by_channel(input, list(range(2, input.dim())), weight, bias, eps) if use_input_stats else None


def _batch_norm(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """None where statistics are running ones; one that moves them is not implemented."""
    if not training:
        return None
    if running_mean is not None:
        return NotImplemented
    return _by_channel(input, [0, *range(2, input.dim())], weight, bias, eps)


def _weights_first(simple: Callable[..., Any]) -> Callable[..., Any]:
    """As torch.batch_norm and torch.instance_norm have them, which take no names: (x, weight, bias, mean, var, …)."""
    return lambda x, weight, bias, mean, var, use, momentum, eps, _: simple(
        x, mean, var, weight, bias, use, momentum, eps
    )


_NORMALISATIONS: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm, torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm, torch.instance_norm: _weights_first(_instance_norm),
    F.batch_norm: _batch_norm, torch.batch_norm: _weights_first(_batch_norm),
}  # fmt: skip


@contextmanager
def differentiable_operations(model: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers run by operations that have derivatives in every mode, not by fused ones."""
    with ExitStack() as stack:
        stack.enter_context(plain_attention())
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            libraries: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.mkldnn)
            for library in libraries:
                stack.callback(setattr, library, "enabled", library.enabled)
                library.enabled = False
        yield
