"""`ntkit doctor`: the report is true, its checks can fail, and it leaves nothing behind."""

from __future__ import annotations

import math
import os
import sys

import pytest
import torch
import typer

import ntkit
from data_files import write_mnist
from ntkit.cli import doctor, kernel_checks
from ntkit.cli.kernel_checks import Check
from ntkit.errors import InvalidInput
from ntkit.infinite.compiled import cache, threads


@pytest.fixture(autouse=True)
def _plain_folders(monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)


def test_the_report_is_about_this_process(tmp_path):
    found = doctor.report()
    assert found.healthy
    assert found.versions["torch"] == torch.__version__
    assert found.versions["ntkit"] == ntkit.__version__
    assert found.machine.threads_intra_op == torch.get_num_threads()
    assert found.machine.simd == torch.backends.cpu.get_cpu_capability()
    assert 0 < found.machine.cores_usable <= found.machine.cores_logical
    assert found.machine.memory_free > 0
    assert len(found.machine.gpus) == torch.cuda.device_count()
    assert found.engine.threads == threads.available()
    assert found.engine.kept == cache.folder()
    assert found.engine.problem == ""
    assert list(tmp_path.iterdir()) == []  # nothing is made


def test_it_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    doctor.report()
    assert torch.equal(torch.get_rng_state(), before)


def test_it_prints_every_part(capsys):
    doctor.run()
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("Versions", "numba", "SIMD", "GPU", "kept in", "NTKIT_DATA is not set", "All checks passed."):
        assert word in printed
    assert printed.count("pass: differ by") == 4


def test_a_wrong_kernel_fails_with_exit_code_1(monkeypatch, capsys):
    right = ntkit.InfiniteKernel.ntk
    monkeypatch.setattr(ntkit.InfiniteKernel, "ntk", lambda kernel, x, **how: right(kernel, x, **how) * (1 + 1e-9))
    with pytest.raises(typer.Exit) as caught:
        doctor.run()
    assert caught.value.exit_code == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "FAIL: differ by 1.0e-09, at most 1e-12" in printed
    assert "1 of 4 checks failed" in printed


@pytest.mark.parametrize("error", [InvalidInput("cannot"), RuntimeError("torch cannot"), ImportError("numba cannot")])
def test_a_kernel_that_raises_fails(monkeypatch, error):
    def broken(kernel, x, **how):
        raise error

    monkeypatch.setattr(ntkit.InfiniteKernel, "ntk", broken)
    exact, single, engines, empirical = kernel_checks.run_checks()
    assert not exact.passed
    assert not single.passed
    assert not engines.passed
    assert empirical.passed
    assert exact.problem == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("result", [torch.full((8, 8), math.nan).double(), torch.ones(3).double()])
def test_nan_and_other_shapes_fail(monkeypatch, result):
    monkeypatch.setattr(ntkit.InfiniteKernel, "ntk", lambda kernel, x, **how: result)
    exact = kernel_checks.run_checks()[0]
    assert not exact.passed
    assert "NaN" in exact.problem or "got shape (3,), wanted (8, 8)" in exact.problem


def test_a_check_passes_by_its_number_alone():
    assert Check("c", 1e-13, 1e-12).passed
    assert not Check("c", 1e-11, 1e-12).passed
    assert not Check("c", math.nan, 1e-12).passed


def test_the_formula_at_angles_known_by_heart():
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    kernel = kernel_checks._textbook_ntk(x)
    # θ = 0: ‖x‖²/d; θ = π/2: √(q q')/(2π); θ = π: 0
    near, far = 1 / (2 * math.pi), 1 / (4 * math.pi)
    wanted = torch.tensor([[2.0, near, 0.0], [near, 0.5, far], [0.0, far, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(kernel, wanted, rtol=0, atol=1e-15)


def test_data_sets_and_a_wrong_data_folder(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path / "data" / "mnist")
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path / "data"))
    assert doctor.report().folders.data_sets == ("mnist",)
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path / "none"))
    doctor.run()
    assert "NTKIT_DATA must name a folder" in " ".join(capsys.readouterr().out.split())


def test_code_that_is_not_kept_and_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(cache, "folder", lambda: None)
    doctor.run()
    printed = " ".join(capsys.readouterr().out.split())
    assert f"none of {cache.places()[0]}" in printed
    assert "every process compiles again" in printed
    assert "set NUMBA_CACHE_DIR" in printed


def test_a_numba_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "ntkit.infinite.compiled", None)  # as an import that fails
    found = doctor.report()
    assert found.engine.kept is None
    assert found.engine.problem.startswith("numba cannot be imported: ")


def test_engines_that_differ_fail(monkeypatch):
    right = ntkit.InfiniteKernel.ntk

    def differ(kernel, x, **how):
        return right(kernel, x, **how) * (1 + 1e-9 * (how.get("engine") == "torch"))

    monkeypatch.setattr(ntkit.InfiniteKernel, "ntk", differ)
    (failed,) = (check for check in kernel_checks.run_checks() if not check.passed)
    assert failed.name == "exact: numba, torch"


def test_what_is_not_installed_names_its_extra(monkeypatch, capsys):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "mlxtend" else version(name))
    doctor.run()
    assert 'not installed — pip install "ntkit[data]"' in capsys.readouterr().out


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", None), ("50000 100000", 0.5), ("", None)])
def test_a_container_s_share_of_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(doctor, "_read_words", lambda path: quota.split() if path.endswith("cpu.max") else [])
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert doctor._usable_cores() == (cores or affinity)
