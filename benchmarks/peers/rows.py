"""What is computed: one row is one kernel. Rows know no library, for they are read in every environment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from peers.networks import ATTENTION, CNTK_FLATTEN, CNTK_GAP, FC, MYRTLE_5, MYRTLE_10, RESNET_2, TWO_ATTENTIONS

# Initial scales of the exact rows: weight variance 2 keeps ReLU layers at their critical point, and the small bias
# makes sure that the contestants' biases mean the same.
W_STD, B_STD = 2**0.5, 0.1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kernel to compute.

    Args:
        name: what `--rows` selects by.
        title: the network, for people.
        n: samples.
        repetitions: timed turns of each contestant.
        warmups: rounds before them that are not timed.
        peer_repetitions: timed turns of a contestant other than the first, where its turn takes minutes; None: as many.
        peer_warmups: likewise, its rounds that are not timed; the first of them compiles.
        tolerance: largest |a − b| / max|b| at which two float32 results count as the same.
        target: what was asked: neural-tangents' time over ntkit's, at least; None: nothing was.
    """

    kind: ClassVar[str]
    measures_memory: ClassVar[bool] = False
    name: str
    title: str
    n: int
    repetitions: int = 7
    warmups: int = 2
    peer_repetitions: int | None = None
    peer_warmups: int | None = None
    tolerance: float = 1e-3
    target: float | None = None

    @property
    def needs(self) -> str:
        """What a contestant must be able to do: its row's kind, or one network of it."""
        return self.kind

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the kernel that every contestant gives."""
        return (self.n, self.n)

    @property
    def heading(self) -> str:
        """Kernel, network and sizes, for people."""
        raise NotImplementedError

    def quick(self) -> Row:
        """The same row, small: to see that everything works, not to learn a time."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "heading": self.heading, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class ExactRow(Row):
    """The NTK of an infinitely wide network in NTK parameterisation.

    Args:
        network: its layers as words of `peers.networks`.
        shape: of a sample, (features,), (channels, height, width) or (channels, tokens).
    """

    kind = "exact"
    network: str
    shape: tuple[int, ...] = (784,)

    @property
    def heading(self) -> str:
        size = f"d = {self.shape[0]}" if len(self.shape) == 1 else "×".join(map(str, self.shape))
        return f"exact NTK, {self.title}, {size}, N = {self.n}"

    def quick(self) -> ExactRow:
        small = {1: (32,), 2: (self.shape[0], 8), 3: (self.shape[0], 8, 8)}
        return replace(self, n=min(self.n, 12), shape=small[len(self.shape)], repetitions=2)


@dataclass(frozen=True, kw_only=True)
class EmpiricalRow(Row):
    """The NTK of a finite network d – depth × width – n_outputs of plain linear layers and ReLU.

    Args:
        depth: hidden layers.
        outputs: "trace" (n, n), the sum over outputs, or "full" (n, n, O, O).
        n_outputs: outputs O.
        width: units of a hidden layer.
        d: features of a sample.
    """

    kind = "empirical"
    depth: int = 3
    outputs: Literal["trace", "full"] = "trace"
    n_outputs: int = 1
    width: int = 1024
    d: int = 784

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every layer, input and output included."""
        return (self.d, *[self.width] * self.depth, self.n_outputs)

    @property
    def heading(self) -> str:
        return f'empirical NTK, "{self.outputs}", {self.title}, {"–".join(map(str, self.widths))}, N = {self.n}'

    @property
    def result_shape(self) -> tuple[int, ...]:
        return (self.n, self.n) if self.outputs == "trace" else (self.n, self.n, self.n_outputs, self.n_outputs)

    def quick(self) -> EmpiricalRow:
        return replace(self, n=min(self.n, 12), d=32, width=48, repetitions=2)


@dataclass(frozen=True, kw_only=True)
class ModelRow(Row):
    """The NTK of a finite network as people train it, one of `peers.models`; memory is measured too.

    Args:
        network: which one.
        shape: of a sample, (channels, height, width) or (tokens,).
        outputs: "trace" (n, n), the sum over outputs, or "full" (n, n, O, O).
        n_outputs: outputs O.
        width: channels of the first layer.
        depth: GPT-2's blocks.
        vocabulary: GPT-2's tokens.
    """

    kind = "model"
    measures_memory = True
    network: Literal["cnn", "resnet18", "gpt2"]
    shape: tuple[int, ...]
    outputs: Literal["trace", "full"]
    n_outputs: int
    width: int
    depth: int = 12
    vocabulary: int = 50257

    @property
    def needs(self) -> str:
        return self.network

    @property
    def heading(self) -> str:
        size = f"{self.shape[0]} tokens" if len(self.shape) == 1 else "×".join(map(str, self.shape))
        return f'empirical NTK, "{self.outputs}", {self.title}, {size}, N = {self.n}'

    @property
    def result_shape(self) -> tuple[int, ...]:
        return (self.n, self.n) if self.outputs == "trace" else (self.n, self.n, self.n_outputs, self.n_outputs)

    def quick(self) -> ModelRow:
        if self.network == "gpt2":
            return replace(self, n=4, shape=(8,), width=48, depth=2, vocabulary=50, repetitions=2)
        return replace(self, n=4, shape=(3, 12, 12), width=8, repetitions=2)


def from_json(told: dict[str, Any]) -> Row:
    """The row that `to_json` told."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    fields.pop("heading")  # follows from the others
    kinds = {kind.kind: kind for kind in (ExactRow, EmpiricalRow, ModelRow)}
    return kinds[fields.pop("kind")](**fields)


