"""Streams of pretrained decoders on Ray Serve: through changes of version, and killed replicas."""

from __future__ import annotations

from pathlib import Path

import pytest
from counted_streams import (
    MANY_SLOTS,
    NUM_CLIENTS,
    CountedStreams,
    change_all,
    deploy,
    kill_replica,
)
from endpoints import take_down
from pretrained_models import NAME

from raydc import engine, serve


def kill_replicas(streams: CountedStreams, num_kills: int, most_kills: int) -> None:
    """Kills replicas, at least some, and until as many streams have broken off and gone on."""
    for number in range(1, most_kills + 1):
        kill_replica()
        streams.grow()
        # A stream may end, or have no token yet, while its replica is killed.
        if number >= num_kills and streams.num_resumed >= num_kills:
            break
    assert streams.num_resumed >= num_kills


def test_streams_through_changes_and_a_killed_replica(
    ray_engine: engine.Engine, tmp_path: Path
) -> None:
    take_down()
    try:
        store, url, offline = deploy(tmp_path, "llama", 2)
        with CountedStreams(url, offline) as streams:
            change_all(store, streams)
        # Nothing broken, of mixed versions or different.
        assert streams.outcomes.keys() == {"equal"}, streams.outcomes
        with CountedStreams(url, offline, resumes=True) as streams:
            kill_replicas(streams, 1, most_kills=5)
        assert streams.outcomes.keys() == {"equal"}, streams.outcomes
    finally:
        take_down()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_thousand_streams_end_on_their_version(
    ray_engine: engine.Engine, tmp_path: Path, kind: str
) -> None:
    take_down()
    try:
        store, url, offline = deploy(tmp_path, kind, 1)
        with CountedStreams(url, offline) as streams:
            while streams.outcomes.total() < 1000:
                change_all(store, streams)
        assert streams.outcomes.keys() == {"equal"}, streams.outcomes
        assert set(streams.versions) == {1, 2}
    finally:
        take_down()


@pytest.mark.soak
def test_streams_of_killed_replicas_go_on_or_are_counted(
    ray_engine: engine.Engine, tmp_path: Path
) -> None:
    take_down()
    try:
        store, url, offline = deploy(tmp_path, "gpt2", 2, MANY_SLOTS)
        with CountedStreams(url, offline, resumes=True) as streams:
            kill_replicas(streams, 8, most_kills=16)
            assert streams.outcomes.keys() == {"equal"}, streams.outcomes
            # With changes besides, a version may be gone before its stream goes on.
            for version in (2, 1, 2, 1):
                kill_replica()
                serve.promote(store.storage, NAME, "production", version)
                streams.grow()
        assert streams.outcomes.keys() <= {"equal", "refused: 404"}, streams.outcomes
        assert streams.outcomes["refused: 404"] <= 4 * NUM_CLIENTS
    finally:
        take_down()
