"""Contenders of bench/serve.py: one network behind FastAPI, LitServe, plain Ray Serve and raydc.

Each is what a good engineer would write with that tool: inference mode, one thread, no needless
copies, no access log.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from serve_task import (
    BATCH,
    BATCH_TIMEOUT_S,
    JSON_TASKS,
    MODEL_OF_TASK,
    MODELS,
    SHAPES,
    answer,
    decode,
    forward,
    network,
    signature,
)

from raydc.features import Features, Image

CONTENDERS = (
    "fastapi",
    "litserve",
    "litserve-batching",
    "ray",
    "raydc",
    "raydc-off",
    "raydc-optimized",
    "raydc-unfilled",
)


UNFILLED = {"builder": "unfilled:network"}


def serve(contender: str, task: str, port: int, work: Path) -> None:
    """Runs until it is interrupted."""
    functions: dict[str, Callable[[], None]] = {
        "fastapi": lambda: fastapi(task, port),
        "litserve": lambda: litserve(task, port, batching=False),
        "litserve-batching": lambda: litserve(task, port, batching=True),
        "ray": lambda: ray(task, port),
        "raydc": lambda: raydc(task, port, work),
        "raydc-off": lambda: raydc(task, port, work, direct="off"),
        "raydc-optimized": lambda: raydc(task, port, work, optimize="auto"),
        "raydc-unfilled": lambda: raydc(task, port, work, fills_up=False),
    }
    functions[contender]()


def fastapi(task: str, port: int) -> None:
    import fastapi
    import pydantic
    import uvicorn
    from fastapi.concurrency import run_in_threadpool

    net, app = network(MODEL_OF_TASK[task]), fastapi.FastAPI()
    if task in JSON_TASKS:

        class Row(pydantic.BaseModel):
            image: list[list[int]]

        async def predict_row(row: Row) -> dict[str, Any]:
            return answer(forward(net, decode(task, row.image)[None])[0])

        predict_row.__annotations__["row"] = Row
        app.post("/predict")(predict_row)
    elif task == "mlp-binary":

        async def predict_bytes(request: fastapi.Request) -> dict[str, Any]:
            return answer(forward(net, decode(task, await request.body())[None])[0])

        predict_bytes.__annotations__["request"] = fastapi.Request
        app.post("/predict")(predict_bytes)
    else:

        def predict(content: bytes) -> dict[str, Any]:
            return answer(forward(net, decode(task, content)[None])[0])

        async def predict_image(request: fastapi.Request) -> dict[str, Any]:
            # Long work belongs into a thread.
            return await run_in_threadpool(predict, await request.body())

        predict_image.__annotations__["request"] = fastapi.Request
        app.post("/predict")(predict_image)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


def litserve(task: str, port: int, batching: bool) -> None:
    import litserve
    from litserve_api import Api

    model = MODEL_OF_TASK[task]
    options = {"max_batch_size": BATCH[model], "batch_timeout": BATCH_TIMEOUT_S} if batching else {}
    server = litserve.LitServer(
        Api(task, model, **options), accelerator="cpu", devices=1, timeout=60
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )


def ray(task: str, port: int) -> None:
    import ray
    from ray import serve as ray_serve
    from starlette.requests import Request

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")

    class Predictor:
        def __init__(self) -> None:
            self.net = network(MODEL_OF_TASK[task])

        async def __call__(self, request: Request) -> dict[str, Any]:
            content = (
                (await request.json())["image"] if task in JSON_TASKS else await request.body()
            )
            return answer(forward(self.net, decode(task, content)[None])[0])

    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = ray_serve.deployment(max_ongoing_requests=256)(Predictor).bind()
    ray_serve.run(application, name="bench", route_prefix="/predict")
    wait_for_interrupt(ray.shutdown)


def raydc(task: str, port: int, work: Path, fills_up: bool = True, **serve_fields: str) -> None:
    from raydc import bundle, engine, serve, spec
    from raydc.registry import Registry
    from raydc.storage import Storage

    model = MODEL_OF_TASK[task]
    storage = Storage(str(work))
    value = {
        "name": "bench",
        "storage": storage.uri,
        "data": {"source": "unused.csv", "target": "label"},
        "model": MODELS[model].model_dump()
        if fills_up
        else UNFILLED | {"arguments": {"model": model}},
        "serve": {
            "port": port,
            "auth": "none",
            "autoscaling_config": {"max_replicas": 1},
            **serve_fields,
        },
    }
    given = spec.resolve(spec.from_dict(value))
    channels, height, width = SHAPES[model]
    features = Features(signature(model), "label", {"image": Image(height, width, channels)})
    random = np.random.default_rng(1)
    pixels = [
        random.integers(0, 256, SHAPES[model], dtype=np.uint8).transpose(1, 2, 0) for _ in range(8)
    ]
    golden = [{"image": one.tolist()} for one in pixels]
    made = storage / "made"
    bundle.write(
        made,
        given,
        features,
        dict(network(model).state_dict()),
        golden,
        {"run": "bench", "seed": 0, "metrics": {}},
    )
    version = Registry(storage).register("bench", made, {"seed": 0})
    engine.connect(num_cpus=2)
    serve.deploy(given, storage, version)
    wait_for_interrupt(engine.disconnect)


def wait_for_interrupt(finish: Callable[[], None]) -> None:
    try:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        finish()
