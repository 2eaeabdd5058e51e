"""Answers of `/v1/...` in OpenAI's format: completions, events, models, errors. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from raydc.bundle.growing_answer import FinishReason
from raydc.serve.protocol.interface import RequestError

# The last event of each stream.
DONE = b"data: [DONE]\n\n"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
# Type of an error and its code, by status; others are requests that are not valid.
_ERRORS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    404: ("invalid_request_error", "not_found"),
    408: ("timeout_error", "timeout"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "not_ready"),
}


@dataclass(frozen=True)
class CompletionHead:
    """What all parts of an answer to a text have in common.

    Attributes:
        id: Identifier of the answer.
        created: Unix time of its start, in seconds.
        model: Name of the model with the version that answers.
        digest: Digest of that version.
    """

    id: str
    created: int
    model: str
    digest: str

    def whole(self, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
        """A whole answer, without usage.

        Args:
            text: Its text.
            finish_reason: Why it has ended.
        """
        return self._body("text_completion", {"text": text}, finish_reason)

    def opening(self) -> list[dict[str, Any]]:
        """Events that come before the first part."""
        return []

    def part(self, text: str, finish_reason: FinishReason | None) -> list[dict[str, Any]]:
        """Events of a part of an answer, without usage.

        Args:
            text: What comes next.
            finish_reason: Why it has ended; None if more follows.
        """
        return [self._body("text_completion", {"text": text}, finish_reason)]

    def usage_body(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last part of a stream, which only counts tokens."""
        return {**self._fields(self._part_kind), "choices": [], "usage": usage}

    @property
    def _part_kind(self) -> str:
        return "text_completion"

    def _body(
        self, kind: str, content: dict[str, Any], finish_reason: FinishReason | None
    ) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._fields(kind), "choices": [choice]}

    def _fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"fp_{self.digest[:16]}",
        }


class ChatHead(CompletionHead):
    """What all parts of an answer to messages have in common. See `CompletionHead`."""

    def whole(self, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
        """A whole answer, without usage. See `CompletionHead.whole`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return self._body("chat.completion", {"message": message}, finish_reason)

    def opening(self) -> list[dict[str, Any]]:
        """The event that says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [self._body(self._part_kind, {"delta": delta}, None)]

    def part(self, text: str, finish_reason: FinishReason | None) -> list[dict[str, Any]]:
        """Events of a part of an answer. See `CompletionHead.part`."""
        found = []
        if text:
            found.append(self._body(self._part_kind, {"delta": {"content": text}}, None))
        # The last one has no text, as clients know it from OpenAI.
        if finish_reason is not None:
            found.append(self._body(self._part_kind, {"delta": {}}, finish_reason))
        return found

    @property
    def _part_kind(self) -> str:
        return "chat.completion.chunk"


def count_usage(num_prompt_tokens: int, num_answer_tokens: int) -> dict[str, Any]:
    """Tokens of a request as OpenAI names them.

    Args:
        num_prompt_tokens: Tokens of the prompt.
        num_answer_tokens: Tokens of the answer, an end among them.
    """
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_answer_tokens,
        "total_tokens": num_prompt_tokens + num_answer_tokens,
    }


def encode_event(value: dict[str, Any]) -> bytes:
    """A server-sent event with JSON."""
    # JSON has no line breaks outside of strings, and escapes those inside.
    return b"data: " + orjson.dumps(value) + b"\n\n"


def describe_models(names: list[str], created: int) -> list[dict[str, Any]]:
    """Entries of `/v1/models`.

    Args:
        names: Names that requests may give.
        created: Unix time of the version, in seconds.
    """
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "raydc"} for name in names
    ]


def describe_error(error: RequestError, request_id: str) -> dict[str, Any]:
    """The body of an error.

    Args:
        error: What is wrong.
        request_id: Id of the request in the access log.
    """
    usual = "server_error" if error.status >= 500 else "invalid_request_error"
    kind, code = _ERRORS.get(error.status, (usual, None))
    fields = {"message": error.message, "type": kind, "param": error.param}
    return {"error": {**fields, "code": error.code or code}, "request_id": request_id}
