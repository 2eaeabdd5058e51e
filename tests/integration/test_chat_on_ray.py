"""Conversations on Ray Serve: from a file of talks to an answer, and adapters that change."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner
from decoder_folders import decoder_spec, write_decoder
from endpoints import (
    SMALL,
    WAIT_S,
    ClientThreads,
    choose_port,
    take_down,
    wait_for,
    wait_for_replicas,
)
from pretrained_models import LORA, NAME, TALKS, PretrainedStore

from raydc import bundle, client, engine, serve
from raydc import spec as specs
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.cli import main
from raydc.errors import ServeError
from raydc.serve.control import rollout
from raydc.storage import Storage

OPTIONS = AnswerOptions(12)
NUM_CLIENTS = 3


@pytest.mark.soak
def test_from_a_file_of_conversations_to_an_answer(
    ray_engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_engine.address)
    source = tmp_path / "talks.jsonl"
    source.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS * 20))
    decoder = write_decoder(tmp_path / "decoder")
    data = {"source": str(source), "target": "messages", "chat": {}, "blocks": {"length": 40}}
    value = {
        **decoder_spec(decoder, data, lora=LORA),
        "storage": str(tmp_path / "store"),
        "train": {"epochs": 2, "global_batch_size": 4},
        "scaling": {"num_workers": 1},
        "serve": {"port": 0, "auth": "none", "ray_actor_options": SMALL},
    }
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump(value))
    take_down()
    try:
        done = CliRunner().invoke(main, ["run", str(path)])
        assert done.exit_code == 0, done.output
        assert "/v1/chat/completions answered" in done.output
        url = re.search(r"http://127\.0\.0\.1:\d+", done.output)[0]  # type: ignore[index]
        loaded = bundle.load(Storage(value["storage"]) / "runs" / NAME / "model")
        for talk in TALKS:
            found = client.chat(url, NAME, talk[:1], temperature=0, max_tokens=12)
            expected = complete(loaded, talk[:1], OPTIONS).text
            assert found["choices"][0]["message"]["content"] == expected
    finally:
        take_down()


@dataclass
class TalkStreams(ClientThreads):
    """Clients that stream answers of conversations; every text is that of its version."""

    url: str
    expected: dict[tuple[int, int], str]
    versions: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    num_clients = NUM_CLIENTS

    def has_failed(self) -> bool:
        return bool(self.failures)

    def ask_once(self, number: int, turn: int) -> None:
        talk = turn % len(TALKS)
        asked = {"model": NAME, "messages": TALKS[talk][:1], "temperature": 0}
        try:
            answer = httpx.post(
                f"{self.url}/v1/chat/completions",
                json={**asked, "max_tokens": 12, "stream": True},
                timeout=WAIT_S,
            )
            *events, done = (one[6:] for one in answer.text.split("\n\n")[:-1])
            parts = [json.loads(one) for one in events]
            version = int(answer.headers["x-raydc-model-version"])
            text = "".join(one["choices"][0]["delta"].get("content", "") for one in parts)
            assert {one["model"] for one in parts} == {f"{NAME}:{version}"}
            assert (done, text) == ("[DONE]", self.expected[version, talk])
            self.versions.append(version)
        except Exception as error:  # noqa: BLE001 - each is counted
            self.failures.append(repr(error))
            self.stop()


def test_adapters_change_under_streams(
    ray_engine: engine.Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = PretrainedStore(tmp_path_factory.mktemp("talks"), num_versions=2, lora=LORA)
    expected = {
        (version, number): complete(store.bundle(version), talk[:1], OPTIONS).text
        for version in (1, 2)
        for number, talk in enumerate(TALKS)
    }
    value = specs.to_dict(store.spec)
    value["serve"] |= {
        "port": choose_port(),
        "ray_actor_options": SMALL,
        "generation": {**value["serve"]["generation"], "adapters": 2},
    }
    take_down()
    try:
        url = serve.deploy(specs.resolve(specs.from_dict(value)), store.storage, 1).url
        wait_for_replicas(NAME)
        # Any version of the base answers by its name.
        for version in (2, 1):
            found = client.chat(
                url, f"{NAME}:{version}", TALKS[0][:1], temperature=0, max_tokens=12
            )
            assert found["choices"][0]["message"]["content"] == expected[version, 0]
        with TalkStreams(url, expected) as streams:
            serve.promote(store.storage, NAME, "production", 2)
            streams.grow()
            assert streams.versions[-1] == 2
            with pytest.raises(ServeError, match="version 3 is refused"):
                serve.promote(store.storage, NAME, "production", 3)
            serve.rollback(store.storage, NAME, "production")
            rollout.start(store.storage, NAME, "production", "canary", 2, 0.5)
            begun = len(streams.versions)
            wait_for(
                lambda: set(streams.versions[begun:]) == {1, 2} or streams.has_failed(),
                "answers of both",
            )
        assert streams.failures == []
    finally:
        take_down()
