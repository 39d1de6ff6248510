"""Models that expansions are tried on, and what is done with them."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from empirical_networks import CASES, features, mlp


class Lstm(nn.Module):
    """In float32 on CPUs an LSTM is one operation without a forward derivative."""

    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.cells(x)[0][:, -1])


class Named(nn.Module):
    """Outputs in a dict and a tuple, one of them without parameters; called by names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, left, *, scale):
        h = torch.tanh(self.a(left)) * scale
        return {"hidden": h, "pair": (self.b(h), left.sum(1))}


class Fused(nn.Module):
    """Fused attention."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.scaled_dot_product_attention(self.q(x), self.k(x), x)


class Constants(nn.Module):
    """Autograd takes two factors for constants."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        with torch.no_grad():
            gate = torch.tanh(self.fc(x))
        return gate * self.fc(x) ** 2 * F.linear(x, self.fc.weight.data).detach()


class Cube(torch.autograd.Function):
    """No jvp, and none of torch.func's transformations."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class OnceOnly(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Outside(Cube):
    """Its backward leaves autograd without a word."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (3 * x**2 * g).detach().clone()


class Cayley(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        eye = torch.eye(4, dtype=x.dtype)
        return torch.linalg.solve(eye + 0.1 * self.fc.weight, self.fc(x).mT).mT


class Custom(nn.Module):
    def __init__(self, function=Cube):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 3), nn.Linear(3, 2), function

    def forward(self, x):
        return self.b(self.function.apply(self.a(x)))


def convolved(*norms):
    return nn.Sequential(nn.Conv1d(1, 2, 2), *norms, nn.Tanh(), nn.Flatten()).eval()


class Functional(nn.Module):
    """A normalisation by a function of torch's, over the samples where it is batch_norm."""

    def __init__(self, normalise):
        super().__init__()
        self.conv, self.normalise = nn.Conv1d(1, 2, 2), normalise
        self.scale, self.shift = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))

    def forward(self, x):
        return self.normalise(self.conv(x), self.scale, self.shift).tanh().flatten(1)


FUNCTIONAL_NORMS = {
    "F.batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "torch.batch_norm": lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "F.instance_norm": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "torch.instance_norm": lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "torch.layer_norm": lambda x, w, b: torch.layer_norm(x, (4,)) * w[:, None] + b[:, None],
    "F.group_norm": lambda x, w, b: F.group_norm(x, 1, w, b),
    "F.rms_norm": lambda x, w, b: F.rms_norm(x, (4,)) * w[:, None] + b[:, None],
    "running statistics": lambda x, w, b: F.batch_norm(x, b.detach().clone(), w.detach().square() + 1, w, b),
}


MODELS = {
    name: CASES[name][:2]
    for name in (
        "mlp", "in-place ReLU", "NTK parameterisation", "convolutions", "layer norm", "embedding", "tied embedding",
        "tied linears", "attention", "recurrent", "weight norm", "direct parameter", "branching", "centred", "tuple",
        "dict",
    )
} | {
    "LSTM": (Lstm, lambda n: features(n, 5, 4)),
    "fused attention": (Fused, lambda n: features(n, 5, 4)),
    "constants": (Constants, features),
    "custom function": (Custom, features),
    "solve": (Cayley, features),
    "instance norm": (lambda: convolved(nn.InstanceNorm1d(2, affine=True)), lambda n: features(n, 1, 5)),
    "in-place on the data": (lambda: nn.Sequential(nn.ReLU(inplace=True), mlp()), features),
}  # fmt: skip


def call(model, x):
    if isinstance(x, tuple):
        return model(*x)
    return model(**x) if isinstance(x, dict) else model(x)


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def moved(model, size=0.3):
    """θ and θ − θ₀: every trainable parameter moved at random."""
    with torch.no_grad():
        step = {name: size * torch.randn_like(p) for name, p in trainable(model).items()}
        for name, p in trainable(model).items():
            p += step[name]
    return step


def gradient(model, x, weights, wanted):
    """The gradients of Σ weights · model(x), as autograd gives them."""
    out = call(model, copy.deepcopy(x))
    found = torch.autograd.grad((out * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])
