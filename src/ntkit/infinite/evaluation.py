"""From samples to kernel matrices: places the program on their shape, lets an engine run it, hands results out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ntkit._arrays import like
from ntkit._memory import require_bytes
from ntkit.architecture import Network, sizes_of
from ntkit.errors import InvalidInput
from ntkit.infinite import inputs
from ntkit.infinite.compiled.threads import torch_in_one_thread
from ntkit.infinite.engines import chosen
from ntkit.infinite.placement import Placement
from ntkit.infinite.plan import Plan, covariances, duals_of, entries_per_pair
from ntkit.infinite.rules import compile_network
from ntkit.infinite.scales import on_device, tensors_of
from ntkit.infinite.torch_interpreter import torch_interpreter_of

if TYPE_CHECKING:
    from ntkit.infinite.kernel import InfiniteKernel


@dataclass(frozen=True)
class Kernels:
    """The two kernels of one network on the same pairs.

    Args:
        nngp: covariance of the outputs at initialisation, (n, m).
        ntk: tangent kernel, (n, m).
    """

    nngp: Any
    ntk: Any


@torch_in_one_thread()  # whose helpers would go on waiting, busily, where ours work
@np.errstate(under="ignore")  # whatever the caller's setting: what is too small for a double is 0
def matrices(kernel: InfiniteKernel, x1: Any, x2: Any, wanted: tuple[str, ...], given: inputs.Request) -> list[Kernels]:
    """The kernels of every output; what is not wanted is None."""
    x1, mask1 = inputs.without_mask(kernel.network, x1, "x1")
    x2, mask2 = inputs.without_mask(kernel.network, x2, "x2")
    one = inputs.samples(kernel.network, x1, "x1")
    two = None
    if x2 is not None:
        two = inputs.samples(kernel.network, x2, "x2")
        inputs.check_same_kind(x1, x2, one, two)
    inputs.check_gradients_in_scales(_scales_with_gradients(kernel), x1, given.out)
    if given.out is not None:
        inputs.check_no_gradients({"x1": one} if two is None else {"x1": one, "x2": two})
    inputs.check_on_tile(given.on_tile)
    placement = _placed(kernel, tuple(one.shape[1:]), one.device)
    masks = (
        inputs.mask_of(mask1, one, placement, "x1"),
        None if two is None else inputs.mask_of(mask2, two, placement, "x2"),
    )
    engine = chosen(given.engine, placement, kernel.tolerance, one, *([] if two is None else [two]))
    shape = (len(one), len(one if two is None else two))
    dtype = given.dtype(one)
    outputs = len(kernel.program.outputs)
    targets = _targets(kernel.network, given, wanted, shape, dtype, x1)
    if targets:
        named = {f"out ({kind}{k or ''})": a for k, each in enumerate(targets) for kind, a in each.items()}
        inputs.check_separate(named, {"x1": one} if two is None else {"x1": one, "x2": two})
    item = torch.finfo(dtype).bits // 8 if engine == "numba" else 8
    in_place = bool(targets) and engine == "numba"  # torch computes in memory of its own, and copies
    require_bytes(
        0 if in_place else item * shape[0] * shape[1] * len(wanted) * outputs,
        f"a kernel of {shape[0]} x {shape[1]} samples",
        "use fewer samples, write into a memory-mapped array with out=, or compute it in blocks "
        "kernel.ntk(x1[i:j], x2)",
    )
    run = _compiled if engine == "numba" else partial(_with_torch, masks=masks)
    results = run(kernel, placement, one, two, wanted, dtype, targets, given)
    if targets:
        return [Kernels(*(targets[k].get(kind) for kind in ("nngp", "ntk"))) for k in range(outputs)]
    return [Kernels(*(None if r is None else like(r, x1) for r in pair)) for pair in results]


@torch_in_one_thread()
@np.errstate(under="ignore")
def diagonal(kernel: InfiniteKernel, x: Any, given: inputs.Request) -> list[Kernels]:
    """Both kernels of every sample with itself, for every output."""
    x, given_mask = inputs.without_mask(kernel.network, x, "x")
    samples = inputs.samples(kernel.network, x, "x")
    inputs.check_gradients_in_scales(_scales_with_gradients(kernel), x, None)
    placement = _placed(kernel, tuple(samples.shape[1:]), samples.device)
    mask = inputs.mask_of(given_mask, samples, placement, "x")
    dtype = given.dtype(samples)
    if chosen(given.engine, placement, kernel.tolerance, samples) == "numba":
        arithmetic = inputs.arithmetic([samples], _has_positions(placement))
        interpreter = _compiled_interpreter(kernel, placement, arithmetic, True)
        found = interpreter.diagonal(_contiguous(samples))
        pairs = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(found.nngp, found.ntk, strict=True)]
    else:
        interpreter = torch_interpreter_of(placement, kernel.tolerance)
        pairs = interpreter.diagonal(samples.double(), True, True, mask)
    converted = [[k.to(dtype) for k in pair if k is not None] for pair in pairs]
    for result in (k for pair in converted for k in pair):
        inputs.require_finite(result)
    return [Kernels(*(like(k, x) for k in pair)) for pair in converted]


def plan_of(kernel: InfiniteKernel, shape: Any, shape2: Any, engine: str) -> Plan:
    """What a kernel of these shapes costs."""
    for given, name in ((shape, "shape"), (shape if shape2 is None else shape2, "shape2")):
        inputs.check_shape_argument(given, name)
        sizes_of(kernel.network, given, name)
    placement = _placed(kernel, shape[1:], torch.device("cpu"))
    name = chosen(engine, placement, kernel.tolerance)
    n, m = shape[0], (shape if shape2 is None else shape2)[0]
    pairs = n * (n + 1) // 2 if shape2 is None else n * m
    how = duals_of(kernel.program, kernel.tolerance)
    state = 8 * (n + m) * sum(placement.positions(i) for i in range(len(placement.grids)))
    memory = 8 * n * m * 2 * len(kernel.program.outputs) + state
    described = "numba, all cores, in the inputs' precision"
    if name == "torch":
        safe = torch_interpreter_of(placement, kernel.tolerance).safe_in_single
        described = "torch and compiled loops, in the inputs' precision on CPUs" if safe else "torch, float64"
    return Plan(
        n, m, shape2 is None, covariances(placement), pairs * entries_per_pair(placement), memory, described, how
    )


# ---- inside ----------------------------------------------------------------------------------------------------


def _scales_with_gradients(kernel: InfiniteKernel) -> dict[str, Tensor]:
    return tensors_of(kernel.network) if torch.is_grad_enabled() else {}


def _placed(kernel: InfiniteKernel, sample: tuple[int, ...], device: torch.device) -> Placement:
    """The program on samples of one shape, with tensors for scales where gradients in them are wanted."""
    program = kernel.program
    if _scales_with_gradients(kernel):  # compiled at every call: a graph can be used for one backward pass
        program = compile_network(on_device(kernel.network, device))
    placement = Placement(program, sample)
    placement.check_outputs(kernel.network.output_paths)
    return placement


def _targets(
    network: Network,
    given: inputs.Request,
    wanted: tuple[str, ...],
    shape: tuple[int, int],
    dtype: torch.dtype,
    x1: Any,
) -> list[dict[str, Any]]:
    """{kind: array} of each output to write into; empty where none was given."""
    if given.out is None:
        return []
    found = []
    for out in inputs.in_order(network, given.out):
        if len(wanted) > 1 and not isinstance(out, Kernels):
            raise InvalidInput(f"out must be ntkit.infinite.Kernels(nngp, ntk) of arrays, got {type(out).__name__}")
        arrays = {kind: getattr(out, kind) if isinstance(out, Kernels) else out for kind in wanted}
        found.append({kind: inputs.target(a, f"out ({kind})", shape, dtype, x1) for kind, a in arrays.items()})
    return found


def _contiguous(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(inputs.as_numpy(x))


def _has_positions(placement: Placement) -> bool:
    return any(placement.positions(i) > 1 for i in range(len(placement.grids)))


def _compiled_interpreter(kernel: InfiniteKernel, placement: Placement, dtype: torch.dtype, with_ntk: bool) -> Any:
    from ntkit.infinite.compiled.interpreter import interpreter_of  # numba is loaded where it is used

    name = "float32" if dtype == torch.float32 else "float64"
    return interpreter_of(placement, name, with_ntk, kernel.tolerance)


def _compiled(kernel, placement, one, two, wanted, dtype, targets, given) -> list[tuple[Tensor | None, Tensor | None]]:
    from ntkit.infinite.compiled.interpreter import Results

    samples = [one] if two is None else [one, two]
    arithmetic = inputs.arithmetic(samples, _has_positions(placement))
    interpreter = _compiled_interpreter(kernel, placement, arithmetic, "ntk" in wanted)
    outputs, n, m = len(kernel.program.outputs), len(one), len(one if two is None else two)
    number = np.float32 if dtype == torch.float32 else np.float64
    held = {}
    for kind in ("nngp", "ntk"):
        if targets:
            arrays = [inputs.as_numpy(each[kind]) for each in targets] if kind in wanted else []
        else:
            arrays = [np.empty((n, m), dtype=number) for _ in range(outputs)] if kind in wanted else []
        held[kind] = arrays
    results = Results(held["nngp"], held["ntk"])
    interpreter.matrix(_contiguous(one), None if two is None else _contiguous(two), results, given.on_tile)
    columns = [[torch.from_numpy(a) for a in held[k]] if held[k] and not targets else [None] * outputs for k in held]
    return list(zip(*columns, strict=True))


def _with_torch(
    kernel, placement, one, two, wanted, dtype, targets, given, masks
) -> list[tuple[Tensor | None, Tensor | None]]:
    interpreter = torch_interpreter_of(placement, kernel.tolerance)
    if _has_positions(placement) and not kernel.network.takes_tokens:
        inputs.check_image_scales([one] if two is None else [one, two])
    second = None if two is None else two.double()
    samples = [one] if two is None else [one, two]
    single = inputs.arithmetic(samples, _has_positions(placement)) == torch.float32
    pairs = interpreter.matrix(one.double(), second, "nngp" in wanted, "ntk" in wanted, masks, single)
    results = [tuple(None if k is None else k.to(dtype) for k in pair) for pair in pairs]
    for result in (k for pair in results for k in pair if k is not None):
        inputs.require_finite(result)
    for place, pair in zip(targets, results, strict=False):
        for kind, result in zip(("nngp", "ntk"), pair, strict=True):
            if result is not None:
                held = place[kind]
                held[...] = like(result.detach(), held)
    if given.on_tile is not None:
        given.on_tile(slice(0, len(one)), slice(0, len(one if two is None else two)))
    return results  # pyright: ignore[reportReturnType]
