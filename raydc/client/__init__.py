"""Asks an endpoint of raydc: typed, within one deadline, with retries that are safe.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.predict([{"age": 41, "job": "nurse"}])
        print(answer.predictions[0].label, answer.version)

`AsyncClient` is the same with `await`; `predict`, `metadata` and `locate` are for a single request. Needs neither
Ray nor torch. httpx is imported with the first use of a client, numpy with the first array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raydc.client.one_shot import health, locate, metadata, predict
from raydc.client.replies import Answer, Metadata, Prediction, Tensor, Tensors

if TYPE_CHECKING:
    from raydc.client.async_client import AsyncClient
    from raydc.client.sync_client import Client

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Metadata",
    "Prediction",
    "Tensor",
    "Tensors",
    "health",
    "locate",
    "metadata",
    "predict",
]


def __getattr__(name: str) -> Any:
    # httpx takes a quarter of a second to import; a command that asks nothing does not pay for it.
    if name == "Client":
        from raydc.client.sync_client import Client

        return Client
    if name == "AsyncClient":
        from raydc.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
