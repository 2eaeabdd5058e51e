"""The OpenAPI document describes what the endpoint does; schemathesis looks for differences."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
import schemathesis.engine
import small_models
from in_process import Store, body, post, request
from window_rows import window_features

from raydc.features import Features, Numeric, Signature
from raydc.serve.http import front, page
from raydc.serve.http.request import Request
from raydc.serve.http.routes import Routes
from raydc.serve.protocol import examples, openapi, openapi_schemas, predict_body
from raydc.serve.protocol.interface import Interface
from raydc.serve.replica.service import Service


def complete_features() -> Features:
    """Features of a table, of whose age and job no training row lacked a value."""
    return dataclasses.replace(
        small_models.table_features(), missing_values=("", "?"), always_given=("age", "job")
    )


KINDS = {
    "tables": small_models.table_features,
    "pictures": small_models.picture_features,
    "prices": small_models.price_features,
    "labels": small_models.label_features,
    "complete": complete_features,
    "texts": small_models.text_features,
    "posts": small_models.post_features,
    "windows": window_features,
    "series": small_models.series_features,
}
# Deterministic. The phase that looks for state is off: the endpoint has none.
CONFIG = """
seed = 1
continue-on-failure = true
[generation]
database = "none"
deterministic = true
max-examples = 10
[phases.stateful]
enabled = false
[checks.negative_data_rejection]
expected-statuses = ["4xx"]
"""


class App:
    """An endpoint as an ASGI application, without a server."""

    def __init__(self, store: Store) -> None:
        self.service = Service()
        asyncio.run(self.service.configure(store.settings(max_request_rows=20)))
        self.routes = Routes(self.service, "0.0")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            response = await self.routes.respond(Request(scope, receive))
            await response(scope, receive, send)

    def ask(self, sent: Request) -> Any:
        return asyncio.run(self.routes.respond(sent))

    @property
    def interface(self) -> Interface:
        assert self.service.current is not None
        return self.service.current.interface


@pytest.fixture(scope="module", params=list(KINDS))
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> App:
    return App(Store(tmp_path_factory.mktemp(request.param), KINDS[request.param]()))


def is_expected(check: str, case: schemathesis.Case, answer: Any, interface: Interface) -> bool:
    """Whether a difference is one that a document cannot express.

    It cannot say that data has as many values as its shape, that a text is an image, a CSV file or
    a tensor, or that float32 does not hold all numbers.
    """
    if case.media_type in (predict_body.CSV, predict_body.RAW, predict_body.MULTIPART):
        return check in ("positive_data_acceptance", "negative_data_rejection")
    inexact = (
        "infer" in case.operation.label or bool(interface.image_columns) or " large" in answer.text
    )
    return check == "positive_data_acceptance" and inexact


def test_schemathesis_finds_no_difference_to_the_document(app: App) -> None:
    config = schemathesis.Config.from_str(CONFIG)
    # The excluded paths have the same handlers.
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config).exclude(
        path_regex="/invocations|/versions/"
    )
    done: Counter[str] = Counter()
    found: list[str] = []
    for event in schemathesis.engine.from_schema(schema).execute():
        assert not isinstance(
            event, schemathesis.engine.events.NonFatalError | schemathesis.engine.events.FatalError
        )
        if not isinstance(event, schemathesis.engine.events.ScenarioFinished):
            continue
        for name, checks in event.recorder.checks.items():
            case = event.recorder.cases[name].value
            done[case.operation.label] += 1
            for check in checks:
                answer = event.recorder.interactions[name].response
                if check.failure_info is not None and not is_expected(
                    check.name, case, answer, app.interface
                ):
                    sent = f"{case.operation.label} {case.media_type} {str(case.body)[:500]}"
                    result = answer and f"{answer.status_code} {answer.text}"
                    found.append(f"{check.name}: {sent} -> {result}")
    assert found == []
    assert done["POST /predict"] > 100
    assert done["POST /v2/models/small/infer"] > 100
    assert sum(app.routes.answered.values()) >= sum(done.values())
    assert not [status for status in app.routes.answered if status >= 500]


def test_document_is_valid_openapi_with_valid_schemas(app: App) -> None:
    document = body(app.ask(request("GET", "/openapi.json")))
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(document)
    for target in set(re.findall(r'"\$ref": "#/components/(\w+/\w+)"', text)):
        kind, name = target.split("/")
        assert name in document["components"][kind]
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(set(names)) == len(names)


def validate(document: Any, name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_document_examples_are_answered_as_described(app: App) -> None:
    document = body(app.ask(request("GET", "/openapi.json")))
    num_sent = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            given = [
                (kind, media["example"]) for kind, media in content.items() if "example" in media
            ]
            given += [
                (k, one["value"])
                for k, media in content.items()
                for one in media.get("examples", {}).values()
            ]
            for kind, value in given:
                sent = value if isinstance(value, str) else json.dumps(value)
                answer = app.ask(
                    request(method.upper(), path, sent.encode(), {"content-type": kind})
                )
                assert answer.status_code == 200, body(answer)
                schema = operation["responses"]["200"]["content"][predict_body.JSON]["schema"][
                    "$ref"
                ]
                validate(document, schema.rpartition("/")[2], body(answer))
                num_sent += 1
    assert num_sent >= 4
    if app.interface.image_column:
        image = examples.example_image(app.interface)
        assert (
            app.ask(request("POST", "/predict", image, {"content-type": "image/png"})).status_code
            == 200
        )


def test_document_has_columns_and_classes_of_the_model() -> None:
    interface = Interface(small_models.table_features())
    schemas = openapi_schemas.build_schemas(interface, small_settings())
    assert set(schemas["Row"]["properties"]) == {"age", "hours", "job", "answer"}
    assert schemas["Row"]["properties"]["job"]["examples"] == ["cook", "nurse"]
    assert schemas["Prediction"]["properties"]["label"] == {"enum": ["no", "yes", "perhaps"]}
    assert examples.example_row(interface) == {"age": 40.0, "hours": 38.0, "job": "cook"}
    price = openapi_schemas.build_schemas(
        Interface(small_models.price_features()), small_settings()
    )
    assert price["Prediction"]["required"] == ["value"]


def test_document_requires_what_training_always_had() -> None:
    interface = Interface(complete_features())
    row = openapi_schemas.build_schemas(interface, small_settings())["Row"]
    fields = openapi_schemas.form_schema(interface)
    assert row["required"] == fields["required"] == ["age", "job"]
    for schema, good in ((row, {"age": 1, "job": "cook"}), (fields, {"age": "1", "job": "cook"})):
        is_valid = jsonschema.Draft202012Validator(schema).is_valid
        assert is_valid(good)
        assert is_valid({**good, "hours": "5"})
        for wrong in ({"age": good["age"]}, {**good, "job": ""}, {**good, "job": "?"}):
            assert not is_valid(wrong)
        assert not is_valid({**good, "age": ""})
    assert not jsonschema.Draft202012Validator(row).is_valid({"age": 1, "job": None})
    assert jsonschema.Draft202012Validator(row).is_valid({"age": 1, "job": "cook", "hours": None})


def test_request_without_a_required_column_is_422(tmp_path: Path) -> None:
    complete = App(Store(tmp_path, complete_features()))
    answer = complete.ask(post("/predict", [{"age": 1, "job": "cook"}, {"hours": 3}]))
    assert answer.status_code == 422
    assert body(answer)["error"] == (
        "rows[1] has no value for 'age', 'job'. Give one for each: no training row lacked it. "
        "Null and an empty text are not values."
    )


def test_document_has_columns_of_any_name() -> None:
    """pydantic drops a field `_id` and refuses one named `model_config`."""
    column = Numeric(mean=2.0, shift=1.0, scale=4.0)
    names = ("_id", "model_config", "schema", "class", "a b", "$ref")
    signature = Signature("vector", (len(names),), "float32", (), (), "regression")
    features = Features(signature, "price", dict.fromkeys(names, column))
    schemas = openapi_schemas.build_schemas(Interface(features), small_settings())
    assert set(schemas["Row"]["properties"]) == {*names, "price"}
    jsonschema.Draft202012Validator(schemas["Row"]).validate({"_id": 1, "model_config": "2.5"})


def test_document_has_every_path_of_the_endpoint(app: App) -> None:
    paths = set(body(app.ask(request("GET", "/openapi.json")))["paths"])
    listed = (
        body(app.ask(request("GET", "/nowhere")))["error"].partition("known paths: ")[2].split(", ")
    )
    for path in (one.partition(" ")[2] for one in listed):
        if path not in ("/", "/docs", "/openapi.json"):
            plain = path.replace("{model}", "small").replace("{version}", "1")
            assert plain.replace("[/versions/1]", "") in paths
            assert plain.replace("[", "").replace("]", "") in paths


def test_document_describes_every_error_status(app: App) -> None:
    document = body(app.ask(request("GET", "/openapi.json")))
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                assert status == "200" or response["$ref"] == f"#/components/responses/{status}"
    error = body(app.ask(post("/predict", [])))
    validate(document, "Error", error)


def test_docs_redirects_to_the_document(app: App) -> None:
    answer = app.ask(request("GET", "/docs"))
    assert (answer.status_code, answer.headers["location"]) == (307, "openapi.json")


def test_document_with_auth_names_paths_that_need_a_token(app: App) -> None:
    assert "security" not in body(app.ask(request("GET", "/openapi.json")))
    document = openapi.build_document(
        "m", "1", Interface(small_models.table_features()), small_settings(), "0"
    )
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    open_paths = {
        path for path, one in document["paths"].items() if one.get("get", {}).get("security") == []
    }
    assert open_paths == {f"/{path}" for path in front.OPEN_PATHS - page.NAMES}


def small_settings() -> Any:
    class Settings:
        max_request_rows, auth = 5, "token"

    return Settings


@pytest.mark.parametrize("prefix", ["", "/below", "/proxy/below"])
def test_server_of_the_document_is_where_the_client_found_it(app: App, prefix: str) -> None:
    # A proxy may have taken "/proxy" away before the replica saw the path.
    root_path = prefix.removeprefix("/proxy")
    sent = request("GET", f"{root_path}/openapi.json", root_path=root_path)
    (server,) = body(app.ask(sent))["servers"]
    found_at = f"https://host{prefix}/openapi.json"
    # Clients put the server's URL before each path.
    asked = urllib.parse.urljoin(found_at, server["url"] + "/predict")
    assert asked == f"https://host{prefix}/predict"
