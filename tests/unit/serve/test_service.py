"""The endpoint without Ray: answers, limits, refusals, and the change of a version."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import small_models
from starlette.responses import Response

from raydc import artefact, bundle
from raydc.bundle import Bundle
from raydc.errors import CheckpointError, RegistryError
from raydc.features import Features, images
from raydc.registry import Registry
from raydc.serve.http import routes as routes_module
from raydc.serve.http.request import Request
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage

Endpoint = tuple[Service, Routes]


class Store:
    """A registry with three versions: 1 and 2 are good, the golden rows of 3 do not match."""

    def __init__(self, folder: Path, features: Features) -> None:
        self.storage = Storage(str(folder / "store"))
        self.registry = Registry(self.storage)
        for seed in range(3):
            made = Storage(str(folder / f"bundle-{seed}"))
            small_models.write_bundle(made, features, seed)
            if seed == 2:
                spoil_golden(made)
            self.registry.register("small", made, {})

    def settings(self, version: int = 1, **fields: Any) -> Settings:
        section = small_models.small_spec(self.storage.uri).serve
        limits = {
            name: getattr(section, name) for name in Settings.model_fields if hasattr(section, name)
        }
        given = {
            **limits,
            "storage": self.storage.uri,
            "model": "small",
            "traffic": Traffic(version=version),
            **fields,
        }
        return Settings(**given)

    def bundle(self, version: int) -> Bundle:
        return bundle.load(self.registry.folder("small", version))


def spoil_golden(folder: Storage) -> None:
    meta, files = artefact.read_artefact(folder)
    golden = json.loads(files["golden.json"])
    golden["outputs"][0][0] += 1.0
    folder.delete()
    artefact.write_artefact(folder, {**files, "golden.json": json.dumps(golden).encode()}, meta)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("tables"), small_models.table_features())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("pictures"), small_models.picture_features())


def run(settings: Settings | None, scenario: Callable[[Service, Routes], Awaitable[Any]]) -> Any:
    """Runs a scenario against an endpoint, inside one event loop."""

    async def main() -> Any:
        service = Service()
        if settings is not None:
            await service.configure(settings)
        return await scenario(service, Routes(service, "0.0"))

    return asyncio.run(main())


def request(
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    chunk_bytes: int = 1 << 20,
    root_path: str = "",
) -> Request:
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)] or [
        b""
    ]

    async def receive() -> dict[str, Any]:
        if not chunks:
            await asyncio.Event().wait()  # The client stays.
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    raw = [
        (name.encode(), value.encode())
        for name, value in {"x-request-id": "r-7", **(headers or {})}.items()
    ]
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": raw}
    return Request(scope, receive)


def post(path: str, value: Any, **headers: str) -> Request:
    return request(
        "POST", path, json.dumps(value).encode(), {"content-type": "application/json", **headers}
    )


def body(response: Response) -> Any:
    return json.loads(bytes(response.body))


def tensors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"age": "FP32", "hours": "FP64", "job": "BYTES"}
    return {
        "id": "r1",
        "inputs": [
            {
                "name": name,
                "shape": [len(rows)],
                "datatype": datatype,
                "data": [row[name] for row in rows],
            }
            for name, datatype in kinds.items()
        ],
    }


# Answers ----------------------------------------------------------------------------------------------------


def test_served_predictions_are_the_offline_ones(tables: Store) -> None:
    rows = small_models.table_rows(32)
    offline = tables.bundle(1).predict_rows(rows)

    async def scenario(service: Service, routes: Routes) -> None:
        answer = body(await routes.respond(post("/predict", {"rows": rows})))
        assert answer == {"predictions": offline, "model": "small", "version": "1"}
        for row, expected in zip(rows, offline, strict=True):
            (alone,) = body(await routes.respond(post("/predict", [row])))["predictions"]
            assert alone["scores"] == pytest.approx(expected["scores"], abs=1e-6)

    run(tables.settings(), scenario)


def test_infer_gives_what_predict_gives(tables: Store) -> None:
    rows = small_models.table_rows(5)

    async def scenario(service: Service, routes: Routes) -> None:
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


def test_a_picture_may_come_as_file_base64_or_tensor(pictures: Store) -> None:
    (row,) = small_models.picture_rows(1)
    (pixels,) = small_models.pictures(1)
    offline = pictures.bundle(1).predict_rows([row])

    async def scenario(service: Service, routes: Routes) -> None:
        import base64

        file = base64.b64decode(row["image"])
        for asked in (
            request("POST", "/predict", file, {"content-type": "image/png"}),
            post("/predict", [row]),
            post("/predict", [{"image": pixels[:, :, 0].tolist()}]),
        ):
            assert body(await routes.respond(asked))["predictions"] == offline
        data = pixels.reshape(-1).tolist()
        for shape in ([1, 8, 8], [1, 1, 8, 8], [1, 8, 8, 1]):
            tensor = {"name": "image", "shape": shape, "datatype": "UINT8", "data": data}
            answer = body(
                await routes.respond(post("/v2/models/small/infer", {"inputs": [tensor]}))
            )
            assert answer["outputs"][1]["data"] == [offline[0]["label"]]

    run(pictures.settings(), scenario)


def test_health_and_metadata(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
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


def test_what_may_be_got_may_be_asked_for_its_head(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        for path in ("/v2", "/healthz", "/openapi.json", "/v2/models/small"):
            assert (await routes.respond(request("HEAD", path))).status_code == 200
            refused = await routes.respond(request("PUT", path))
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        refused = await routes.respond(request("HEAD", "/predict"))
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")

    run(tables.settings(), scenario)


def test_an_endpoint_below_a_path(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        asked = request("GET", "/small/healthz", root_path="/small")
        assert (await routes.respond(asked)).status_code == 200

    run(tables.settings(), scenario)


# Refusals ---------------------------------------------------------------------------------------------------

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
    ("asked", "status", "message"), REFUSALS, ids=[f"{r[1]} {r[2]}" for r in REFUSALS]
)
def test_each_refusal_is_json_with_its_code_and_the_request_id(
    tables: Store, asked: Request, status: int, message: str
) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        response = await routes.respond(asked)
        assert response.status_code == status
        assert message in body(response)["error"]
        assert body(response)["request_id"] == "r-7"
        assert response.headers["content-type"] == "application/json"

    run(tables.settings(max_request_bytes=4096), scenario)


def test_a_request_may_have_so_many_rows_and_pixels(tables: Store, pictures: Store) -> None:
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


def test_a_large_image_is_decoded_off_the_event_loop(pictures: Store) -> None:
    threads: list[str] = []

    async def scenario(service: Service, routes: Routes) -> None:
        def decode(*given: Any) -> Any:
            threads.append(threading.current_thread().name)
            return to_pixels(*given)

        to_pixels, images.to_pixels = images.to_pixels, decode
        try:
            for size in ((8, 8), (100, 100)):
                file = io.BytesIO()
                PIL.Image.new("L", size).save(file, format="PNG")
                asked = request("POST", "/predict", file.getvalue(), {"content-type": "image/png"})
                assert (await routes.respond(asked)).status_code == 200
        finally:
            images.to_pixels = to_pixels

    run(pictures.settings(), scenario)
    assert [name.partition("_")[0] for name in threads] == [
        threading.main_thread().name,
        "features",
    ]


def test_nothing_is_ready_before_a_version_has_proved_itself() -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        for path in ("/healthz", "/v2/health/ready", "/v2/models/small"):
            response = await routes.respond(request("GET", path))
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert (await routes.respond(request("GET", "/v2/health/live"))).status_code == 200

    run(None, scenario)


def fake_forward(service: Service, forward: Callable[[Any], Any]) -> None:
    assert service.current is not None
    service.current.batcher.forward = forward
    service.current.batcher.executor = service._forward_thread


def test_a_model_that_fails_gives_500_without_a_trace(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        def broken(x: Any) -> Any:
            raise RuntimeError("secret place in the code")

        fake_forward(service, broken)
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 500
        assert "secret" not in body(response)["error"]
        fake_forward(service, lambda x: np.full((len(x), 3), np.nan, dtype=np.float32))
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 500
        assert "rows[0]: the model gave a value that is no finite number" in body(response)["error"]

    run(tables.settings(), scenario)


def test_predict_model_raises_timeout_of_its_own_gives_500(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        def broken(_: Any) -> Any:
            raise TimeoutError("of the model")

        fake_forward(service, broken)
        response = await routes.respond(post("/predict", small_models.table_rows(1)))
        assert response.status_code == 500

    run(tables.settings(), scenario)


def test_predict_cancelled_task_stays_cancelled(tables: Store) -> None:
    """Only the end of its own deadline becomes an answer, not somebody else's cancellation."""

    async def scenario(service: Service, routes: Routes) -> None:
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


