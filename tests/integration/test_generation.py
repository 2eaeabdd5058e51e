"""A language model on Ray Serve: streams through changes of version, on both paths."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from endpoints import SMALL, WAIT_S, choose_port, take_down, wait_for, wait_for_replicas
from in_process import spoil_golden
from language_models import TEXTS, language_spec, write_language_bundle
from served_language import events_of

from raydc import bundle, client, engine, serve
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.errors import RefusedError, ServeError
from raydc.models.token_sampling import TokenSampling
from raydc.registry import Registry
from raydc.serve.control import rollout
from raydc.storage import Storage

MODEL = "texts"
NUM_TOKENS = 40
NUM_CLIENTS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A registry with versions 1 and 2 of a language model, and a version 3 with wrong rows."""
    store = Storage(str(tmp_path_factory.mktemp("generation") / "store"))
    for seed in range(3):
        made = store / f"made-{seed}"
        write_language_bundle(made, seed)
        if seed == 2:
            spoil_golden(made)
        Registry(store).register(MODEL, made, {"run": MODEL})
    return store


@pytest.fixture(scope="module")
def offline(store: Storage) -> dict[tuple[int, int, int], str]:
    """Texts by version, number of the prompt and seed."""
    found = {}
    for version in (1, 2):
        loaded = bundle.load(Registry(store).folder(MODEL, version))
        for prompt, text in enumerate(TEXTS):
            for seed in range(2):
                sampling = TokenSampling(float(seed), 1.0, seed)
                options = AnswerOptions(NUM_TOKENS - 10, sampling)
                found[version, prompt, seed] = complete(loaded, text[:9], options).text
    return found


@pytest.fixture(scope="module", params=["auto", "off"])
def endpoint(
    request: pytest.FixtureRequest, ray_engine: engine.Engine, store: Storage
) -> Iterator[serve.Endpoint]:
    given = language_spec(
        store.uri,
        name=MODEL,
        ray_actor_options=SMALL,
        port=choose_port(),
        direct=request.param,
        autoscaling_config={"min_replicas": 1, "max_replicas": 2},
    )
    made = serve.deploy(given, store, 1)
    states = wait_for_replicas(MODEL)
    path = states[0]["request_path"]
    assert path["path"] == ("direct" if request.param == "auto" else "serve"), path
    yield made
    take_down()


