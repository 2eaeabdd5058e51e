"""Every bad request gets its 4xx and a sentence, and the next good one is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import bad_requests
import pytest
import small_models
from bad_requests import Bad
from in_process import Store, body, request

from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Routes]:
    made: dict[str, Routes] = {}
    for model, features in (
        ("tables", small_models.table_features()),
        ("pictures", small_models.picture_features()),
    ):
        service = Service()
        asyncio.run(
            service.configure(
                Store(tmp_path_factory.mktemp(model), features).settings(**bad_requests.LIMITS)
            )
        )
        made[model] = Routes(service, "0.0")
    return made


def test_bad_requests_are_many_and_all_different() -> None:
    faults = [bad.fault for bad in bad_requests.ALL]
    assert len(faults) >= 200
    assert len(set(faults)) == len(faults)
    sent = {
        (bad.model, bad.method, bad.path, bad.body, str(bad.headers)) for bad in bad_requests.ALL
    }
    assert len(sent) == len(faults)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("bad", bad_requests.ALL, ids=[bad.fault for bad in bad_requests.ALL])
def test_bad_request_is_refused_with_status_and_sentence(
    endpoints: dict[str, Routes], bad: Bad
) -> None:
    path, _, query = bad.path.partition("?")
    sent = request(bad.method, path, bad.body, bad.headers)
    sent.scope["query_string"] = query.encode()
    response: Any = asyncio.run(endpoints[bad.model].respond(sent))
    assert bad.is_refused_by(response.status_code), body(response)
    assert set(body(response)) == {"error", "request_id"}
    said = body(response)["error"]
    # Paths of OpenAI's format have errors in it.
    said = said["message"] if path.startswith("/v1/") else said
    assert 5 < len(said) < 700
    assert len(response.body) < 2000


def test_good_request_after_all_bad_ones_is_answered(endpoints: dict[str, Routes]) -> None:
    for model, routes in endpoints.items():
        sent = request(
            "POST", "/predict", bad_requests.good(model), {"content-type": "application/json"}
        )
        assert asyncio.run(routes.respond(sent)).status_code == 200
