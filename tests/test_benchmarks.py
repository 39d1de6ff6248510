"""The comparison's own logic: turns, medians, ratios, and no ratio where results differ. No peer is needed."""

# pyright: reportMissingImports=false
# (`peers` lives in benchmarks/, which the tests put on the path themselves)

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from peers.arrays import KINK_MARGIN, draw, nearest_kink, read_inputs  # noqa: E402
from peers.harness import ContestantFailed, Measurement, measure, relative_difference  # noqa: E402
from peers.limits import limit_note, nanoseconds_per_entry, required_flops, share_of_limit  # noqa: E402
from peers.process import WorkerProcess  # noqa: E402
from peers.report import Report, table_cells, write_results  # noqa: E402
from peers.rows import ROWS, Row  # noqa: E402

ROW = Row("toy", "exact", n=3, d=2, repetitions=3, tolerance=1e-3)


class Fake:
    """A contestant that computes x xᵀ, then does to it what it is told, and says that it took `seconds`."""

    def __init__(
        self,
        name: str,
        seconds: list[float],
        distort: Callable[[np.ndarray], np.ndarray] = lambda k: k,
        fails_at: int = -1,
    ):
        self.name, self.seconds, self.distort, self.fails_at = name, seconds, distort, fails_at
        self.seen: list[np.ndarray] = []

    def prepare(self, row: Row) -> None:
        if self.fails_at == 0:
            raise ContestantFailed("is missing")

    def run(self, inputs: Path) -> tuple[float, np.ndarray]:
        x = read_inputs(inputs)["x"]
        self.seen.append(x)
        if len(self.seen) == self.fails_at:
            raise ContestantFailed("ran out of memory")
        return self.seconds[len(self.seen) - 1], self.distort(x @ x.T)


def compete(tmp_path: Path, *contestants: Fake) -> tuple[Measurement, list[tuple[str, int]]]:
    turns: list[tuple[str, int]] = []
    seen = measure(
        ROW, contestants, folder=tmp_path, seed=5, warmups=1, on_turn=lambda name, r: turns.append((name, r))
    )
    return seen, turns


def test_contestants_alternate_on_the_same_fresh_arrays(tmp_path):
    a, b = Fake("a", [9, 1, 2, 3]), Fake("b", [9, 2, 4, 6])
    _, turns = compete(tmp_path, a, b)
    assert turns == [(name, r) for r in range(4) for name in ("a", "b")]
    for ours, theirs in zip(a.seen, b.seen, strict=True):
        assert np.array_equal(ours, theirs)
    assert len({x.tobytes() for x in a.seen}) == 4


def test_medians_leave_out_the_warm_up(tmp_path):
    seen, _ = compete(tmp_path, Fake("a", [900, 1, 5, 2]), Fake("b", [900, 3, 4, 8]))
    assert seen.seconds == {"a": [1, 5, 2], "b": [3, 4, 8]}
    assert (seen.median("a"), seen.median("b"), seen.ratio("b")) == (2, 4, 2)
    assert seen.ratio_range("b") == (0.8, 4)
    assert seen.differences == {"b": 0}


def test_results_within_the_tolerance_still_compare(tmp_path):
    seen, _ = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [2] * 4, lambda k: k * np.float32(1 + 5e-4)))
    assert seen.differences["b"] == pytest.approx(5e-4, rel=1e-2)
    assert seen.ratio("b") == 2


def spoil_one_entry(kernel: np.ndarray) -> np.ndarray:
    kernel = kernel.copy()
    kernel[0, 1] += np.float32(0.01) * np.abs(kernel).max()
    return kernel


@pytest.mark.parametrize(
    "distort", [lambda k: 2 * k, lambda k: k * np.float32("nan"), spoil_one_entry], ids=["scale", "nan", "one entry"]
)
def test_no_ratio_where_results_differ(tmp_path, distort):
    seen, _ = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [2] * 4, distort))
    assert seen.median("b") == 2
    assert seen.ratio("b") is None
    assert seen.ratio_range("b") is None
    assert table_cells(seen, "b", None)[1] == "–"
    assert "results differ by more than 1e-03" in table_cells(seen, "b", None)[3]


def test_a_difference_in_one_round_alone_is_not_forgotten(tmp_path):
    rounds = iter([1.0, float("nan"), 1.0, 1.0])
    seen, _ = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [2] * 4, lambda k: k * np.float32(next(rounds))))
    assert not seen.agrees("b")
    assert seen.ratio("b") is None


@pytest.mark.parametrize(("fails_at", "why"), [(0, "is missing"), (2, "ran out of memory")])
def test_a_contestant_that_fails_is_reported_and_the_others_go_on(tmp_path, fails_at, why):
    seen, turns = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [2] * 4, fails_at=fails_at), Fake("c", [3] * 4))
    assert seen.failures == {"b": why}
    assert "b" not in seen.seconds
    assert seen.ratio("c") == 3
    assert turns.count(("b", 3)) == 0
    assert table_cells(seen, "b", None)[3] == f"failed: {why}"


def test_without_the_reference_there_are_times_and_no_ratios(tmp_path):
    seen, _ = compete(tmp_path, Fake("a", [1] * 4, fails_at=2), Fake("b", [2] * 4))
    assert seen.median("b") == 2
    assert seen.ratio("b") is None
    assert "a failed" in table_cells(seen, "b", None)[3]


def test_another_precision_or_shape_is_a_failure(tmp_path):
    seen, _ = compete(
        tmp_path,
        Fake("a", [1] * 4),
        Fake("double", [1] * 4, lambda k: k.astype(np.float64)),
        Fake("half", [1] * 4, lambda k: k[:2]),
    )
    assert seen.failures["double"] == "gave float64 of shape (3, 3), wanted float32 of shape (3, 3)"
    assert seen.failures["half"] == "gave float32 of shape (2, 3), wanted float32 of shape (3, 3)"


