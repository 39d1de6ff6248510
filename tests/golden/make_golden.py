"""Golden kernels by neural-tangents 0.6.5: run `python -m golden.make_golden` in the folder tests, in its environment.

With --all every network is computed again, else those that have changed.
Writes golden.npz: for every network its samples (whole 32nds, as int8; MASKED where a token is not there) and, in
float64, NNGP and NTK of all of them with one another. The README beside this file says which conventions meet and which
features cannot be compared.
"""

# pyright: reportMissingImports=false
# (this script runs in the environment of neural-tangents, which benchmarks/setup_peers.py makes)

from __future__ import annotations

import math
import sys
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import neural_tangents as nt
import numpy as np
from neural_tangents import stax

from golden.networks import MASKED, NETWORKS, Network
from golden.steps import (
    Activation,
    AdaptivePool,
    Attention,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    GlobalPool,
    Norm,
    Pool,
    Scale,
    Shape,
    Step,
    Steps,
    Sum,
    per_axis,
    shape_after,
    transposed_windows,
    windows,
)

GOLDEN = Path(__file__).with_name("golden.npz")
SEED = 20251122
ACTIVATIONS = {
    "ReLU": stax.Relu, "LeakyReLU": stax.LeakyRelu, "Abs": stax.Abs, "Sign": stax.Sign, "Erf": stax.Erf,
    "GELU": stax.Gelu, "Sin": stax.Sin, "Cos": stax.Cos, "Gaussian": stax.Gaussian, "Monomial": stax.Monomial,
    "ABReLU": stax.ABRelu, "Polynomial": stax.Polynomial, "Hermite": stax.Hermite, "Exp": stax.Exp,
}  # fmt: skip


@stax.layer
def ScaleLayer(factor: float) -> Any:
    """factor · x, which stax lacks."""

    @stax.requires(diagonal_spatial=stax.Diagonal())
    def kernel_fn(k: Any, **kwargs: Any) -> Any:
        return factor * k

    return (lambda key, shape: (shape, ())), (lambda parameters, x, **kwargs: factor * x), kernel_fn


def stax_model(steps: Steps, shape: Shape, mirrored: bool) -> Any:
    """The steps as one stax layer for samples of the given shape, every layer's own shapes checked against torch's."""
    layers = []
    for step in steps:
        layer = _layer(step, shape, mirrored)
        after = shape_after(step, shape)
        found, _ = layer[0](jax.random.PRNGKey(0), (1, *shape[1:], shape[0]))
        if found != (1, *after[1:], after[0]):
            raise ValueError(f"{step} on {shape} gives {found} here and {after} in torch")
        layers.append(layer)
        shape = after
    return stax.serial(*layers) if layers else stax.Identity()


