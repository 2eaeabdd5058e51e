"""The OpenAPI document of a language model describes what its endpoint sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from language_models import NAME
from served_language import LanguageServer, LanguageStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    store = LanguageStore(tmp_path_factory.mktemp("document"))
    with LanguageServer(store.settings(auth="none")).running() as made:
        yield made


def test_the_document_describes_what_is_sent(server: LanguageServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    listed = httpx.get(f"{server.url}/nowhere").json()["error"].partition("known paths: ")[2]
    for path in (one.partition(" ")[2] for one in listed.split(", ")):
        if path not in ("/", "/docs", "/openapi.json"):
            plain = path.replace("{model}", NAME).replace("{version}", "1")
            assert plain.replace("[/versions/1]", "").replace(f"[/{NAME}]", "") in document["paths"]
            assert plain.replace("[", "").replace("]", "") in document["paths"]

    def validate(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    operation = document["paths"]["/v1/completions"]["post"]
    (example,) = operation["requestBody"]["content"]["application/json"]["examples"].values()
    validate("CompletionRequest", example["value"])
    answer = httpx.post(f"{server.url}/v1/completions", json=example["value"])
    validate("Completion", answer.json())
    validate("Models", httpx.get(f"{server.url}/v1/models").json())
    validate("Model", httpx.get(f"{server.url}/v1/models/{NAME}").json())
    validate("OpenAIError", httpx.get(f"{server.url}/v1/nowhere").json())
    validate("Metadata", httpx.get(f"{server.url}/v2/models/{NAME}").json())
    assert set(operation["responses"]) >= {"200", "400", "401", "404", "408", "429", "503"}
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
