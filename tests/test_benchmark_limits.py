"""What the benchmarks divide by: entries of a network's covariances, instructions of a compiled loop, memory."""

# pyright: reportMissingImports=false
# (`peers` lives in benchmarks/, which the tests put on the path themselves)

from __future__ import annotations

import platform
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import scaling  # noqa: E402
from peers.instructions import NoVectorLoop, hottest_loop, vector_loops  # noqa: E402
from peers.limits import (  # noqa: E402
    Machine,
    entry_limit,
    limit_note,
    nanoseconds_per_entry,
    required_flops,
    share_of_limit,
    unit_seconds,
)
from peers.memory import PROC, PeakMemory  # noqa: E402
from peers.models import affine_layers  # noqa: E402
from peers.networks import entries_per_pair, parse, shape_after  # noqa: E402
from peers.passes import Pass, PassNotFound, loop_of, split_dump  # noqa: E402
from peers.rows import ROWS, EmpiricalRow, ExactRow, ModelRow  # noqa: E402
from peers.speeds import Speeds  # noqa: E402
from peers.torch_models import model  # noqa: E402
from peers.torch_networks import network  # noqa: E402

ROW = ExactRow(name="toy", title="toy", n=3, network="dense relu " * 3 + "dense", shape=(2,))
MACHINE = Machine(threads=2, gemm=100.0)


def empirical(**sizes: Any) -> EmpiricalRow:
    return EmpiricalRow(name="toy", title="toy", **sizes)


def test_required_flops_of_a_small_network_counted_by_hand():
    trace = empirical(n=2, d=3, depth=2, width=5, n_outputs=1)
    forward, backward, inputs = 2 * 2 * (3 * 5 + 5 * 5 + 5 * 1), 2 * 2 * (5 * 5), 4 * (3 + 5 + 5)
    assert required_flops(trace) == forward + backward + inputs + 4 * (5 + 5)
    full = replace(trace, n_outputs=7, outputs="full")
    forward = 2 * 2 * (3 * 5 + 5 * 5 + 5 * 7)
    assert required_flops(full) == forward + 7 * backward + inputs + 14**2 * (5 + 5)
    assert share_of_limit(trace, seconds=1e-6, gemm=required_flops(trace) / 1e3) == pytest.approx(1)


def test_required_flops_of_a_small_cnn_counted_by_hand():
    sizes = {"n": 2, "shape": (3, 8, 8), "width": 5, "n_outputs": 7}
    row = ModelRow(name="toy", title="toy", network="cnn", outputs="full", **sizes)
    layers = ((36, 27, 5), (16, 45, 5), (4, 45, 5))  # positions, fan-in, channels
    products = [2 * 2 * p * a * b for p, a, b in layers]
    last = 2 * 2 * 20 * 7 + 4 * 20
    backward = 7 * sum(products[1:])  # the gradient of the last layer's input is its weight
    gradients = [7 * product + 14**2 * a * b for product, (_, a, b) in zip(products, layers, strict=True)]
    positions = [4 * p**2 * (a + 49 * b) for p, a, b in layers]
    assert positions[2] < gradients[2]
    assert positions[0] > gradients[0]
    contractions = sum(map(min, gradients, positions))
    assert required_flops(row) == sum(products) + last + backward + contractions
    traced = replace(row, outputs="trace")
    assert required_flops(traced) < required_flops(row)
    assert limit_note(traced, required_flops(traced) / 1e11, MACHINE) == "100% of GEMM limit"


@pytest.mark.parametrize("row", [r for r in ROWS if isinstance(r, ModelRow)], ids=lambda row: row.name)
def test_the_table_of_a_model_has_the_operations_that_torch_counts(row):
    row = row.quick() if row.network == "gpt2" else replace(row, n=2)
    if row.network == "gpt2":
        pytest.importorskip("transformers")
    with FlopCounterMode(display=False) as counted:
        network = model(row)
        tokens = row.network == "gpt2"
        network(torch.zeros(row.n, *row.shape, dtype=torch.long) if tokens else torch.zeros(row.n, *row.shape))
    counts = counted.get_flop_counts()["Global"]
    kinds = ("addmm",) if tokens else ("addmm", "convolution")  # GPT-2's head is an mm, its attention none of these
    total = sum(count for operation, count in counts.items() if str(operation).split(".")[-1] in kinds)
    assert total == sum(2 * row.n * a.positions * a.fan_in * a.channels[1] for a in affine_layers(row))


