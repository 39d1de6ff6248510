"""Compiled code is kept where this user alone can write, is never stale, and a damaged file is no more than a delay."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba import types

import ntkit
from ntkit.infinite.compiled import cache

NOWHERE = "/proc/nowhere"  # cannot be made, not even by root
PACKAGE = Path(ntkit.__file__).parent
DEADLINE = 600


def plus(a, b):
    return a + 2 * b


TWICE = "def twice(a):\n    return 2 * a\n"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder of kept code."""
    home = tmp_path / "kept"
    home.mkdir(mode=0o700)
    monkeypatch.setattr(cache, "folder", lambda: home)
    return home


@pytest.fixture(autouse=True)
def _not_warned_yet(monkeypatch):
    monkeypatch.setattr(cache, "_warned", threading.Lock())


@pytest.fixture
def environment(monkeypatch, tmp_path) -> Any:
    """Sets the variables that name folders, and no others; gives the folder that follows."""

    def set_environment(**variables: str) -> Path | None:
        for name in ("NTKIT_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(cache._config, "CACHE_DIR", variables.pop("NUMBA_CACHE_DIR", ""))
        monkeypatch.setattr(cache, "__file__", variables.pop("installed", f"{NOWHERE}/compiled/cache.py"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return cache.folder.__wrapped__()

    return set_environment


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_second_process_finds_what_the_first_has_kept(home):
    first, second = cache.kept()(plus), cache.kept()(plus)  # two dispatchers know no more of each other than processes
    assert first(1.0, 2.0) == second(1.0, 2.0) == 5.0
    assert not first.stats.cache_hits
    assert sum(second.stats.cache_hits.values()) == 1
    assert not second.stats.cache_misses
    assert len(list(home.iterdir())) == 1
    assert second(1, 2) == 5  # another signature, another file
    assert sum(second.stats.cache_misses.values()) == 1
    assert len(list(home.iterdir())) == 2


def test_generated_functions_are_kept_and_do_not_meet(home):
    signature = types.float64(types.float64)
    thrice = TWICE.replace("2 *", "3 *")
    first = [cache.callback(source, "twice", {}, signature) for source in (TWICE, thrice)]
    second = [cache.callback(source, "twice", {}, signature) for source in (thrice, TWICE)]
    assert [f.ctypes(1.5) for f in first] == [3.0, 4.5]
    assert [f.ctypes(1.5) for f in second] == [4.5, 3.0]
    assert [f.cache_hits for f in (*first, *second)] == [0, 0, 1, 1]
    assert len({f.native_name for f in first}) == 2  # one process may hold code that others have compiled
    assert len(list(home.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2] + bytes(len(content) // 2),
        lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        lambda content: b"not code at all" * 100,
    ],
    ids=["empty", "within the digest", "one byte short", "zeros", "one bit", "something else"],
)
def test_a_damaged_file_is_compiled_again(home, damage):
    assert cache.kept()(plus)(1.0, 2.0) == 5.0
    (kept,) = home.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    repaired, warm = cache.kept()(plus), cache.kept()(plus)
    assert repaired(1.0, 2.0) == warm(1.0, 2.0) == 5.0
    assert not repaired.stats.cache_hits
    assert warm.stats.cache_hits


def test_code_for_another_processor_is_not_read(home, monkeypatch):
    first = cache.kept()(plus)
    assert first(1.0, 2.0) == 5.0
    codegen = type(first.targetctx.codegen())
    monkeypatch.setattr(codegen, "magic_tuple", lambda self: ("another", "processor", ""))
    second = cache.kept()(plus)
    assert second(1.0, 2.0) == 5.0
    assert not second.stats.cache_hits


def test_a_folder_that_disappears_costs_a_warning(home):
    function = cache.kept()(plus)
    shutil.rmtree(home)
    with pytest.warns(cache.CompiledCodeNotKept, match="cannot be kept.*No such file"):
        assert function(1.0, 2.0) == 5.0


def test_a_full_disk_costs_a_warning_and_leaves_nothing(home, monkeypatch):
    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    function = cache.kept()(plus)
    with pytest.warns(cache.CompiledCodeNotKept, match="No space left on device"):
        assert function(1.0, 2.0) == 5.0
    assert function(1, 2) == 5  # and does not warn again
    assert list(home.iterdir()) == []


def test_writers_at_once_leave_a_whole_file(home):
    contents = [bytes([k]) * 100_000 for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: cache._write(home / "f.code", content), contents * 5))
    assert cache._read(home / "f.code") in contents
    assert [path.name for path in home.iterdir()] == ["f.code"]


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_every_source_of_the_engine_counts(tmp_path, monkeypatch):
    copy = tmp_path / "compiled"
    shutil.copytree(PACKAGE / "infinite" / "compiled", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache.resources, "files", lambda package: copy)
    digest = cache.fingerprint.__wrapped__
    seen = {digest()}
    assert seen == {cache.fingerprint()}
    for source in sorted(copy.glob("*.py")):
        source.write_text(source.read_text() + "\n")
        seen.add(digest())
    assert len(seen) == 1 + len(list(copy.glob("*.py")))
    (copy / "notes.txt").write_text("no source")
    assert digest() in seen
    monkeypatch.setattr(numba, "__version__", "another")
    assert digest() not in seen


def test_the_first_choice_that_can_be_written(environment, tmp_path):
    numba_s, own, user = (str(tmp_path / name) for name in ("numba", "own", "user"))
    every = {"NUMBA_CACHE_DIR": numba_s, "NTKIT_CACHE": own, "XDG_CACHE_HOME": user}
    version = f"numba-{numba.__version__}-{cache.fingerprint()}"
    assert environment(**every) == tmp_path / "numba" / "ntkit" / version
    every["NUMBA_CACHE_DIR"] = NOWHERE
    assert environment(**every) == tmp_path / "own" / version
    every["NTKIT_CACHE"] = NOWHERE
    assert environment(**every) == tmp_path / "user" / "ntkit" / version
    every["XDG_CACHE_HOME"] = NOWHERE
    assert environment(**every, installed=str(tmp_path / "cache.py")) == tmp_path / "__pycache__" / version
    assert environment(**every) is None


def test_the_user_s_folder_follows_the_platform(environment, monkeypatch):
    environment(XDG_CACHE_HOME="/x", HOME="/h", LOCALAPPDATA="/l")
    folders = {"linux": "/x/ntkit", "darwin": "/h/Library/Caches/ntkit", "win32": "/l/ntkit/Cache"}
    for name, folder in folders.items():
        monkeypatch.setattr(cache.sys, "platform", name)
        assert cache.user_folder() == Path(folder)


def test_without_a_usable_home(environment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment(HOME=NOWHERE) is None
    assert environment(HOME=NOWHERE, XDG_CACHE_HOME="relative") is None  # XDG: to be ignored
    monkeypatch.setattr(cache.os.path, "expanduser", lambda path: path)  # nobody knows this user
    assert environment(NTKIT_CACHE="~/cache") is None
    assert list(tmp_path.iterdir()) == []


def test_a_relative_numba_folder_means_here_for_good(environment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = environment(NUMBA_CACHE_DIR="code", HOME=NOWHERE)
    assert folder is not None
    assert folder.is_relative_to(tmp_path / "code")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permission bits on this system")
class TestOthersCannotWriteIt:
    """numba's files are pickles: whoever can write them runs code as this user."""

    def test_it_is_made_for_this_user_alone(self, environment, tmp_path):
        before = os.umask(0)
        try:
            folder = environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path / "c"))
            (tmp_path / "c").chmod(0o755)
            folder = folder or environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path / "c"))
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_folder_that_all_can_write_is_refused(self, environment, tmp_path):
        common = tmp_path / "common"
        common.mkdir()
        common.chmod(0o777)
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(common)) is None
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(common / "deep" / "er")) is None
        common.chmod(0o1777)  # sticky, as /tmp is: nobody can put another folder in its place
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(common)) is not None

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
    def test_so_is_one_that_was_there_before(self, mode, environment, tmp_path):
        folder = environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path))
        folder.chmod(mode)
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path)) is (None if mode & 0o022 else folder)

    def test_so_is_another_user_s(self, environment, tmp_path, monkeypatch):
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path)) is not None
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path)) is None

    def test_a_link_counts_as_what_it_leads_to(self, environment, tmp_path):
        common, link = tmp_path / "common", tmp_path / "link"
        common.mkdir()
        link.symlink_to(common)
        folder = environment(HOME=NOWHERE, NTKIT_CACHE=str(link))
        assert folder is not None
        assert folder.parent == common
        common.chmod(0o777)
        assert environment(HOME=NOWHERE, NTKIT_CACHE=str(link)) is None


