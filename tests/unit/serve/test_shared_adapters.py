"""Adapters of one base in a replica: the base is read once, and each text is its offline text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pretrained_models import LORA, NAME, TALKS, PretrainedStore, write_pretrained_bundle
from served_language import LanguageServer

from raydc import checksummed_folder
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.bundle.shared_base import BASE, FILE
from raydc.models import adapters
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.settings import Traffic, TrafficShare
from raydc.spec.sequence_models import HuggingFace
from raydc.storage import Storage

NUM_VERSIONS = 8
# The golden rows of the one behind the good ones differ, and the last has another base.
BAD, OTHER = NUM_VERSIONS + 1, NUM_VERSIONS + 2
OPTIONS = AnswerOptions(14)
QUESTION = TALKS[1][:1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PretrainedStore:
    folder = tmp_path_factory.mktemp("adapters")
    made = PretrainedStore(folder, num_versions=NUM_VERSIONS, lora=LORA)
    model = made.spec.model
    assert isinstance(model, HuggingFace)
    assert model.lora is not None
    other = made.spec.model_copy(
        update={
            "model": model.model_copy(update={"lora": model.lora.model_copy(update={"rank": 3})})
        }
    )
    write_pretrained_bundle(Storage(str(folder / "other")), other)
    made.registry.register(NAME, Storage(str(folder / "other")), {"run": NAME})
    return made


@pytest.fixture(scope="module")
def offline(store: PretrainedStore) -> dict[int, list[str]]:
    """Answers of each version by itself."""
    return {
        version: [complete(store.bundle(version), talk[:1], OPTIONS).text for talk in TALKS]
        for version in range(1, NUM_VERSIONS + 1)
    }


class CountedReads:
    """Names of the files that are read from folders with a manifest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        read = checksummed_folder._read_file

        def count(folder: Storage, name: str, entry: Any) -> bytes:
            self.names.append(name)
            return read(folder, name, entry)

        monkeypatch.setattr(checksummed_folder, "_read_file", count)


def load_all(store: PretrainedStore, **fields: Any) -> list[LoadedVersion]:
    found: list[LoadedVersion] = []
    for version in range(1, NUM_VERSIONS + 1):
        settings = store.settings(version, **fields)
        found.append(load_version(settings, version, None, ThreadPoolExecutor(1), tuple(found)))
    return found


def base_tensors(loaded: LoadedVersion) -> dict[str, torch.Tensor]:
    state = loaded.bundle.model.state_dict()
    return {name: one for name, one in state.items() if not adapters.is_added(name)}


