"""What to do about common layers that have no rule."""

from __future__ import annotations

from ntkit.architecture.recorded import REMEDY, Call

# how the name of a class or a function begins -> what to use instead
_INSTEAD = {
    "MaxPool": "the maximum of correlated values has no closed kernel; use average pooling, torch.nn.AvgPool2d",
    "AdaptiveMaxPool": "the maximum of correlated values has no closed kernel; use torch.nn.AdaptiveAvgPool2d",
    "BatchNorm": "it ties samples of a batch together, so there is no kernel of two samples; remove it",
    "InstanceNorm": "each channel's mean square is random in a wide network too; use torch.nn.GroupNorm(1, ...)",
    "LocalResponseNorm": "its windows of channels are no mean over many; use torch.nn.GroupNorm(1, ...)",
    "PReLU": "its slope is a parameter that ntkit has no rule for; use torch.nn.LeakyReLU",
    "Softmax": "it mixes the outputs; study the network without it",
    "LogSoftmax": "it mixes the outputs; study the network without it",
}


_CHOICES = {"where", "gt", "lt", "ge", "le", "eq", "ne", "maskedfill", "heaviside"}  # by the values of a tensor


def remedy_for(call: Call) -> str:
    """What to use in place of an operation without a rule."""
    name = call.path.rsplit(".", 1)[-1] if call.module is None else type(call.module).__name__
    plain = name.replace("_", "").lower()
    if call.module is None and plain in _CHOICES:
        return (
            "a choice by values cannot be read; write the elementwise function that it belongs to as a function or "
            "module of its own, and declare that with ntkit.infinite.register_activation"
        )
    special = next((text for start, text in _INSTEAD.items() if plain.startswith(start.lower())), None)
    if special is not None:
        remedy = f"{special}; or {REMEDY}"
    elif call.module is None:
        remedy = f"declare a function of each entry alone with ntkit.infinite.register_activation; else {REMEDY}"
    else:
        remedy = REMEDY
    return remedy if call.module is None else f"{remedy}; or give it a rule with ntkit.infinite.register_layer"
