"""Answers, refusals and limits of an endpoint, without Ray."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

import numpy as np
import PIL.Image
import pytest
import small_models
from in_process import Store, body, fake_forward, post, request, run, tensors

from raydc.engine.haproxy_rules import TIMEOUT_HEADER
from raydc.features import images
from raydc.serve.http import routes as routes_module
from raydc.serve.http.request import Request
from raydc.serve.http.routes import Routes
from raydc.serve.replica.alias_reader import AliasReader
from raydc.serve.replica.service import Service


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("tables"), small_models.table_features())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("pictures"), small_models.picture_features())


# Answers -----------------------------------------------------------------------------------------


def test_predict_equals_offline_predictions(tables: Store) -> None:
    rows = small_models.table_rows(32)
    offline = tables.bundle(1).predict_rows(rows)

    async def scenario(_: Service, routes: Routes) -> None:
        answer = body(await routes.respond(post("/predict", {"rows": rows})))
        assert answer == {"predictions": offline, "model": "small", "version": "1"}
        for row, expected in zip(rows, offline, strict=True):
            (alone,) = body(await routes.respond(post("/predict", [row])))["predictions"]
            assert alone["scores"] == pytest.approx(expected["scores"], abs=1e-6)

    run(tables.settings(), scenario)


def test_infer_equals_predict(tables: Store) -> None:
    rows = small_models.table_rows(5)

    async def scenario(_: Service, routes: Routes) -> None:
        answer = body(
            await routes.respond(post("/v2/models/small/versions/1/infer", tensors(rows)))
        )
        predictions = tables.bundle(1).predict_rows(rows)
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("small", "1", "r1")
        scores, labels = answer["outputs"]
        expected = np.array([list(p["scores"].values()) for p in predictions], dtype=np.float32)
        np.testing.assert_array_equal(
            np.array(scores["data"], dtype=np.float32).reshape(scores["shape"]), expected
        )
        assert labels["data"] == [prediction["label"] for prediction in predictions]

    run(tables.settings(), scenario)


def test_predict_image_as_file_base64_or_tensor_is_equal(pictures: Store) -> None:
    (row,) = small_models.picture_rows(1)
    (pixels,) = small_models.pictures(1)
    offline = pictures.bundle(1).predict_rows([row])

    async def scenario(_: Service, routes: Routes) -> None:
        import base64

        file = base64.b64decode(row["image"])
        for sent in (
            request("POST", "/predict", file, {"content-type": "image/png"}),
            post("/predict", [row]),
            post("/predict", [{"image": pixels[:, :, 0].tolist()}]),
        ):
            assert body(await routes.respond(sent))["predictions"] == offline
        data = pixels.reshape(-1).tolist()
        for shape in ([1, 8, 8], [1, 1, 8, 8], [1, 8, 8, 1]):
            tensor = {"name": "image", "shape": shape, "datatype": "UINT8", "data": data}
            answer = body(
                await routes.respond(post("/v2/models/small/infer", {"inputs": [tensor]}))
            )
            assert answer["outputs"][1]["data"] == [offline[0]["label"]]

    run(pictures.settings(), scenario)


def test_get_health_and_metadata_name_the_version(tables: Store) -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        async def get(path: str) -> Any:
            response = await routes.respond(request("GET", path))
            assert response.status_code == 200
            assert response.headers["x-raydc-model-version"] == "2"
            return body(response)

        assert await get("/v2") == {
            "name": "raydc",
            "version": "0.0",
            "extensions": ["binary_tensor_data"],
        }
        assert await get("/v2/health/live") == {"live": True}
        assert await get("/v2/health/ready") == {"ready": True}
        assert await get("/healthz") == {"status": "ok", "model": "small", "version": "2"}
        assert await get("/ping") == await get("/healthz")
        assert await get("/v2/models/small/ready") == {"name": "small", "ready": True}
        metadata = await get("/v2/models/small/versions/2")
        assert metadata == await get("/v2/models/small")
        assert metadata["versions"] == ["2"]
        assert metadata["parameters"]["digest"] == f"sha256:{tables.bundle(2).digest}"

    run(tables.settings(2), scenario)


def test_metadata_show_the_version_of_the_alias_beside_the_one_that_answers(
    tables: Store,
) -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        async def parameters() -> Any:
            response = await routes.respond(request("GET", "/v2/models/small"))
            assert body(response)["versions"] == ["2"]
            return body(response)["parameters"]

        assert "alias_version" not in await parameters(), "the alias has not been set yet"
        tables.registry.set_alias("small", "production", 1)
        # Forgets what was read just now.
        routes._aliases = AliasReader()
        given = await parameters()
        assert (given["alias"], given["alias_version"]) == ("production", "1")

    run(tables.settings(2), scenario)


@pytest.mark.parametrize(("limit_s", "shown"), [(1.5, "1500"), (1e9, "86400000")])
def test_answer_tells_haproxy_the_time_limit(tables: Store, limit_s: float, shown: str) -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        response = await routes.respond(request("GET", "/healthz"))
        assert response.headers[TIMEOUT_HEADER] == shown

    run(tables.settings(request_timeout_s=limit_s), scenario)


def test_head_is_allowed_where_get_is(tables: Store) -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        for path in ("/v2", "/healthz", "/openapi.json", "/v2/models/small"):
            assert (await routes.respond(request("HEAD", path))).status_code == 200
            refused = await routes.respond(request("PUT", path))
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        refused = await routes.respond(request("HEAD", "/predict"))
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")

    run(tables.settings(), scenario)


def test_path_below_a_prefix_is_found(tables: Store) -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        sent = request("GET", "/small/healthz", root_path="/small")
        assert (await routes.respond(sent)).status_code == 200

    run(tables.settings(), scenario)


# Refusals ----------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
REFUSALS: list[tuple[Request, int, str]] = [
    (request("POST", "/predict", b"{", JSON), 400, "the body is not JSON"),
    (request("POST", "/predict", b"\xff", JSON), 400, "the body is not JSON"),
    (post("/predict", []), 400, "rows is empty"),
    (post("/predict", {"row": {}}), 400, "got the keys 'row'"),
    (
        post("/predict", [{"age": "old", "hours": 1, "job": "cook"}]),
        422,
        "rows[0].age: 'old' is not a number",
    ),
    (post("/predict", [{"agee": 1}]), 422, "Did you mean age?"),
    (post("/v2/models/small/infer", {"inputs": []}), 400, "inputs must be a list"),
    (
        request("POST", "/predict", b"x", {"content-type": "text/plain"}),
        415,
        "content-type is 'text/plain'",
    ),
    (request("POST", "/predict", b"x", {"content-type": "image/png"}), 415, "takes no images"),
    (
        request("POST", "/v2/models/small/infer", b"x", {"content-type": "image/png"}),
        415,
        "send application/json",
    ),
    (request("GET", "/predict"), 405, "use POST"),
    (request("DELETE", "/healthz"), 405, "use GET"),
    (request("GET", "/v2/models/small/infer"), 405, "use POST"),
    (request("GET", "/nowhere"), 404, "POST /predict"),
    (request("POST", "/"), 404, "POST /predict"),
    (request("GET", "/v2/models/large"), 404, "no model 'large'; this endpoint serves 'small'"),
    (
        request("GET", "/v2/models/small/versions/9"),
        404,
        "no version '9'; this endpoint serves '1'",
    ),
    (request("GET", "/v2/models/small/weights"), 404, "no path"),
    (request("POST", "/predict", b" " * 5000, JSON), 413, "max_request_bytes = 4096"),
    (
        request("POST", "/predict", b"", {**JSON, "content-length": "5000"}),
        413,
        "max_request_bytes = 4096",
    ),
    (
        request("POST", "/predict", b" " * 5000, JSON, chunk_bytes=100),
        413,
        "max_request_bytes = 4096",
    ),
]


@pytest.mark.parametrize(
    ("sent", "status", "message"), REFUSALS, ids=[f"{r[1]} {r[2]}" for r in REFUSALS]
)
def test_refusal_is_json_with_status_and_request_id(
    tables: Store, sent: Request, status: int, message: str
) -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        response = await routes.respond(sent)
        assert response.status_code == status
        assert message in body(response)["error"]
        assert body(response)["request_id"] == "r-7"
        assert response.headers["content-type"] == "application/json"

    run(tables.settings(max_request_bytes=4096), scenario)


def test_predict_too_many_rows_or_pixels_gives_413(tables: Store, pictures: Store) -> None:
    rows, images = small_models.table_rows(4), small_models.picture_rows(4)

    async def scenario(service: Service, routes: Routes) -> None:
        given = rows if "age" in service.current.interface.kinds else images  # type: ignore[union-attr]
        assert (await routes.respond(post("/predict", given[:3]))).status_code == 200
        response = await routes.respond(post("/predict", given))
        assert response.status_code == 413
        assert limit in body(response)["error"]

    limit = "the body has 4 rows; max_request_rows is 3"
    run(tables.settings(max_request_rows=3), scenario)
    limit = "256 pixels to decode, at most 192 are allowed"
    run(pictures.settings(max_request_pixels=3 * 64), scenario)


def test_predict_large_image_is_decoded_in_a_thread(pictures: Store) -> None:
    threads: list[str] = []

    async def scenario(_: Service, routes: Routes) -> None:
        def decode(*given: Any) -> Any:
            threads.append(threading.current_thread().name)
            return to_pixels(*given)

        to_pixels, images.to_pixels = images.to_pixels, decode
        try:
            for size in ((8, 8), (100, 100)):
                file = io.BytesIO()
                PIL.Image.new("L", size).save(file, format="PNG")
                sent = request("POST", "/predict", file.getvalue(), {"content-type": "image/png"})
                assert (await routes.respond(sent)).status_code == 200
        finally:
            images.to_pixels = to_pixels

    run(pictures.settings(), scenario)
    assert [name.partition("_")[0] for name in threads] == [
        threading.main_thread().name,
        "features",
    ]


def test_health_without_version_gives_503_and_is_live() -> None:
    async def scenario(_: Service, routes: Routes) -> None:
        for path in ("/healthz", "/v2/health/ready", "/v2/models/small"):
            response = await routes.respond(request("GET", path))
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert (await routes.respond(request("GET", "/v2/health/live"))).status_code == 200

    run(None, scenario)


def test_predict_model_fails_gives_500_without_details(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        def broken(_: Any) -> Any:
            raise RuntimeError("secret place in the code")

        fake_forward(service, broken)
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 500
        assert "secret" not in body(response)["error"]
        fake_forward(service, lambda x: np.full((len(x), 3), np.nan, dtype=np.float32))
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 500
        assert "rows[0]: the model gave a value that is not finite" in body(response)["error"]

    run(tables.settings(), scenario)


def test_predict_model_raises_timeout_error_gives_500(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        def broken(_: Any) -> Any:
            raise TimeoutError("of the model")

        fake_forward(service, broken)
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 500

    run(tables.settings(), scenario)


def test_predict_cancelled_task_stays_cancelled(tables: Store) -> None:
    """Only the end of its own deadline becomes an answer, not somebody else's cancellation."""

    async def scenario(_: Service, routes: Routes) -> None:
        slow = asyncio.Event()

        async def receive() -> Any:
            slow.set()
            await asyncio.Event().wait()

        waiting = request("POST", "/predict", headers=JSON)
        waiting.receive = receive
        task = asyncio.create_task(routes.respond(waiting))
        await slow.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(tables.settings(), scenario)


