"""The face: `monte_carlo_kernel(builder, x1)`, for networks that have no exact kernel."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from ntkit._memory import read_limit
from ntkit._progress import Reporter
from ntkit.empirical.inputs import Inputs
from ntkit.empirical.network import derivatives
from ntkit.errors import InvalidInput, NtkitError
from ntkit.infinite.monte_carlo.checkpoint import Checkpoint
from ntkit.infinite.monte_carlo.draw import Forward, Task, task_of
from ntkit.infinite.monte_carlo.identity import Identity, digest_of_parameters, digest_of_samples, kinds_of
from ntkit.infinite.monte_carlo.moments import Moments
from ntkit.infinite.monte_carlo.networks import Builder, Networks, generators_kept, kind_of_data
from ntkit.infinite.monte_carlo.run import MonteCarloKernels, Run, result_of

Which = Literal["both", "nngp", "ntk"]


@dataclass(frozen=True)
class Rule:
    """When a run is over.

    Args:
        draws: after so many draws at the latest.
        precision: once no entry's standard error is larger than this part of its kernel's largest; None for never.
        min_draws: from which on the precision is asked.
    """

    draws: int
    precision: float | None
    min_draws: int

    def is_over(self, run: Run) -> bool:
        """Whether no draw is to follow."""
        return run.draws >= self.draws or (run.draws >= self.min_draws and self.is_reached(run))

    def is_reached(self, run: Run) -> bool:
        """Whether the precision is reached."""
        return self.precision is not None and run.precision <= self.precision

    def expected(self, run: Run) -> int:
        """About how many draws it will take."""
        # in steps of a quarter, as the time left is estimated anew whenever this number moves
        steps = math.log(min(self.draws, self.needed(run)), 1.25)
        return min(self.draws, math.ceil(1.25 ** math.ceil(steps)))

    def needed(self, run: Run) -> float:
        """How many draws the precision takes, by what is known now: errors fall like 1/√draws."""
        if self.precision is None or run.draws < 2:
            return math.inf
        ratio = run.precision / self.precision
        return max(run.draws * ratio * ratio, float(self.min_draws))

    def told(self, run: Run) -> str:
        """What a run that has not reached the precision says."""
        return (
            f"after {run.draws} draws the largest standard error is {run.precision:.2g} of the largest entry, and "
            f"{self.precision:.2g} was asked for; about {self.needed(run):,.0f} draws are needed: raise draws, and go "
            "on from here with resume="
        )


def monte_carlo_kernel(
    builder: Builder,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    draws: int = 100,
    precision: float | None = None,
    min_draws: int = 16,
    seed: int = 0,
    which: Which = "both",
    forward: Forward | None = None,
    memory_limit: int | None = None,
    resume: MonteCarloKernels | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> MonteCarloKernels:
    """The mean kernels of random finite networks, with the standard error of every entry.

    nngp(x, x') = E[f_o(x) f_o(x')] and ntk(x, x') = E[⟨∂f_o(x)/∂θ, ∂f_o(x')/∂θ⟩], means over draws of the parameters
    and over the outputs o. The product is not centred: it is the covariance where E[f] = 0, as behind any read-out
    whose weights and biases have mean 0. Both are expectations at the builder's width; how far that is from infinite
    width, about 1/width, the standard errors do not tell: compare two widths.

    The standard error of a mean of draws is √(variance of the draws / draws). On the diagonal of `nngp` it is about
    √(2 / (draws · outputs)) of the entry, as outputs are nearly Gaussian: give the networks many outputs and ask for
    "nngp" alone, which needs no derivatives. That of `ntk` falls with the width too.

    Args:
        builder: called without arguments, returns a new network whose random numbers come from torch's global
            generator. That is seeded for each draw from `seed` and the draw's number, and left as it was before; so
            the same seed gives the same numbers. Networks are converted to the dtype, and moved to the device, of x1.
            They must treat samples independently: dropout and BatchNorm in eval mode, as builder can return
            model.eval().
        x1: (n, ...) samples as the networks take them: a tensor, or a tuple or dict of them.
        x2: (m, ...) samples of the same form; None means x1.
        draws: how many networks are drawn, earlier ones counted; with a precision, the most. From 2.
        precision: stop as soon as the standard errors of all entries are at most this part of the largest absolute
            entry of their kernel (of x1 with itself: of its largest diagonal entry); 0.01 is one per cent.
        min_draws: of which the precision is judged at the least, as of few draws the scatter itself is uncertain.
        seed: of the run, from 0; runs with other seeds are independent.
        which: "both", or "nngp" or "ntk" alone.
        forward: f(model, x) -> (n, O), for networks that are not called as model(x), model(*x) or model(**x).
        memory_limit: bytes for the kernels and what one network's need, as in `ntkit.empirical_ntk`.
        resume: an earlier result for the same builder, samples and seed; its draws count, and the numbers are those
            of one long run.
        checkpoint: a file that the run is kept in and goes on from: written every half minute and when the run ends,
            is interrupted or fails.
        progress: show a progress bar with the time left.

    Returns:
        `MonteCarloKernels`: `.nngp`, `.ntk`, `.nngp_error`, `.ntk_error`, each (n, m), in the kind, dtype and device of
        x1, without gradients; `.draws`, `.precision`. A precision that was not reached in `draws` gives a
        RuntimeWarning.

    Raises:
        InvalidInput: an argument is out of range; the builder gives no new, random, reproducible networks; a network
            cannot be run on the samples, mixes them, or gives values that are not finite; earlier draws are of another
            configuration, or the checkpoint's file is broken.
        MemoryLimitExceeded: the kernels, or one network's derivatives, do not fit.

    Example:
        >>> import ntkit, torch
        >>> def builder(width=64):  # the maximum in a pool has no exact kernel
        ...     first, last = ntkit.nn.Conv1d(1, width, 3, w_std=2**0.5), ntkit.nn.Linear(3 * width, 1)
        ...     return torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.MaxPool1d(2), torch.nn.Flatten(), last)
        >>> found = monte_carlo_kernel(builder, torch.ones(2, 1, 8), which="ntk", precision=0.05, draws=1000)
        >>> found.ntk.shape, found.precision < 0.05, found.draws < 1000
        (torch.Size([2, 2]), True, True)

    Reference: Novak, Xiao, et al. 2019, "Bayesian deep convolutional networks with many channels are Gaussian
    processes", section 6, and Novak et al. 2020, "Neural Tangents", section 2.
    """
    rule = Rule(draws, precision, min_draws)
    _check_arguments(builder, rule, seed, which, forward, resume)
    _check_checkpoint(checkpoint)
    limit = read_limit(memory_limit)
    store = None if checkpoint is None else Checkpoint(Path(checkpoint).expanduser().resolve())
    with generators_kept(), derivatives():
        networks = Networks(builder, seed, *kind_of_data(x1))
        first = networks.first()
        task = task_of(first, x1, x2, kinds_of(which), forward, limit)
        run = _started(_identity(first, task, seed, which), task, resume, store)
        run = _continued(run, first, networks, task, rule, store, Reporter(progress))
    if precision is not None and not rule.is_reached(run):
        warnings.warn(rule.told(run), RuntimeWarning, stacklevel=2)
    return result_of(run, x1, task.dtype)


def _identity(first: nn.Module, task: Task, seed: int, which: str) -> Identity:
    with _naming(0):
        told = task.first_outputs(first)
    two = "" if task.x2 is None else digest_of_samples(task.x2)
    return Identity(seed, which, digest_of_samples(task.x1), two, digest_of_parameters(first), told)


def _started(identity: Identity, task: Task, resume: MonteCarloKernels | None, store: Checkpoint | None) -> Run:
    """The draws that there are already, once they are known to belong to this run."""
    kept = None if store is None else store.read()
    if kept is not None and resume is not None:
        raise InvalidInput(
            "draws can go on from resume or from a checkpoint, but both are there; give one, or a checkpoint that does "
            "not exist yet"
        )
    if kept is not None:
        kept.identity.require_equal(identity, "checkpoint")
        return kept
    if resume is not None:
        resume.run.identity.require_equal(identity, "resume")
        return resume.run
    return Run(identity, {kind: Moments.none(*task.shape) for kind in task.kinds})


def _continued(
    run: Run,
    first: nn.Module,
    networks: Networks,
    task: Task,
    rule: Rule,
    store: Checkpoint | None,
    reporter: Reporter,
) -> Run:
    """Draws one network after the other until the rule says that it is enough."""
    kept = run.draws
    with reporter.running(), reporter.stage("kernels of random networks", rule.expected(run) - kept) as advance:
        try:
            while not rule.is_over(run):
                with _naming(run.draws):
                    model = networks.draw(run.draws) if run.draws else first
                    run = run.including(task.kernels(model))
                if store is not None:
                    store.keep(run)
                advance(rule.expected(run) - kept)
        finally:
            if store is not None:
                store.write(run)
    return run


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Errors say which network they come from."""
    try:
        yield
    except NtkitError as error:
        raise type(error)(f"network {index} of the builder: {error}") from error


