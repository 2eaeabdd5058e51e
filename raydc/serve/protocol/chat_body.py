"""Bodies of `/v1/chat/completions` in OpenAI's format: what is asked for and refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydc.errors import shown
from raydc.serve.protocol import body_fields
from raydc.serve.protocol.body_fields import refusal
from raydc.serve.protocol.completion_body import MOST_TOKENS, SAMPLING, CompletionBody, make_body
from raydc.serve.protocol.interface import json_type_of

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
_LIMIT, _OLD_LIMIT = "max_completion_tokens", "max_tokens"
_KNOWN = ("model", "messages", _LIMIT, *SAMPLING)
# What templates know; OpenAI's newer name for the system is the old one to them.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Fields of an answer that clients send back with it.
_OF_ANSWERS: Mapping[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "tool_calls": ([],),
}
MOST_MESSAGES = 1000


def parse_chat(content: bytes) -> CompletionBody:
    """Reads a body.

    Args:
        content: JSON of an object.

    Raises:
        RequestError: 400 if it is malformed or asks for what is not supported; names the field.
    """
    value = body_fields.parse_object(content)
    body_fields.check_names(value, _KNOWN, _NEUTRAL)
    given = {
        name: body_fields.whole_number(value, name, 1, MOST_TOKENS) for name in (_LIMIT, _OLD_LIMIT)
    }
    if None not in given.values():
        raise refusal(_OLD_LIMIT, f"it is the old name of {_LIMIT}; give one of them")
    name = _OLD_LIMIT if given[_OLD_LIMIT] is not None else _LIMIT
    return make_body(value, _messages(value), given[name], None, name)


def _messages(value: dict[str, Any]) -> list[dict[str, Any]]:
    given = value.get("messages")
    if not isinstance(given, list) or not given:
        what = "missing" if "messages" not in value else json_type_of(given)
        raise refusal("messages", f"it is {what}; give a list of objects with role and content")
    if len(given) > MOST_MESSAGES:
        raise refusal("messages", f"{len(given)} messages; at most {MOST_MESSAGES} are allowed")
    return [_message(one, f"messages[{number}]") for number, one in enumerate(given)]


def _message(given: Any, place: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise refusal(place, f"it is {json_type_of(given)}; give an object with role and content")
    for name, value in given.items():
        if name in ("role", "content") or value is None:
            continue
        if name not in _OF_ANSWERS or value not in _OF_ANSWERS[name]:
            raise refusal(f"{place}.{name[:100]}", f"{shown(value)} is not supported; leave it out")
    role = given.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        raise refusal(
            f"{place}.role", f"{shown(role)} is no role of this endpoint; there are {known}"
        )
    return {"role": _ROLES[role], "content": _content(given.get("content"), f"{place}.content")}


def _content(given: Any, place: str) -> str:
    """A text, or the texts of several parts one after the other."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given:
        raise refusal(place, f"it is {json_type_of(given)}; give a text")
    texts = []
    for number, part in enumerate(given):
        is_text = isinstance(part, dict) and part.keys() == {"type", "text"}
        if not is_text or part["type"] != "text" or not isinstance(part["text"], str):
            raise refusal(f"{place}[{number}]", "only parts of type text are supported")
        texts.append(part["text"])
    return "".join(texts)