def test_relative_difference_sees_a_single_entry_and_zero():
    a = np.eye(100, dtype=np.float32)
    b = a.copy()
    b[3, 4] = 0.5
    assert relative_difference(b, a) == 0.5
    assert relative_difference(b, 0 * a) == 1.0


def test_the_report_holds_what_was_seen(tmp_path):
    seen, _ = compete(
        tmp_path,
        Fake("a", [1] * 4),
        Fake("b", [2] * 4),
        Fake("c", [2] * 4, lambda k: k * np.float32("nan")),
        Fake("d", [2] * 4, fails_at=1),
    )
    report = Report({"cpu": "some", "threads": 2}, [seen], {"a": {"liba": "1.0"}}, 100.0)
    data, page = write_results(report, tmp_path / "out", "day-peers")
    told = json.loads(data.read_text())
    contestants = told["rows"][0]["contestants"]
    assert contestants["b"]["ratio to reference"] == 2
    assert (contestants["c"]["ratio to reference"], contestants["c"]["relative difference"]) == (None, None)
    assert contestants["d"] == {"failure": "ran out of memory"}
    assert told["machine"] == {"cpu": "some", "threads": 2, "peak GEMM GFLOP/s": 100.0}
    text = page.read_text()
    assert "| b | 2.0000 | 2 (2–2) | 0.0e+00 |" in text
    assert "no ratio: results differ" in text
    assert "liba 1.0" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["day-peers.json", "day-peers.md"]


def test_required_flops_of_a_small_network_counted_by_hand():
    trace = Row("toy", "empirical", n=2, d=3, depth=2, width=5, n_outputs=1)
    forward, backward, inputs = 2 * 2 * (3 * 5 + 5 * 5 + 5 * 1), 2 * 2 * (5 * 5), 4 * (3 + 5 + 5)
    assert required_flops(trace) == forward + backward + inputs + 4 * (5 + 5)
    full = replace(trace, n_outputs=7, outputs="full")
    forward = 2 * 2 * (3 * 5 + 5 * 5 + 5 * 7)
    assert required_flops(full) == forward + 7 * backward + inputs + 14**2 * (5 + 5)
    assert share_of_limit(trace, seconds=1e-6, peak_gflops=required_flops(trace) / 1e3) == pytest.approx(1)


def test_time_of_an_entry_and_layer():
    assert nanoseconds_per_entry(Row("toy", "exact", n=1000, depth=3), 0.003) == pytest.approx(1.0)
    assert limit_note(ROW, 27e-9, None) == "1.00 ns an entry·layer"


def test_rows_have_names_of_their_own_and_quick_sizes():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.quick().n <= 12 for row in ROWS)
    assert Row(**json.loads(json.dumps(ROWS[-1].to_json()))) == ROWS[-1]


def test_arrays_repeat_with_the_seed_and_keep_away_from_kinks():
    row = Row("toy", "empirical", n=400, d=30, width=200, depth=3)
    arrays = draw(row, 3)
    assert {name: a.shape for name, a in arrays.items()} == {
        "x": (400, 30),
        "W0": (200, 30),
        "W1": (200, 200),
        "W2": (200, 200),
        "W3": (1, 200),
        "b0": (200,),
        "b1": (200,),
        "b2": (200,),
        "b3": (1,),
    }
    assert all(a.dtype == np.float32 for a in arrays.values())
    assert all(np.array_equal(a, draw(row, 3)[name]) for name, a in arrays.items())
    assert nearest_kink(arrays["x"], arrays, 3).min() >= KINK_MARGIN
    plain = np.random.default_rng(3).standard_normal((400, 30), dtype=np.float32)  # what would have been drawn
    assert nearest_kink(plain, arrays, 3).min() < KINK_MARGIN


def worker(name: str, module: str, folder: Path, **options: float) -> WorkerProcess:
    return WorkerProcess(name, module, Path(sys.executable), threads=1, folder=folder, **options)  # pyright: ignore


def test_workers_of_this_environment_agree(tmp_path):
    row = replace(next(row for row in ROWS if row.name == "mlp-full-30").quick(), n=4, repetitions=1)
    workers = [worker("ntkit", "peers.worker_ntkit", tmp_path), worker("tf", "peers.worker_torch_func", tmp_path)]
    seen = measure(row, workers, folder=tmp_path, seed=1, warmups=0)
    codes = [w.close() for w in workers]
    assert seen.failures == {}
    assert seen.differences["tf"] < 1e-5
    assert codes == [0, 0]
    assert set(workers[0].versions) == {"ntkit", "torch", "numpy"}


def test_a_worker_that_dies_says_why_and_starts_again(tmp_path):
    contestant = worker("tf", "peers.worker_torch_func", tmp_path)
    with pytest.raises(ContestantFailed, match=r"NotImplementedError: torch.func has no exact kernels"):
        contestant.prepare(ROW)
    contestant.prepare(ROWS[-1].quick())
    assert contestant.close() == 0


def test_a_worker_that_does_not_answer_in_time_is_ended(tmp_path):
    contestant = worker("tf", "peers.worker_torch_func", tmp_path, timeout=0.05)  # importing torch takes longer
    with pytest.raises(ContestantFailed, match=r"gave no answer within 0.05 s"):
        contestant.prepare(ROWS[-1].quick())


def test_a_missing_environment_names_the_remedy(tmp_path):
    contestant = WorkerProcess("x", "peers.worker_x", tmp_path / "python", threads=1, folder=tmp_path)
    with pytest.raises(ContestantFailed, match=r"its environment is missing; .* benchmarks/setup_peers\.py"):
        contestant.prepare(ROW)
