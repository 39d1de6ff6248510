"""A run in a file: an .npz without pickles, which is always whole, as it takes its name when it is complete."""

from __future__ import annotations

import json
import os
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ntkit.errors import InvalidInput
from ntkit.infinite.monte_carlo.identity import Identity, kinds_of
from ntkit.infinite.monte_carlo.moments import Moments
from ntkit.infinite.monte_carlo.run import Run

_FORMAT = "ntkit Monte Carlo kernel, 1"
_SECONDS = 30  # between two writings; less is lost when the process is killed


@dataclass
class Checkpoint:
    """The file that a run is kept in.

    Args:
        path: of the file; it may not exist yet, its folder must.
        written: the number of draws that the file holds.
        when: it was last written, by the clock of time.monotonic.
    """

    path: Path
    written: int = 0
    when: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        folder = self.path.parent
        if self.path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InvalidInput(
                f"checkpoint must be a file in a folder that exists and can be written, got {str(self.path)!r}; make "
                "the folder, or give another place"
            )

    def read(self) -> Run | None:
        """The run in the file; None where there is no file yet.

        Raises:
            InvalidInput: the file is broken, or another program's.
        """
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                run = _decoded(dict(arrays))
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise InvalidInput(
                f"checkpoint {str(self.path)!r} is broken, or not a checkpoint of monte_carlo_kernel ({error}); remove "
                "it, or give another name"
            ) from error
        self.written = run.draws
        return run

    def keep(self, run: Run) -> None:
        """Writes the run where half a minute has passed since the last time."""
        if time.monotonic() - self.when > _SECONDS:
            self.write(run)

    def write(self, run: Run) -> None:
        """Writes the run; the file is the old one or the new one, whatever happens."""
        if run.draws == self.written:
            return
        part = self.path.with_name(f".{self.path.name}.part-{os.getpid()}")
        try:
            with part.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **_encoded(run))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, self.path)
        except OSError as error:
            raise InvalidInput(
                f"checkpoint {str(self.path)!r} cannot be written ({error.strerror}); give another place"
            ) from error
        finally:
            part.unlink(missing_ok=True)
        self.written, self.when = run.draws, time.monotonic()


def _encoded(run: Run) -> dict[str, Any]:
    about = {"format": _FORMAT, "draws": run.draws, "identity": asdict(run.identity)}
    arrays = {"about": np.array(json.dumps(about))}
    for kind, moments in run.moments.items():
        arrays |= {f"{kind}_mean": moments.mean, f"{kind}_squares": moments.squares}
    return arrays


def _decoded(arrays: dict[str, np.ndarray]) -> Run:
    about = json.loads(str(arrays["about"]))
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']!r} where {_FORMAT!r} is read")
    told = about["identity"]
    identity = Identity(**{**told, "outputs": tuple(told["outputs"])})
    return Run(identity, {kind: _moments(arrays, kind, about["draws"]) for kind in kinds_of(identity.which)})


def _moments(arrays: dict[str, np.ndarray], kind: str, draws: int) -> Moments:
    mean, squares = arrays[f"{kind}_mean"], arrays[f"{kind}_squares"]
    sound = mean.shape == squares.shape and mean.ndim == 2 and mean.dtype == squares.dtype == np.float64
    if not (sound and np.isfinite(mean).all() and np.isfinite(squares).all() and (squares >= 0).all() and draws > 0):
        raise ValueError(f"means and scatter of {kind} are none of {draws} draws")
    return Moments(draws, mean, squares)
