"""The page without a browser: its files, its policy, its address."""

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


def test_page_serves_all_its_files_and_no_link_is_broken() -> None:
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


def test_page_policy_allows_this_endpoint_only() -> None:
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
def test_page_other_path_or_method_is_not_served(path: str, method: str) -> None:
    assert page.serve_file(get(path, method)) is None


def test_page_below_a_prefix_redirects_to_a_folder() -> None:
    answer = page.serve_file(get("/small", root_path="/small"))
    assert answer is not None
    assert (answer.status_code, answer.headers["location"]) == (307, "small/")
    below = page.serve_file(get("/small/", root_path="/small"))
    assert below is not None
    assert below.status_code == 200