def _check_arguments(builder: Any, rule: Rule, seed: Any, which: Any, forward: Any, resume: Any) -> None:
    if not callable(builder) or isinstance(builder, nn.Module):
        raise InvalidInput(
            f"builder must be a function that returns a new torch.nn.Module, got {type(builder).__name__}; pass "
            "lambda: make_model()"
        )
    for name, value, least in (("draws", rule.draws, 2), ("min_draws", rule.min_draws, 2), ("seed", seed, 0)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise InvalidInput(f"{name} must be a whole number from {least}, got {value!r}")
    precision = rule.precision
    number = isinstance(precision, Real) and not isinstance(precision, bool)
    if precision is not None and not (number and 0 < precision < math.inf):
        raise InvalidInput(
            f"precision must be a positive number such as 0.01, one per cent of the largest entry, or None, got "
            f"{precision!r}"
        )
    if which not in get_args(Which):
        raise InvalidInput(f"which must be one of {', '.join(map(repr, get_args(Which)))}, got {which!r}")
    if forward is not None and not callable(forward):
        raise InvalidInput(f"forward must be a function of a model and samples, got {type(forward).__name__}")
    if resume is not None and not isinstance(resume, MonteCarloKernels):
        raise InvalidInput(f"resume must be a result of monte_carlo_kernel, got {type(resume).__name__}")


def _check_checkpoint(checkpoint: Any) -> None:
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        raise InvalidInput(f"checkpoint must be the path of a file, got {type(checkpoint).__name__}")
