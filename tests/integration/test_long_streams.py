"""Language models on Ray Serve: streams of a minute, and a run from texts to a completion."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from click.testing import CliRunner
from endpoints import SMALL, WAIT_S, choose_port, take_down, wait_for, wait_for_replicas
from language_models import block_of, language_spec, write_language_bundle
from pretrained_models import NAME, PretrainedStore

from raydc import bundle, client, engine, serve
from raydc import spec as specs
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.cli import main
from raydc.registry import Registry
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

MODEL = "texts"
# Many slots of many tokens: a step takes so long that a stream takes a minute.
LONG_LENGTH, LONG_TOKENS, LONG_SLOTS = 2048, 1900, 200
LONG_S = 60.0
MOST_CLIENTS = 8


class LongStreams(threading.Thread):
    """A client that reads one long stream after the other until it is told to go."""

    def __init__(self, url: str, model: str = MODEL) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.asked = {"model": model, "prompt": "the", "max_tokens": LONG_TOKENS}
        self.asked |= {"temperature": 0, "stream": True}
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
        last, reason = "", None
        names: set[str] = set()
        self.names.append(names)
        with httpx.stream(
            "POST", f"{self.url}/v1/completions", json=self.asked, timeout=WAIT_S
        ) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                last = line or last
                if line.startswith("data: {"):
                    self.num_events += 1
                    event = json.loads(line.removeprefix("data: "))
                    names.add(event["model"])
                    reason = event["choices"][0]["finish_reason"]
                if self.go.is_set():
                    return
        # One that has fewer tokens would not take long.
        if (last, reason) != ("data: [DONE]", "length"):
            raise ValueError(f"a stream ended with {last!r}: {reason}")


Deploy = Callable[[int, int], serve.Endpoint]


def from_scratch(folder: Path) -> tuple[Storage, str, Deploy]:
    """Two versions of a decoder from scratch: storage, model, and how it is deployed."""
    store = Storage(str(folder / "store"))
    for seed in range(2):
        write_language_bundle(store / f"made-{seed}", seed, LONG_LENGTH)
        Registry(store).register(MODEL, store / f"made-{seed}", {"run": MODEL})
    given = language_spec(store.uri, LONG_LENGTH, MODEL)
    return store, MODEL, partial(deploy_long, given, store)


def pretrained(folder: Path) -> tuple[Storage, str, Deploy]:
    """Two versions of a pretrained decoder; see `from_scratch`."""
    sizes = {"max_position_embeddings": LONG_LENGTH}
    made = PretrainedStore(folder, is_chat=False, num_versions=2, sizes=sizes, is_endless=True)
    return made.storage, NAME, partial(deploy_long, made.spec, made.storage)


def deploy_long(
    given: ResolvedSpec, store: Storage, version: int, num_replicas: int
) -> serve.Endpoint:
    value = specs.to_dict(given)
    length = {"length": LONG_LENGTH} if given.name == NAME else {}
    value["serve"] |= {
        "ray_actor_options": SMALL,
        "port": choose_port(),
        "autoscaling_config": {"min_replicas": num_replicas, "max_replicas": num_replicas},
        "generation": {"slots": LONG_SLOTS, "max_tokens": LONG_TOKENS, **length},
    }
    return serve.deploy(specs.resolve(specs.from_dict(value)), store, version)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [from_scratch, pretrained], ids=["scratch", "pretrained"])
def test_long_streams_live_through_a_promote_and_changes_of_replicas(
    ray_engine: engine.Engine,
    tmp_path: Path,
    kind: Callable[[Path], tuple[Storage, str, Deploy]],
) -> None:
    store, model, deploy = kind(tmp_path)
    endpoint = deploy(1, 2)
    clients: list[LongStreams] = []
    try:

        def all_work() -> bool:
            """Whether both replicas have streams; HAProxy learns of the second one later."""
            if len(clients) < MOST_CLIENTS and all(one.num_events > 3 for one in clients):
                clients.append(LongStreams(endpoint.url, model))
            states = wait_for_replicas(model, 2)
            return len(clients) > 2 and all(state["in_work"] > 0 for state in states)

        wait_for(all_work, "streams on both replicas")
        num_old = len(clients)
        serve.promote(store, model, "production", 2)
        # One of the replicas leaves, and a second HAProxy takes over; then one comes.
        deploy(2, 1)
        deploy(2, 2)
        changed_s = time.monotonic()
        clients.append(LongStreams(endpoint.url, model))
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
    assert all(one.names[0] == {f"{model}:1"} for one in clients[:num_old])
    assert clients[num_old].names[0] == {f"{model}:2"}
    assert all(len(names) <= 1 for one in clients for names in one.names)


@pytest.mark.soak
def test_a_stream_of_a_killed_replica_breaks_off_visibly_and_the_next_is_answered(
    ray_engine: engine.Engine, tmp_path: Path
) -> None:
    store = Storage(str(tmp_path / "store"))
    write_language_bundle(store / "made", 0, LONG_LENGTH)
    Registry(store).register(MODEL, store / "made", {"run": MODEL})
    given = language_spec(
        store.uri,
        LONG_LENGTH,
        MODEL,
        ray_actor_options=SMALL,
        port=choose_port(),
        autoscaling_config={"min_replicas": 1, "max_replicas": 1},
        generation={"slots": LONG_SLOTS, "max_tokens": LONG_TOKENS},
    )
    endpoint = serve.deploy(given, store, 1)
    one = LongStreams(endpoint.url)
    try:
        wait_for(lambda: one.num_events > 3, "a stream")
        (actor,) = [
            actor
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if f"{MODEL}#" in actor["name"]
        ]
        ray.kill(ray.get_actor(actor["name"], actor["namespace"]), no_restart=True)
        wait_for(lambda: bool(one.failure), "the end of the stream is no whole one")
        found = client.complete(
            endpoint.url, MODEL, "the", timeout_s=WAIT_S, max_tokens=8, temperature=0
        )
        loaded = bundle.load(Registry(store).folder(MODEL, 1))
        expected = complete(loaded, "the", AnswerOptions(8)).text
        assert found["choices"][0]["text"] == expected
    finally:
        one.go.set()
        take_down()


@pytest.mark.soak
def test_from_texts_to_a_completion(
    ray_engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_engine.address)
    words = ["the cat", "sees", "a dog", "and then", "goes home", "again"]
    texts = [
        " ".join(words[row * step % len(words)] for step in range(1, 4 + row % 9))
        for row in range(200)
    ]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    given = {
        "name": "lines",
        "storage": str(tmp_path / "store"),
        "data": {
            "source": str(tmp_path / "texts.txt"),
            "task": "language_modelling",
            "blocks": {"length": 24, "documents": "line"},
            "features": {"text": {"vocabulary": 280}},
        },
        "model": {"name": "decoder", "width": 16, "depth": 1, "heads": 2},
        "train": {"epochs": 2, "global_batch_size": 8},
        "scaling": {"num_workers": 0},
        "serve": {"port": 0, "ray_actor_options": SMALL},
    }
    path = tmp_path / "lines.yaml"
    path.write_text(yaml.safe_dump(given))
    take_down()
    try:
        done = CliRunner().invoke(main, ["run", str(path)])
        assert done.exit_code == 0, done.output
        # A token of its own, and the beginning of a text as it is in the file.
        found = re.search(r"/v1/completions continued '(.+)' with ['\"](.*)['\"]\n", done.output)
        assert found is not None, done.output
        assert any(text.startswith(found[1]) for text in texts)
        loaded = bundle.load(Storage(given["storage"]) / "runs/lines/model")
        num_prompt = len(block_of(loaded.features).encode(found[1], ""))
        options = AnswerOptions(24 - num_prompt)
        assert found[2] == repr(complete(loaded, found[1], options).text)[1:-1]
    finally:
        take_down()
