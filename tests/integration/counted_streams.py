"""Clients that stream from a pretrained decoder on Ray Serve, and count what becomes of streams."""

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
from endpoints import SMALL, WAIT_S, ClientThreads, choose_port, wait_for, wait_for_replicas
from pretrained_models import NAME, TALKS, PretrainedStore
from served_language import events_of

from raydc import client, serve
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

    def ask_once(self, number: int, turn: int) -> None:
        prompt = turn % len(PROMPTS)
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
    folder: Path,
    kind: str,
    num_replicas: int,
    num_slots: int = NUM_SLOTS,
    fields: dict[str, Any] | None = None,
    **model: Any,
) -> tuple[PretrainedStore, str, Offline]:
    """Serves version 1 of two; version 3 has wrong golden prompts.

    Args:
        folder: Folder for all files.
        kind: Architecture.
        num_replicas: Number of replicas.
        num_slots: Slots of each.
        fields: Further fields of section `serve`.
        model: Further arguments of `PretrainedStore`.
    """
    store = PretrainedStore(folder, is_chat=False, num_versions=2, kind=kind, **model)
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
        **(fields or {}),
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
