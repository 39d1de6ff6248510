"""The study's page: its sentences change with the outcome, its labels do not cover each other, its bytes repeat."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from ntkit.errors import MissingDependency
from ntkit.experiments.study_page import write_study_page
from ntkit.experiments.study_sections import SECTIONS, curves, data_needed, machines, rates, regime, spectra
from study_fixture import VARIANTS, make_study

QUESTIONS = ("learning rate", "predict its training", "lazy or rich", "labels lie", "beat its kernels", "much data")


def sentences(**variant) -> list[str]:
    findings, _ = make_study(**variant)
    return [section.sentence(findings) for section in (rates, curves, regime, spectra, machines, data_needed)]


def page(folder: Path, findings, arrays) -> str:
    write_study_page(findings, arrays, folder / "index.html")
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_answers_every_question(name, tmp_path):
    text = page(tmp_path, *make_study(**VARIANTS[name]))
    for section, question in zip(re.findall(r"<section.*?</section>", text, re.DOTALL), QUESTIONS, strict=True):
        assert question in section
        assert section.count("<svg") >= 1
        assert section.count('role="img" aria-label="') == section.count("<svg")
        assert "<details" in section
    visible = html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL))
    assert not re.search(r"\b(nan|inf|None|undefined)\b", visible)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_sentence_is_one_sentence(name):
    for sentence in sentences(**VARIANTS[name]):
        assert sentence.endswith(".")
        assert not re.search(r"\.\s", sentence)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_text_of_a_figure_covers_another(name, monkeypatch):
    """Measured with the figures' own, wide, font."""
    canvases = []
    save = matplotlib.figure.Figure.savefig

    def keep(canvas, *args, **keywords):
        canvases.append((canvas, boxes(canvas)))
        return save(canvas, *args, **keywords)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    findings, arrays = make_study(**VARIANTS[name])
    for section in SECTIONS:
        section(findings, arrays)
    assert len(canvases) == 12
    for canvas, texts in canvases:
        for index, (text, box) in enumerate(texts):
            assert box.x0 > -1, text
            assert box.x1 < canvas.bbox.width + 1, text
            for other, second in texts[index + 1 :]:
                assert not overlap(box, second), (text, other)


def boxes(canvas) -> list:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(canvas)
    canvas.draw_without_rendering()
    hidden = undrawn(canvas)
    texts = [text for text in canvas.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in texts]


def undrawn(canvas) -> set:
    """Matplotlib keeps labels of marks outside the limits and draws none of them."""
    hidden = set()
    for ax in canvas.axes:
        for axis, place, (low, high) in ((ax.xaxis, 0, ax.get_xlim()), (ax.yaxis, 1, ax.get_ylim())):
            for label in axis.get_majorticklabels():
                if not low <= label.get_position()[place] <= high:
                    hidden.add(label)
    return hidden


def overlap(one, two) -> bool:
    """More than a sliver: extents have room for accents and descenders."""
    width = min(one.x1, two.x1) - max(one.x0, two.x0)
    height = min(one.y1, two.y1) - max(one.y0, two.y0)
    return width > 1 and height > 0.25 * min(one.height, two.height)


def test_the_same_study_gives_the_same_bytes(tmp_path):
    assert page(tmp_path, *make_study()) == page(tmp_path, *make_study())


def test_every_figure_is_well_formed(tmp_path):
    figures = re.findall(r"<svg.*?</svg>", page(tmp_path, *make_study()), re.DOTALL)
    assert len(figures) == 12
    ids = [element.get("id") for figure in figures for element in ElementTree.fromstring(figure).iter()]
    known = [name for name in ids if name]
    assert len(known) == len(set(known))


def test_rates_sentence_follows_the_numbers():
    findings, _ = make_study()
    assert sentences()[0] == (
        "The centred network trains stably up to 9.77, 1.2% above the predicted 2N/λₘₐₓ = 9.65 (9.98 by the exact "
        "kernel); the plain network up to 8.97; the scan recovers from a rise up to 17.4, inside the catapult range."
    )
    findings["learning_rate"] |= {"found_centered": 4.825, "recovers_up_to": None, "predicted_exact": None}
    assert rates.sentence(findings) == (
        "The centred network trains stably up to 4.83, 50% below the predicted 2N/λₘₐₓ = 9.65; the plain network up "
        "to 8.97; no rate of the scan recovered once its loss had risen."
    )
    findings["learning_rate"] |= {"found_centered": 9.65, "recovers_up_to": 30.0}
    changed = rates.sentence(findings)
    assert "equal to the predicted" in changed
    assert "beyond the catapult range" in changed


