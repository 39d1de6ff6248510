"""From an assignment of parameters to work: which route runs in which blocks, and the plan that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ntkit.empirical.assign import Assignment
from ntkit.empirical.contraction import Outputs
from ntkit.empirical.costs import (
    Contraction,
    LayerSizes,
    ParameterPlan,
    Plan,
    Work,
    cheaper_contraction,
    contraction_flops,
    cut,
    layer_numbers,
    output_pairs,
    pair_numbers,
    result_numbers,
)
from ntkit.empirical.network import Network
from ntkit.empirical.routes import GenericRoute, LayerRoute


@dataclass(frozen=True)
class Task:
    """What is to be computed: derivatives of `samples`, products of `pairs` of them."""

    outputs: Outputs
    largest_side: int
    samples: int
    pairs: int
    diagonal: bool = False  # only k(x_n, x_n): a block's pairs are multiplied all at once


@dataclass(frozen=True)
class Job:
    """A route and how its work is cut."""

    route: LayerRoute | GenericRoute
    work: Work


def schedule(network: Network, assignment: Assignment, task: Task, budget: int) -> list[Job]:
    """The routes to run, one after the other, each with the whole budget of bytes.

    Raises:
        MemoryLimitExceeded: one sample does not fit.
    """
    jobs = []
    if assignment.layers or assignment.unused:
        contractions: dict[str, Contraction] = {
            path: cheaper_contraction(size, assignment.n_outputs, task.outputs, task.samples, task.pairs)
            for path, size in assignment.sizes.items()
        }
        layer_route = LayerRoute(network, assignment.layers, contractions, assignment.unused)
        jobs.append(Job(layer_route, _cut_layers(network, assignment, contractions, task, budget)))
    if assignment.generic:
        generic_route = GenericRoute(network, assignment.generic, assignment.n_outputs, assignment.vmapped)
        jobs.append(Job(generic_route, _cut_generic(network, assignment, task, budget)))
    return jobs


def _cut_layers(
    network: Network, assignment: Assignment, contractions: Mapping[str, Contraction], task: Task, budget: int
) -> Work:
    itemsize = network.dtype.itemsize
    kinds: list[tuple[Contraction, LayerSizes]] = [
        (contractions[path], size) for path, size in assignment.sizes.items()
    ]

    def sample_bytes(chunk: int) -> int:
        held = sum(layer_numbers(kind, size, chunk) for kind, size in kinds)
        # while one side's derivatives are formed, all its factors exist, and a copy of those in work
        factors = [layer_numbers("gram", size, chunk) for _, size in kinds]
        return itemsize * (2 * held + sum(factors) + max(factors, default=0)) + 2 * assignment.saved_bytes

    def pair_bytes(chunk: int) -> int:
        return itemsize * max((pair_numbers(kind, size, chunk, task.outputs) for kind, size in kinds), default=1)

    return _cut(assignment, task, sample_bytes, pair_bytes, budget)


def _cut_generic(network: Network, assignment: Assignment, task: Task, budget: int) -> Work:
    itemsize = network.dtype.itemsize
    numbers = sum(network.own[name].numel() for name in assignment.generic)

    def sample_bytes(chunk: int) -> int:
        # both sides' Jacobians and a copy in passing; the backward passes of all outputs run at once
        return itemsize * 3 * chunk * numbers + (1 + 2 * chunk) * assignment.saved_bytes

    def pair_bytes(chunk: int) -> int:
        return itemsize * 3 * result_numbers(chunk, task.outputs)

    return _cut(assignment, task, sample_bytes, pair_bytes, budget)


def _cut(
    assignment: Assignment,
    task: Task,
    sample_bytes: Callable[[int], int],
    pair_bytes: Callable[[int], int],
    budget: int,
) -> Work:
    per_sample = (lambda chunk: sample_bytes(chunk) + pair_bytes(chunk)) if task.diagonal else sample_bytes
    return cut(task.largest_side, assignment.n_outputs, per_sample, pair_bytes, budget)


def describe(network: Network, assignment: Assignment, jobs: list[Job], task: Task) -> Plan:
    """The plan of a task with equal sides."""
    o, n, outputs = assignment.n_outputs, task.largest_side, task.outputs
    plans: dict[str, ParameterPlan] = {}
    for job in jobs:
        if isinstance(job.route, LayerRoute):
            plans |= _layer_plans(network, assignment, job.route, job.work, task)
        else:
            for name in job.route.names:
                p, block = network.own[name], job.work.block
                flops = 2 * n * n * output_pairs(o, outputs) * p.numel()
                held = block * job.work.chunk * p.numel() * network.dtype.itemsize
                plans[name] = ParameterPlan(name, tuple(p.shape), "generic", "jacobian", flops, block, held)
    for name in assignment.unused:
        plans[name] = ParameterPlan(name, tuple(network.own[name].shape), "unused", "none", 0, 0, 0)
    result_bytes = n * n * result_numbers(o, outputs) * network.dtype.itemsize
    return Plan(n, outputs, o, tuple(plans[name] for name in network.selected), result_bytes)


def _layer_plans(
    network: Network, assignment: Assignment, route: LayerRoute, work: Work, task: Task
) -> dict[str, ParameterPlan]:
    """A layer's parameters share its output gradients, whose products are counted with the first of them."""
    plans = {}
    for layer in route.layers:
        whole, kind = assignment.sizes[layer.path], route.contractions[layer.path]
        for i, (short, name) in enumerate(layer.parameters.items()):
            size = whole.of(short)
            if i > 0 and kind == "gram":
                size = replace(size, q=0)
            plans[name] = ParameterPlan(
                name,
                tuple(network.own[name].shape),
                "layer",
                kind,
                contraction_flops(kind, size, assignment.n_outputs, task.outputs, task.samples, task.pairs),
                work.block,
                work.block * layer_numbers(kind, size, work.chunk) * network.dtype.itemsize,
            )
    return plans