def test_old_versions_are_forgotten_and_other_folders_are_not(environment, tmp_path):
    for k in range(12):
        old = tmp_path / f"numba-0.60.{k}-{k:016x}"
        old.mkdir()
        (old / "f.code").write_text("code")
        os.utime(old, (k, k))
    for name in ("numba-projects", "mine"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    folder = environment(HOME=NOWHERE, NTKIT_CACHE=str(tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {folder.name, "numba-projects", "mine", *(f"numba-0.60.{k}-{k:016x}" for k in range(4, 12))}


def test_without_a_folder_one_warning_names_the_places_and_the_remedy(environment, monkeypatch):
    environment(HOME=NOWHERE)
    monkeypatch.setattr(cache, "folder", lambda: None)
    with pytest.warns(cache.CompiledCodeNotKept) as caught:
        first = cache.kept()(plus)
    second, generated = cache.kept()(plus), cache.callback(TWICE, "twice", {}, types.float64(types.float64))
    for words in (f"{NOWHERE}/.cache/ntkit", "this user alone can write", "set NUMBA_CACHE_DIR"):
        assert words in str(caught[0].message)
    assert first(1.0, 2.0) == second(1.0, 2.0) == 5.0
    assert generated.ctypes(1.5) == 3.0


def test_threads_that_find_no_folder_at_once_warn_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(cache._warn, ["no folder"] * 50))
    assert len(caught) == 1


# ---- whole processes -----------------------------------------------------------------------------------------------

KERNELS = """
import json, sys, warnings
import torch, ntkit
from numba.core import event
from torch import nn

linear = lambda i: ntkit.nn.Linear(i, 1, 1.4, 0.1)
model = nn.Sequential(linear(6), nn.ReLU(), linear(1), nn.LeakyReLU(0.2), linear(1))
x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
x = x.to(getattr(torch, sys.argv[1]))
with warnings.catch_warnings(record=True) as caught, event.install_recorder("numba:compile") as recorder:
    warnings.simplefilter("always")
    kernel = ntkit.InfiniteKernel(model)
    result = kernel.ntk(x, engine="numba").tolist()
from ntkit.infinite.compiled import cache
print(json.dumps({
    "result": result,
    "compiled": len(recorder.buffer),
    "warnings": [type(warning.message).__name__ for warning in caught],
    "folder": str(cache.folder()),
    "from": ntkit.__file__,
}))
"""


def start(dtype: str, **variables: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NTKIT_CACHE", "NUMBA_CACHE_DIR")}
    return subprocess.Popen(
        [sys.executable, "-c", KERNELS, dtype],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, "OMP_NUM_THREADS": "1", **variables},
    )


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.slow
def test_processes_that_start_together_a_warm_one_and_damaged_files(tmp_path):
    processes = [start(dtype, NTKIT_CACHE=str(tmp_path)) for dtype in ("float32", "float64", "float64")]
    cold = [result_of(process) for process in processes]
    assert all(told["compiled"] > 0 for told in cold)
    assert cold[1]["result"] == cold[2]["result"]
    np.testing.assert_allclose(cold[0]["result"], cold[1]["result"], rtol=1e-5)
    (folder,) = tmp_path.iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert {path.suffix for path in folder.iterdir()} == {".code"}
    for dtype, before in (("float32", cold[0]), ("float64", cold[1])):
        warm = result_of(start(dtype, NTKIT_CACHE=str(tmp_path)))
        assert warm["compiled"] == 0
        assert warm["result"] == before["result"]
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:5000])
    repaired = result_of(start("float64", NTKIT_CACHE=str(tmp_path)))
    assert repaired["compiled"] > 0
    assert repaired["result"] == cold[1]["result"]
    assert repaired["warnings"] == []
    assert sorted(path.name for path in folder.iterdir()) == names
    assert result_of(start("float64", NTKIT_CACHE=str(tmp_path)))["compiled"] == 0


