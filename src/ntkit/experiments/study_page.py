"""The study's page: what was found about one network on one data set, as one file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ntkit.report import Facts, Link, Page, Tile, require_report_libraries, write_page
from ntkit.report.wording import count, number, percent, several

CONVENTIONS = (
    "Loss: L = (1/2N) Σ ‖f(x) − y‖² over the N training samples, summed over outputs; full-batch gradient descent.",
    "Kernels: mean over outputs for spectra, alignment and machines; eigenvalues are of Θ, not Θ/N.",
    "Predictions: gradient descent on the linearised network, its kernel Θ that before training or the exact one.",
    "Kernel machines: ridge chosen by closed-form leave-one-out on the training samples.",
)


def write_study_page(findings: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write the page of a study into the file `path`, whole or not at all.

    Args:
        findings: names, settings and single numbers, as written to results.json.
        arrays: curves, spectra and energies, as written to arrays.npz.
        path: the HTML file; its folder exists.

    Raises:
        InvalidInput: the file cannot be written.
        MissingDependency: matplotlib or jinja2 is not installed.
    """
    require_report_libraries()
    from ntkit.experiments.study_sections import SECTIONS  # draws with matplotlib

    page = Page(
        kicker="How will this network learn?",
        title=findings["title"],
        summary=_summary(findings),
        notices=_notices(findings),
        tiles=_tiles(findings),
        sections=tuple(section(findings, arrays) for section in SECTIONS),
        conventions=CONVENTIONS,
        facts=_facts(findings),
        links=(
            Link("results.json", "results.json: every number"),
            Link("arrays.npz", "arrays.npz: every curve"),
        ),
    )
    write_page(page, path)


def _summary(findings: dict[str, Any]) -> str:
    data, network = findings["data"], findings["network"]
    shape = "×".join(str(size) for size in data["input_shape"])
    kind = {"ntk": "NTK"}.get(network["parameterization"], network["parameterization"])
    classes = f", {several(len(data['classes']), 'class', 'classes')}" if data["classes"] else ""
    return (
        f"{network['description']}: {several(network['n_parameters'], 'parameter')}, "
        f"{kind} parameterisation. {data['name']}: {count(data['n_train'])} training and "
        f"{count(data['n_test'])} test samples of shape {shape}{classes}, {several(data['n_outputs'], 'output')}. "
        f"Seed {findings['seed']}; made in {number(findings['seconds'])} seconds."
    )


def _notices(findings: dict[str, Any]) -> tuple[str, ...]:
    data, network = findings["data"], findings["network"]
    notices = []
    if data["fallback"]:
        notices.append(f"These are not the full data: {data['source']}")
    if data["labels_shuffled"]:
        notices.append("The labels were shuffled: whatever rests on them should be at chance below.")
    if not network["exact"]:
        notices.append(
            f"There is no exact kernel of this network, so its curves are missing: {network['exact_why_not']}"
        )
    return tuple(notices)


def _tiles(findings: dict[str, Any]) -> tuple[Tile, ...]:
    from ntkit.experiments.study_sections.regime import regime
    from ntkit.experiments.study_sections.series import chance_label, compared, metric_name, score

    rates, training, lazy = findings["learning_rate"], findings["training"], findings["lazy"]
    spectrum, metric = findings["spectrum"], findings["metric"]
    network = next(machine for machine in findings["machines"] if machine["key"] == "network")
    kernels = [machine for machine in findings["machines"] if machine["key"] != "network"]
    best = max(kernels, key=lambda machine: machine["test"])
    found, predicted = rates["found_centered"], rates["predicted_initial"]
    return (
        Tile("Largest stable rate", number(found), f"{compared(found, predicted)} the predicted {number(predicted)}"),
        Tile("Worst gap to prediction", percent(training["worst_gap_initial"]), "of the initial loss, in training"),
        Tile("Training is", regime(lazy["distance_end"]), f"the kernel moved {percent(lazy['distance_end'])}"),
        Tile(
            f"Labels in top {spectrum['top_k']} directions",
            percent(spectrum["energy_initial"]),
            f"in the initial kernel; chance {percent(spectrum['energy_chance'])}",
        ),
        Tile(
            f"Test {metric_name(metric)}",
            score(network["test"], metric),
            f"best kernel machine {score(best['test'], metric)}, {chance_label(findings)}",
        ),
    )


def _facts(findings: dict[str, Any]) -> tuple[Facts, ...]:
    data, network = findings["data"], findings["network"]
    return (
        Facts("Configuration", _rows(findings["config"] | {"seed": findings["seed"]})),
        Facts("Environment", _rows(findings["environment"])),
        Facts(
            "Data",
            (
                ("name", data["name"]),
                ("source", data["source"]),
                ("steps", "; ".join(data["steps"]) or "none"),
                ("notes", "; ".join(data.get("notes", ())) or "none"),
                ("labels", "shuffled" if data["labels_shuffled"] else "as they came"),
                ("classes", ", ".join(data["classes"]) or "none"),
            ),
        ),
        Facts(
            "Network",
            (
                ("layers", "\n".join(network["layers"])),
                ("exact kernel", "yes" if network["exact"] else network["exact_why_not"]),
            ),
        ),
    )


def _rows(settings: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name).replace("_", " "), _written(value)) for name, value in settings.items())


def _written(value: Any) -> str:
    """A setting as a person writes it."""
    if value is None or isinstance(value, list | tuple):
        return ", ".join(map(str, value or ())) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
