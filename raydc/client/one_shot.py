"""Functions for a single request, in the process of a client.

They return the endpoint's JSON as it is, and open a connection for each call. For more than a few
requests use `Client`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydc.client import operations
from raydc.client.replies import parse_json
from raydc.client.retry import MAX_RETRIES
from raydc.errors import ServeError

if TYPE_CHECKING:
    from raydc.client.streamed_text import StreamedText

# Probes give up quickly: a wrong address should be reported within a second or two.
_PROBE_RETRIES = 5


def predict(
    url: str,
    rows: Sequence[operations.Row] | None = None,
    image: operations.ImageInput | None = None,
    timeout_s: float = 30.0,
    token: str | None = None,
) -> dict[str, Any]:
    """Predicts raw rows, or one image, by one request to `POST /predict`.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        rows: Rows as mappings from column to value. Give either `rows` or `image`.
        image: Content or path of an image file, or pixels: uint8 [H, W] or [H, W, 3].
        timeout_s: Time limit, with all attempts.
        token: Access token. Default: the environment variable RAYDC_TOKEN.

    Returns:
        `{"predictions": [...], "model": ..., "version": ...}`.

    Raises:
        UsageError: `url` is not an address, or the rows or the image cannot be sent.
        RefusedError: The endpoint refuses the request; the message says why.
        UnavailableError: There is no answer within the time limit or the attempts.
    """
    return _send(url, operations.predict(rows, image), timeout_s, MAX_RETRIES, token)


def complete(
    url: str,
    model: str,
    prompt: str,
    timeout_s: float = 30.0,
    token: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Continues a text by one request to `POST /v1/completions`.

    `stream` gives it as it comes.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        model: Name of the model, or `model:version`.
        prompt: Text that the answer follows.
        timeout_s: Time limit, with all attempts.
        token: Access token. Default: the environment variable RAYDC_TOKEN.
        options: Further fields in OpenAI's format: `max_tokens`, `temperature`, `top_p`, `seed`,
            `stop`.

    Returns:
        A completion in OpenAI's format: `{"choices": [{"text": ...}], "usage": ..., ...}`.

    Raises:
        UsageError: `url` is not an address, or JSON cannot hold a value.
        RefusedError: The endpoint refuses the request; the message says why.
        UnavailableError: There is no answer within the time limit or the attempts.
    """
    operation = operations.complete(model, prompt, options)
    return _send(url, operation, timeout_s, MAX_RETRIES, token)


def chat(
    url: str,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    timeout_s: float = 30.0,
    token: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Answers messages by one request to `POST /v1/chat/completions`.

    `stream` gives it as it comes.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        model: Name of the model, or `model:version`.
        messages: The conversation so far: objects with `role` and `content`.
        timeout_s: Time limit, with all attempts.
        token: Access token. Default: the environment variable RAYDC_TOKEN.
        options: Further fields in OpenAI's format: `max_completion_tokens`, `temperature`, `top_p`,
            `seed`, `stop`.

    Returns:
        A completion in OpenAI's format: `{"choices": [{"message": ...}], "usage": ..., ...}`.

    Raises:
        UsageError: `url` is not an address, or JSON cannot hold a value.
        RefusedError: The endpoint refuses the request; the message says why.
        UnavailableError: There is no answer within the time limit or the attempts.
    """
    operation = operations.chat(model, messages, options)
    return _send(url, operation, timeout_s, MAX_RETRIES, token)


def stream(
    url: str,
    model: str,
    prompt: str | Sequence[Mapping[str, Any]],
    timeout_s: float = 30.0,
    token: str | None = None,
    **options: Any,
) -> StreamedText:
    """Continues a text, or answers messages, part by part.

    If the replica dies, the text goes on where it broke off: it is asked for again, with the same
    seed and of the same version.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        model: Name of the model, or `model:version`.
        prompt: Text that the answer follows; or the conversation so far, objects with `role` and
            `content`.
        timeout_s: Most seconds until the first part, and from part to part, with all attempts.
        token: Access token. Default: the environment variable RAYDC_TOKEN.
        options: Further fields in OpenAI's format: `max_tokens`, `temperature`, `top_p`, `seed`,
            `stop`.

    Returns:
        The parts, to be iterated once; errors are raised there, see `StreamedText.__iter__`.

    Raises:
        UsageError: `url` is not an address, or JSON cannot hold a value.
    """
    # Imported late, as in `_send`.
    from raydc.client.streamed_text import StreamedText

    return StreamedText(url, model, prompt, timeout_s, token, options)


def metadata(
    url: str, model: str, timeout_s: float = 10.0, token: str | None = None
) -> dict[str, Any]:
    """Describes a model by `GET /v2/models/{model}`.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        model: Name of the model, for the path of the request.
        timeout_s: Time limit, with all attempts.
        token: Access token. Default: the environment variable RAYDC_TOKEN.

    Returns:
        Versions, inputs, outputs and parameters, as the Open Inference Protocol names them.

    Raises:
        RefusedError: The endpoint refuses the request; the message says why.
        UnavailableError: There is no answer within the time limit or a few attempts.
    """
    return _send(url, operations.metadata(model), timeout_s, _PROBE_RETRIES, token)


def health(url: str, timeout_s: float = 10.0) -> dict[str, Any]:
    """Checks an endpoint by `GET /healthz`, which needs no token.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        timeout_s: Time limit, with all attempts.

    Returns:
        `{"status": "ok", "model": ..., "version": ...}`.

    Raises:
        RefusedError: Something answers there, but not an endpoint that is ready.
        UnavailableError: There is no answer within the time limit or a few attempts.
    """
    operation = operations.Operation("GET", "/healthz", parse_json)
    return _send(url, operation, timeout_s, _PROBE_RETRIES, None)


def locate(url: str, model: str, timeout_s: float = 10.0, token: str | None = None) -> str:
    """Finds the address of a model: the first one served is at the root, others below their names.

    Args:
        url: Address of Ray Serve, without a path.
        model: Name of the model, which is also the second address's path.
        timeout_s: Time limit for each of the two addresses.
        token: Access token. Default: the environment variable RAYDC_TOKEN.

    Returns:
        `url`, or `url` with the name of the model behind it.

    Raises:
        ServeError: The model answers at neither address.
    """
    try:
        metadata(url, model, timeout_s, token)
    except ServeError:
        metadata(f"{url}/{model}", model, timeout_s, token)
        return f"{url}/{model}"
    return url


def _send(
    url: str,
    operation: operations.Operation[Any],
    timeout_s: float,
    max_retries: int,
    token: str | None,
) -> dict[str, Any]:
    # Imported late: httpx takes a quarter of a second to import, and `raydc --help` does not
    # need it.
    from raydc.client.sync_client import Client

    with Client(url, token=token, timeout_s=timeout_s, max_retries=max_retries) as client:
        return client.run(dataclasses.replace(operation, read=parse_json))
