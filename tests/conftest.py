"""Fixtures and options of all tests. The folder of a test decides its marker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from thread_delays import ThreadDelays

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("unit", "integration", "faults", "cluster", "browser")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the long tests")
    parser.addoption(
        "--delay-threads", type=int, metavar="SEED", help="make threads late at random"
    )


def pytest_configure(config: pytest.Config) -> None:
    if (seed := config.getoption("--delay-threads")) is not None:
        # Before any test module: some keep a function that they import.
        ThreadDelays(seed).install(pytest.MonkeyPatch())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        kind = Path(item.path).relative_to(ROOT / "tests").parts[0]
        if kind in KINDS:
            item.add_marker(kind)
        if item.get_closest_marker("soak") and not config.getoption("--soak"):
            item.add_marker(pytest.mark.skip(reason="long; run it with `make soak`"))


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("--delay-threads")
    return None if seed is None else f"threads are late at random: --delay-threads={seed}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process gets the tests that may start a Ray, others the unit tests, file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class OneRay(LoadScopeScheduling):
        """Never runs two tests at the same time that may start a Ray."""

        def _split_scope(self, nodeid: str) -> str:
            is_unit = nodeid.startswith("tests/unit/")
            return nodeid.split("::", 1)[0] if is_unit else "ray"

    return OneRay(config, log)


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
