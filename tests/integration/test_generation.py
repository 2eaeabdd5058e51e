"""A language model on Ray Serve: streams through changes of version, on both paths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

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
from in_process import spoil_golden
from language_models import TEXTS, language_spec, write_language_bundle
from served_language import events_of

from raydc import bundle, client, engine, evaluate, serve
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.data import small_jobs
from raydc.errors import RefusedError, ServeError
from raydc.evaluate import CompletionOptions
from raydc.models.token_sampling import TokenSampling
from raydc.registry import Registry
from raydc.serve.control import rollout
from raydc.spec.language import Generation
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


@pytest.fixture(scope="module", params=["auto", pytest.param("off", marks=pytest.mark.soak)])
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
class Streams(ClientThreads):
    """Clients that stream without a pause: every text is compared, none is asked for again."""

    url: str
    offline: dict[tuple[int, int, int], str]
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    num_clients = NUM_CLIENTS

    def __enter__(self) -> Self:
        # Each client keeps its connection.
        self._connections = [httpx.Client(timeout=WAIT_S) for _ in range(NUM_CLIENTS)]
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for connection in self._connections:
            connection.close()

    def has_failed(self) -> bool:
        return bool(self.failures)

    def ask_once(self, number: int, turn: int) -> None:
        try:
            self._ask(self._connections[number], turn % len(TEXTS), turn % 2)
        except Exception as error:  # noqa: BLE001 - each is counted
            self.failures.append(repr(error))
            self.stop()

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


def test_a_pool_completes_a_file_of_prompts_in_its_order(
    ray_engine: engine.Engine, store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "0")
    folder = Registry(store).folder(MODEL, 1)
    prompts = [f"{TEXTS[row % 4][:9]}{row % 7}" for row in range(90)]
    source, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in prompts))
    # Batches of 32 rows, so that several are under way.
    asked = CompletionOptions(max_tokens=8, temperature=0.7, seed=3, generation=Generation(slots=2))
    assert evaluate.predict_file(folder, str(source), str(output), completions=asked) == 90
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == prompts
    assert [row["seed"] for row in rows] == list(range(3, 93))
    loaded = bundle.load(folder)
    for row in rows[::9]:
        options = AnswerOptions(8, TokenSampling(0.7, seed=row["seed"]))
        assert row["completion"] == complete(loaded, row["text"], options).text
