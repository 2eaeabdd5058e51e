"""Every wrong request gets its 4xx and a sentence, and so does the next one."""

from __future__ import annotations

import asyncio
from typing import Any

import bad_requests
import pytest
import small_models
from bad_requests import Bad
from test_service import Store, body, request

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


def test_there_are_many_and_each_has_its_own_fault() -> None:
    faults = [bad.fault for bad in bad_requests.ALL]
    assert len(faults) >= 200
    assert len(set(faults)) == len(faults)
    sent = {
        (bad.model, bad.method, bad.path, bad.body, str(bad.headers)) for bad in bad_requests.ALL
    }
    assert len(sent) == len(faults)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("bad", bad_requests.ALL, ids=[bad.fault for bad in bad_requests.ALL])
def test_a_wrong_request_is_refused_with_a_sentence(endpoints: dict[str, Routes], bad: Bad) -> None:
    path, _, query = bad.path.partition("?")
    asked = request(bad.method, path, bad.body, bad.headers)
    asked.scope["query_string"] = query.encode()
    response: Any = asyncio.run(endpoints[bad.model].respond(asked))
    assert bad.is_refused_by(response.status_code), body(response)
    assert set(body(response)) == {"error", "request_id"}
    assert 5 < len(body(response)["error"]) < 700
    assert len(response.body) < 2000


def test_a_right_request_is_answered_after_all_of_them(endpoints: dict[str, Routes]) -> None:
    for model, routes in endpoints.items():
        asked = request(
            "POST", "/predict", bad_requests.good(model), {"content-type": "application/json"}
        )
        assert asyncio.run(routes.respond(asked)).status_code == 200
