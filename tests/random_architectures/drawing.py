"""From a seed to a recipe: only networks that have a limit, of every kind.

Between units stands a Gaussian value, the output of layers with weights. A unit may normalise it, apply activations,
pool, drop, branch and join, and ends with a layer. So an activation always reads Gaussian values, terms of a sum come
of different layers, and so do factors of a product.
"""

from __future__ import annotations

import random
from dataclasses import replace

from random_architectures.draw_layers import MOST_POSITIONS, LayerDrawing, Place
from random_architectures.steps import (
    Activation,
    AdaptivePool,
    AvgPool,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    Grid,
    Heads,
    MaskedFill,
    MaskedMean,
    Norm,
    Pad,
    PositionMap,
    Product,
    Recipe,
    Resize,
    Scale,
    Step,
    Steps,
    Sum,
    Tokens,
    depth_of,
)

_BEGIN = 113_000  # of several, the one from which the first networks have nearly every feature
FEW_POSITIONS = 9  # up to which the oracle's plane of an activation without formula is quick
RECTIFIED = ("ReLU", "LeakyReLU", "Abs")
BY_FORMULA = ("Erf", "Sin", "Cos", "Gaussian")
BY_SERIES = ("Tanh", "SiLU")  # which ntkit finds by quadrature
GATES, GATES_BY_SERIES = ("ReLU", "Cos", "Gaussian"), ("Sigmoid", "Tanh")
WITHOUT_SCALE_RULE = ("GELU", *BY_SERIES)


def recipe_of(seed: int) -> Recipe:
    """The network of a seed, from none to twelve activations deep."""
    return _Drawing(random.Random(_BEGIN + seed)).recipe(seed)


