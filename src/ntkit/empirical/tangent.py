"""The derivative of a network along its parameters, and its transpose, over blocks of samples that fit in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntkit._memory import free_bytes, read_limit, require_bytes
from ntkit.empirical.assign import assign
from ntkit.empirical.directional import Block, Mode, plain_attention, working_mode
from ntkit.empirical.independence import require_few_alone, require_same, run_alone, running_the_model
from ntkit.empirical.inputs import Inputs, a_few, batch_size, take
from ntkit.empirical.network import Network, derivatives
from ntkit.errors import InvalidInput

# what a sample's graph, and a pass over it, take in units of what autograd saves of the sample's forward pass
_HELD: Mapping[str, int] = {"reverse-forward": 3, "reverse-reverse": 4}


class Tangent:
    """The derivative J of f(θ, x) along θ at the model's parameters, and its transpose.

    Where the graph of all samples fits in the memory limit it is recorded once and kept; else blocks of samples are
    recorded for every product.

    Args:
        model: any torch module that treats samples independently; it is copied as it is now.
        x: (n, ...) samples as the model takes them; copied too.
        parameters: names or glob patterns; default all that require grad.
        forward: f(model, x) -> (n, o) in place of calling the model.
        memory_limit: bytes for graphs and gradients, one gradient of the model not counted; default: half of what is
            free.
        mode: "reverse-forward", J by forward mode where every operation has it, else by reverse mode twice;
            "reverse-reverse" does so always.

    Raises:
        InvalidInput: as for `EmpiricalKernel`; an unknown mode, or an operation without the derivatives needed.
        MemoryLimitExceeded: the graph of one sample exceeds the limit.

    Attributes:
        x, model: the samples and the model as they were.
        point: the selected parameters.
        outputs: (n, o).
        mode: the one that works for this model.
        block: how many samples are recorded at once.
        bytes_each: what one of them takes.

    Example:
        >>> tangent = Tangent(torch.nn.Linear(2, 1, bias=False), torch.eye(2))
        >>> tangent.pull(torch.tensor([[1.0], [2.0]]))
        {'weight': tensor([[1., 2.]])}
        >>> tangent.push({"weight": torch.tensor([[1.0, 2.0]])}).flatten()
        tensor([1., 2.])
    """

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        *,
        parameters: str | Sequence[str] | None = None,
        forward: Callable[[nn.Module, Any], Tensor] | None = None,
        memory_limit: int | None = None,
        mode: Mode = "reverse-forward",
    ):
        with derivatives():
            network = Network(model, parameters, forward)
            self.x = take(network.admit(x, "x"), slice(None))
            probe = a_few(self.x)
            assign(network, probe, frozenset())  # refuses what EmpiricalKernel refuses
            self.model = _copied(model)
            self._network = Network(self.model, parameters, forward)
            self.point = {name: self._network.standins[name].detach() for name in self._network.selected}
            self.mode: Mode = working_mode(self._network, probe, mode)
            self._cut(read_limit(memory_limit))
            self.outputs = self._evaluate()

    def push(self, direction: Mapping[str, Tensor]) -> Float[Tensor, "n o"]:
        """J δθ: how the outputs move when the parameters move by `direction`, one tensor for each name in `point`."""
        return self._pushes([direction])[0]

    def pull(self, weights: Float[Tensor, "n o"]) -> dict[str, Tensor]:
        """Jᵀ v: the gradient of Σ v f with respect to the parameters."""
        return self._pulls(weights[None])[0]

    def products(self, v: Float[Tensor, "k n o"]) -> Float[Tensor, "k n o"]:
        """J Jᵀ v of several vectors, as many gradients at once as the memory limit allows."""
        return torch.cat([self._pushes(self._pulls(some)) for some in v.split(self._gradients_at_once)])

    def _pulls(self, v: Float[Tensor, "k n o"]) -> list[dict[str, Tensor]]:
        totals: list[dict[str, Tensor]] = []
        for rows, block in self._blocks():
            for i, weights in enumerate(v[:, rows]):
                part = block.pull(weights.contiguous())
                if len(totals) <= i:
                    totals.append(part)
                else:
                    for name, g in part.items():
                        totals[i][name] = totals[i][name] + g
        return totals

    def _pushes(self, directions: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "k n o"]:
        result = self.outputs.new_empty(len(directions), *self.outputs.shape)
        for rows, block in self._blocks():
            for i, direction in enumerate(directions):
                result[i, rows] = block.push(direction).detach()
        return result

    def _blocks(self) -> Iterator[tuple[slice, Block]]:
        """Every block of samples, where it has its rows in the outputs."""
        if self._whole is not None:
            yield slice(None), self._whole
            return
        for start in range(0, batch_size(self.x), self.block):
            rows = slice(start, start + self.block)
            yield rows, Block(self._network, take(self.x, rows), self.mode)

    def _cut(self, memory_limit: int | None) -> None:
        """Choose how many samples are a block, and how many gradients exist at once."""
        network, n = self._network, batch_size(self.x)
        with running_the_model(), plain_attention():
            self._alone, saved = run_alone(network, take(self.x, slice(0, 1)))
        self.bytes_each = each = max(1, _HELD[self.mode] * saved)
        limit = memory_limit or free_bytes(network.device) // 2
        remedy = "raise memory_limit, or select fewer parameters"
        require_bytes(each, "the graph of one sample", remedy, limit, is_limit=memory_limit is not None)
        self._whole = Block(network, self.x, self.mode) if n * each <= limit else None
        self.block = n if self._whole is not None else max(1, limit // 2 // each)
        gradient = sum(p.numel() * p.element_size() for p in self.point.values())
        self._gradients_at_once = 1 if self._whole is not None else max(1, limit // 2 // max(1, gradient))

    def _evaluate(self) -> Float[Tensor, "n o"]:
        """f(x); where all samples fit, their graph is recorded here."""
        with running_the_model():
            if self._whole is not None:
                out = self._whole.outputs.detach()
            else:
                with torch.no_grad(), plain_attention():
                    parts = [self._network(take(self.x, slice(i, i + self.block))) for i in self._starts()]
                out = torch.cat(parts)
            require_same(self._alone, out)
            require_few_alone(self._network, self.x, out)
        return out

    def _starts(self) -> range:
        return range(0, batch_size(self.x), self.block)


def _copied(model: nn.Module) -> nn.Module:
    """The model as it is now, without gradients that training has left."""
    try:
        own = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(
            "the model must be one that copy.deepcopy copies, as the operator keeps it as it is now, got "
            f"{type(error).__name__}: {error}; hold no results of computations or open files in its attributes"
        ) from error
    own.zero_grad(set_to_none=True)
    return own
