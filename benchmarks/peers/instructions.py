"""Vector instructions of a compiled inner loop, counted from its assembly.

What a compiler made of a loop is read, not guessed: the text is x86-64 assembly as LLVM writes it (AT&T operand order,
the destination last), which numba's `dispatcher.inspect_asm()` gives. A loop is the stretch from a label to the last
jump back to it; it is innermost where no other loop begins inside it. Each instruction on vector registers has one
class; reading or writing memory is counted beside it, since most classes take an operand from memory.

    fma mul add div sqrt    packed arithmetic; add holds subtraction too
    move                    loads, stores, broadcasts and copies
    other                   compares, blends, shuffles, conversions, logic, minima and maxima
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CLASSES = (
    ("fma", re.compile(r"vfn?m(add|sub|addsub|subadd)(132|213|231)p[sd]$")),
    ("mul", re.compile(r"v?mulp[sd]$")),
    ("add", re.compile(r"v?(add|sub)p[sd]$")),
    ("div", re.compile(r"v?divp[sd]$")),
    ("sqrt", re.compile(r"v?sqrtp[sd]$")),
    ("move", re.compile(r"v?(mov[aud]|movnt|mov[sh][lh]?dup|broadcast|lddqu)")),
)
ARITHMETIC = ("fma", "mul", "add", "div", "sqrt")
REGISTER = re.compile(r"%([xyz])mm\d+")
REGISTER_BYTES = {"x": 16, "y": 32, "z": 64}
SCALAR = re.compile(r"[sd][sd]$|si(2s[sd])?[lq]?$|^v?movq$|^v?movd$")
LABEL = re.compile(r"^([.\w$@?]+):")
INSTRUCTION = re.compile(r"^\s+([a-z]\w*)(?:\s+(.*))?$")
COMMENT = re.compile(r"\s*(#|;|//).*$")


class NoVectorLoop(ValueError):
    """The assembly holds no loop with packed arithmetic; the message says what may be the reason."""


@dataclass(frozen=True)
class Loop:
    """One innermost loop; all counts are of one iteration.

    Args:
        label: where it begins in the assembly.
        counts: {class: vector instructions}.
        reads: vector instructions that read memory, of whatever class.
        writes: vector instructions that write memory.
        width: bytes of its widest vector register.
        stored: bytes that its vector instructions write.
        itemsize: bytes of the numbers that most of its arithmetic is done in, 4 or 8.
    """

    label: str
    counts: Mapping[str, int]
    reads: int
    writes: int
    width: int
    stored: int
    itemsize: int

    @property
    def arithmetic(self) -> int:
        """Packed arithmetic instructions."""
        return sum(self.counts.get(name, 0) for name in ARITHMETIC)

    @property
    def vector_work(self) -> int:
        """Instructions that a vector unit has to execute: all but moves, which the load and store units do."""
        return self.arithmetic + self.counts.get("other", 0)

    def entries(self, outputs: int = 1) -> float:
        """Entries that one iteration finishes, of a loop that stores `outputs` numbers for each."""
        if not self.stored:
            raise NoVectorLoop(f"the loop at {self.label} stores nothing, so its entries cannot be counted")
        return self.stored / (self.itemsize * outputs)


def hottest_loop(source: Any) -> Loop:
    """The innermost loop with the most packed arithmetic: the unrolled body, not its remainder.

    Args:
        source: assembly text, or a numba dispatcher or callback that was compiled for one signature.

    Raises:
        NoVectorLoop: there is none.
    """
    return max(vector_loops(source), key=hotness)


def hotness(loop: Loop) -> tuple[int, int]:
    """What makes a loop the unrolled body and not its remainder."""
    return loop.width * loop.arithmetic, loop.vector_work


def vector_loops(source: Any) -> list[Loop]:
    """Every innermost loop that holds packed arithmetic, in the assembly's order.

    Args:
        source: as in `hottest_loop`.

    Raises:
        NoVectorLoop: there is none.
    """
    text = assembly(source)
    found = [count(label, body) for label, body in innermost_loops(text)]
    found = [loop for loop in found if loop.arithmetic]
    if not found:
        raise NoVectorLoop(
            "no innermost loop with packed x86-64 arithmetic was found; the function must be compiled for this kind of "
            "processor, not read from numba's cache (which keeps no assembly), and not with parallel=True (whose body "
            "is another function)"
        )
    return found


def assembly(source: Any) -> str:
    """The text itself, or that of a numba dispatcher or callback (`numba.cfunc`) with one compiled signature."""
    if isinstance(source, str):
        return source
    if not hasattr(source, "inspect_asm"):
        return source._library.get_asm_str()  # a callback shows LLVM's own language alone, not what became of it
    texts = source.inspect_asm()
    if len(texts) != 1:
        raise ValueError(f"wanted a function compiled for one signature, got {len(texts)}: {list(texts)}")
    return next(iter(texts.values()))


def innermost_loops(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """(label, [(mnemonic, operands), …]) of every loop that holds no other."""
    lines, labels = _parsed(text)
    ends: dict[str, int] = {}
    for position, (mnemonic, operands) in enumerate(lines):
        if mnemonic.startswith("j") and labels.get(operands, position + 1) <= position:
            ends[operands] = position
    spans = [(labels[label], end, label) for label, end in ends.items()]
    begins = {begin for begin, _, _ in spans}
    return [
        (label, lines[begin : end + 1])
        for begin, end, label in sorted(spans)
        if not any(begin < other <= end for other in begins)
    ]


def _parsed(text: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """All instructions in order, and {label: position of the instruction behind it}."""
    lines: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for raw in text.splitlines():
        line = COMMENT.sub("", raw)
        if label := LABEL.match(line):
            labels[label[1]] = len(lines)
        elif instruction := INSTRUCTION.match(line):
            lines.append((instruction[1], (instruction[2] or "").strip()))
    return lines, labels


def count(label: str, body: list[tuple[str, str]]) -> Loop:
    """The vector instructions of one loop body."""
    counts: Counter[str] = Counter()
    doubles = 0
    reads = writes = stored = 0
    width = 0
    for mnemonic, operands in body:
        registers = REGISTER.findall(operands)
        if not registers or (SCALAR.search(mnemonic) and "broadcast" not in mnemonic):
            continue
        kind = next((name for name, pattern in CLASSES if pattern.match(mnemonic)), "other")
        counts[kind] += 1
        doubles += (mnemonic.endswith("pd") - mnemonic.endswith("ps")) * (kind in ARITHMETIC)
        size = max(REGISTER_BYTES[register] for register in registers)
        width = max(width, size)
        if "(" in operands:
            if operands.rstrip("}{%kz01234567 ").endswith(")"):  # the destination; a mask may stand behind it
                writes, stored = writes + 1, stored + size
            else:
                reads += 1
    return Loop(label, dict(counts), reads, writes, width, stored, itemsize=8 if doubles > 0 else 4)