def _layer(step: Step, shape: Shape, mirrored: bool) -> Any:
    axes = len(shape) - 1
    match step:
        case Conv():
            kernel, stride = per_axis(step.kernel, axes), per_axis(step.stride, axes)
            padding = _padding(step, shape, mirrored)
            padding = "CIRCULAR" if step.circular and padding == "SAME" else padding  # both put windows alike
            return stax.Conv(step.width, kernel, stride, padding, step.w_std, step.b_std or None)
        case ConvTranspose():
            kernel, stride = per_axis(step.kernel, axes), per_axis(step.stride, axes)
            padding = _transposed_padding(step, shape, mirrored)
            return stax.ConvTranspose(step.width, kernel, stride, padding, step.w_std, step.b_std or None)
        case Dense():
            return stax.Dense(step.width, step.w_std, step.b_std or None)
        case Attention():
            bell = -0.5 / step.correlation_length**2 if step.correlation_length else None
            return stax.GlobalSelfAttention(
                step.width, 1, 1, 1, W_value_std=step.w_std, b_std=step.b_std or None, W_key_std=step.score_scale,
                attention_mechanism=step.mechanism.upper(), pos_emb_type=step.positions.upper() or "NONE",
                W_pos_emb_std=step.position_std, val_pos_emb=step.in_values, pos_emb_p_norm=2,
                pos_emb_decay_fn=None if bell is None else lambda squares: jax.numpy.exp(bell * squares),
                n_chan_pos_emb=step.position_channels if step.positions == "concat" else None,
            )  # fmt: skip
        case Norm():
            return stax.LayerNorm((*range(1, len(shape)), -1) if step.positions and axes else -1, step.eps)
        case Activation():
            return ACTIVATIONS[step.name](*step.constants)
        case Pool():
            kernel, stride = per_axis(step.kernel, axes), per_axis(step.stride, axes)
            padding = _padding(step, shape, mirrored)
            if step.total:
                return stax.SumPool(kernel, stride, padding)
            return stax.AvgPool(kernel, stride, padding, normalize_edges=not step.count_padding)
        case AdaptivePool():
            if any(size % out for size, out in zip(shape[1:], step.out, strict=True)):
                raise ValueError(f"{step} on {shape} has unequal windows, which no pool of neural-tangents has")
            window = tuple(size // out for size, out in zip(shape[1:], step.out, strict=True))
            return stax.AvgPool(window, window)
        case GlobalPool():
            return stax.GlobalSumPool() if step.total else stax.GlobalAvgPool()
        case Flatten():
            return stax.Flatten()
        case Scale():
            return ScaleLayer(step.factor)
        case Sum() | Concat():
            branches = [stax_model(branch, shape, mirrored) for branch in step.branches]
            join = stax.FanInSum() if isinstance(step, Sum) else stax.FanInConcat(-1)
            return stax.serial(stax.FanOut(len(branches)), stax.parallel(*branches), join)
    raise ValueError(f"{step} is no single layer")


def _padding(step: Conv | Pool, shape: Shape, mirrored: bool) -> str:
    """The padding of neural-tangents that puts every window where torch has it."""
    after = shape_after(step, shape)[1:]
    sides = []  # what torch's windows really read outside the image, and what they leave unread at its right
    for (size, kernel, stride, left), count in zip(windows(step, shape[1:]), after, strict=True):
        sides.append((left, (count - 1) * stride + kernel - size - left))
    sides = [side[::-1] for side in sides] if mirrored else sides
    if all(left == 0 and right <= 0 for left, right in sides):
        return "VALID"
    same = []
    for size, kernel, stride, _ in windows(step, shape[1:]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        same.append((total // 2, total - total // 2))
    if [(left, max(right, 0)) for left, right in sides] == same:
        return "SAME"
    raise ValueError(f"{step} on {shape} reads {sides} pixels beyond the image; neural-tangents would read {same}")


def _transposed_padding(step: ConvTranspose, shape: Shape, mirrored: bool) -> str:
    """The padding of neural-tangents that leaves out the same output positions as torch's.

    Both put kernel + (size − 1) · stride positions down and leave some out at both ends, or add some. See
    jax.lax.conv_transpose, whose "SAME" leaves out half of kernel − stride on the left, rounded down.
    """
    parts = transposed_windows(step, shape[1:])
    sides = [(pad, pad - added) for *_, pad, added in parts]
    sides = [side[::-1] for side in sides] if mirrored else sides
    if all(side == (0, min(0, k - stride)) for side, (_, k, stride, *_) in zip(sides, parts, strict=True)):
        return "VALID"
    same = [(max(k - stride, 0) // 2, k - stride - max(k - stride, 0) // 2) for _, k, stride, *_ in parts]
    if sides == same:
        return "SAME"
    raise ValueError(f"{step} on {shape} leaves out {sides} positions; neural-tangents would leave out {same}")


def draw_samples(net: Network) -> np.ndarray:
    """Images that share a part, in whole 32nds from −4 to 4: exact in float32, one byte a value."""
    n, rng = net.n1 + net.n2, np.random.default_rng([SEED, zlib.crc32(net.name.encode())])
    images = 0.6 * rng.standard_normal(net.shape) + 0.8 * rng.standard_normal((n, *net.shape))
    samples = np.clip(np.rint(32 * images), -127, 126 if net.masked else 127).astype(np.int8)
    if net.masked:  # at least one token is there
        gone = rng.random((n, 1, *net.shape[1:])) < 0.3
        gone[..., 0] = False
        samples = np.where(gone, MASKED, samples).astype(np.int8)
    return samples


def kernels_of(net: Network, samples: np.ndarray) -> np.ndarray:
    """NNGP and NTK of every output, (outputs, 2, n, n); x1 with x2 is computed too and must be the same."""
    x = np.moveaxis(samples / 32, 1, -1)
    if net.mirrored:
        x = np.flip(x, tuple(range(1, x.ndim - 1)))
    results = []
    for steps in net.outputs:
        _, _, kernel_fn = stax_model(steps, net.shape, net.mirrored)
        if net.masked:
            kernel_fn = partial(kernel_fn, mask_constant=MASKED / 32)
        joint = np.stack(kernel_fn(x, None, ("nngp", "ntk")))
        block = np.stack(kernel_fn(x[: net.n1], x[net.n1 :], ("nngp", "ntk")))
        np.testing.assert_allclose(block, joint[:, : net.n1, net.n1 :], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(joint, joint.transpose(0, 2, 1), rtol=1e-12, atol=1e-13)
        results.append(joint)
    return np.stack(results)


def main() -> None:
    """Compute every network and write the file."""
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore", message="Inputs to this layer are assumed to have unit norm")  # so they have
    warnings.filterwarnings("ignore", message="`FanIn` layers assume independent inputs")
    arrays: dict[str, Any] = {"version": np.array(nt.__version__)}
    stored = {} if "--all" in sys.argv or not GOLDEN.exists() else dict(np.load(GOLDEN))
    for i, net in enumerate(NETWORKS, 1):
        if stored.get(f"{net.name}/fingerprint") == net.fingerprint:
            arrays |= {key: value for key, value in stored.items() if key.startswith(f"{net.name}/")}
            continue
        print(f"{i:3d}/{len(NETWORKS)} {net.name}", flush=True)
        samples = draw_samples(net)
        kernels = kernels_of(net, samples)
        if kernels.dtype != np.float64 or not np.isfinite(kernels).all():
            raise ValueError(f"{net.name}: wanted finite float64, got {kernels.dtype} {kernels}")
        arrays |= {f"{net.name}/samples": samples, f"{net.name}/kernels": kernels}
        arrays[f"{net.name}/fingerprint"] = np.array(net.fingerprint)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