def test_numbers_that_are_too_large_for_the_model_are_the_clients_fault(tables: Store) -> None:
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
def test_a_client_may_shorten_its_time_and_not_lengthen_it(given: str, expected_s: float) -> None:
    asked = request("POST", "/predict", headers={"x-request-timeout-seconds": given})
    assert routes_module._timeout_s(asked, 30.0) == pytest.approx(expected_s)


def test_a_request_that_takes_too_long_gives_408_and_the_next_one_works(tables: Store) -> None:
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


@pytest.mark.parametrize(("ongoing", "queued", "answered"), [(1, 2, 3), (2, 0, 2), (2, -1, 6)])
def test_what_exceeds_places_and_queue_gives_429(
    tables: Store, ongoing: int, queued: int, answered: int
) -> None:
    go_on = threading.Event()

    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        forward = service.current.batcher.forward

        def held(x: Any) -> Any:
            assert go_on.wait(timeout=30)
            return forward(x)

        fake_forward(service, held)
        tasks = [
            asyncio.create_task(routes.respond(post("/predict", small_models.table_rows(1))))
            for _ in range(6)
        ]
        refused = 6 - answered
        while sum(task.done() for task in tasks) < refused:
            await asyncio.sleep(0.01)
        go_on.set()
        responses = await asyncio.gather(*tasks)
        codes = [response.status_code for response in responses]
        assert (codes.count(200), codes.count(429)) == (answered, refused)
        assert all(r.headers["retry-after"] == "1" for r in responses if r.status_code == 429)

    run(tables.settings(max_ongoing_requests=ongoing, max_queued_requests=queued), scenario)


