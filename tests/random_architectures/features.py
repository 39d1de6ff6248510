"""Which features a recipe has, by name."""

from __future__ import annotations

from random_architectures.steps import (
    Activation,
    AdaptivePool,
    Attention,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Grid,
    Heads,
    Layer,
    MaskedFill,
    MaskedMean,
    Norm,
    Pad,
    PositionMap,
    Positions,
    Product,
    Recipe,
    Resize,
    Scale,
    Step,
    Steps,
    Sum,
    Tokens,
    depth_of,
    grid_after,
)


def features_of(recipe: Recipe) -> set[str]:
    """Names of what occurs at least once."""
    depth = depth_of(recipe.steps)
    found = {
        _kind_of_data(recipe),
        "depth 9 to 12" if depth > 8 else "depth 5 to 8" if depth > 4 else "depth 1 to 4",
    }
    if isinstance(recipe.steps[0], PositionMap):
        found.add("pooled or padded data")
    if isinstance(recipe.steps[0], Flatten):
        found.add("flattened data")
    _walk(recipe.steps, recipe.grid, found)
    return found


def _kind_of_data(recipe: Recipe) -> str:
    if recipe.is_sequence:
        return f"sequences {'with' if recipe.takes_mask else 'without'} a mask"
    return f"{len(recipe.grid)} axes of positions" if recipe.grid else "vectors"


def _walk(steps: Steps, grid: Grid, found: set[str]) -> None:
    for i, step in enumerate(steps):
        found |= _of_step(step, steps[i + 1 :], grid)
        if isinstance(step, Sum | Concat | Product | Heads):
            for branch in step.branches:
                _walk(branch, grid, found)
        if not isinstance(step, Heads):
            grid = grid_after(step, grid)


def _of_step(step: Step, following: Steps, grid: Grid) -> set[str]:
    behind = following[0] if following else None
    match step:
        case Attention():
            return _of_attention(step)
        case Layer():
            return _of_layer(step, grid)
        case Positions():
            return _of_positions(step)
        case Tokens() | MaskedFill() | MaskedMean():
            names = {Tokens: "tokens of an image", MaskedFill: "zeros by a mask", MaskedMean: "mean by a mask"}
            return {names[type(step)]}
        case Activation():
            return {step.name}
        case Norm():
            return _of_norm(step, behind)
        case PositionMap():
            read = isinstance(behind, (Activation, Norm))
            return _of_map(step) | ({"activation of a pooled or resized value"} if read else set())
        case Flatten() | GlobalPool():
            kind = "flatten" if isinstance(step, Flatten) else "global pool"
            is_head = isinstance(behind, Layer) and behind.units == 0
            return {f"{kind} at the head" if is_head else f"{kind} before more layers"}
        case Dropout():
            return {"dropout of channels" if step.whole else "dropout"}
        case Sum():
            return _of_sum(step)
        case Scale() | Concat() | Product() | Heads():
            names = {Scale: "constant factor", Concat: "concatenation", Product: "product", Heads: "two heads"}
            return {names[type(step)]}
        case _:
            return set()


def _of_map(step: PositionMap) -> set[str]:
    match step:
        case AvgPool():
            overlapping = {"overlapping pool"} if step.stride < step.kernel else set[str]()
            counted = "padding counted" if step.counts_padding else "padding not counted"
            return {"average pool"} | overlapping | ({f"pool with {counted}"} if step.padding else set())
        case AdaptivePool():
            return {"adaptive pool"}
        case Pad():
            return {step.mode}
        case Resize():
            return {f"{step.mode} interpolation{', corners aligned' if step.corners else ''}"}
        case _:
            return set()


def _of_layer(step: Layer, grid: Grid) -> set[str]:
    conditions = {
        "frozen weights": not step.trains_weight,
        "frozen bias": not step.trains_bias and step.b_std > 0,
        "no bias": step.b_std == 0,
        "standard parameterisation": step.standard,
        "NTK parameterisation": not step.standard,
        "linear layer over channels of positions": isinstance(step, Dense) and bool(grid),
    }
    if isinstance(step, Conv):
        conditions |= {
            "stride": max(step.stride) > 1,
            "dilation": max(step.dilation) > 1,
            "zero padding": max(step.padding) > 0 and not step.circular,
            "circular padding": step.circular,
            "even kernel": 2 in step.kernel,
            "unequal kernel": len(set(step.kernel)) > 1,
            "groups": step.groups > 1,
        }
    if isinstance(step, ConvTranspose):
        conditions |= {
            "transposed convolution": True,
            "transposed convolution with a stride": max(step.stride) > 1,
            "transposed convolution with output padding": max(step.output_padding) > 0,
            "transposed convolution in groups": step.groups > 1,
        }
    return {name for name, holds in conditions.items() if holds}


def _of_attention(step: Attention) -> set[str]:
    conditions = {
        f"{step.mechanism} attention": True,
        "attention with a mask": step.masked,
        "attention with positions in its keys": step.positions is not None,
        "several heads of attention": step.heads > 1,
        "frozen weights of attention": not (step.trains_weight and step.trains_values),
    }
    return {name for name, holds in conditions.items() if holds}


def _of_positions(step: Positions) -> set[str]:
    conditions = {
        "positions added": not step.beside,
        "positions side by side": step.beside,
        "positions that correlate": step.correlation_length > 0,
        "frozen positions": not step.trains,
    }
    return {name for name, holds in conditions.items() if holds}


def _of_norm(step: Norm, behind: Step | None) -> set[str]:
    found = {step.kind} | ({f"{step.kind} over channels and positions"} if step.whole else set[str]())
    if step.trains_scale:
        reader = "an activation" if isinstance(behind, Activation) else "a layer or a pool"
        found.add(f"trained scale before {reader}{'' if step.shared else ', one a position'}")
    return found | ({"trained shift"} if step.trains_shift else set())


def _of_sum(step: Sum) -> set[str]:
    ends = [branch[-1] if branch else None for branch in step.branches]
    kind = (
        "sum of activations" if all(isinstance(end, Activation) for end in ends)
        else "residual" if None in ends
        else "residual with a layer on both ways"
    )  # fmt: skip
    return {kind} | ({"coefficients"} if set(step.coefficients) != {1.0} else set())
