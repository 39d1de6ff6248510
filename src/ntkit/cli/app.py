"""The command `ntkit`: study, reproduce and doctor. Every expected error is one message and a non-zero exit status."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import ntkit
from ntkit.cli.reproduce_command import reproduce
from ntkit.errors import NtkitError

app = typer.Typer(
    help="How a neural network learns: exact and empirical tangent kernels, spectra, predicted training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class _Interrupted(BaseException):
    """A signal that ends the command: Ctrl-C or termination."""


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted(number)


def main() -> None:
    """Run the command; errors ntkit raises on purpose end in status 1, a signal in 128 plus its number."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    # an exception of our own: what has begun is cleaned up, and the command line library does not swallow it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except NtkitError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False)
        for note in getattr(error, "__notes__", ()):
            console.print(note, markup=False)
        sys.exit(1)
    except _Interrupted as interruption:
        notes = getattr(interruption, "__notes__", ["nothing was written"])
        console.print(f"interrupted; {'; '.join(notes)}", markup=False)
        sys.exit(128 + interruption.args[0])


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ntkit {ntkit.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def study(
    network: Annotated[
        str, typer.Argument(help="mlp:DEPTHxWIDTH:ACTIVATION, such as mlp:3x512:relu, or FILE.py:FUNCTION")
    ],
    data: Annotated[str, typer.Argument(help="digits, mnist, fashion-mnist, cifar10, npz:PATH or csv:PATH")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier study there is replaced.")] = Path("study"),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; default: NTKIT_DATA.")] = None,
    n_train: Annotated[int | None, typer.Option(help="Training samples; default 500, or all.")] = None,
    n_test: Annotated[int | None, typer.Option(help="Test samples; default 1000, or all.")] = None,
    classes: Annotated[str | None, typer.Option(help="Classes to keep, separated by commas: 0,1")] = None,
    steps: Annotated[int, typer.Option(help="Steps of gradient descent.")] = 1000,
    rate: Annotated[float, typer.Option(help="Learning rate as a share of the largest stable one.")] = 0.5,
    step: Annotated[
        list[str] | None,
        typer.Option(
            help="Preprocessing step, may be repeated: center, flatten, standardize, standardize-channels, unit-norm, "
            "whiten, whiten-pca"
        ),
    ] = None,
    shuffle_labels: Annotated[bool, typer.Option("--shuffle-labels", help="Permute the labels: a check.")] = False,
    w_std: Annotated[float, typer.Option(help="Scale of an mlp's hidden layers.")] = 2**0.5,
    b_std: Annotated[float, typer.Option(help="Scale of an mlp's biases.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of data, network and shuffling.")] = 0,
    no_exact: Annotated[bool, typer.Option("--no-exact", help="Study a network that has no exact kernel.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """How will this network learn these data? Writes a page with the answers."""
    result = ntkit.study(
        network,
        data,
        out=out,
        data_dir=data_dir,
        n_train=n_train,
        n_test=n_test,
        classes=tuple(c.strip() for c in classes.split(",")) if classes else None,
        steps=steps,
        rate=rate,
        preprocessing=tuple(step or ()),
        shuffle_labels=shuffle_labels,
        w_std=w_std,
        b_std=b_std,
        seed=seed,
        exact=not no_exact,
        progress=not quiet,
    )
    about, rates = result.findings["data"], result.findings["learning_rate"]
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"data      {about['source']}", markup=False)
    found, predicted = rates["found_centered"], rates["predicted_initial"]
    console.print(f"rates     stable up to {found:.4g} (centred network), predicted {predicted:.4g}")
    for row in result.findings["machines"]:
        console.print(f"{row['test']:<9.3f} {row['name']}, test {result.findings['metric']}", markup=False)
    console.print(f"page      {result.page}", markup=False)


app.command()(reproduce)


@app.command()
def doctor() -> None:
    """Versions, threads, cores, SIMD width, folders, GPU or not, and a short check that the kernels are right."""
    from ntkit.cli.doctor import run

    run()