def test_time_of_an_entry_and_layer():
    assert nanoseconds_per_entry(replace(ROW, n=1000), 0.003, threads=1) == pytest.approx(3e6 / (3 * 500500))
    assert limit_note(ROW, 18e-9, MACHINE) == "2 ns an entry·layer·core"  # 6 pairs, 3 layers, 2 cores
    assert limit_note(empirical(n=2), 1.0, Machine(2)) == "limit not measured"


def test_networks_are_words_in_nested_levels():
    assert parse("conv [ relu [ conv ] ] dense") == ("conv", ("relu", ("conv",)), "dense")
    with pytest.raises(ValueError, match=r"a sample of shape \(4,\) cannot enter the step 'conv'"):
        shape_after("conv", (4,))


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        ("dense relu dense", (7,), 1),
        ("conv relu conv relu flatten dense", (3, 4, 6), 2 * 24),
        ("conv relu conv relu gap dense", (3, 4, 6), 2 * 24**2),
        ("conv relu pool conv relu gap dense", (3, 4, 6), 24**2 + 6**2),
        ("conv [ relu conv relu conv ] flatten dense relu dense", (3, 4, 6), 3 * 24 + 1),
    ],
)
def test_covariance_entries_of_a_pair(network, shape, expected):
    assert entries_per_pair(network, shape) == expected


def test_the_published_networks_have_their_depth():
    layers = {row.name: row.network.split().count("conv") + 1 for row in ROWS if isinstance(row, ExactRow)}
    assert (layers["exact-myrtle5-4"], layers["exact-myrtle10-4"]) == (5, 10)
    assert layers["exact-cntk-gap-16"] == layers["exact-cntk-flatten-50"] == 6


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row, ExactRow)], ids=lambda row: row.name)
def test_words_and_torch_modules_agree_on_shapes(row):
    shape = row.quick().shape
    assert network(row.network, shape)(torch.randn(2, *shape)).shape == (2, 1)


def test_a_residual_block_adds_its_branch():
    model = network("[ relu ] flatten", (1, 2, 2))
    x = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]])
    assert torch.equal(model(x), torch.tensor([[2.0, -2.0, 6.0, -4.0]]))


# An outer loop over an unrolled vector loop and its scalar remainder, as LLVM writes them.
ASSEMBLY = """
kernel:
	movq	%rdi, %rax
.LBB0_1:
	xorl	%ecx, %ecx
.LBB0_2:                                # =>  This Inner Loop Header: Depth=2
	vmovups	(%rsi,%rcx,4), %zmm1
	vmovups	64(%rsi,%rcx,4), %zmm2
	vfmadd213ps	(%rdx){1to16}, %zmm0, %zmm1
	vfmadd231ps	%zmm3, %zmm0, %zmm2
	vmulps	%zmm1, %zmm1, %zmm4
	vsubps	%zmm4, %zmm1, %zmm1
	vcmpltps	%zmm4, %zmm1, %k1
	vsqrtps	%zmm1, %zmm1 {%k1} {z}
	vdivps	%zmm2, %zmm1, %zmm1
	vmovups	%zmm1, (%r8,%rcx,4) {%k1}
	vmovups	%zmm2, 64(%r8,%rcx,4)
	addq	$32, %rcx
	cmpq	%rcx, %r9
	jne	.LBB0_2
.LBB0_3:
	vmovss	(%rsi,%rcx,4), %xmm1
	vfmadd213ss	%xmm3, %xmm0, %xmm1
	vmovss	%xmm1, (%r8,%rcx,4)
	incq	%rcx
	jb	.LBB0_3
	decq	%rax
	jne	.LBB0_1
	retq
"""