def test_another_adapter_reads_its_own_file_and_shares_the_base(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = CountedReads(monkeypatch)
    first = load_version(store.settings(1), 1, None, ThreadPoolExecutor(1))
    assert "model.safetensors" in reads.names
    kept = {name: one.clone() for name, one in base_tensors(first).items()}
    reads.names.clear()
    second = load_version(store.settings(2), 2, None, ThreadPoolExecutor(1), [first])
    assert FILE in reads.names
    assert "model.safetensors" not in reads.names
    for name, tensor in base_tensors(second).items():
        assert tensor.data_ptr() == base_tensors(first)[name].data_ptr()
        # Nothing is added to the base: W + BA - BA is not W.
        assert tensor.equal(kept[name])
    assert first.engine is not None
    assert second.engine is not None
    assert second.engine.loop is first.engine.loop
    own = [
        name
        for name, one in second.bundle.model.state_dict().items()
        if adapters.is_added(name) and not one.equal(first.bundle.model.state_dict()[name])
    ]
    assert own
    second.bundle.check_golden()
    first.bundle.check_golden()


def test_versions_with_another_base_or_other_layers_are_loaded_alone(
    store: PretrainedStore, tmp_path: Path
) -> None:
    first = load_version(store.settings(1), 1, None, ThreadPoolExecutor(1))
    for other, version in ((store, OTHER), (PretrainedStore(tmp_path, num_versions=1), 1)):
        found = load_version(other.settings(version), version, None, ThreadPoolExecutor(1), [first])
        assert found.bundle.facts.get(BASE) != first.bundle.facts[BASE]
        assert found.engine is not None
        assert first.engine is not None
        assert found.engine.loop is not first.engine.loop


def test_answers_of_eight_adapters_share_passes_and_are_their_offline_texts(
    store: PretrainedStore, offline: dict[int, list[str]]
) -> None:
    loaded = load_all(store, num_slots=3)

    async def read(one: LoadedVersion, talk: Any) -> str:
        assert one.engine is not None
        codes = one.engine.prompts.encode_messages(talk[:1], "messages")
        stream = one.engine.submit(codes, OPTIONS, is_talk=True)
        text, piece = "", await stream.next_piece()
        while not piece.is_last:
            text, piece = text + piece.text, await stream.next_piece()
        return text + piece.text

    async def read_all() -> list[list[str]]:
        versions = [asyncio.gather(*(read(one, talk) for talk in TALKS)) for one in loaded]
        return [list(texts) for texts in await asyncio.gather(*versions)]

    found = asyncio.run(read_all())
    assert found == [offline[version] for version in range(1, NUM_VERSIONS + 1)]
    assert len({tuple(texts) for texts in found}) == NUM_VERSIONS
    engine = loaded[0].engine
    assert engine is not None
    assert max(engine.pass_sizes) == 3


@pytest.fixture
def server(store: PretrainedStore) -> Iterator[LanguageServer]:
    with LanguageServer(store.settings(1, auth="none", num_adapters=3)).running() as made:
        yield made


def ask(server: LanguageServer, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": QUESTION, "max_tokens": 14, "temperature": 0, **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def test_a_request_names_the_version_that_answers(
    server: LanguageServer, store: PretrainedStore, offline: dict[int, list[str]]
) -> None:
    service = server.replica.service
    for version in (2, 3, 4, 1, 2, 5, 8, 2):
        answer = ask(server, f"{NAME}:{version}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == offline[version][1]
        assert answer.json()["model"] == f"{NAME}:{version}"
        assert answer.headers["x-raydc-model-version"] == str(version)
        assert len(service.adapters.loaded) <= 3
    # Those that were used last stay.
    assert {one.number for one in service.adapters.loaded} == {2, 5, 8}
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert {f"{NAME}:{version}" for version in (1, 2, 5, 8)} < {one["id"] for one in listed}
    # The name alone means the stable version, and a promote shares the base as well.
    assert ask(server, NAME).json()["model"] == f"{NAME}:1"
    loop = service.loaded[1].engine.loop  # type: ignore[union-attr]
    traffic = Traffic(version=4, canary=TrafficShare(version=6, fraction=0.0))
    moved = store.settings(4, auth="none", num_adapters=3)
    server.configure(moved.model_copy(update={"traffic": traffic}))
    assert service.loaded[4].engine.loop is service.loaded[6].engine.loop is loop  # type: ignore[union-attr]
    assert ask(server, NAME).json()["choices"][0]["message"]["content"] == offline[4][1]
    assert {one.number for one in service.adapters.loaded} == {2, 5, 8}


def test_versions_that_cannot_be_loaded_are_named_and_not_tried_again(
    server: LanguageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, message in (
        (BAD, "golden"),
        (OTHER, "has no adapters of the base of version 1"),
        (99, "no model"),
    ):
        answer = ask(server, f"{NAME}:{version}")
        assert answer.status_code == 404
        assert message in answer.json()["error"]["message"]
        assert answer.json()["error"]["code"] == "model_not_found"
        assert ask(server, NAME).status_code == 200
    reads = CountedReads(monkeypatch)
    for version in (BAD, OTHER):
        assert ask(server, f"{NAME}:{version}").status_code == 404
    assert reads.names == []
    assert not server.replica.service.adapters.loaded


def test_a_name_that_a_request_may_give_is_there_before_it_is_loaded(
    server: LanguageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = server.replica.service
    for version, status in ((2, 200), (8, 200), (BAD, 200), (OTHER, 404), (99, 404), (1, 200)):
        answer = httpx.get(f"{server.url}/v1/models/{NAME}:{version}")
        assert answer.status_code == status, version
        assert status == 404 or answer.json()["id"] == f"{NAME}:{version}"
    assert service.adapters.loaded == []
    # What was refused when it was loaded is refused here.
    assert ask(server, f"{NAME}:{BAD}").status_code == 404
    answer = httpx.get(f"{server.url}/v1/models/{NAME}:{BAD}")
    assert (answer.status_code, "golden" in answer.json()["error"]["message"]) == (404, True)
    assert httpx.get(f"{server.url}/v1/models/other:2").status_code == 404


def test_without_the_field_only_versions_of_the_traffic_answer(store: PretrainedStore) -> None:
    with LanguageServer(store.settings(1, auth="none")).running() as server:
        assert ask(server, f"{NAME}:2").status_code == 404
        assert ask(server, f"{NAME}:1").status_code == 200


def test_a_bundle_with_adapters_needs_no_other_one(store: PretrainedStore) -> None:
    folder = store.registry.folder(NAME, 1)
    _, files = checksummed_folder.read_checksummed(folder)
    assert len(files[FILE]) < len(files["model.safetensors"])
    digests = {
        json.loads(checksummed_folder.read_one(store.registry.folder(NAME, one), "facts.json")[1])[
            BASE
        ]
        for one in range(1, NUM_VERSIONS + 1)
    }
    assert len(digests) == 1