IMAGE = (3, 32, 32)
FC_TARGETS = {("relu", 4000): 6.0, ("erf", 4000): 3.0}
MLP = "MLP, ReLU"

ROWS: tuple[Row, ...] = (
    *(
        ExactRow(
            name=f"exact-{activation}-{n}",
            title=f"3 hidden layers, {label}",
            n=n,
            network=FC.format(activation),
            target=FC_TARGETS.get((activation, n)),
        )
        for n in (1000, 4000)
        for activation, label in (("relu", "ReLU"), ("erf", "erf"), ("gelu", "GELU"))
    ),
    ExactRow(
        name="exact-cntk-gap-4",
        title="5 conv layers, global average pooling",
        n=4,
        network=CNTK_GAP,
        shape=IMAGE,
        peer_repetitions=3,
        peer_warmups=1,
        target=80.0,
    ),
    ExactRow(  # a turn of neural-tangents takes minutes: two timed ones, and one to compile
        name="exact-cntk-gap-16",
        title="5 conv layers, global average pooling",
        n=16,
        network=CNTK_GAP,
        shape=IMAGE,
        peer_repetitions=2,
        peer_warmups=1,
        target=200.0,
    ),
    ExactRow(
        name="exact-cntk-flatten-50",
        title="5 conv layers, flattened",
        n=50,
        network=CNTK_FLATTEN,
        shape=IMAGE,
        target=40.0,
    ),
    *(
        ExactRow(
            name=f"exact-myrtle{depth}-4",
            title=f"Myrtle-{depth}",
            n=4,
            network=network,
            shape=IMAGE,
            repetitions=5,
            target=40.0,
        )
        for depth, network in ((5, MYRTLE_5), (10, MYRTLE_10))
    ),
    ExactRow(
        name="exact-resnet-50",
        title="pre-activation ResNet, 2 blocks, flattened",
        n=50,
        network=RESNET_2,
        shape=IMAGE,
        target=20.0,
    ),
    *(
        ExactRow(
            name=f"exact-attention{number}-32",
            title=f"{number} attention layer{'s' if number > 1 else ''} over 64 tokens, pooled",
            n=32,
            network=network,
            shape=(16, 64),
            target=3.0,
        )
        for number, network in ((1, ATTENTION), (2, TWO_ATTENTIONS))
    ),
    EmpiricalRow(name="mlp-trace-200", title=MLP, n=200, target=1.5),
    EmpiricalRow(name="mlp-full-30", title=MLP, n=30, outputs="full", n_outputs=10, target=1.5),
    EmpiricalRow(name="mlp-full-500", title=MLP, n=500, outputs="full", n_outputs=10, repetitions=3, target=2.0),
    EmpiricalRow(name="mlp-trace-2000", title=MLP, n=2000, repetitions=3, target=1.7),
    ModelRow(
        name="cnn-full-20",
        title="CNN of PyTorch's NTK tutorial, 10 outputs",
        network="cnn",
        n=20,
        shape=IMAGE,
        outputs="full",
        n_outputs=10,
        width=32,
        target=2.0,
    ),
    ModelRow(  # two warm-ups for all, here and below: memory is read in the second, behind what compiles
        name="resnet18-trace-50",
        title="ResNet-18 for CIFAR, 10 outputs",
        network="resnet18",
        n=50,
        shape=IMAGE,
        outputs="trace",
        n_outputs=10,
        width=64,
        repetitions=3,
        peer_repetitions=2,
    ),
    ModelRow(
        name="gpt2-trace-32",
        title="GPT-2 small, one output",
        network="gpt2",
        n=32,
        shape=(128,),
        outputs="trace",
        n_outputs=1,
        width=768,
        repetitions=3,
        peer_repetitions=2,
    ),
)
