"""The comparison's own logic: turns, medians, ratios, and no ratio where results differ. No peer is needed."""

# pyright: reportMissingImports=false
# (`peers` lives in benchmarks/, which the tests put on the path themselves)

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from peers.arrays import KINK_MARGIN, draw, nearest_kink, read_inputs  # noqa: E402
from peers.harness import ContestantFailed, Measurement, Turn, measure, relative_difference, turns  # noqa: E402
from peers.limits import Machine  # noqa: E402
from peers.memory import PROC  # noqa: E402
from peers.process import WorkerProcess  # noqa: E402
from peers.report import Report, table_cells, to_json, to_markdown, write_results  # noqa: E402
from peers.rows import ROWS, EmpiricalRow, ExactRow, ModelRow, Row, from_json  # noqa: E402
from peers.torch_models import model, stage  # noqa: E402
from readme_table import BEGIN, END, ReadmeDiffers, check, placed, table  # noqa: E402
from run_peers import WORKERS  # noqa: E402

ROW = ExactRow(
    name="toy", title="toy", n=3, network="dense relu " * 3 + "dense", shape=(2,), repetitions=3, warmups=1, target=2.0
)
MACHINE = Machine(threads=2, gemm=100.0)
MLP_ROW = next(row for row in ROWS if row.name == "mlp-full-30").quick()
MODEL_ROWS = {row.network: row for row in ROWS if isinstance(row, ModelRow)}


def empirical(**sizes: Any) -> EmpiricalRow:
    return EmpiricalRow(name="toy", title="toy", **sizes)


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
        self.measured: list[bool] = []

    def prepare(self, row: Row) -> None:
        if self.fails_at == 0:
            raise ContestantFailed("is missing")

    def run(self, inputs: Path, memory: bool = False) -> Turn:
        x = read_inputs(inputs)["x"].reshape(ROW.n, -1)
        self.seen.append(x)
        self.measured.append(memory)
        if len(self.seen) == self.fails_at:
            raise ContestantFailed("ran out of memory")
        added = 1_000_000 * len(self.seen) if memory else None
        return Turn(self.seconds[len(self.seen) - 1], self.distort(x @ x.T), added)


def compete(tmp_path: Path, *contestants: Fake, row: Row = ROW) -> tuple[Measurement, list[tuple[str, int]]]:
    taken: list[tuple[str, int]] = []
    seen = measure(row, contestants, folder=tmp_path, seed=5, on_turn=lambda name, r: taken.append((name, r)), pause=0)
    return seen, taken


def test_contestants_alternate_on_the_same_fresh_arrays(tmp_path):
    a, b = Fake("a", [9, 1, 2, 3]), Fake("b", [9, 2, 4, 6])
    _, taken = compete(tmp_path, a, b)
    assert taken == [(name, r) for r in range(4) for name in ("a", "b")]
    assert turns(ROW, 2) == len(taken)
    for ours, theirs in zip(a.seen, b.seen, strict=True):
        assert np.array_equal(ours, theirs)
    assert len({x.tobytes() for x in a.seen}) == 4


def test_medians_leave_out_the_warm_up(tmp_path):
    seen, _ = compete(tmp_path, Fake("a", [900, 1, 5, 2]), Fake("b", [900, 3, 4, 8]))
    assert seen.seconds == {"a": [1, 5, 2], "b": [3, 4, 8]}
    assert (seen.median("a"), seen.median("b"), seen.ratio("b")) == (2, 4, 2)
    assert seen.ratio_range("b") == (0.8, 4)
    assert seen.differences == {"b": 0}


def test_a_slow_peer_takes_the_turns_that_the_row_gives_it(tmp_path):
    row = replace(ROW, repetitions=4, warmups=2, peer_repetitions=2, peer_warmups=1)
    a, b = Fake("a", [90, 91, 1, 2, 3, 4]), Fake("b", [92, 4, 6])
    seen, taken = compete(tmp_path, a, b, row=row)
    assert taken == [("a", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3), ("a", 4), ("a", 5)]
    assert turns(row, 2) == len(taken)
    assert seen.seconds == {"a": [1, 2, 3, 4], "b": [4, 6]}
    assert (seen.ratio("b"), seen.ratio_range("b")) == (2, (3, 4))  # medians 5 and 2.5; 4/1 and 6/2 in one round
    assert np.array_equal(b.seen[0], a.seen[1])
    assert table_cells(seen, "b", MACHINE)[0] == "5.0000 (2)"