@pytest.mark.slow
def test_a_read_only_installation_without_a_home(tmp_path):
    installed = tmp_path / "site" / "ntkit"
    shutil.copytree(PACKAGE, installed, ignore=shutil.ignore_patterns("__pycache__"))
    (installed / "infinite" / "compiled" / "__pycache__").write_text("a file, where not even root can make a folder")
    without = {"PYTHONPATH": str(installed.parent), "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": NOWHERE}
    told = result_of(start("float64", **without, HOME=NOWHERE))
    assert told["from"] == str(installed / "__init__.py")
    assert told["folder"] == "None"
    assert told["warnings"] == ["CompiledCodeNotKept"]
    kept = result_of(start("float64", NTKIT_CACHE=str(tmp_path / "cache")))
    assert kept["warnings"] == []
    assert told["result"] == kept["result"]


@pytest.mark.slow
def test_the_benchmark_of_cold_starts(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "cold_start.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("*-cold-start.md")
    assert page.read_text() in done.stdout
    result = json.loads(page.with_suffix(".json").read_text())
    empty, warm = result["points"]
    assert (empty["cache"], warm["cache"]) == ("empty", "warm")
    assert empty["repetitions"][0]["functions compiled"] > 0 == warm["repetitions"][0]["functions compiled"]
    assert 0 < warm["median kernel seconds"] < warm["median process seconds"] < empty["median process seconds"]
    assert {"date", "cpu", "threads", "ntkit revision"} <= result["machine"].keys()
