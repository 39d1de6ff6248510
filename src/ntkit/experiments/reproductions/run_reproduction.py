"""`reproduce`: a published experiment from its configuration to a folder with results, figures and a page."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ntkit
from ntkit._progress import Reporter
from ntkit.experiments.reproductions.claims import Claim
from ntkit.experiments.reproductions.experiment import Experiment, Measurement, Workbench
from ntkit.experiments.reproductions.registry import find
from ntkit.experiments.reproductions.reproduction_page import write_reproduction_page
from ntkit.experiments.reproductions.working_folder import digest, working_folder
from ntkit.experiments.result_folder import result_folder, write_arrays, write_json
from ntkit.experiments.study_config import environment
from ntkit.report import require_report_libraries


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What a reproduction found.

    Args:
        folder: where index.html, results.json, arrays.npz and the figures are.
        claims: what the publication says, beside what was measured.
        results: the content of results.json.
        arrays: the content of arrays.npz.
    """

    folder: Path
    claims: tuple[Claim, ...]
    results: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def page(self) -> Path:
        """The page to open."""
        return self.folder / "index.html"

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)


def reproduce(
    name: str,
    *,
    scale: str = "laptop",
    out: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Reproduction:
    """A published experiment again: what was measured beside what was claimed.

    The folder is written whole or not at all. Until then finished parts lie in a working folder beside it,
    `.NAME.work-KEY`, from which the same call goes on after an interruption.

    Args:
        name: of the experiment; `ntkit.experiments.EXPERIMENTS` has them all.
        scale: "smoke" takes seconds, "laptop" minutes on 2 cores, "paper" is the published size.
        out: folder to write, by default the name; an earlier result there is replaced.
        data_dir: folder of the data files; by default NTKIT_DATA.
        progress: show progress bars, and what the rest will cost.

    Returns:
        Folder, claims, numbers and arrays.

    Raises:
        InvalidInput: no such experiment or scale, or `out` cannot be written.
        DataError: the data are missing or too few for the scale.
        MemoryLimitExceeded: memory or disk would not suffice; said before anything is computed.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "cntk"
        >>> result = reproduce("arora-cntk", scale="smoke", out=folder, progress=False)
        >>> result.page.name, len(result.claims)
        ('index.html', 8)
    """
    experiment, config = find(name, scale)
    require_report_libraries()
    target = Path(out if out is not None else name)
    settings = json.loads(json.dumps(asdict(config)))  # as they will be read back
    key = digest(name, settings, ntkit.__version__)
    began = time.perf_counter()
    with working_folder(target, key) as work, result_folder(target) as folder:
        with Reporter(progress).running() as reporter:
            bench = Workbench(Path(data_dir) if data_dir is not None else None, work, reporter)
            measured = experiment.measure(config, bench)
        results = _results(experiment, scale, settings, measured, time.perf_counter() - began)
        write_json(folder, results)
        write_arrays(folder, measured.arrays)
        write_reproduction_page(experiment, results, measured.claims, measured.arrays, folder)
    return Reproduction(target, measured.claims, results, measured.arrays)


def _results(
    experiment: Experiment, scale: str, settings: dict[str, Any], measured: Measurement, seconds: float
) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "reference": experiment.reference,
        "scale": scale,
        "configuration": settings,
        "seeds": [settings["seed"]],
        "environment": environment(),
        "claims": [claim.as_dict() for claim in measured.claims],
        "findings": measured.findings,
        "seconds": seconds,
    }
