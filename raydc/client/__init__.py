"""The Python client of an endpoint: typed answers, one deadline for a call, safe retries.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.predict([{"age": 41, "job": "nurse"}])
        print(answer.predictions[0].label, answer.version)

`AsyncClient` offers the same with `await`. `predict`, `complete`, `chat`, `stream`, `metadata`,
`health` and `locate` are functions for a single request. Runs in any process and needs neither Ray
nor torch; httpx is imported with the first use of a client, numpy with the first array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raydc.client.one_shot import chat, complete, health, locate, metadata, predict, stream
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
    "chat",
    "complete",
    "health",
    "locate",
    "metadata",
    "predict",
    "stream",
]


def __getattr__(name: str) -> Any:
    # httpx takes a quarter of a second to import, which commands without a request do not pay.
    if name == "Client":
        from raydc.client.sync_client import Client

        return Client
    if name == "AsyncClient":
        from raydc.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
