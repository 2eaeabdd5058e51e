"""Bundles of fine-tuned encoders: they hold everything, and a text answers as it does alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import safetensors.torch
import torch
from encoder_folders import change_config, make_texts, write_encoder, write_texts
from training import training_spec

from raydc import bundle, checksummed_folder, models, train
from raydc import spec as specs
from raydc.bundle import Bundle
from raydc.checkpoint import fork
from raydc.data import prepared
from raydc.errors import RunError
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.registry import Registry
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.storage import Storage


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A bundle that a training wrote, whose folder of pretrained weights is gone."""
    place = tmp_path_factory.mktemp("trained")
    folder = write_encoder(place / "encoder")
    data = prepared.load(write_texts(Storage(str(place / "data"))))
    text = {"max_tokens": 30, "tokenizer": str(folder / "tokenizer.json")}
    spec = training_spec(
        str(place / "store"),
        data={"features": {"columns": {"body": "text"}, "text": text}},
        model={"name": "huggingface", "path": str(folder)},
        train={"epochs": 1},
    )
    run = Storage(str(place / "run"))
    run.write_json("resolved.yaml", specs.to_dict(spec))
    train.run(spec, data, run, lambda line: None)
    shutil.rmtree(folder)
    return run / "model"


@pytest.fixture
def loaded(written: Storage) -> Bundle:
    return bundle.load(written)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [{"body": text or ""} for text in make_texts(30, 7)[0]]


def test_a_bundle_holds_config_tokenizer_and_weights_and_no_code(written: Storage) -> None:
    _, files = checksummed_folder.read_checksummed(written)
    assert {Path(name).suffix for name in files} == {".safetensors", ".json", ".yaml", ".md"}
    [column] = json.loads(files["features.json"])["columns"]
    assert json.loads(column["tokenizer"])["model"]["type"] == "WordLevel"
    assert b"hidden_size: 16" in files["spec.yaml"]
    weights = safetensors.torch.load(files["model.safetensors"])
    assert "body.reader.base.embeddings.word_embeddings.weight" in weights
    assert {"transformers", "tokenizers"} <= json.loads(files["facts.json"])["libraries"].keys()


def test_a_replica_needs_neither_the_folder_nor_the_internet(written: Storage) -> None:
    # In a process whose first socket to another machine is an error.
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('the internet was asked')\n"
        "socket.getaddrinfo = refuse\n"
        "from raydc import bundle\n"
        "from raydc.storage import Storage\n"
        "loaded = bundle.load(Storage(sys.argv[1]))\n"
        "loaded.check_golden()\n"
        "print(loaded.predict_rows([{'body': 'free prize'}])[0]['label'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, written.uri], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("ham", "spam")


def test_a_text_answers_alone_as_among_others(loaded: Bundle, rows: list[dict[str, Any]]) -> None:
    x = loaded.features.apply(loaded.features.from_json_rows(rows))
    together = loaded.forward(x)
    alone = np.concatenate([loaded.forward(x[row : row + 1]) for row in range(len(rows))])
    backwards = loaded.forward(x[np.arange(len(rows))[::-1]])[::-1]
    assert together.tobytes() == alone.tobytes() == np.ascontiguousarray(backwards).tobytes()


@pytest.fixture
def routes(written: Storage, tmp_path: Path) -> tuple[Routes, Bundle]:
    storage = Storage(str(tmp_path / "store"))
    Registry(storage).register("small", written, {})
    service = Service()
    asyncio.run(service.configure(in_process.settings_of(storage)))
    assert service.current is not None
    return Routes(service, "0.0"), service.current.bundle


def test_an_endpoint_answers_texts_as_offline(
    routes: tuple[Routes, Bundle], rows: list[dict[str, Any]]
) -> None:
    of_endpoint, offline = routes
    expected = offline.predict_rows(rows)
    answer = asyncio.run(of_endpoint.respond(in_process.post("/predict", {"rows": rows})))
    assert answer.status_code == 200
    assert in_process.body(answer)["predictions"] == expected
    for row, one in zip(rows[:6], expected, strict=False):
        answer = asyncio.run(of_endpoint.respond(in_process.post("/predict", {"rows": [row]})))
        assert in_process.body(answer)["predictions"] == [one]


def test_a_fork_keeps_the_network_and_not_the_folder(written: Storage, tmp_path: Path) -> None:
    place = written.local_path.parent.parent
    data = prepared.load(Storage(str(place / "data")))
    features = {"columns": {"body": "text"}, "text": {"max_tokens": 30}}

    def spec_of(folder: Path) -> Any:
        model = {"name": "huggingface", "path": str(folder)}
        return training_spec("store", data={"features": features}, model=model)

    # Other weights in another place: those of the run replace them.
    other = write_encoder(tmp_path / "other", seed=9)
    found = fork.load(spec_of(other), data, Storage(str(place)), "run")
    assert found.weights.keys() == bundle.load(written).model.state_dict().keys()
    change_config(other, hidden_act="relu")
    with pytest.raises(RunError, match=r"model\.content\.config\.hidden_act"):
        fork.load(spec_of(other), data, Storage(str(place)), "run")


def test_a_bundle_with_adapters_answers_without_the_folder(
    written: Storage, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    folder = write_encoder(tmp_path / "encoder", seed=5)
    spec = training_spec(
        "store",
        data={"features": {"columns": {"body": "text"}, "text": {"max_tokens": 30}}},
        model={"name": "huggingface", "path": str(folder), "lora": {"rank": 2}},
    )
    features = bundle.load(written).features
    network = models.build(spec.model, features.signature, 0)
    for name, one in network.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(one, std=0.1)
    weights = network.eval().state_dict()
    shutil.rmtree(folder)
    bundle.write(Storage(str(tmp_path / "model")), spec, features, weights, rows[:3], {})
    loaded = bundle.load(Storage(str(tmp_path / "model")))
    loaded.check_golden()
    assert "peft" in loaded.facts["libraries"]
    x = features.apply(features.from_json_rows(rows))
    with torch.no_grad():
        expected = network(network_inputs(to_tensors(x))).numpy()
    np.testing.assert_allclose(loaded.forward(x), expected, rtol=1e-4, atol=1e-5)
    # Adapters change the answers, and their layers are as they were.
    for name, one in network.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.zeros_(one)
    with torch.no_grad():
        assert not np.allclose(network(network_inputs(to_tensors(x))).numpy(), expected, atol=1e-3)


def test_a_training_goes_on_from_a_registered_version(written: Storage, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", seed=5)
    spec = training_spec(
        "store",
        data={"features": {"columns": {"body": "text"}, "text": {"max_tokens": 30}}},
        model={"name": "huggingface", "path": str(folder), "weights": str(written.local_path)},
    )
    loaded = bundle.load(written)
    network = models.build(spec.model, loaded.features.signature, 0)
    before = loaded.model.state_dict()
    assert all(torch.equal(before[name], one) for name, one in network.state_dict().items())
