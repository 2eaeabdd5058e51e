"""An endpoint in the test's own process, without Ray or a server: registry, requests, answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import small_models
from starlette.responses import Response

from raydc import bundle, checksummed_folder
from raydc.bundle import Bundle
from raydc.features import Features
from raydc.registry import Registry
from raydc.serve.http.request import Request
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage


def settings_of(storage: Storage, version: int = 1, **fields: Any) -> Settings:
    """Settings of an endpoint of the model `small`, with the defaults of a spec."""
    section = small_models.small_spec(storage.uri).serve
    limits = {
        name: getattr(section, name) for name in Settings.model_fields if hasattr(section, name)
    }
    given = {
        **limits,
        "storage": storage.uri,
        "model": "small",
        "traffic": Traffic(version=version),
        **fields,
    }
    return Settings(**given)


class Store:
    """A registry with three versions: 1 and 2 are good, the golden rows of 3 do not match.

    Args:
        folder: Empty folder for the registry.
        features: Features of the model.
    """

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
        return settings_of(self.storage, version, **fields)

    def bundle(self, version: int) -> Bundle:
        return bundle.load(self.registry.folder("small", version))


def spoil_golden(folder: Storage) -> None:
    meta, files = checksummed_folder.read_checksummed(folder)
    golden = json.loads(files["golden.json"])
    golden["outputs"][0][0] += 1.0
    # What vLLM computes is compared with golden prompts only.
    for one in golden.get("prompts", [])[:1]:
        first = one["answer"][0]
        one["answer"][0] = first - 1 if first else 1
    folder.delete()
    checksummed_folder.write_checksummed(
        folder, {**files, "golden.json": json.dumps(golden).encode()}, meta
    )


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
    """A request whose body comes in messages of up to `chunk_bytes`."""
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)] or [
        b""
    ]

    async def receive() -> dict[str, Any]:
        if not chunks:
            await asyncio.Event().wait()  # The client keeps its connection.
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    raw = [
        (name.encode(), value.encode())
        for name, value in {"x-request-id": "r-7", **(headers or {})}.items()
    ]
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": raw}
    return Request(scope, receive)


def post(path: str, value: Any, **headers: str) -> Request:
    """A POST of JSON."""
    return request(
        "POST", path, json.dumps(value).encode(), {"content-type": "application/json", **headers}
    )


def body(response: Response) -> Any:
    return json.loads(bytes(response.body))


def tensors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of the table model as a v2 request."""
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


def fake_forward(service: Service, forward: Callable[[Any], Any]) -> None:
    """Replaces the forward pass of the current version; it runs in a thread."""
    assert service.current is not None
    service.current.batcher.forward = forward
    service.current.batcher.executor = service._forward_thread
