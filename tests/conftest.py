"""Fixtures and options of all tests. The folder of a test decides its marker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("unit", "integration", "faults", "cluster", "browser")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the long tests")


# Before xdist, which takes the groups from here.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        kind = Path(item.path).relative_to(ROOT / "tests").parts[0]
        if kind in KINDS:
            item.add_marker(kind)
        # Of `make test`, one process has the tests that may start a Ray, so that there is one at a
        # time; another one has the unit tests, file by file.
        group = str(item.path) if kind == "unit" else "ray"
        item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("soak") and not config.getoption("--soak"):
            item.add_marker(pytest.mark.skip(reason="long; run it with `make soak`"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, beside a checkout that has them."""
    folder = Path(os.environ.get("RAYDC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no real data sets at {folder}; set RAYDC_TEST_DATA to a folder that holds them"
        )
    return folder


@pytest.fixture(autouse=True, scope="session")
def _quiet_ray() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.pop("RAY_ADDRESS", None)
