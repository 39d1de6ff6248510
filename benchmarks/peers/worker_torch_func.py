"""Worker: Jacobian contraction with torch.func, after the recipe of PyTorch's own NTK tutorial.

Θ(x, x') = Σ_θ J(x) J(x')ᵀ, J by `vmap(jacrev(…))`, one einsum a parameter. The recipe takes two sets of samples and a
Jacobian for each; here both are the same set, so its Jacobian is computed once. Where a sum over outputs is wanted, one
output's Jacobian is held at a time: that of all 10 outputs of ResNet-18 and 50 samples would take 22 GB.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from peers import torch_mlp, torch_models
from peers.protocol import serve
from peers.rows import EmpiricalRow, ModelRow, Row

CONTRACTIONS = {"trace": "nop,mop->nm", "full": "nop,mqp->nmoq"}


class JacobianContraction:
    def __init__(self, row: Row):
        if not isinstance(row, EmpiricalRow | ModelRow):
            raise NotImplementedError("torch.func has no exact kernels")
        self.row = row
        self.model: nn.Module = torch_models.model(row) if isinstance(row, ModelRow) else torch_mlp.mlp(row)

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        if isinstance(self.model, nn.Sequential) and isinstance(self.row, EmpiricalRow):
            return torch_mlp.stage(self.model, arrays)
        return torch_models.stage(self.model, arrays)

    def compute(self, inputs: Tensor) -> Tensor:
        if self.row.outputs == "full":
            return self._contracted(inputs, slice(None))
        single = (self._contracted(inputs, slice(o, o + 1)) for o in range(self.row.n_outputs))
        return sum(single, torch.zeros(()))

    def _contracted(self, inputs: Tensor, outputs: slice) -> Tensor:
        """The kernel of these outputs, summed over them or in pairs."""

        def single(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.model, parameters, (x.unsqueeze(0),)).squeeze(0)[outputs]

        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        jacobians = vmap(jacrev(single), (None, 0))(parameters, inputs)
        contraction = CONTRACTIONS[self.row.outputs]
        blocks = (torch.einsum(contraction, j.flatten(2), j.flatten(2)) for j in jacobians.values())
        return sum(blocks, torch.zeros(()))

    def to_numpy(self, result: Tensor) -> np.ndarray:
        return result.numpy()


if __name__ == "__main__":
    serve(JacobianContraction, ("torch",))
