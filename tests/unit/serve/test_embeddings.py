"""`/v1/embeddings`: vectors of the encoder alone and in any company, in OpenAI's format."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import torch
from encoder_folders import WORDS, text_features, write_encoder
from in_process import body, request
from served_language import LanguageServer, LanguageStore

from raydc import bundle, models
from raydc import spec as specs
from raydc.features import Ragged, Record
from raydc.models.text_encoders import PooledEncoder
from raydc.registry import Registry
from raydc.serve.control.application import build_settings
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic
from raydc.spec.sections import Serve
from raydc.storage import Storage

NAME, JSON, PATH = "spam", "application/json", "/v1/embeddings"
WIDTH = 16
TEXTS = [" ".join(WORDS[: 1 + number % 9]) for number in range(24)]


def write_version(folder: Path, pooling: str) -> Settings:
    encoder = write_encoder(folder / "encoder")
    features = text_features()
    value = {
        "name": NAME,
        "storage": str(folder / "store"),
        "data": {
            "source": "rows.csv",
            "target": "verdict",
            "features": {"columns": {"body": "text"}, "text": {"max_tokens": 30}},
        },
        "model": {"name": "huggingface", "path": str(encoder), "pooling": pooling},
    }
    spec = specs.resolve(specs.from_dict(value))
    network = models.build(spec.model, features.signature, 0)
    made, store = Storage(str(folder / "made")), Storage(spec.storage)
    golden = [{"body": text} for text in TEXTS[:3]]
    bundle.write(made, spec, features, network.state_dict(), golden, {"run": NAME})
    Registry(store).register(NAME, made, {"run": NAME})
    settings = build_settings(NAME, Serve(auth="none"), store, Traffic(version=1))
    return settings.model_copy(update={"access_log": False, "max_request_rows": 50})


@pytest.fixture(scope="module", params=["mean", "cls"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return write_version(tmp_path_factory.mktemp("encoder"), request.param)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[LanguageServer]:
    with LanguageServer(settings).running() as made:
        yield made


def ask(server: LanguageServer, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{PATH}", json={"model": NAME, **fields}, timeout=60)


def embeddings(answer: httpx.Response) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [one["index"] for one in found["data"]] == list(range(len(found["data"])))
    return [one["embedding"] for one in found["data"]]


def test_a_vector_is_pooled_as_in_training_and_has_length_one(
    server: LanguageServer, settings: Settings
) -> None:
    loaded = bundle.load(Registry(Storage(settings.storage)).folder(NAME, 1))
    reader = next(one for one in loaded.model.modules() if isinstance(one, PooledEncoder))
    answer = ask(server, input=TEXTS[3])
    (found,) = embeddings(answer)
    tokens = loaded.features.apply({"body": [TEXTS[3]]})
    assert isinstance(tokens, Record)
    codes = tokens.fields["body"]
    assert isinstance(codes, Ragged)
    with torch.no_grad():
        base: Any = reader.base
        tokens_LD = base(torch.tensor(codes.values_N.astype(np.int64))[None]).last_hidden_state[0]
    expected = tokens_LD.mean(0) if reader.pooling == "mean" else tokens_LD[0]
    np.testing.assert_allclose(found, expected / expected.norm(), atol=1e-5)
    assert abs(np.linalg.norm(found) - 1) < 1e-6
    num_tokens = len(TEXTS[3].split()) + 2
    assert answer.json()["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert answer.json()["model"] == f"{NAME}:1"


def test_bits_do_not_depend_on_the_other_texts(server: LanguageServer) -> None:
    together = embeddings(ask(server, input=TEXTS))
    for text, expected in list(zip(TEXTS, together, strict=True))[:10]:
        assert embeddings(ask(server, input=[text])) == [expected]


def test_base64_holds_the_same_numbers(server: LanguageServer) -> None:
    plain = embeddings(ask(server, input=TEXTS[:4], encoding_format="float"))
    coded = embeddings(ask(server, input=TEXTS[:4], encoding_format="base64"))
    numbers = [np.frombuffer(base64.b64decode(one), "<f4") for one in coded]  # type: ignore[arg-type]
    assert np.array(plain, np.float32).tobytes() == np.stack(numbers).tobytes()


def test_openai_client_unchanged(server: LanguageServer) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == [NAME, f"{NAME}:1"]
    # It asks for base64 by itself.
    found = client.embeddings.create(model=f"{NAME}:1", input=TEXTS[:3], dimensions=WIDTH)
    expected = np.array(embeddings(ask(server, input=TEXTS[:3])), np.float32)
    assert np.array([one.embedding for one in found.data], np.float32).tobytes() == (
        expected.tobytes()
    )
    with pytest.raises(openai.BadRequestError, match="this model has 16"):
        client.embeddings.create(model=NAME, input="a", dimensions=8)
    with pytest.raises(openai.NotFoundError, match="an encoder of texts"):
        client.completions.create(model=NAME, prompt="a")


def test_rows_are_predicted_as_before(server: LanguageServer) -> None:
    answer = httpx.post(f"{server.url}/predict", json=[{"body": TEXTS[0]}])
    assert answer.json()["predictions"][0]["label"] in ("ham", "spam")


def test_the_document_describes_what_is_sent(server: LanguageServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    operation = document["paths"][PATH]["post"]
    (example,) = operation["requestBody"]["content"][JSON]["examples"].values()
    answer = httpx.post(f"{server.url}{PATH}", json=example["value"])
    for name, value in (
        ("EmbeddingRequest", example["value"]),
        ("Embeddings", answer.json()),
        ("Models", httpx.get(f"{server.url}/v1/models").json()),
        ("OpenAIError", ask(server, input=[]).json()),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)


GOOD: dict[str, Any] = {"model": NAME, "input": "free prize"}
_TEXT = json.dumps(GOOD).encode()
FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"model": None}, 400, "model"),
    ({"model": 5}, 400, "model"),
    ({"model": "other"}, 404, "no model 'other'"),
    ({"model": f"{NAME}:2"}, 404, "no model"),
    ({"input": None}, 400, "input: it is null"),
    ({"input": []}, 400, "input: it is a list"),
    ({"input": 5}, 400, "input: it is a number"),
    ({"input": {}}, 400, "input: it is an object"),
    ({"input": [5, 6]}, 400, "input[0]: it is a number"),
    ({"input": [[5, 6]]}, 400, "input[0]: it is a list"),
    ({"input": ["a", None]}, 400, "input[1]: it is null"),
    ({"input": ["a"] * 51}, 400, "at most 50"),
    ({"input": "\ud800"}, 400, "JSON"),
    ({"encoding_format": "int8"}, 400, "encoding_format"),
    ({"encoding_format": 5}, 400, "encoding_format"),
    ({"encoding_format": []}, 400, "encoding_format"),
    ({"dimensions": 8}, 400, "dimensions: it is 8; this model has 16"),
    ({"dimensions": 0}, 400, "dimensions"),
    ({"dimensions": "16"}, 400, "dimensions"),
    ({"inputs": ["a"]}, 400, "did you mean input?"),
    ({"prompt": "a"}, 400, "prompt: there is no such field"),
]
REQUESTS: list[tuple[str, bytes, str, int, str]] = [
    ("POST", b"", JSON, 400, "not JSON"),
    ("POST", b"[]", JSON, 400, "a list, not an object"),
    ("POST", b"[" * 100_000, JSON, 400, "not JSON"),
    ("POST", _TEXT, "text/plain", 415, "content-type"),
    ("POST", b" " * 200_001, JSON, 413, "max_request_bytes"),
    ("GET", b"", JSON, 405, "use POST"),
    *(
        ("POST", json.dumps({**GOOD, **fields}).encode(), JSON, status, message)
        for fields, status, message in FIELDS
    ),
]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Routes:
    made = write_version(tmp_path_factory.mktemp("bad"), "mean")
    service = Service()
    asyncio.run(service.configure(made.model_copy(update={"max_request_bytes": 200_000})))
    return Routes(service, "0.0")


@pytest.mark.parametrize("sent", REQUESTS, ids=range(len(REQUESTS)))
def test_a_bad_request_is_refused_and_the_next_one_answered(
    routes: Routes, sent: tuple[str, bytes, str, int, str]
) -> None:
    method, content, kind, status, message = sent

    async def both() -> Any:
        bad = await routes.respond(request(method, PATH, content, {"content-type": kind}))
        good = await routes.respond(request("POST", PATH, _TEXT, {"content-type": JSON}))
        assert good.status_code == 200
        return bad

    answer = asyncio.run(both())
    assert answer.status_code == status
    error = body(answer)["error"]
    assert message in error["message"]
    assert len(error["message"]) < 700
    assert routes.service.admission.num_inside == 0


def test_a_model_of_texts_has_no_embeddings(tmp_path: Path) -> None:
    service = Service()
    asyncio.run(service.configure(LanguageStore(tmp_path).settings()))
    sent = request("POST", PATH, _TEXT, {"content-type": JSON})
    answer = asyncio.run(Routes(service, "0.0").respond(sent))
    assert answer.status_code == 404
    assert "has no embeddings; it answers at /v1/completions" in body(answer)["error"]["message"]
