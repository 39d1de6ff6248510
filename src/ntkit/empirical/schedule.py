"""From an assignment of parameters to work: which route runs in which blocks, and the plan that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ntkit.empirical.assign import Assignment
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
    result_numbers,
)
from ntkit.empirical.groups import Group
from ntkit.empirical.network import Network
from ntkit.empirical.passes import Passes, Sizes, Task, plan_passes
from ntkit.empirical.routes import GenericRoute, LayerRoute


@dataclass(frozen=True)
class Job:
    """A route and how its work is cut."""

    route: LayerRoute | GenericRoute
    work: Work


def schedule(network: Network, assignment: Assignment, task: Task, budget: int, strictly: bool = False) -> list[Job]:
    """The routes to run, one after the other, each with the whole budget of bytes.

    Args:
        network: the model.
        assignment: the routes.
        task: what to compute.
        budget: bytes.
        strictly: whether the model must take the way that it took when the routes were found.

    Raises:
        MemoryLimitExceeded: one sample does not fit.
    """
    jobs = []
    if assignment.orders or assignment.unused:
        jobs += _layer_jobs(network, assignment, task, budget, strictly)
    if assignment.generic:
        generic_route = GenericRoute(network, assignment.generic, assignment.n_outputs, assignment.vmapped)
        jobs.append(Job(generic_route, _cut_generic(network, assignment, task, budget)))
    return jobs


def _layer_jobs(network: Network, assignment: Assignment, task: Task, budget: int, strictly: bool) -> list[Job]:
    o = assignment.n_outputs
    layers: dict[Group, tuple[Contraction, LayerSizes]] = {
        group: (cheaper_contraction(size, o, task.outputs, task.samples, task.pairs), size)
        for group, size in assignment.sizes.items()
    }
    itemsize = network.result_dtype.itemsize
    sizes = Sizes(layers, o, assignment.saved_bytes, assignment.batched, itemsize, budget)
    jobs = []
    for k, passes in enumerate(plan_passes(sizes, task) or [Passes([], Work(task.side, o, 1, task.side), 0)]):
        names = {name for group in passes.groups for name in group.names}
        orders = {name: order for name, order in assignment.orders.items() if name in names}
        contractions: dict[Group, Contraction] = {group: layers[group][0] for group in passes.groups}
        unused = assignment.unused if k == 0 else []  # that they still are is watched once
        route = LayerRoute(
            network, orders, contractions, unused, assignment.batched, assignment.way, strictly,
            passes.work.slab > 0, passes.work.later,
        )  # fmt: skip
        jobs.append(Job(route, passes.work))
    return jobs


def _cut_generic(network: Network, assignment: Assignment, task: Task, budget: int) -> Work:
    itemsize = network.result_dtype.itemsize
    numbers = sum(network.own[name].numel() for name in assignment.generic)

    def sample_bytes(chunk: int) -> int:
        # both sides' Jacobians and a copy in passing; the backward passes of all outputs run at once
        return itemsize * 3 * chunk * numbers + (1 + 2 * chunk) * assignment.saved_bytes

    def pair_bytes(chunk: int) -> int:
        return itemsize * 3 * result_numbers(chunk, task.outputs)

    per_sample = (lambda chunk: sample_bytes(chunk) + pair_bytes(chunk)) if task.diagonal else sample_bytes
    return cut(task.side, assignment.n_outputs, per_sample, pair_bytes, budget, task.outputs)


def describe(network: Network, assignment: Assignment, jobs: list[Job], task: Task) -> Plan:
    """The plan of a task with equal sides."""
    o, n, outputs = assignment.n_outputs, task.side, task.outputs
    plans: dict[str, ParameterPlan] = {}
    for job in jobs:
        if isinstance(job.route, LayerRoute):
            plans |= _layer_plans(network, assignment, job.route, job.work, task)
        else:
            for name in job.route.names:
                p, block = network.own[name], job.work.block
                flops = 2 * n * n * output_pairs(o, outputs) * p.numel()
                held = block * job.work.chunk * p.numel() * network.result_dtype.itemsize
                plans[name] = ParameterPlan(name, tuple(p.shape), "generic", "jacobian", flops, block, held)
    for name in assignment.unused:
        plans[name] = ParameterPlan(name, tuple(network.own[name].shape), "unused", "none", 0, 0, 0)
    result_bytes = n * n * result_numbers(o, outputs) * network.result_dtype.itemsize
    return Plan(n, outputs, o, tuple(plans[name] for name in network.selected), result_bytes)


def _layer_plans(
    network: Network, assignment: Assignment, route: LayerRoute, work: Work, task: Task
) -> dict[str, ParameterPlan]:
    """Parameters of a group share its output gradients, whose products are counted with the first of them."""
    plans: dict[str, ParameterPlan] = {}
    for group, kind in route.contractions.items():
        whole = assignment.sizes[group]
        for i, name in enumerate(group.names):
            size = whole.of(name)
            if i > 0 and kind == "gram":
                size = replace(size, q=0)
            flops = contraction_flops(kind, size, assignment.n_outputs, task.outputs, task.samples, task.pairs)
            held = work.block * layer_numbers(kind, size, work.chunk) * network.result_dtype.itemsize
            if name in plans:  # another part of it
                flops, held = flops + plans[name].flops, held + plans[name].bytes
            plans[name] = ParameterPlan(name, tuple(network.own[name].shape), "layer", kind, flops, work.block, held)
    return plans
