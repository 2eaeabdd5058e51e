"""The LitServe contender of bench/serve.py; its workers import the class from this module."""

import base64
from typing import Any

import litserve
import numpy as np
from serve_task import Array, answer, decode, forward, network


class Api(litserve.LitAPI):
    """One task of bench/serve.py.

    Args:
        task: A key of `serve_task.MODEL_OF_TASK`.
        model: Name of the network.
        options: Options of `LitAPI`: how it makes batches; none for one request at a time.
    """

    def __init__(self, task: str, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.task, self.model_name = task, model
        self.has_batches = bool(options)

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.net = network(self.model_name)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # An annotation would name a field of a body.
        return decode(
            self.task,
            request["image"] if self.task == "mlp-json" else base64.b64decode(request["content"]),
        )

    def batch(self, inputs: list[Array]) -> Array:
        return np.stack(inputs)

    def predict(self, x: Array) -> Array:
        return forward(self.net, x) if self.has_batches else forward(self.net, x[None])[0]

    def unbatch(self, output: Array) -> list[Array]:
        return list(output)

    def encode_response(self, output: Array) -> dict[str, Any]:
        return answer(output)
