"""Shares of traffic: the fraction, the same keys, the versions."""

from __future__ import annotations

import pytest
from traffic_samples import KEYS

from raydc.serve.settings import Traffic, TrafficShare


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_share_has_its_fraction_of_keys(fraction: float) -> None:
    found = sum(TrafficShare(version=2, fraction=fraction).has(key) for key in KEYS) / len(KEYS)
    assert found == pytest.approx(fraction, abs=0.03)


def test_growing_share_keeps_its_keys() -> None:
    small = {key for key in KEYS if TrafficShare(version=2, fraction=0.1).has(key)}
    large = {key for key in KEYS if TrafficShare(version=2, fraction=0.4).has(key)}
    assert small < large
    other = {key for key in KEYS if TrafficShare(version=3, fraction=0.1).has(key)}
    assert small != other, "not always the same users try the next version"


def test_traffic_versions_are_unique_with_stable_first() -> None:
    traffic = Traffic(
        version=3,
        canary=TrafficShare(version=1, fraction=0.5),
        shadow=TrafficShare(version=1, fraction=1.0),
    )
    assert traffic.versions == (3, 1)
