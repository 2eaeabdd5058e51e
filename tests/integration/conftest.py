"""One Ray for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raydc import engine


@pytest.fixture(scope="session")
def ray_engine() -> Iterator[engine.Engine]:
    """A local Ray with more logical CPUs than the machine may have, so that small jobs fit beside each other."""
    yield engine.connect(num_cpus=4)
    engine.disconnect()
