"""The page without a browser: its files, what a browser may load for it, and where it is found."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from raydc.serve.http import page
from raydc.serve.http.request import Request

STATIC = resources.files("raydc.serve.http") / "static"


async def no_body() -> None:
    raise AssertionError("the page reads no body")


def get(path: str, method: str = "GET", root_path: str = "") -> Request:
    return Request({"method": method, "path": path, "root_path": root_path, "headers": []}, no_body)


def test_every_file_is_served_and_every_file_that_is_named_is_there() -> None:
    for path, (name, media_type) in page.FILES.items():
        answer = page.serve_file(get(f"/{path}"))
        assert answer is not None
        assert bytes(answer.body) == (STATIC / name).read_bytes()
        assert answer.headers["content-type"] == media_type
    assert {file.name for file in STATIC.iterdir()} == {name for name, _ in page.FILES.values()}
    for file in STATIC.iterdir():
        named = re.findall(
            r'(?:href|src|from|import)[=( ]*"(?:\./)?([\w.]+\.\w+)"', file.read_text()
        )
        assert set(named) <= {*page.FILES, "openapi.json"}


def test_the_browser_may_load_from_this_endpoint_only() -> None:
    answer = page.serve_file(get("/"))
    assert answer is not None
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    allowed = {
        source for name in policy if name.endswith("-src") for source in policy[name].split()
    }
    assert allowed == {"'none'", "'self'", "blob:"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    for file in STATIC.iterdir():
        assert not re.search(
            r"(?:https?:)?//[a-z]", file.read_text().replace("http://www.w3.org/", "")
        ), file.name


@pytest.mark.parametrize(
    ("path", "method"),
    [("/page.py", "GET"), ("/static/page.css", "GET"), ("/", "POST"), ("/../page.css", "GET")],
)
def test_nothing_else_is_the_page(path: str, method: str) -> None:
    assert page.serve_file(get(path, method)) is None


def test_below_a_path_the_page_is_a_folder() -> None:
    answer = page.serve_file(get("/small", root_path="/small"))
    assert answer is not None
    assert (answer.status_code, answer.headers["location"]) == (307, "small/")
    below = page.serve_file(get("/small/", root_path="/small"))
    assert below is not None
    assert below.status_code == 200
