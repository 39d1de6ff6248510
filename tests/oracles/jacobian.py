"""The empirical tangent kernel in textbook form: the whole Jacobian of every sample, then one product.

k(x, x')[o, o'] = Σ_θ ∂f_o(x)/∂θ ∂f_o'(x')/∂θ   (Jacot, Gabriel & Hongler 2018, section 4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def jacobian(model: nn.Module, x, names: list[str] | None = None) -> Tensor:
    """(n, O, P): one reverse pass an entry of the output, one sample at a time, on the model itself."""
    chosen = [p for name, p in model.named_parameters() if (p.requires_grad if names is None else name in names)]
    rows = []
    for sample in samples(x):
        out = call(model, sample).reshape(-1)
        for value in out:
            grads = torch.autograd.grad(value, chosen, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        torch.zeros(p.numel(), dtype=p.dtype) if g is None else g.flatten()
                        for p, g in zip(chosen, grads, strict=True)
                    ]
                )
            )
    width = sum(p.numel() for p in chosen)
    return torch.stack(rows).reshape(-1, out.numel(), width)


def func_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """(n, O, P): torch.func's per-sample Jacobians, for models that torch.func can run."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def f(p, sample):
        return torch.func.functional_call(model, p, (sample[None],)).reshape(-1)

    jacobians = torch.func.vmap(torch.func.jacrev(f), (None, 0))(parameters, x)
    return torch.cat([j.flatten(2) for j in jacobians.values()], dim=2)


def kernel(j1: Tensor, j2: Tensor, outputs: str) -> Tensor:
    """The kernel between two Jacobians, in the layout of `outputs`."""
    full = torch.einsum("nop,mqp->nmoq", j1, j2)
    if outputs == "full":
        return full
    diagonal = torch.diagonal(full, dim1=2, dim2=3)
    if outputs == "diagonal":
        return diagonal
    return diagonal.sum(-1) if outputs == "trace" else diagonal.mean(-1)


def samples(x):
    """Batches of one."""
    if isinstance(x, tuple):
        return list(zip(*(leaf.split(1) for leaf in x), strict=True))
    if isinstance(x, dict):
        count = len(next(iter(x.values())))
        return [{key: leaf[i : i + 1] for key, leaf in x.items()} for i in range(count)]
    return x.split(1)


def call(model: nn.Module, x):
    if isinstance(x, tuple):
        return model(*x)
    return model(**x) if isinstance(x, dict) else model(x)