@pytest.mark.parametrize(
    ("gap", "words"),
    [(0.003, "follows closely"), (0.03, "follows what"), (0.1, "follows roughly"), (3.0, "does not follow")],
)
def test_curves_sentence_grades_the_gap(gap, words):
    findings, _ = make_study()
    findings["training"]["worst_gap_initial"] = gap
    assert words in curves.sentence(findings)


def test_curves_sentence_says_when_the_loss_rises():
    findings, _ = make_study()
    findings["training"]["loss_end"] = 2 * findings["training"]["loss_start"]
    assert "the training loss rises from 0.45 to 0.9" in curves.sentence(findings)


def test_regime_sentence_tells_lazy_from_rich():
    assert sentences()[2].startswith("Training is lazy: the kernel ends 3.1% away")
    assert sentences(rich=True)[2].startswith("Training is rich: the kernel ends 55% away")
    assert "rises from 0.16 to 0.31" in sentences()[2]
    assert "stays at chance" in sentences(shuffled=True)[2]


def test_shuffled_labels_are_told_apart():
    told = sentences(shuffled=True)
    assert "no more than chance (1%)" in told[3]
    assert told[4].startswith("Nothing was learned")
    assert "no more than chance" not in sentences()[3]


def test_machines_sentence_counts_who_is_beaten():
    findings, _ = make_study()
    network = findings["machines"][-1]
    for score, words in (
        (0.99, "beats all 4 kernel machines and is 5.3 percentage points ahead of the best of them"),
        (0.931, "beats 2 of 4 kernel machines and is 0.6 percentage points behind"),
        (0.5, "beats none of the 4 kernel machines and is 44 percentage points behind"),
        (0.937, "equal to the best of them"),
    ):
        network["test"] = score
        assert words in machines.sentence(findings)
    network["test"] = 0.931
    assert "within the noise of 1,000 test samples" in machines.sentence(findings)
    network["test"] = 0.99
    assert "noise" not in machines.sentence(findings)


def test_data_sentence_follows_the_numbers():
    findings, _ = make_study()
    findings["data_needed"] |= {"samples": 750, "guessing": 0.9, "measured": 0.45, "predicted": 0.36, "worst_gap": 0.2}
    assert data_needed.sentence(findings) == (
        "With 750 samples kernel regression makes 50% of the error of guessing, predicted 40%; twice the data would "
        "take about 19% off; predictions are off by at most 20%."
    )
    findings["data_needed"]["doubled_takes_off"] = -0.1
    assert "; more hardly help; predictions" in data_needed.sentence(findings)
    findings["data_needed"]["doubled_takes_off"] = None
    assert "predicted 40%; predictions" in data_needed.sentence(findings)


def test_notices_say_what_a_reader_must_know(tmp_path, monkeypatch):
    monkeypatch.setattr("ntkit.experiments.study_sections.SECTIONS", ())  # they are not in question
    plain = page(tmp_path, *make_study())
    assert 'class="notice"' not in plain
    assert "These are not the full data: 5,000 real MNIST digits" in page(tmp_path, *make_study(fallback=True))
    assert "The labels were shuffled" in page(tmp_path, *make_study(shuffled=True))
    without = page(tmp_path, *make_study(exact=False))
    assert "There is no exact kernel of this network" in without
    assert "no rule for LayerNorm at &#39;layers.2&#39;" in without


def test_names_from_outside_are_escaped_and_never_formulas(tmp_path):
    findings, arrays = make_study()
    name = '<img src=x onerror="alert(1)"> $\\frac{1}{0}$'
    findings["title"] = findings["data"]["source"] = findings["machines"][0]["name"] = name
    findings["data"]["classes"] = [name]
    arrays["layer_names"] = np.array([name, "b", "c", "d"])
    text = page(tmp_path, findings, arrays)
    assert "<img" not in text
    assert "frac{1}{0}" in text


def test_predictions_that_overflow_are_drawn_as_far_as_they_go(tmp_path):
    findings, arrays = make_study()
    arrays["train_loss_exact_kernel"] = np.where(arrays["steps"] > 50, np.inf, arrays["train_loss_exact_kernel"])
    arrays["lr_scan_loss"][-1, 5:] = 1e6
    assert page(tmp_path, findings, arrays).count("<svg") == 12


def test_links_to_what_lies_beside_it(tmp_path):
    text = page(tmp_path, *make_study())
    assert re.findall(r'<a href="([^"]+)"', text) == ["results.json", "arrays.npz"]


def test_without_the_extra_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match="ntkit\\[report\\]"):
        write_study_page(*make_study(), tmp_path / "index.html")
    assert list(tmp_path.iterdir()) == []
