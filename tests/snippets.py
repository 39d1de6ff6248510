"""Every Python block of the README and of docs/ runs: the blocks of one file in order, in one namespace."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippet"}
    found = blocks(page)
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    assert len(found) >= (1 if page.name == "README.md" else 0)
    assert os.getcwd() == str(tmp_path)
