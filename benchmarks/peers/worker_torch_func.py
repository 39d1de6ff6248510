"""Worker: Jacobian contraction with torch.func, after the recipe of PyTorch's own NTK tutorial.

Θ(x, x') = Σ_θ J(x) J(x')ᵀ, J by `vmap(jacrev(…))`, one einsum a parameter. The recipe takes two sets of samples and a
Jacobian for each; here both are the same set, so its Jacobian is computed once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from peers.protocol import serve
from peers.rows import EmpiricalRow, Row
from peers.torch_mlp import mlp, stage

CONTRACTIONS = {"trace": "nop,mop->nm", "full": "nop,mqp->nmoq"}


class JacobianContraction:
    def __init__(self, row: Row):
        if not isinstance(row, EmpiricalRow):
            raise NotImplementedError("torch.func has no exact kernels")
        self.model, self.contraction = mlp(row), CONTRACTIONS[row.outputs]

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return stage(self.model, arrays)

    def compute(self, inputs: Tensor) -> Tensor:
        def single(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.model, parameters, (x.unsqueeze(0),)).squeeze(0)

        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        jacobians = vmap(jacrev(single), (None, 0))(parameters, inputs)
        blocks = (torch.einsum(self.contraction, j.flatten(2), j.flatten(2)) for j in jacobians.values())
        return sum(blocks, torch.zeros(()))

    def to_numpy(self, result: Tensor) -> np.ndarray:
        return result.numpy()


if __name__ == "__main__":
    serve(JacobianContraction, ("torch",))
