"""The page of `raydc inspect`: whole, without scripts, and true to what was found."""

from __future__ import annotations

import re

import pytest
from inspected_here import inspect_here

from raydc.data import suspicions
from raydc.report import inspection_page
from raydc.report.markup import escape

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    lines = [f"size,kind,{HOSTILE},same,y"]
    for row in range(300):
        word, label = HOSTILE if row % 2 else "b", "<b>" if row % 3 else "no"
        lines.append(f"{row * 7 % 97 / 3},k{row % 13},{word},1,{label}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    found = inspect_here(folder, {"source": str(folder / "rows.csv"), "target": "y"})
    return inspection_page.render(found, suspicions.find(found), "made by a test")


def test_page_stands_alone(page: str) -> None:
    assert page.startswith("<!doctype html>")
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"<script|<link|<img|<iframe|https?://|url\(|@import|javascript:", page)
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    assert 'name="viewport"' in page


def test_names_and_values_of_the_data_are_text(page: str) -> None:
    assert escape(HOSTILE) in page
    assert "&lt;b&gt;" in page
    assert "<b>no" not in page


def test_page_says_what_was_found(page: str) -> None:
    assert "&#39;same&#39; has the same value in every row" in page
    for name in ("size", "kind", "same"):
        assert f"<h3>{name}<" in page
    assert "3 other values: " in page
    sections = re.findall(r'href="#(\w+)"', page)
    assert sections == re.findall(r'<section id="(\w+)"', page)
    assert page.count("<svg") > 2