@pytest.mark.parametrize("max_batch_size", [1, 4, 64])
def test_a_batch_has_at_most_max_batch_size_requests(tables: Store, max_batch_size: int) -> None:
    async def scenario(service: Service, routes: Routes) -> list[int]:
        asked = [post("/predict", small_models.table_rows(1, seed)) for seed in range(12)]
        responses = await asyncio.gather(*(routes.respond(one) for one in asked))
        assert {response.status_code for response in responses} == {200}
        assert service.current is not None
        return list(service.current.batcher.batch_sizes)

    sizes = run(tables.settings(max_batch_size=max_batch_size), scenario)
    assert sum(sizes) == 12
    assert max(sizes) == min(12, max_batch_size)


def test_a_request_with_more_rows_than_a_batch_takes_several(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> Any:
        assert service.current is not None
        sizes: list[int] = []
        forward = service.current.batcher.forward

        def seen(x: Any) -> Any:
            sizes.append(len(x))
            return forward(x)

        service.current.batcher.forward = seen
        answer = body(await routes.respond(post("/predict", small_models.table_rows(10))))
        return sizes, answer["predictions"]

    sizes, predictions = run(tables.settings(max_batch_size=4), scenario)
    assert sizes == [4, 4, 2]
    offline = tables.bundle(1).predict_rows(small_models.table_rows(10))
    assert [one["label"] for one in predictions] == [one["label"] for one in offline]


# Versions ---------------------------------------------------------------------------------------------------


def test_a_new_version_takes_over_and_keeps_the_old_for_requests_in_work(tables: Store) -> None:
    go_on = threading.Event()

    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        forward = service.current.batcher.forward

        def held(x: Any) -> Any:
            assert go_on.wait(timeout=30)
            return forward(x)

        fake_forward(service, held)
        in_work = asyncio.create_task(routes.respond(post("/predict", small_models.table_rows(1))))
        while not service.current.batcher.batch_sizes:
            await asyncio.sleep(0.001)
        await service.configure(tables.settings(2))
        go_on.set()
        assert body(await in_work)["version"] == "1"
        assert body(await in_work)["predictions"] == tables.bundle(1).predict_rows(
            small_models.table_rows(1)
        )
        assert (
            body(await routes.respond(post("/predict", small_models.table_rows(1))))["version"]
            == "2"
        )

    run(tables.settings(1), scenario)


def test_a_version_whose_golden_rows_differ_never_answers(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        await service.configure(tables.settings(3))
        assert "golden rows[0]: output 'no'" in service.state()["refused"][3]
        assert service.state()["told"]["traffic"]["version"] == 3
        assert body(await routes.respond(request("GET", "/healthz")))["version"] == "1"
        await service.configure(tables.settings(2))
        assert service.state()["refused"] == {}
        assert service.state()["settings"]["traffic"]["version"] == 2

    run(tables.settings(1), scenario)


def test_a_first_version_that_does_not_prove_itself_is_an_error(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        with pytest.raises(CheckpointError, match="golden rows"):
            await service.configure(tables.settings(3))
        with pytest.raises(RegistryError, match="no version 9"):
            await service.configure(tables.settings(9))
        assert (await routes.respond(request("GET", "/healthz"))).status_code == 503

    run(None, scenario)


def test_limits_change_without_loading_the_model_again(
    tables: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        before = service.current.bundle
        monkeypatch.setattr(bundle, "load", None)
        await service.configure(tables.settings(1, max_request_bytes=1))
        assert service.current.bundle is before
        assert (await routes.respond(post("/predict", [{}]))).status_code == 413

    run(tables.settings(1), scenario)