@pytest.mark.parametrize(("seconds", "met", "shown"), [(2, True, "≥ 2"), (1.9, False, "≥ 2, **missed**")])
def test_what_was_asked_stands_beside_what_was_measured(tmp_path, seconds, met, shown):
    seen, _ = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [seconds] * 4))
    assert seen.meets_target("b") is met
    assert table_cells(seen, "b", MACHINE)[2] == shown
    seen.row = replace(ROW, target=None)
    assert seen.meets_target("b") is None
    assert table_cells(seen, "b", MACHINE)[2] == "–"


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
    assert seen.meets_target("b") is None
    assert table_cells(seen, "b", MACHINE)[1] == "–"
    assert "results differ by more than 1e-03" in table_cells(seen, "b", MACHINE)[4]


def test_a_difference_in_one_round_alone_is_not_forgotten(tmp_path):
    rounds = iter([1.0, float("nan"), 1.0, 1.0])
    seen, _ = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [2] * 4, lambda k: k * np.float32(next(rounds))))
    assert not seen.agrees("b")
    assert seen.ratio("b") is None


@pytest.mark.parametrize(("fails_at", "why"), [(0, "is missing"), (2, "ran out of memory")])
def test_a_contestant_that_fails_is_reported_and_the_others_go_on(tmp_path, fails_at, why):
    seen, taken = compete(tmp_path, Fake("a", [1] * 4), Fake("b", [2] * 4, fails_at=fails_at), Fake("c", [3] * 4))
    assert seen.failures == {"b": why}
    assert "b" not in seen.seconds
    assert seen.ratio("c") == 3
    assert taken.count(("b", 3)) == 0
    assert table_cells(seen, "b", MACHINE)[4] == f"failed: {why}"


def test_without_the_reference_there_are_times_and_no_ratios(tmp_path):
    seen, _ = compete(tmp_path, Fake("a", [1] * 4, fails_at=2), Fake("b", [2] * 4))
    assert seen.median("b") == 2
    assert seen.ratio("b") is None
    assert "a failed" in table_cells(seen, "b", MACHINE)[4]


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
    assert "| b | 2.0000 (3) | 2 (2–2) | ≥ 2 | 0.0e+00 |" in text
    assert "no ratio: results differ" in text
    assert "liba 1.0" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["day-peers.json", "day-peers.md"]


def test_memory_of_model_rows_is_that_of_the_last_untimed_turn(tmp_path):
    row = replace(MODEL_ROWS["resnet18"].quick(), n=3, warmups=2, repetitions=2, peer_warmups=1, peer_repetitions=None)
    a, b, c = Fake("a", [1] * 4), Fake("b", [1] * 3), Fake("c", [1] * 3, fails_at=3)
    seen, _ = compete(tmp_path, a, b, c, row=row)
    assert (a.measured, b.measured) == ([True, True, False, False], [True, False, False])
    assert seen.added_bytes == {"a": 2_000_000, "b": 1_000_000}
    assert [table_cells(seen, name, MACHINE)[4] for name in "abc"] == ["2 MB", "1 MB", "–"]
    seen.added_bytes["b"] = 12_340_000_000
    report = Report({"cpu": "some", "threads": 2}, [seen])
    assert to_json(report)["rows"][0]["contestants"]["b"]["added peak bytes"] == 12_340_000_000
    page = to_markdown(report)
    assert "| difference | peak memory | note |" in page
    assert "| 0.0e+00 | 12.34 GB |" in page
    plain, _ = compete(tmp_path, Fake("a", [1] * 4))
    assert "peak memory |" not in to_markdown(Report({"threads": 2}, [plain]))


def test_rows_have_names_of_their_own_and_quick_sizes():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.quick().n <= 12 for row in ROWS)
    assert [from_json(json.loads(json.dumps(row.to_json()))) for row in ROWS] == list(ROWS)
    assert {row.needs for row in ROWS} == {need for _, _, needs in WORKERS.values() for need in needs}


def test_arrays_repeat_with_the_seed_and_keep_away_from_kinks():
    row = empirical(n=400, d=30, width=200, depth=3)
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


@pytest.mark.parametrize("network", ["cnn", "resnet18"])
def test_arrays_of_a_model_are_its_weights(network):
    row = MODEL_ROWS[network].quick()
    arrays, network = draw(row, 3), model(row)
    assert all(a.dtype == np.float32 for a in arrays.values())
    assert all(np.array_equal(a, draw(row, 3)[name]) for name, a in arrays.items())
    x = stage(network, arrays)
    weights = {name: p.numpy() for name, p in network.state_dict().items() if p.ndim}  # a norm counts its batches
    assert weights.keys() == arrays.keys() - {"x"}
    assert all(np.array_equal(weight, arrays[name]) for name, weight in weights.items())
    assert network(x).shape == (row.n, row.n_outputs)
    del arrays[next(iter(weights))]
    with pytest.raises(AssertionError, match=r"the table of the layers and the network do not both have"):
        stage(network, arrays)


