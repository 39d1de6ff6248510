"""How far a kernel points at a target (`alignment`), and two kernels at each other (`kernel_distance`).

Both are cosines under the Frobenius product ⟨A, B⟩ = tr(AᵀB); scales drop out, so every array is first
divided by its largest entry, and nothing under- or overflows when squared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import Array, to_tensor
from ntkit._memory import require_bytes
from ntkit.errors import InvalidInput
from ntkit.spectra.symmetric import check_columns, check_kernel, largest_magnitude


@overload
def alignment(
    K: Float[Array, "n n"] | Float[Array, "n n o o"],
    y: Float[Array, "..."],
    centered: bool = ...,
    per_class: Literal[False] = ...,
) -> float: ...
@overload
def alignment(
    K: Float[Array, "n n"] | Float[Array, "n n o o"],
    y: Float[Array, "..."],
    centered: bool = ...,
    *,
    per_class: Literal[True],
) -> Float[np.ndarray, "o"]: ...
@overload
def alignment(
    K: Mapping[str, Float[Array, "n n"] | Float[Array, "n n o o"]],
    y: Float[Array, "..."],
    centered: bool = ...,
    per_class: bool = ...,
) -> dict[str, float | Float[np.ndarray, "o"]]: ...
def alignment(K: Any, y: Any, centered: bool = False, per_class: bool = False) -> Any:
    """How far a kernel points at the targets: A = tr(YᵀKY) / (‖K‖_F ‖YYᵀ‖_F), the cosine of K and YYᵀ.

    For one output this is yᵀKy / (‖K‖_F ‖y‖²). A 4-D kernel meets the targets as one vector of length n·O.

    Args:
        K: kernel of n samples with themselves, (n, n) or (n, n, O, O), or several by name, such as a network's by
            layer, `ntkit.EmpiricalKernel(model).parts(x)`.
        y: targets, (n,) or (n, outputs), class labels as one-hot rows; beside a 4-D kernel (n, O) or (n·O,).
        centered: centre over the samples first, K → HKH and y → Hy with H = I − 11ᵀ/n, so that a constant, in
            kernel or targets, neither helps nor hurts.
        per_class: for each output c alone, y_c beside K, or beside K_cc where the kernel has outputs.

    Returns:
        A number from −1 to 1; from 0 for a positive semi-definite kernel. `per_class`: (outputs,) of them, in numpy.
        Of several kernels a dict.

    Raises:
        InvalidInput: `K` is not square, symmetric and finite; `y` has another shape or holds integers (pass
            one-hot rows); or one of them is zero everywhere, before or after centring; or there is no kernel.

    Example:
        >>> import ntkit, numpy as np
        >>> y = np.array([1.0, 1.0, -1.0, -1.0])
        >>> round(ntkit.alignment(np.outer(y, y), y), 6), round(ntkit.alignment(np.eye(4), y), 6)
        (1.0, 0.5)
        >>> ntkit.alignment({"first": np.eye(4), "second": np.outer(y, y)}, y)
        {'first': 0.5, 'second': 1.0}
        >>> ntkit.alignment(np.eye(4), np.stack([y, y], axis=1), per_class=True)
        array([0.5, 0.5])

    Reference:
        Cristianini et al., "On kernel-target alignment", NeurIPS 2001; centred: Cortes, Mohri & Rostamizadeh,
        "Algorithms for learning kernels based on centered alignment", JMLR 2012.
    """
    if isinstance(K, Mapping):
        if not K:
            raise InvalidInput("K must hold at least one kernel by name, got an empty mapping")
        return {name: alignment(own, y, centered, per_class) for name, own in K.items()}
    kernel = check_kernel(K)
    columns = check_columns(y, "y", kernel.n_samples, kernel.n_outputs).to(kernel.matrix.device)
    if not per_class:
        return _alignment(kernel.matrix, columns, kernel.n_outputs or 1, centered)
    if kernel.n_outputs is None:
        each = [(kernel.matrix, column[:, None]) for column in columns.T]
    else:
        o = kernel.n_outputs
        each = [(kernel.matrix[c::o, c::o], columns[c::o]) for c in range(o)]
    return np.array([_alignment(matrix, column, 1, centered) for matrix, column in each])


def _alignment(matrix: Float[Tensor, "N N"], columns: Float[Tensor, "N c"], n_outputs: int, centered: bool) -> float:
    """Of one flat kernel and its targets."""
    matrix = matrix / largest_magnitude(matrix, "K")
    columns = columns / largest_magnitude(columns, "y")
    if centered:
        matrix = _centered(_centered(matrix, n_outputs, "K").T, n_outputs, "K")
        columns = _centered(columns, n_outputs, "y")
    return cosine_with_target(float((columns * (matrix @ columns)).sum()) / frobenius_norm(matrix), columns)


def kernel_distance(K1: Float[Array, "*shape"], K2: Float[Array, "*shape"]) -> float:
    """How far two kernels point apart: S = 1 − ⟨K1, K2⟩ / (‖K1‖_F ‖K2‖_F).

    0 for positive multiples of each other, at most 1 for two positive semi-definite kernels, at most 2.
    Computed as ½ ‖K1/‖K1‖ − K2/‖K2‖‖², which is the same and does not cancel for kernels that are close.

    Args:
        K1: a kernel, (n, m) or (n, m, O, O).
        K2: another of the same shape.

    Raises:
        InvalidInput: the shapes differ, values are not finite, or a kernel is zero everywhere.

    Example:
        >>> import ntkit, numpy as np
        >>> K = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> round(ntkit.kernel_distance(K, 3 * K), 6), round(ntkit.kernel_distance(K, np.eye(2)), 6)
        (0.0, 0.105573)

    Reference:
        Fort et al., "Deep learning versus kernel learning", NeurIPS 2020.
    """
    first, second = (to_tensor(K, name).detach() for K, name in ((K1, "K1"), (K2, "K2")))
    if first.shape != second.shape or first.ndim not in (2, 4) or first.numel() == 0:
        raise InvalidInput(
            "K1 and K2 must be two kernels of the same points, both (n, m) or both (n, m, outputs, outputs), "
            f"got shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    require_bytes(4 * 8 * first.numel(), "comparing two kernels in float64", "compare them on fewer samples")
    units = []
    for K, name in ((first, "K1"), (second, "K2")):
        scaled = K.double() / largest_magnitude(K, name)
        units.append(scaled / frobenius_norm(scaled))
    return float((units[0] - units[1].to(units[0].device)).square().sum()) / 2


def cosine_with_target(form: float, columns: Float[Tensor, "N c"]) -> float:
    """tr(YᵀKY)/(‖K‖_F ‖YYᵀ‖_F) from `form` = tr(YᵀKY)/‖K‖_F; ‖YYᵀ‖_F = ‖YᵀY‖_F is the smaller matrix's."""
    cosine = form / float(torch.linalg.matrix_norm(columns.T @ columns))
    return math.copysign(min(abs(cosine), 1.0), cosine)  # Cauchy–Schwarz, where rounding breaks it


def frobenius_norm(matrix: Tensor) -> float:
    """‖·‖_F without under- or overflow of the squares; 0 for a zero matrix."""
    scale = float(matrix.abs().max())
    return scale * float((matrix / scale).square().sum().sqrt()) if scale > 0 else 0.0


def _centered(rows: Float[Tensor, "N c"], n_outputs: int, name: str) -> Float[Tensor, "N c"]:
    """H ⊗ I_O applied from the left: each output loses its mean over the samples."""
    split = rows.reshape(-1, n_outputs, rows.shape[1])
    centred = split - split.mean(dim=0)
    if float(centred.abs().max()) <= 1e-14 * float(rows.abs().max()) * len(split):
        raise InvalidInput(
            f"{name} is the same for every sample, so nothing is left of it after centring; use centered=False"
        )
    return centred.reshape(rows.shape)
