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


def remedy_for(call: Call) -> str:
    """What to use in place of an operation without a rule."""
    name = call.path.rsplit(".", 1)[-1] if call.module is None else type(call.module).__name__
    plain = name.replace("_", "").lower()
    special = next((text for start, text in _INSTEAD.items() if plain.startswith(start.lower())), None)
    return f"{special}; or {REMEDY}" if special else REMEDY