def test_gpt2_has_the_same_weights_wherever_it_is_made():
    pytest.importorskip("transformers")
    row = MODEL_ROWS["gpt2"].quick()
    one, two = model(row), model(row)
    x = stage(one, draw(row, 3))
    expected = one(x)
    assert expected.shape == (row.n, 1)
    assert expected.equal(two(stage(two, draw(row, 3))))
    assert not expected.equal(two(stage(two, draw(row, 4))))


def worker(name: str, module: str, folder: Path, **options: float) -> WorkerProcess:
    return WorkerProcess(name, module, Path(sys.executable), threads=1, folder=folder, **options)  # pyright: ignore


@pytest.mark.parametrize("row", [MLP_ROW, *(row.quick() for row in MODEL_ROWS.values())], ids=lambda row: row.name)
def test_workers_of_this_environment_agree(tmp_path, row):
    if row.needs == "gpt2":
        pytest.importorskip("transformers")
    row = replace(row, n=4, repetitions=1, warmups=int(row.measures_memory), peer_warmups=None)
    workers = [worker("ntkit", "peers.worker_ntkit", tmp_path), worker("tf", "peers.worker_torch_func", tmp_path)]
    seen = measure(row, workers, folder=tmp_path, seed=1, pause=0)
    codes = [w.close() for w in workers]
    assert seen.failures == {}
    assert seen.differences["tf"] < 1e-5
    assert codes == [0, 0]
    if row.measures_memory and PROC.exists():
        assert min(seen.added_bytes.values()) > 0
    assert set(workers[0].versions) == {"ntkit", "torch", "numpy"}


def test_a_worker_that_dies_says_why_and_starts_again(tmp_path):
    contestant = worker("tf", "peers.worker_torch_func", tmp_path)
    with pytest.raises(ContestantFailed, match=r"NotImplementedError: torch.func has no exact kernels"):
        contestant.prepare(ROW)
    contestant.prepare(MLP_ROW)
    assert contestant.close() == 0


def test_a_worker_that_does_not_answer_in_time_is_ended(tmp_path):
    contestant = worker("tf", "peers.worker_torch_func", tmp_path, timeout=0.05)  # importing torch takes longer
    with pytest.raises(ContestantFailed, match=r"gave no answer within 0.05 s"):
        contestant.prepare(MLP_ROW)


def test_a_missing_environment_names_the_remedy(tmp_path):
    contestant = WorkerProcess("x", "peers.worker_x", tmp_path / "python", threads=1, folder=tmp_path)
    with pytest.raises(ContestantFailed, match=r"its environment is missing; .* benchmarks/setup_peers\.py"):
        contestant.prepare(ROW)


def report_of(tmp_path: Path, *contestants: Fake) -> dict[str, Any]:
    seen, _ = compete(tmp_path, *contestants)
    machine = {"date": "2026-01-02T03:04:05", "cpu": "some", "threads": 2, "precision": "float32"}
    return to_json(Report({**machine, "ntkit revision": "abc"}, [seen], {"neural-tangents": {"jax": "0.4"}}))


def test_the_readme_shows_the_results_between_its_markers(tmp_path):
    results = report_of(tmp_path, Fake("ntkit", [1e-8] * 4), Fake("neural-tangents", [1.5e-8] * 4))
    shown = table(results, {"toy": 0.254})
    assert "2026-01-02, some, 2 threads" in shown
    heading = "exact NTK, toy, d = 2, N = 3"
    assert f"| {heading} | ≥ 2× | 1.5× (1.5–1.5), **missed** | 1e-08 | 1.5e-08 | 1.11 | 25% |" in shown
    readme = placed(f"# Made up\n\n{BEGIN}\nold\n{END}\n\nmore\n", shown)
    assert readme == f"# Made up\n\n{BEGIN}\n{shown}\n{END}\n\nmore\n"
    check(readme, results, {"toy": 0.254})
    with pytest.raises(ReadmeDiffers, match=r"run: python benchmarks/readme_table\.py"):
        check(readme.replace("1.11", "0.11"), results, {"toy": 0.254})


def test_the_readme_says_why_there_is_no_ratio(tmp_path):
    failed = report_of(tmp_path, Fake("ntkit", [1] * 4, fails_at=2), Fake("neural-tangents", [2] * 4))
    assert "| ntkit failed | – | 2 | – | – |" in table(failed)
    differs = report_of(tmp_path, Fake("ntkit", [1] * 4), Fake("neural-tangents", [2] * 4, lambda k: 2 * k))
    assert "| results differ | 1 | 2 |" in table(differs)


@pytest.mark.parametrize("readme", ["nothing", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_readme_without_a_place_for_the_table_is_an_error(readme):
    with pytest.raises(ReadmeDiffers, match=r"README\.md must hold"):
        placed(readme, "table")
