"""Streams of pretrained decoders on Ray Serve: through changes of version, and killed replicas."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from endpoints import (
    SMALL,
    WAIT_S,
    ClientThreads,
    choose_port,
    take_down,
    wait_for,
    wait_for_replicas,
)
from pretrained_models import NAME, TALKS, PretrainedStore
from served_language import events_of

from raydc import client, engine, serve
from raydc import spec as specs
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.errors import RefusedError, ServeError
from raydc.serve.control import rollout
from raydc.serve.control.readiness import fetch_replica_states

NUM_TOKENS, NUM_CLIENTS, NUM_SLOTS = 16, 4, 32
# A pass of many slots takes longer, so that a kill finds streams that have begun.
MANY_SLOTS = 256
PROMPTS = [talk[0]["content"] for talk in TALKS]
Offline = dict[tuple[int, int], str]


@dataclass
class CountedStreams(ClientThreads):
    """Clients that stream without a pause; every text is compared with that of its version.

    Attributes:
        url: Address of the endpoint.
        offline: Greedy texts by version and number of the prompt.
        resumes: Whether what breaks off is asked for again, by `client.stream`.
        outcomes: Streams by what became of them.
        num_resumed: Streams that broke off and went on.
        versions: Version of each stream, in the order of their ends.
    """

    url: str
    offline: Offline
    resumes: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    num_resumed: int = 0
    versions: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    num_clients = NUM_CLIENTS

    def grow(self, most: int = 2 * NUM_CLIENTS) -> None:
        """Waits for some more streams."""
        target = self.outcomes.total() + most
        wait_for(lambda: self.outcomes.total() >= target, "more streams")

    def run_client(self, number: int) -> None:
        turn = number
        while not self.is_over:
            prompt, turn = turn % len(PROMPTS), turn + 1
            try:
                outcome = (self._resume if self.resumes else self._read)(prompt)
            except RefusedError as error:
                outcome = f"refused: {error.status}"
            except (httpx.HTTPError, ServeError, ValueError, KeyError) as error:
                outcome = f"broken: {error!r}"
            with self._lock:
                self.outcomes[outcome] += 1

    def _read(self, prompt: int) -> str:
        asked = {"model": NAME, "prompt": PROMPTS[prompt], "max_tokens": NUM_TOKENS}
        asked |= {"temperature": 0, "stream": True}
        answer = httpx.post(f"{self.url}/v1/completions", json=asked, timeout=WAIT_S)
        if answer.status_code != 200:
            return f"broken: {answer.status_code}: {answer.text}"
        *events, last = events_of(answer.text)
        if last != "[DONE]":
            return "broken: no end"
        names = {event["model"] for event in events}
        if len(names) != 1:
            return "of mixed versions"
        return self._compare(
            names.pop(), prompt, "".join(event["choices"][0]["text"] for event in events)
        )

    def _resume(self, prompt: int) -> str:
        asked: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0}
        stream = client.stream(self.url, NAME, PROMPTS[prompt], WAIT_S, **asked)
        text = "".join(stream)
        with self._lock:
            self.num_resumed += stream.num_resumed
        return self._compare(stream.model, prompt, text)

    def _compare(self, name: str, prompt: int, text: str) -> str:
        version = int(name.removeprefix(f"{NAME}:"))
        with self._lock:
            self.versions.append(version)
        return "equal" if text == self.offline[version, prompt] else "different"


def deploy(
    folder: Path, kind: str, num_replicas: int, num_slots: int = NUM_SLOTS
) -> tuple[PretrainedStore, str, Offline]:
    """Serves version 1 of two; version 3 has wrong golden prompts."""
    store = PretrainedStore(folder, is_chat=False, num_versions=2, kind=kind)
    offline = {
        (version, number): complete(store.bundle(version), text, AnswerOptions(NUM_TOKENS)).text
        for version in (1, 2)
        for number, text in enumerate(PROMPTS)
    }
    assert all(offline[1, number] != offline[2, number] for number in range(len(PROMPTS)))
    value = specs.to_dict(store.spec)
    value["serve"] |= {
        "port": choose_port(),
        "ray_actor_options": SMALL,
        "autoscaling_config": {"min_replicas": num_replicas, "max_replicas": num_replicas},
        "generation": {"slots": num_slots},
    }
    url = serve.deploy(specs.resolve(specs.from_dict(value)), store.storage, 1).url
    wait_for_replicas(NAME, num_replicas)
    return store, url, offline


def change_all(store: PretrainedStore, streams: CountedStreams) -> None:
    """A promote, a bad one, a rollback, and a canary that is dropped."""
    serve.promote(store.storage, NAME, "production", 2)
    streams.grow()
    assert streams.versions[-1] == 2
    with pytest.raises(ServeError, match="version 3 is refused: golden"):
        serve.promote(store.storage, NAME, "production", 3)
    serve.rollback(store.storage, NAME, "production")
    streams.grow()
    assert streams.versions[-1] == 1
    rollout.start(store.storage, NAME, "production", "canary", 2, 0.5)
    begun = len(streams.versions)
    wait_for(lambda: set(streams.versions[begun:]) == {1, 2}, "answers of both")
    rollout.end(store.storage, NAME, "production", "canary")
    streams.grow()
    assert streams.versions[-1] == 1


def kill_replica() -> None:
    """Kills one of two replicas that have streams; Ray Serve starts another."""
    working: list[int] = []

    def have_streams() -> bool:
        states = fetch_replica_states(NAME)
        working[:] = [state["pid"] for state in states if state["in_work"] > 0]
        return len(working) == 2

    # HAProxy learns of a new replica after Ray Serve does.
    wait_for(have_streams, "streams on both replicas")
    os.kill(working[0], signal.SIGKILL)


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