def test_vector_instructions_are_counted_by_class():
    (loop,) = vector_loops(ASSEMBLY)
    assert loop.label == ".LBB0_2"
    assert loop.counts == {"move": 4, "fma": 2, "mul": 1, "add": 1, "other": 1, "sqrt": 1, "div": 1}
    assert (loop.reads, loop.writes, loop.width, loop.stored) == (3, 2, 64, 128)
    assert (loop.arithmetic, loop.vector_work) == (6, 7)
    assert (loop.itemsize, loop.entries(), loop.entries(outputs=2)) == (4, 32, 16)
    (double,) = vector_loops(re.sub(r"ps\t", "pd\t", ASSEMBLY))
    assert (double.itemsize, double.entries()) == (8, 16)


def test_assembly_without_a_vector_loop_is_an_error():
    scalar = ASSEMBLY.replace("jne	.LBB0_2", "nop")
    with pytest.raises(NoVectorLoop, match=r"not read from numba's cache"):
        vector_loops(scalar.replace("jne	.LBB0_1", "nop"))


@numba.njit("void(float32[::1], float32[::1], float32[::1])", fastmath={"contract"})
def one_multiply_add_an_entry(a, b, out):
    for i in range(out.size):
        out[i] = a[i] * b[i] + np.float32(1)


@numba.cfunc("void(CPointer(float32), intp)", error_model="numpy")
def one_square_root_an_entry(pointer, n):
    array = numba.carray(pointer, (1024,))
    for i in range(n):
        array[i] = np.sqrt(array[i])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 assembly alone")
def test_a_compiled_loop_has_the_instructions_that_were_written():
    loop = hottest_loop(one_multiply_add_an_entry)
    vectors = loop.stored / loop.width  # of the unrolled body
    work = loop.counts.get("fma", 0) or min(loop.counts["mul"], loop.counts["add"])  # where the processor has no fma
    assert work == loop.writes == vectors
    assert loop.reads == 2 * vectors
    assert loop.entries() == vectors * loop.width / 4
    assert not {"div", "sqrt"} & set(loop.counts)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 assembly alone")
def test_a_callback_is_read_like_a_function():
    loop = hottest_loop(one_square_root_an_entry)
    assert loop.counts["sqrt"] == loop.reads == loop.writes == loop.stored / loop.width


def test_the_busiest_unit_is_the_limit():
    (loop,) = vector_loops(ASSEMBLY)
    rates = {"vector": 7e9, "multiply": 3e9, "divide": 1e9, "sqrt": 2e9, "load": 3e9, "store": 2e9}
    speeds = Speeds(threads=2, width=64, bandwidth=8e9, **rates)
    assert unit_seconds(loop, speeds) == pytest.approx(
        {"vector instructions": 1e-9, "multiplier": 1e-9, "divider": 1.5e-9, "loads": 1e-9, "stores": 1e-9}
    )
    assert entry_limit([(loop, 1)], speeds) == ("divider", pytest.approx(1.5e-9))
    assert entry_limit([(loop, 2), (loop, 0.5)], speeds) == ("divider", pytest.approx(3.75e-9))
    assert entry_limit([(loop, 1)], speeds, bytes_moved=16) == ("memory", pytest.approx(4e-9))


def test_the_loops_of_a_dump_are_found_by_function_and_precision():
    double = re.sub(r"ps\t", "pd\t", ASSEMBLY)
    sections = [("wrap.<locals>.kernel", ASSEMBLY), ("kernel", double), ("plain", "\tretq\n")]
    dump = "log\n" + "".join(f"{'=' * 80}\n---ASSEMBLY {name}---\n{text}{'=' * 80}\n" for name, text in sections)
    functions = split_dump(dump)
    assert {name: len(texts) for name, texts in functions.items()} == {"kernel": 2, "plain": 1}
    assert loop_of(Pass("kernel"), functions) == vector_loops(ASSEMBLY)[0]
    assert loop_of(Pass("kernel", itemsize=8), functions) == vector_loops(double)[0]
    with pytest.raises(PassNotFound, match=r"no vector loop over numbers of 4 bytes in 'plain'; compiled were kernel"):
        loop_of(Pass("plain"), functions)


def test_memory_that_a_call_adds_is_seen():
    with PeakMemory() as peak:
        np.ones(8_000_000)
    if (PROC / "clear_refs").exists():
        assert peak.added == pytest.approx(64e6, rel=0.1)  # the system counts pages in batches
    assert scaling.row_of(4, 16).shape == (3, 16, 16)
