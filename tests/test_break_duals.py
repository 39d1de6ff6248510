"""The script that breaks the duals' formulas breaks all of them, and by what it says."""

# pyright: reportMissingImports=false
# (`break_duals` lives in benchmarks/, which the tests put on the path themselves)

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dual_cases import FORMS
from ntkit.architecture import VARIABLE, Expression, specs
from ntkit.infinite.dual import ClosedForm, Series, dual, erf, series, shifted, sign

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from break_duals import QUADRATURE, all_formulas, break_formula, break_quadrature, to_markdown

Q = torch.tensor([0.5, 2.0], dtype=torch.float64)


def test_the_formulas_of_every_closed_form_are_listed():
    listed = all_formulas()
    for form in FORMS.values():
        found = dual(form.activation, 1e-8)
        assert isinstance(found, ClosedForm)
        family = found.distance.args[0].__module__.rpartition(".")[2]
        assert {f"{family}.{formula}" for formula in ("variance", "mean", "distance", "derivative")} <= set(listed)
    assert {"shifted.variance", "shifted.mean", "series.derivative", "plane.distance"} <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("module", "activation", "family"),
    [(erf, specs.Erf(), "erf"), (shifted, specs.Shifted(specs.Erf(), 1.0), "shifted")],
)
def test_a_broken_formula_is_off_by_a_millionth(monkeypatch, module, activation, family):
    right = dual(activation, 1e-8).samples(Q).variance
    monkeypatch.setattr(module, "variance", module.variance)  # restored at the end
    break_formula(family, "variance")
    torch.testing.assert_close(dual(activation, 1e-8).samples(Q).variance, right * (1 + 1e-6), rtol=1e-13, atol=0)


def test_a_formula_that_is_0_gets_a_millionth(monkeypatch):
    monkeypatch.setattr(sign, "mean", sign.mean)
    break_formula("sign", "mean")
    assert dual(specs.Sign(), 1e-8).samples(Q).mean.tolist() == [1e-6, 1e-6]


@pytest.mark.parametrize("formula", QUADRATURE["series"])
def test_results_of_quadrature_are_broken_one_at_a_time(monkeypatch, formula):
    def results():
        sigmoid = Series(Expression("sigmoid", (VARIABLE,)), 1e-8)
        both = sigmoid.samples(Q)
        distance, derivative = sigmoid.pairs(both[:1], both[1:], torch.ones(1).double(), True)
        return {"variance": both.variance, "mean": both.mean, "distance": distance, "derivative": derivative}

    right = results()
    for name in ("samples", "pairs"):
        monkeypatch.setattr(series.Series, name, getattr(series.Series, name))
    break_quadrature("series", formula)
    broken = {name for name, value in results().items() if not torch.equal(value, right[name])}
    assert broken == {formula}


def test_the_page_says_what_no_test_noticed():
    rows = [
        {"formula": "erf.mean", "change": "+ 1e-06", "failed": "tests/a.py::b"},
        {"formula": "erf.distance", "change": "· (1 + 1e-06)", "failed": None},
    ]
    page = to_markdown({"date": "today", "ntkit revision": "abc", "tests": ["a.py"], "formulas": rows})
    assert "1 of 2 changes make a test fail." in page
    assert "| erf.mean | + 1e-06 | tests/a.py::b |" in page
    assert "| erf.distance | · (1 + 1e-06) | **none** |" in page
