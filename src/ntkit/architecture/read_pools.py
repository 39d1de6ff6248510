"""Reads average and sum pooling, and means and sums over axes of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ntkit.architecture.layout import BATCH, CHANNEL, Layout
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, REQUIRED, Call, Value
from ntkit.architecture.specs import Pool
from ntkit.architecture.windows import AdaptiveAxis, KeepAxis, PoolAxis, PoolWindow, WholeAxis
from ntkit.errors import InvalidInput, UnsupportedLayer


def read_average_pool(reader: Reader, call: Call) -> Value:
    """nn.AvgPool1d, 2d, 3d."""
    m: Any = call.module
    options = (m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad)
    return _average_pool(reader, call, _N_AXES[type(m)], *options, getattr(m, "divisor_override", None))


def read_average_pool_function(reader: Reader, call: Call) -> Value:
    """F.avg_pool1d, 2d, 3d."""
    options = call.bind(
        kernel_size=REQUIRED, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    return _average_pool(reader, call, _N_AXES[call.name], *options)


def _average_pool(
    reader: Reader,
    call: Call,
    n_axes: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil: bool,
    count_padding: bool,
    divisor: int | None,
) -> Value:
    kernel = _each_axis(kernel_size, n_axes, call)
    strides = kernel if stride is None or stride == () else _each_axis(stride, n_axes, call)
    before = _each_axis(padding, n_axes, call, least=0)
    if any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        raise InvalidInput(f"{call.who} pads by {before}, and at most half of its window {kernel} is allowed")
    average = divisor is None
    axes = [
        PoolWindow(k, s, p, bool(ceil), bool(count_padding) or not average, average)
        for k, s, p in zip(kernel, strides, before, strict=True)
    ]
    return _pool(reader, call, axes, 1.0 if divisor is None else 1.0 / divisor)


def read_adaptive_pool(reader: Reader, call: Call) -> Value:
    """nn.AdaptiveAvgPool1d, 2d, 3d."""
    module: Any = call.module
    return _adaptive_pool(reader, call, _N_AXES[type(module)], module.output_size)


def read_adaptive_pool_function(reader: Reader, call: Call) -> Value:
    """F.adaptive_avg_pool1d, 2d, 3d."""
    (output_size,) = call.bind(output_size=REQUIRED)
    return _adaptive_pool(reader, call, _N_AXES[call.name], output_size)


def _adaptive_pool(reader: Reader, call: Call, n_axes: int, output_size: Any) -> Value:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * n_axes
    if len(sizes) != n_axes or not all(size is None or _is_count(size) for size in sizes):
        raise call.unknown_arguments()
    axes = [KeepAxis() if n is None else WholeAxis() if n == 1 else AdaptiveAxis(n) for n in sizes]
    return _pool(reader, call, axes, 1.0)


def _pool(reader: Reader, call: Call, windows: Sequence[PoolAxis], factor: float) -> Value:
    """A pooling layer of torch over the axes after the channels."""
    value, layout = reader.image(call, len(windows))
    axes, layout = reader.windows(call, layout, windows, KeepAxis())
    return _pooled(reader, call, value, axes, factor, layout)


def _pooled(reader: Reader, call: Call, value: Value, axes: tuple[Any, ...], factor: float, layout: Layout) -> Value:
    if factor == 1.0 and all(isinstance(axis, KeepAxis) for axis in axes):
        return replace(value, layout=layout)
    return Value(reader.add(Pool(axes, factor), (reader.settle(value),), call.path), layout)


def read_reduction(reader: Reader, call: Call) -> Value:
    """x.mean(dim), x.sum(dim): over axes of positions."""
    dim, keepdim = call.bind(dim=None, keepdim=False)
    layout = reader.layout(call.x)
    dims = range(len(layout.axes)) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    if layout.open:
        raise UnsupportedLayer(
            f"{call.who} reduces the data over axes whose meaning no layer has told; use a pooling layer of torch, or "
            "reduce the data before"
        )
    gone = sorted({layout.dim(d) for d in dims})
    for d in gone:
        if {BATCH, CHANNEL} & set(layout.axes[d]):
            raise UnsupportedLayer(
                f"{call.who} reduces over an axis of samples or channels, and ntkit has a rule for positions alone; "
                f"name the axes of positions, such as dim=(2, 3). {REMEDY}"
            )
    window = WholeAxis(average=call.name in (torch.mean, "mean"))
    pooled = {number for d in gone for number in layout.positions_of(d)}
    axes = tuple(window if k in pooled else KeepAxis() for k in range(len(layout.sizes)))
    sizes = tuple(1 if k in pooled else size for k, size in enumerate(layout.sizes))
    after = layout.regridded({}, sizes)
    return _pooled(reader, call, call.x, axes, 1.0, after if keepdim else after.squeezed(gone))


def _each_axis(option: Any, n_axes: int, call: Call, least: int = 1) -> tuple[int, ...]:
    """One whole number an axis, from one for all or one for each."""
    values = tuple(option) if isinstance(option, (tuple, list)) else (option,)
    values = values * n_axes if len(values) == 1 else values
    if len(values) != n_axes or not all(_is_count(v, least) for v in values):
        raise call.unknown_arguments()
    return values


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_N_AXES: dict[Any, int] = {
    nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3,
    nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3,
    F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3,
    F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3,
}  # fmt: skip
MODULES = {
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), read_average_pool),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), read_adaptive_pool),
}
CALLS = {
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), read_average_pool_function),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), read_adaptive_pool_function),
    **dict.fromkeys((torch.mean, "mean", torch.sum, "sum"), read_reduction),
}