class _Drawing(LayerDrawing):
    def __init__(self, rng: random.Random):
        super().__init__(rng)
        # what the compiled engine leaves to torch's: together, so that many networks go through both
        self.special = rng.choices(("", "dropout", "gates", "series"), (60, 13, 13, 14))[0]
        self.is_sequence = self.chance(0.45 if self.special else 0.3)
        self.of_tokens = self.chance(0.85 if self.is_sequence else 0.3 if self.special else 0.15)
        self.depth = rng.randint(1, 12)

    def recipe(self, seed: int) -> Recipe:
        grid = (self.rng.randint(3, 6),) if self.is_sequence else self._first_grid()
        channels = self.rng.randint(2, 4) if grid else self.rng.randint(2, 8)  # of one, samples would be collinear
        if self.of_tokens:
            self.mask = grid if self.is_sequence and self.chance(0.75) else None
            self.attentions = self.rng.randint(1, 3)
        steps, place = self._first_layer(Place(grid, is_data=True))
        used = 0
        while used < self.depth - 1:
            if place.grid and self.chance(0.5 / self.depth):
                unit, place = self._to_vectors(place)
            else:
                unit, place = self._unit(place, self.depth - 1 - used)
            steps += unit
            used += depth_of(unit)
        return Recipe(seed, channels, grid, (*steps, *self._end(place)), self.is_sequence)

    def _first_grid(self) -> Grid:
        rank = self.rng.choices((0, 1, 2, 3), (2, 2, 5, 1))[0]
        low, high = {0: (1, 1), 1: (4, 9), 2: (3, 6), 3: (2, 3)}[rank]
        return tuple(self.rng.randint(low, high) for _ in range(rank))

    def _first_layer(self, place: Place) -> tuple[Steps, Place]:
        if place.grid and self.chance(0.07):
            return (Flatten(), self.layer(Place(()))), Place(())
        before = self._position_maps(place, 0.25, resizes=False)
        return self._closed(place, before)

    # ---- before and behind activations -------------------------------------------------------------------------------

    def _activation(self, place: Place, trained: bool = False) -> Activation:
        names = [*RECTIFIED, *RECTIFIED, *BY_FORMULA] + ["Sign"] * self.chance(0.3)
        if place.positions <= FEW_POSITIONS:
            names += ["GELU", *3 * BY_SERIES] if self.special == "series" else ["GELU"]
        elif trained:  # the oracle takes planes for what a scale adds
            names = list(RECTIFIED)
        return Activation(self.rng.choice([n for n in names if not (trained and n in WITHOUT_SCALE_RULE)]))

    def _norm(self, place: Place, after_activation: bool = False) -> Norm:
        kind = "RMSNorm" if after_activation else self.rng.choice(("LayerNorm", "GroupNorm", "RMSNorm"))
        whole = bool(place.grid) and kind != "GroupNorm" and self.chance(0.4)
        trained = self.chance(0.6)
        return Norm(kind, whole, self.rng.choice((1e-5, 0.1)), trained, kind != "RMSNorm" and self.chance(0.6))

    def _activated(self, place: Place) -> Steps:
        """An activation of a Gaussian value, which may be pooled or normalised before."""
        before = self._position_maps(place, 0.15)
        place = place.behind(*before)
        norm = (self._norm(place),) if not place.blocks and self.chance(0.25) else ()
        return *before, *norm, self._activation(place, bool(norm) and norm[0].trains_scale)

    def _position_maps(self, place: Place, p: float, resizes: bool = True) -> Steps:
        if not place.grid or not self.chance(p):
            return ()
        if self.has_mask(place) and self.chance(0.85):
            return (MaskedFill(),)
        if place.merged:
            return ()
        found = self._position_map(place, resizes)
        fits = found is not None and 1 <= place.behind(found).positions <= MOST_POSITIONS
        return (found,) if found is not None and fits else ()

    def _position_map(self, place: Place, resizes: bool) -> PositionMap | None:
        least, rank = min(place.grid), len(place.grid)
        kind = self.rng.choice(("pool", "pool", "adaptive", "pad", "pad", "nearest", "linear"))
        match kind:
            case "pool" if least >= 2:
                kernel = self.rng.randint(2, min(3, least))
                return AvgPool(kernel, self.rng.randint(1, 2), self.rng.randint(0, 1), self.chance(0.5))
            case "adaptive":
                return AdaptivePool(tuple(self.rng.randint(2, 3) for _ in range(rank)))
            case "pad" if least >= 2 and (resizes or self.chance(0.5)):
                return Pad(self.rng.choice(("ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad")))
            case "nearest" if resizes:
                return Resize(tuple(n + self.rng.randint(1, 2) for n in place.grid), "nearest")
            case "linear" if resizes:
                return Resize(
                    tuple(max(1, n + self.rng.randint(-1, 2)) for n in place.grid), "linear", self.chance(0.5)
                )
            case _:
                return None

    def _behind(self, place: Place, is_sum: bool = False) -> Steps:
        """What may stand between an activation and a layer."""
        steps = self._position_maps(place, 0.35)
        place = place.behind(*steps)
        if self.special == "dropout" and self.chance(0.4):
            steps += (Dropout(self.rng.choice((0.1, 0.3)), bool(place.grid) and self.chance(0.4)),)
        if not place.blocks and not is_sum and self.chance(0.08):
            steps += (self._norm(place, after_activation=True),)
        if self.chance(0.1):
            steps += (Scale(self.rng.choice((0.7, -1.3))),)
        if self.of_tokens and place.grid and not place.blocks and self.chance(0.1):
            steps += (self.positional(place),)
        return steps

    # ---- units -------------------------------------------------------------------------------------------------------

    def _unit(self, place: Place, left: int) -> tuple[Steps, Place]:
        kinds = {self._plain: 4, self._residual: 3, self._sum: 1.5, self._concatenation: 1.5, self._linear: 0.7}
        if self.special == "gates":
            kinds[self._product] = 3
        if self.of_tokens and place.grid:
            kinds[self._positioned] = 1.2
        if self.can_attend(place):
            kinds[self._attentive] = 4
        if self.attentions and len(place.grid) > 1:
            kinds[self._as_tokens] = 6
        make = self.rng.choices(list(kinds), list(kinds.values()))[0]
        return make(place, left)

    def _closed(self, place: Place, steps: Steps) -> tuple[Steps, Place]:
        """With a layer at the end."""
        place = place.behind(*steps)
        layer = self.layer(place)
        return (*steps, layer), replace(place.behind(layer), is_data=False, blocks=False)

    def _plain(self, place: Place, left: int) -> tuple[Steps, Place]:
        steps = self._activated(place)
        return self._closed(place, steps + self._behind(place.behind(*steps)))

    def _linear(self, place: Place, left: int) -> tuple[Steps, Place]:
        norm = (self._norm(place),) if self.chance(0.6) else ()
        return self._closed(place, (*norm, *self._position_maps(place, 0.6)))

    def _branch(self, place: Place, most: int) -> Steps:
        """Activations and layers that keep the grid."""
        steps: Steps = ()
        for _ in range(self.rng.randint(1, max(1, min(2, most)))):
            if most > 2 and self.chance(0.12):
                steps += (Sum(((), self._branch(place, 1)), (1.0, 1.0)),)
            norm = (self._norm(place),) if self.chance(0.3) else ()
            act = self._activation(place, bool(norm) and norm[0].trains_scale)
            drop = (Dropout(0.2),) if self.special == "dropout" and self.chance(0.3) else ()
            steps += (*norm, act, *drop, self.layer(place, keeps=True))
        return steps

    def _coefficients(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.chance(0.6) else (self.rng.choice((1.0, 0.8)), self.rng.choice((0.6, -0.5)))

    def _residual(self, place: Place, left: int) -> tuple[Steps, Place]:
        """h + f(h), or with a layer on both ways, which may halve the grid."""
        if self.chance(0.7) or not place.grid or min(place.grid) < 2 or place.merged:
            shortcut = () if self.chance(0.8) else (self.layer(place, keeps=True),)
            return (Sum((shortcut, self._branch(place, left)), self._coefficients()),), place
        rank = len(place.grid)
        ones = (1,) * rank
        halves = [
            replace(
                Conv(
                    w_std=1.2,
                    b_std=0.2,
                    kernel=(k,) * rank,
                    stride=(2,) * rank,
                    dilation=ones,
                    padding=(k // 2,) * rank,
                ),
                standard=self.chance(self.standard),
            )
            for k in (1, 3)
        ]
        total = Sum(((halves[0],), (self._activation(place), halves[1])), self._coefficients())
        return (total,), place.behind(total)

    def _sum(self, place: Place, left: int) -> tuple[Steps, Place]:
        """Activations of two layers, whose means multiply."""
        one, two = (self._activation(place),), (self.layer(place, keeps=True), self._activation(place))
        total = Sum((one, two), self._coefficients())
        return self._closed(place, (total, *self._behind(place, is_sum=True)))

    def _concatenation(self, place: Place, left: int) -> tuple[Steps, Place]:
        """h and f(h) side by side, before an activation or after, or in place of h one of h."""
        units, act = self.rng.randint(1, 2), self._activation(place)
        layer = self.layer(place, keeps=True, units=units)
        joined = replace(place, blocks=True)
        if self.chance(0.5):
            both = Concat(((), (act, layer)))
            more = self._activated(joined) if left > 1 else ()
            return self._closed(joined, (both, *more, *self._behind(joined.behind(*more))))
        both = Concat(((act,), (layer, self._activation(place))))
        return self._closed(joined, (both, *self._behind(joined)))

    def _product(self, place: Place, left: int) -> tuple[Steps, Place]:
        """A gate: functions of different layers."""
        gates = GATES_BY_SERIES if place.positions <= FEW_POSITIONS and self.chance(0.7) else GATES
        gate = (self.layer(place, keeps=True), Activation(self.rng.choice(gates)))
        one = self.rng.choice(
            ((), (self._activation(place),), (self.layer(place, keeps=True), self._activation(place)))
        )
        both = Product((one, gate))
        return self._closed(place, (both, *self._behind(place)))

    # ---- tokens ------------------------------------------------------------------------------------------------------

    def _attentive(self, place: Place, left: int) -> tuple[Steps, Place]:
        """Attention of a value that may be normalised, mostly beside the value itself."""
        norm = (self._norm(place),) if self.chance(0.5) else ()
        steps = (*norm, self.attention(place))
        return (Sum(((), steps), self._coefficients()),) if self.chance(0.7) else steps, place

    def _as_tokens(self, place: Place, left: int) -> tuple[Steps, Place]:
        """The positions of an image become tokens, mostly with vectors of their own."""
        behind = place.behind(Tokens())
        return (Tokens(), *[self.positional(behind)] * self.chance(0.7)), behind

    def _positioned(self, place: Place, left: int) -> tuple[Steps, Place]:
        """Vectors of positions, added or side by side."""
        if self.chance(0.6):
            return (self.positional(place),), place
        joined = replace(place, blocks=True)
        more = self._activated(joined) if left > 1 else ()
        steps = (self.positional(place, beside=True), *more)
        return self._closed(joined, (*steps, *self._behind(joined.behind(*more))))

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _to_vectors(self, place: Place) -> tuple[Steps, Place]:
        steps = self._activated(place)
        return (*steps, self._gathered(place.behind(*steps)), self.layer(Place(()))), Place(())

    def _gathered(self, place: Place) -> Step:
        if self.has_mask(place) and self.chance(0.85):
            return MaskedMean()
        return Flatten() if self.chance(0.5) else GlobalPool(not place.merged and self.chance(0.5))

    def _head(self, place: Place) -> Steps:
        steps = self._activated(place) if self.chance(0.9) else ()
        steps += self._behind(place.behind(*steps)) if steps else ()
        gathered = (self._gathered(place.behind(*steps)),) if place.grid else ()
        return *steps, *gathered, replace(self.layer(Place(())), units=0, trains_weight=True)

    def _end(self, place: Place) -> Steps:
        if self.chance(0.15):
            return (Heads((self._head(place), self._head(place))),)
        (*steps, last) = self._head(place)
        return *steps, last
