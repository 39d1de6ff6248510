"""The page machinery: what comes from outside is escaped, figures repeat byte for byte, files are whole or absent."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkit.errors import InvalidInput, MissingDependency
from ntkit.report import Facts, Figure, Link, Page, Section, Table, Tile, render_page, write_page
from ntkit.report.axes import log_ticks
from ntkit.report.labels import spread
from ntkit.report.style import draw, frame, title
from ntkit.report.wording import number, percent, tick

HOSTILE = '<script>alert("x")</script>&{{ 7 * 7 }}'


def page_of(text: str, figures: tuple[Figure, ...] = ()) -> Page:
    table = Table((text, text), ((text, text),))
    section = Section("first", text, text, figures, text, table)
    facts = (Facts(text, ((text, text),)),)
    return Page(
        text,
        text,
        text,
        (text,),
        (Tile(text, text, text),),
        (section,),
        (text,),
        facts,
        (Link("results.json", text),),
    )


def curve(name: str = "curve", label: str = "a curve"):
    def paint(canvas):
        ax = frame(canvas, left=0.6, right=0.2)
        ax.plot([0, 1, 2], [1.0, 0.5, 0.25], marker="o")
        title(canvas, "Loss of $x$ & <y>", "unit")

    return draw(name, label, (3.0, 2.0), paint)


def test_everything_from_outside_is_escaped():
    html = render_page(page_of(HOSTILE, (curve(label=HOSTILE),)))
    assert "<script" not in html
    assert "49" not in re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", html, flags=re.DOTALL)
    assert html.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;{{ 7 * 7 }}") == 21


def test_the_tags_of_a_page_match():
    void = {"meta", "link"}

    class Balance(HTMLParser):
        open: list[str]

        def handle_starttag(self, tag, attrs):
            if tag not in void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Balance()
    checker.open = []
    checker.feed(render_page(page_of("text", (curve("one"), curve("two")))))
    assert checker.open == []


def test_the_browser_is_told_to_fetch_nothing():
    html = render_page(page_of("text", (curve(),)))
    assert "default-src 'none'" in html
    outside = set(re.findall(r"(?:https?:)?//[\w./-]+", html))
    assert outside == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses


def test_a_figure_repeats_byte_for_byte_whatever_the_readers_settings():
    import matplotlib

    first = curve().svg
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        second = curve().svg
        assert matplotlib.rcParams["font.size"] == 30  # and they are left as they were
    assert first == second
    assert not re.search(r"20\d\d-\d\d-\d\d|Created|metadata", first)


def test_a_figure_is_well_formed_and_keeps_its_text_as_text():
    root = ElementTree.fromstring(curve().svg)
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    assert "Loss of $x$ & <y>" in texts
    assert root.get("width") is None


def test_two_figures_share_no_id():
    def ids(figure):
        return set(re.findall(r'\bid="([^"]+)"', figure.svg))

    one, two = curve("one"), curve("two")
    assert ids(one)
    assert not ids(one) & ids(two)
    for figure in (one, two):
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', figure.svg)
        assert used
        assert {a or b for a, b in used} <= ids(figure)


def test_write_page_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("before")
    write_page(page_of("after"), path)
    assert "after" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_write_page_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    path.write_text("before")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ntkit.report.page.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_page(page_of("after"), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_write_page_says_where_it_cannot_write(tmp_path):
    with pytest.raises(InvalidInput, match=r"cannot write the page .*No such file.* give a file in an existing folder"):
        write_page(page_of("text"), tmp_path / "missing" / "index.html")
    (tmp_path / "index.html").mkdir()
    with pytest.raises(InvalidInput, match="cannot write the page"):
        write_page(page_of("text"), tmp_path / "index.html")
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named_with_its_extra(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependency, match=rf'{library} cannot be imported.*pip install "ntkit\[report\]"'):
        render_page(page_of("text"))


def test_importing_the_report_imports_neither_library():
    code = "import sys, ntkit.report; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_number_keeps_three_significant_digits(x):
    text = number(x).replace(",", "")
    if re.search("10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]", text):
        mantissa, power = re.fullmatch(r"(?:(.*)×)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text).groups()
        text = (mantissa or "1") + "e" + power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    assert float(text) == pytest.approx(x, rel=5.001e-3)


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (None, "–"), (float("inf"), "∞"), (float("nan"), "undefined"), (-3.7e4, "−37,000"), (99999.0, "10⁵")],
)
def test_number_of_special_values(x, text):
    assert number(x) == text


@pytest.mark.parametrize(
    ("x", "text"), [(0.9996, "100%"), (12.0, "1,200%"), (-1e-9, "−<0.01%"), (None, "–"), (0.1, "10%"), (0.00995, "1%")]
)
def test_percent(x, text):
    assert percent(x) == text


@given(st.floats(min_value=-12, max_value=12), st.floats(min_value=0.02, max_value=15))
def test_log_ticks_are_few_inside_and_rising(start, decades):
    low, high = 10.0**start, 10.0 ** (start + decades)
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert all(low <= t <= high for t in ticks)
    assert ticks == sorted(set(ticks))
    assert len({tick(t) for t in ticks}) == len(ticks)


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=12), st.floats(min_value=0, max_value=0.3))
def test_spread_keeps_order_and_distance(wanted, size):
    asked = np.array(wanted)
    places = spread(asked, np.full(len(asked), size), 0.0, 1.0)
    assert places.min() >= -1e-9
    assert places.max() <= 1 + 1e-9
    order = np.argsort(asked, kind="stable")
    gap = min(size, 1 / max(len(asked) - 1, 1))
    assert np.all(np.diff(places[order]) >= gap - 1e-9)
    if np.all(np.diff(asked[order]) >= size):  # nothing in the way: nothing moves
        np.testing.assert_allclose(places, asked, atol=1e-9)
