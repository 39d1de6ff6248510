"""Networks of every kind that an empirical kernel must get right, with samples and the routes that must appear."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import ntkit.nn
from oracles import jacobian as oracle


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = self.first(x)
        h += torch.relu(self.block(torch.relu(h)))
        return self.last(h)


class Shared(nn.Module):
    """One linear layer called three times."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = self.first(x)
        for _ in range(3):
            h = torch.tanh(self.again(h))
        return self.last(h)


class Sequence(nn.Module):
    """Linear layers over positions, an in-place activation on a view, one layer over two position axes."""

    def __init__(self, features=4):
        super().__init__()
        self.embed, self.mix, self.last = nn.Linear(features, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = F.relu(self.embed(x), inplace=True)
        h = h.unsqueeze(1) * h.unsqueeze(2)
        return self.last(torch.tanh(self.mix(h)).mean((1, 2)))


class SequenceFirst(nn.Module):
    """Positions on axis 0 inside: a layer rule must not take them for samples."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.embed(x.transpose(0, 1))).cumsum(0)[-1])


class TokenMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.last = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.last(torch.tanh(self.tokens(ids)).mean(1))


class TiedDecoder(nn.Module):
    """Embedding and decoder are one parameter."""

    def __init__(self):
        super().__init__()
        self.tokens, self.mix, self.decoder = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.decoder.weight = self.tokens.weight

    def forward(self, ids):
        return self.decoder(torch.tanh(self.mix(self.tokens(ids).sum(1))))


class TiedLinears(nn.Module):
    """Two modules with one weight and biases of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Borrowed(nn.Module):
    """The weight is also used behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(torch.tanh(self.fc(x)), self.fc.weight)


class Rescaled(nn.Linear):
    """A subclass of nn.Linear that computes something else."""

    def forward(self, input):
        return 3 * super().forward(input)


class DirectParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.fc = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 3)

    def forward(self, x):
        return self.gain * self.fc(x) ** 2


class Branching(nn.Module):
    """Branches on values, one sample at a time: torch.vmap cannot run it."""

    def __init__(self):
        super().__init__()
        self.gain, self.left, self.right = nn.Parameter(torch.ones(4)), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = x * self.gain
        return torch.stack([self.left(row) if float(row[0].detach()) > 0 else self.right(row).tanh() for row in x])


class Experts(nn.Module):
    """The second expert sees no sample with x[0] > 0, and then a part of the batch."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        goes_left = x[:, 0] > 0
        out = torch.zeros(len(x), 2, dtype=x.dtype)
        if goes_left.any():
            out = out.index_put((goes_left,), self.left(x[goes_left]).tanh())
        if (~goes_left).any():
            out = out.index_put((~goes_left,), self.right(x[~goes_left]))
        return out


class Heads(nn.Module):
    """Layers that some outputs do not depend on, one of them called a second time for nothing."""

    def __init__(self):
        super().__init__()
        self.body, self.left, self.right = nn.Linear(4, 3), nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        self.left(h)
        return torch.cat([self.left(h), self.right(h)], 1)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        return torch.tanh(self.a(left)) * self.b(right)


def mlp(bias=True, outputs=3, inplace=False):
    return nn.Sequential(
        nn.Linear(4, 8, bias=bias),
        nn.ReLU(inplace=inplace),
        nn.Linear(8, 8, bias=bias),
        nn.Tanh(),
        nn.Linear(8, outputs, bias=bias),
    )


def ntk_mlp():
    return nn.Sequential(ntkit.nn.Linear(4, 8, 1.4, 0.3), nn.ReLU(), ntkit.nn.Linear(8, 3, 0.7), ntkit.nn.Abs())


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.PReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
        nn.LayerNorm(3),
    ).eval()


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)).eval()


def parametrised():
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[2])
    return model


def features(n, *shape):
    return torch.randn(n, *(shape or (4,)), dtype=torch.float64)


def tokens(n):
    return torch.randint(0, 7, (n, 5))


# name -> (model, samples, the routes that must appear)
CASES = {
    "mlp": (mlp, features, {"layer"}),
    "no bias": (lambda: mlp(bias=False), features, {"layer"}),
    "one output": (lambda: nn.Sequential(mlp(outputs=1), nn.Flatten(0)), features, {"layer"}),
    "in-place ReLU": (lambda: mlp(inplace=True), features, {"layer"}),
    "NTK parameterisation": (ntk_mlp, features, {"layer"}),
    "centred": (lambda: ntkit.nn.center(mlp(), 2.0), features, {"layer"}),
    "residual": (Residual, features, {"layer"}),
    "shared layer": (Shared, features, {"layer"}),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)),
        features,
        {"layer"},
    ),
    "convolutions": (conv_net, lambda n: features(n, 1, 4, 4), {"layer", "generic"}),
    "image output": (lambda: nn.Conv2d(1, 2, 3), lambda n: features(n, 1, 4, 4), {"layer"}),
    "sequence": (Sequence, lambda n: features(n, 3, 4), {"layer"}),
    "sequence first": (SequenceFirst, lambda n: features(n, 3, 4), {"layer"}),
    "as many positions as samples": (SequenceFirst, lambda n: features(n, 4, 4), {"layer"}),
    "attention": (transformer, lambda n: features(n, 3, 4), {"layer"}),
    "recurrent": (
        lambda: nn.Sequential(nn.GRU(4, 3, batch_first=True), Last()),
        lambda n: features(n, 3, 4),
        {"layer"},
    ),
    "embedding": (TokenMean, tokens, {"layer"}),
    "tied embedding": (TiedDecoder, tokens, {"layer"}),
    "tied linears": (TiedLinears, features, {"layer"}),
    "borrowed weight": (Borrowed, features, {"layer"}),
    "another forward": (lambda: nn.Sequential(Rescaled(4, 3), nn.Tanh()), features, {"layer"}),
    "weight norm": (parametrised, features, {"layer", "generic"}),
    "direct parameter": (DirectParameter, features, {"layer"}),
    "branching": (Branching, features, {"layer", "generic"}),
    "heads": (Heads, features, {"layer"}),
    "tuple": (TwoInputs, lambda n: (features(n), features(n, 2)), {"layer"}),
    "dict": (TwoInputs, lambda n: {"right": features(n, 2), "left": features(n)}, {"layer"}),
}


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, states):
        return self.fc(states[0][:, -1])


def assert_same(ours, theirs, tolerance=1e-10):
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= tolerance * theirs.norm()
    assert theirs.norm() > 0


def assert_equals_jacobian(kernel, draw):
    """k(x1, x1), k(x1, x2) and the diagonal are products of whole Jacobians; gives x1 and k(x1, x1)."""
    x1, x2 = draw(5), draw(3)
    j1, j2 = oracle.jacobian(kernel.model, x1), oracle.jacobian(kernel.model, x2)
    square = kernel.ntk(x1)
    assert_same(square, oracle.kernel(j1, j1, kernel.outputs))
    assert_same(kernel.ntk(x1, x2), oracle.kernel(j1, j2, kernel.outputs))
    assert_same(kernel.diagonal(x1), torch.stack([square[n, n] for n in range(5)]))
    return x1, square
