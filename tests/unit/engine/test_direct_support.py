"""Requirements of `serve.direct: auto`: tested versions, and limits with what enforces them."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from raydc.engine import direct_support, haproxy_rules


def test_installed_versions_are_among_those_tested() -> None:
    assert direct_support.untested_versions() == []
    assert "were tested" in direct_support.describe_support()


@pytest.mark.parametrize("version", ["2.61.0", "3.0", ""])
def test_other_versions_are_named(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    assert len(direct_support.untested_versions()) == len(direct_support.TESTED_VERSIONS)
    assert direct_support.describe_support().startswith("not taken: ray ")


def test_limits_without_a_part_are_named() -> None:
    parts = {limit.part for limit in direct_support.LIMITS}
    assert direct_support.missing_limits(parts) == []
    assert direct_support.missing_limits(()) == [limit.text for limit in direct_support.LIMITS]
    assert all("HAProxy" in text for text in direct_support.missing_limits(parts - {"HAProxy"}))


def test_time_for_a_head_is_the_same_at_haproxy_and_at_a_replica() -> None:
    assert direct_support.HEAD_TIMEOUT_S == haproxy_rules.HEAD_TIMEOUT_S


def test_documentation_lists_every_limit(root: Path) -> None:
    text = " ".join((root / "docs/direct.md").read_text().split())
    missing = [limit.text for limit in direct_support.LIMITS if limit.text not in text]
    assert not missing


def test_requirements_have_the_tested_ranges(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    for package, versions in direct_support.TESTED_VERSIONS.items():
        (least, below) = re.findall(rf'"{package}(?:\[[\w,]+\])?>=([\d.]+),<([\d.]+)"', text)[0]
        assert least == versions[0], package
        major, minor = versions[-1].split(".")
        assert below == f"{major}.{int(minor) + 1}", package
