"""Bodies of `/v1/completions` in OpenAI's format: what is asked for, and what is refused. Pure.

Every field of that format is known here. What raydc does not do is refused by its name, unless the
value is the one that asks for nothing; clients send some fields always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from raydc.bundle.growing_answer import AnswerOptions
from raydc.errors import did_you_mean, shown
from raydc.models.token_sampling import TokenSampling
from raydc.serve.protocol.interface import RequestError, json_type_of

# What OpenAI takes if nothing is said.
_MAX_TOKENS = 16
_MAX_TEMPERATURE = 2.0
_MAX_STOPS = 4
_MAX_STOP_CHARS = 1000
_SEEDS = 2**64
# Fields that change nothing here.
_IGNORED = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key"})
# Fields that are not supported, with the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
_KNOWN = (
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
    *_NEUTRAL,
    *sorted(_IGNORED),
)


@dataclass(frozen=True)
class CompletionBody:
    """A request for a completion.

    Attributes:
        model: Name of the model, maybe with a version behind a colon.
        prompt: Text that is continued.
        max_tokens: Most tokens of the answer; None if the client leaves it open.
        sampling: How tokens are chosen; None for its seed takes a random one.
        stop: Strings that end the answer.
        is_stream: Whether the answer comes in events.
        has_usage: Whether the last event of a stream counts tokens.
    """

    model: str
    prompt: str
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    is_stream: bool
    has_usage: bool

    def options(self, num_prompt_tokens: int, length: int, most: int, seed: int) -> AnswerOptions:
        """What is asked for, within the limits of the model.

        Args:
            num_prompt_tokens: Tokens of the prompt.
            length: Most tokens of prompt and answer together.
            most: Most tokens that the endpoint allows in an answer.
            seed: Seed if the client gave none.

        Raises:
            RequestError: 400 if more is asked for.
        """
        if self.max_tokens is not None and self.max_tokens > most:
            raise _refusal("max_tokens", f"it is {self.max_tokens}; this endpoint allows {most}")
        wanted = min(_MAX_TOKENS, most) if self.max_tokens is None else self.max_tokens
        # What the client left open may be less; at least one token must fit.
        least = wanted if self.max_tokens is not None else 1
        if num_prompt_tokens + least > length:
            raise RequestError(
                400,
                f"this model takes {length} tokens, of prompt and answer together; the prompt has "
                f"{_count(num_prompt_tokens, length)} and the answer up to {least}. Shorten the "
                "prompt, or ask for fewer tokens with max_tokens",
                param="prompt" if num_prompt_tokens >= length else "max_tokens",
                code="context_length_exceeded",
            )
        chosen = seed if self.seed is None else self.seed
        sampling = TokenSampling(self.temperature, self.top_p, chosen)
        return AnswerOptions(min(wanted, length - num_prompt_tokens), sampling, self.stop)


def _count(num_tokens: int, length: int) -> str:
    """Number of tokens; those of a prompt are not counted beyond what the model takes."""
    return f"more than {length}" if num_tokens > length else str(num_tokens)


def parse_completion(content: bytes) -> CompletionBody:
    """Reads a body.

    Args:
        content: JSON of an object.

    Raises:
        RequestError: 400 if it is malformed or asks for what is not supported; names the field.
    """
    value = _parse_object(content)
    for name, given in value.items():
        if name not in _KNOWN:
            hint = did_you_mean(name, _KNOWN)
            message = f"there is no such field{f'; {hint}' if hint else ''}"
            raise _refusal(name[:100], message, "unknown_parameter")
        if name in _NEUTRAL and not _is_neutral(given, _NEUTRAL[name]):
            raise _refusal(name, f"{shown(given)} is not supported; leave it out")
    is_stream = _flag(value, "stream")
    return CompletionBody(
        _model(value),
        _prompt(value),
        _whole_number(value, "max_tokens", 1, 2**31),
        _number(value, "temperature", 1.0, 0.0, _MAX_TEMPERATURE),
        _top_p(value),
        _seed(value),
        _stop(value),
        is_stream,
        _has_usage(value, is_stream),
    )


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(400, f"the body is {json_type_of(value)}, not an object")
    return value


def _refusal(name: str, message: str, code: str | None = None) -> RequestError:
    return RequestError(400, f"{name}: {message}", param=name, code=code)


def _is_neutral(given: Any, allowed: tuple[Any, ...]) -> bool:
    # Types as well: 1 == True, and 0 == False.
    is_same = (given == one and isinstance(given, bool) == isinstance(one, bool) for one in allowed)
    return given is None or any(is_same)


def _model(value: dict[str, Any]) -> str:
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise _refusal("model", "give the name of a model, a string")
    return model


def _prompt(value: dict[str, Any]) -> str:
    prompt = value.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        given = "missing" if "prompt" not in value else json_type_of(prompt)
        raise _refusal("prompt", f"it is {given}; give one string, and no codes of tokens")
    return prompt


def _whole_number(value: dict[str, Any], name: str, least: int, most: int) -> int | None:
    given = value.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise _refusal(name, f"{shown(given)} is not a whole number from {least} to {most}")
    return given


def _number(value: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    given = value.get(name)
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise _refusal(name, f"{shown(given)} is not a number")
    if not least <= given <= most:
        raise _refusal(name, f"{given:g} is not from {least:g} to {most:g}")
    return float(given)


def _top_p(value: dict[str, Any]) -> float:
    given = _number(value, "top_p", 1.0, 0.0, 1.0)
    if given == 0:
        raise _refusal("top_p", "0 leaves no token; temperature 0 takes the likeliest")
    return given


def _seed(value: dict[str, Any]) -> int | None:
    given = _whole_number(value, "seed", -(2**63), _SEEDS - 1)
    return None if given is None else given % _SEEDS


def _stop(value: dict[str, Any]) -> tuple[str, ...]:
    given = value.get("stop")
    if given is None:
        return ()
    strings = [given] if isinstance(given, str) else given
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise _refusal("stop", "give a string, or a list of strings")
    if len(strings) > _MAX_STOPS:
        raise _refusal("stop", f"{len(strings)} strings; at most {_MAX_STOPS} are allowed")
    if not all(0 < len(one) <= _MAX_STOP_CHARS for one in strings):
        raise _refusal("stop", f"each string has 1 to {_MAX_STOP_CHARS} characters")
    return tuple(strings)


def _flag(value: dict[str, Any], name: str, section: str = "") -> bool:
    given = value.get(name)
    if given is not None and not isinstance(given, bool):
        raise _refusal(f"{section}{name}", f"{shown(given)} is neither true nor false")
    return bool(given)


def _has_usage(value: dict[str, Any], is_stream: bool) -> bool:
    given = value.get("stream_options")
    if given is None:
        return False
    if not is_stream:
        raise _refusal("stream_options", "it is for stream: true only")
    if not isinstance(given, dict):
        raise _refusal("stream_options", "give an object")
    for name in given:
        if name not in ("include_usage", "include_obfuscation"):
            raise _refusal(f"stream_options.{name[:100]}", "there is no such field")
    return _flag(given, "include_usage", "stream_options.")
