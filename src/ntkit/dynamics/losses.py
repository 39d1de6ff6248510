"""Squared losses, and the speed at which each one trains.

Every squared loss here is L = w Σ (f − y)² over all n samples and o outputs, so ∂L/∂f = 2w (f − y), and
outputs move as df/dt = −s Θ (f − y) with speed s = 2w:

    loss                                L                        w          s
    "mse", ntkit's convention           (1/n) Σ_i ½‖f_i − y_i‖²  1/(2n)     1/n
    torch.nn.MSELoss(reduction="mean")  the mean of all n·o      1/(n·o)    2/(n·o)
    torch.nn.MSELoss(reduction="sum")   the sum of all n·o       1          2
"""

from __future__ import annotations

from torch import nn

from ntkit.errors import InvalidInput

Loss = str | nn.MSELoss


def loss_weight(loss: Loss, n_samples: int, n_outputs: int) -> float:
    """w in L = w Σ (f − y)².

    Raises:
        InvalidInput: there is no such loss.
    """
    if isinstance(loss, str) and loss == "mse":
        return 1 / (2 * n_samples)
    if isinstance(loss, nn.MSELoss) and loss.reduction == "mean":
        return 1 / (n_samples * n_outputs)
    if isinstance(loss, nn.MSELoss) and loss.reduction == "sum":
        return 1.0
    raise InvalidInput(
        'loss must be "mse", for (1/n) Σ ½‖f − y‖², or an instance torch.nn.MSELoss(reduction="mean") or '
        f'torch.nn.MSELoss(reduction="sum"), got {_described(loss)}'
    )


def loss_speed(loss: Loss, n_samples: int, n_outputs: int) -> float:
    """s in df/dt = −s Θ (f − y)."""
    return 2 * loss_weight(loss, n_samples, n_outputs)


def _described(loss: object) -> str:
    if isinstance(loss, nn.MSELoss):
        return f'torch.nn.MSELoss(reduction="{loss.reduction}")'
    return repr(loss)