@dataclass
class Streams:
    """Clients that stream without a pause: every text is compared, none is asked for again."""

    url: str
    offline: dict[tuple[int, int, int], str]
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Streams:
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(NUM_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()
        self.grow()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def grow(self) -> None:
        """Waits for as many answers as there are clients, and one more of each."""
        target = len(self.versions) + 2 * NUM_CLIENTS
        wait_for(lambda: len(self.versions) >= target or bool(self.failures), "more streams")

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=WAIT_S) as http:
            turn = number
            while not self._stop.is_set():
                turn += 1
                try:
                    self._ask(http, turn % len(TEXTS), turn % 2)
                except Exception as error:  # noqa: BLE001 - each is counted
                    self.failures.append(repr(error))
                    return

    def _ask(self, http: httpx.Client, prompt: int, seed: int) -> None:
        asked = {"model": MODEL, "prompt": TEXTS[prompt][:9], "max_tokens": NUM_TOKENS - 10}
        asked |= {"temperature": seed, "seed": seed, "stream": True}
        answer = http.post(f"{self.url}/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        events = events_of(answer.text)
        assert events.pop() == "[DONE]"
        (name,) = {event["model"] for event in events}
        version = answer.headers["x-raydc-model-version"]
        assert name == f"{MODEL}:{version}"
        text = "".join(event["choices"][0]["text"] for event in events)
        assert text == self.offline[int(version), prompt, seed]
        self.versions.append(version)


def test_streams_end_on_their_version_through_all_changes(
    endpoint: serve.Endpoint, store: Storage, offline: dict[tuple[int, int, int], str]
) -> None:
    with Streams(endpoint.url, offline) as streams:
        serve.promote(store, MODEL, "production", 2)
        streams.grow()
        assert streams.versions[-1] == "2"
        with pytest.raises(ServeError, match="version 3 is refused: golden rows"):
            serve.promote(store, MODEL, "production", 3)
        streams.grow()
        serve.rollback(store, MODEL, "production")
        streams.grow()
        assert streams.versions[-1] == "1"
        rollout.start(store, MODEL, "production", "canary", 2, 0.5)
        num_before = len(streams.versions)
        wait_for(
            lambda: set(streams.versions[num_before:]) == {"1", "2"} or bool(streams.failures),
            "answers of both",
        )
        serve.promote(store, MODEL, "production", 2)
        streams.grow()
        assert streams.versions[-1] == "2"
    assert streams.failures == []
    serve.promote(store, MODEL, "production", 1)


def test_a_client_that_goes_leaves_nothing_behind(endpoint: serve.Endpoint) -> None:
    asked = {"model": MODEL, "prompt": "the", "max_tokens": NUM_TOKENS, "stream": True}
    for _ in range(20):
        with httpx.stream("POST", f"{endpoint.url}/v1/completions", json=asked) as answer:
            next(answer.iter_bytes())
    wait_for(lambda: wait_for_replicas(MODEL)[0]["in_work"] == 0, "no answer grows")


def test_the_client_of_raydc_completes_and_says_what_is_refused(
    endpoint: serve.Endpoint, offline: dict[tuple[int, int, int], str]
) -> None:
    found = client.complete(
        endpoint.url, MODEL, TEXTS[0][:9], max_tokens=NUM_TOKENS - 10, temperature=0
    )
    assert found["choices"][0]["text"] == offline[1, 0, 0]
    with pytest.raises(RefusedError, match="max_tokens: it is 5000; this endpoint allows 1024"):
        client.complete(endpoint.url, MODEL, "a", max_tokens=5000)
    with pytest.raises(RefusedError, match="is a language model; it answers at /v1/completions"):
        client.predict(endpoint.url, rows=[{"text": "a"}])
    assert client.metadata(endpoint.url, MODEL)["inputs"] == []


# Many slots of many tokens: a step takes so long that a stream takes a minute.
LONG_LENGTH, LONG_TOKENS, LONG_SLOTS = 2048, 1900, 128
LONG_S = 60.0
MOST_CLIENTS = 8


class LongStreams(threading.Thread):
    """A client that reads one long stream after the other until it is told to go."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.num_events = 0
        # Of each stream.
        self.names: list[set[str]] = []
        self.failure = ""
        self.go = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self.go.is_set():
                self._read()
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self.failure = repr(error)

    def _read(self) -> None:
        asked = {"model": MODEL, "prompt": "the", "max_tokens": LONG_TOKENS, "temperature": 0}
        asked["stream"] = True
        last = ""
        names: set[str] = set()
        self.names.append(names)
        with httpx.stream(
            "POST", f"{self.url}/v1/completions", json=asked, timeout=WAIT_S
        ) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                last = line or last
                if line.startswith("data: {"):
                    self.num_events += 1
                    names.add(json.loads(line.removeprefix("data: "))["model"])
                if self.go.is_set():
                    return
        if last != "data: [DONE]":
            raise ValueError(f"a stream ended with {last!r}")


@pytest.mark.soak
def test_long_streams_live_through_a_promote_and_changes_of_replicas(
    ray_engine: engine.Engine, tmp_path: Path
) -> None:
    store = Storage(str(tmp_path / "store"))
    for seed in range(2):
        write_language_bundle(store / f"made-{seed}", seed, LONG_LENGTH)
        Registry(store).register(MODEL, store / f"made-{seed}", {"run": MODEL})

    def deploy(version: int, num_replicas: int) -> serve.Endpoint:
        given = language_spec(
            store.uri,
            LONG_LENGTH,
            MODEL,
            ray_actor_options=SMALL,
            port=choose_port(),
            autoscaling_config={"min_replicas": num_replicas, "max_replicas": num_replicas},
            generation={"slots": LONG_SLOTS, "max_tokens": LONG_TOKENS},
        )
        return serve.deploy(given, store, version)

    endpoint = deploy(1, 2)
    clients: list[LongStreams] = []
    try:

        def all_work() -> bool:
            """Whether both replicas have streams; HAProxy learns of the second one later."""
            if len(clients) < MOST_CLIENTS and all(one.num_events > 3 for one in clients):
                clients.append(LongStreams(endpoint.url))
            states = wait_for_replicas(MODEL, 2)
            return len(clients) > 2 and all(state["in_work"] > 0 for state in states)

        wait_for(all_work, "streams on both replicas")
        num_old = len(clients)
        serve.promote(store, MODEL, "production", 2)
        # One of the replicas leaves, and a second HAProxy takes over; then one comes.
        deploy(2, 1)
        deploy(2, 2)
        changed_s = time.monotonic()
        clients.append(LongStreams(endpoint.url))
        while time.monotonic() < changed_s + LONG_S:
            time.sleep(1.0)
            assert not any(one.failure for one in clients)
        counts = [one.num_events for one in clients]

        def go_on() -> bool:
            pairs = zip(clients, counts, strict=True)
            return all(one.num_events > count for one, count in pairs)

        wait_for(go_on, "all streams go on")
    finally:
        for one in clients:
            one.go.set()
            one.join(WAIT_S)
        take_down()
    assert [one.failure for one in clients if one.failure] == []
    assert all(one.names[0] == {f"{MODEL}:1"} for one in clients[:num_old])
    assert clients[num_old].names[0] == {f"{MODEL}:2"}
    assert all(len(names) <= 1 for one in clients for names in one.names)