def test_predict_numbers_too_large_gives_422(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        fake_forward(service, lambda x: np.where(x[:, :3] > 1e6, np.nan, 1.0).astype(np.float32))
        for age, message in (
            (1e308, "rows[1].age: 1e+308 is too large"),
            (3e38, "rows[1]: a number is so large"),
        ):
            rows = [{"age": 1, "hours": 1}, {"age": age, "hours": 1}]
            response = await routes.respond(post("/predict", rows))
            assert (response.status_code, message in body(response)["error"]) == (422, True)

    run(tables.settings(), scenario)


@pytest.mark.parametrize(
    ("given", "expected_s"),
    [
        ("0.5", 0.475),
        ("60", 30.0),
        ("0", 30.0),
        ("-1", 30.0),
        ("soon", 30.0),
        ("nan", 30.0),
        ("inf", 30.0),
    ],
)
def test_timeout_header_shortens_and_never_lengthens(given: str, expected_s: float) -> None:
    sent = request("POST", "/predict", headers={"x-request-timeout-seconds": given})
    assert routes_module._timeout_s(sent, 30.0) == pytest.approx(expected_s)


def test_predict_too_slow_gives_408_and_next_request_works(tables: Store) -> None:
    go_on = threading.Event()

    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        forward = service.current.batcher.forward

        def held(x: Any) -> Any:
            assert go_on.wait(timeout=30)
            return forward(x)

        fake_forward(service, held)
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 408
        assert "request_timeout_s = 0.3 s" in body(response)["error"]
        go_on.set()
        assert (
            await routes.respond(post("/predict", small_models.table_rows(1)))
        ).status_code == 200

    run(tables.settings(request_timeout_s=0.3), scenario)
