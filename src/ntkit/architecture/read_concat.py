"""Reads concatenation along the channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ntkit.architecture.layout import BATCH, CHANNEL
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, Call, Value
from ntkit.architecture.specs import Concat
from ntkit.errors import InvalidInput, UnsupportedLayer


def read_concatenation(reader: Reader, call: Call) -> Value:
    """torch.cat(tensors, dim) and its synonyms."""
    tensors, dim = _arguments(call)
    if len(tensors) == 1:
        return tensors[0]
    layouts = [reader.layout(value) for value in tensors]
    told = next((layout for layout in layouts if not layout.open), layouts[0])
    held = told.axes[told.dim(dim)]
    if held != (CHANNEL,):
        where = "samples" if BATCH in held else "positions, or channels and positions merged"
        raise UnsupportedLayer(
            f"{call.who} joins tensors along an axis that holds {where}, and there is a rule for channels alone; "
            f"concatenate the channels before flattening, as in torch.cat([a, b], 1), or add the tensors. {REMEDY}"
        )
    tensors = reader.on_one_grid(tensors, call)
    channels: list[int] = []
    for value in tensors:
        known = reader.layout(value).channels
        if known is None:
            raise InvalidInput(
                f"{call.who} joins the data before any layer has told how many channels they have; put a layer before"
            )
        channels.append(known)
    index = reader.add(Concat(tuple(channels)), tuple(reader.settle(value) for value in tensors), call.path)
    return Value(index, replace(reader.layout(tensors[0]), channels=sum(channels)))


def _arguments(call: Call) -> tuple[list[Value], Any]:
    kwargs = {{"axis": "dim"}.get(name, name): value for name, value in call.kwargs.items()}
    tensors = call.args[0] if call.args else kwargs.pop("tensors", None)
    dim = call.args[1] if len(call.args) > 1 else kwargs.pop("dim", 0)
    if kwargs or not isinstance(tensors, (tuple, list)) or not all(isinstance(value, Value) for value in tensors):
        raise call.unknown_arguments()
    return list(tensors), dim


CALLS = dict.fromkeys((torch.cat, torch.concat, torch.concatenate), read_concatenation)
