"""Fields of bodies in OpenAI's format, and what is refused in them. Pure.

Every field of that format is known here. What raydc does not do is refused by its name, unless the
value is the one that asks for nothing; clients send some fields always.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from raydc.errors import did_you_mean, shown
from raydc.serve.protocol.interface import RequestError, json_type_of

_MAX_TEMPERATURE = 2.0
_MAX_STOPS = 4
_MAX_STOP_CHARS = 1000
_SEEDS = 2**64
# Fields that change nothing here.
IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    }
)


def check_names(
    value: Mapping[str, Any], known: Collection[str], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuses unknown fields, and those that ask for what is not supported.

    Args:
        value: The body.
        known: Fields that are read.
        neutral: Fields that are not supported, with the values that ask for nothing.

    Raises:
        RequestError: 400; names the field.
    """
    for name, given in value.items():
        if name in neutral:
            if not _is_neutral(given, neutral[name]):
                raise refusal(name, f"{shown(given)} is not supported; leave it out")
        elif name not in known and name not in IGNORED:
            hint = did_you_mean(name, (*known, *neutral, *sorted(IGNORED)))
            message = f"there is no such field{f'; {hint}' if hint else ''}"
            raise refusal(name[:100], message, "unknown_parameter")


def temperature_of(value: dict[str, Any]) -> float:
    """The temperature, 1 if it is left out. Raises RequestError 400 for anything but a number."""
    return number(value, "temperature", 1.0, 0.0, _MAX_TEMPERATURE)


def parse_object(content: bytes) -> dict[str, Any]:
    """Reads the JSON of a body.

    Args:
        content: JSON of an object.

    Raises:
        RequestError: 400 if it is anything else.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(400, f"the body is {json_type_of(value)}, not an object")
    return value


def refusal(name: str, message: str, code: str | None = None) -> RequestError:
    """An error that names a field.

    Args:
        name: Name of the field.
        message: What is wrong with its value.
        code: Code of the error; None for none.
    """
    return RequestError(400, f"{name}: {message}", param=name, code=code)


def _is_neutral(given: Any, allowed: tuple[Any, ...]) -> bool:
    # Types as well: 1 == True, and 0 == False.
    is_same = (given == one and isinstance(given, bool) == isinstance(one, bool) for one in allowed)
    return given is None or any(is_same)


def model_of(value: dict[str, Any]) -> str:
    """Name of the model. Raises RequestError 400 if there is none."""
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise refusal("model", "give the name of a model, a string")
    return model


def whole_number(value: dict[str, Any], name: str, least: int, most: int) -> int | None:
    """A whole number; None if the field is left out.

    Args:
        value: The body.
        name: Name of the field.
        least: Least value that is allowed.
        most: Greatest value that is allowed.

    Raises:
        RequestError: 400 if it is anything else.
    """
    given = value.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise refusal(name, f"{shown(given)} is not a whole number from {least} to {most}")
    return given


def number(value: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number; the default if the field is left out.

    Args:
        value: The body.
        name: Name of the field.
        default: Its default.
        least: Least value that is allowed.
        most: Greatest value that is allowed.

    Raises:
        RequestError: 400 if it is anything else.
    """
    given = value.get(name)
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise refusal(name, f"{shown(given)} is not a number")
    if not least <= given <= most:
        raise refusal(name, f"{given:g} is not from {least:g} to {most:g}")
    return float(given)


def top_p_of(value: dict[str, Any]) -> float:
    """`top_p`, above 0. Raises RequestError 400 for anything else."""
    given = number(value, "top_p", 1.0, 0.0, 1.0)
    if given == 0:
        raise refusal("top_p", "0 leaves no token; temperature 0 takes the likeliest")
    return given


def seed_of(value: dict[str, Any]) -> int | None:
    """The seed, 0 to 2^64 - 1, or None. Raises RequestError 400 for anything else."""
    given = whole_number(value, "seed", -(2**63), _SEEDS - 1)
    return None if given is None else given % _SEEDS


def stop_of(value: dict[str, Any]) -> tuple[str, ...]:
    """Strings that end the answer. Raises RequestError 400 for anything else."""
    given = value.get("stop")
    if given is None:
        return ()
    strings = [given] if isinstance(given, str) else given
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise refusal("stop", "give a string, or a list of strings")
    if len(strings) > _MAX_STOPS:
        raise refusal("stop", f"{len(strings)} strings; at most {_MAX_STOPS} are allowed")
    if not all(0 < len(one) <= _MAX_STOP_CHARS for one in strings):
        raise refusal("stop", f"each string has 1 to {_MAX_STOP_CHARS} characters")
    return tuple(strings)


def flag(value: dict[str, Any], name: str, section: str = "") -> bool:
    """True or false; false if the field is left out.

    Args:
        value: The body, or an object in it.
        name: Name of the field.
        section: What stands before its name, for messages.

    Raises:
        RequestError: 400 if it is anything else.
    """
    given = value.get(name)
    if given is not None and not isinstance(given, bool):
        raise refusal(f"{section}{name}", f"{shown(given)} is neither true nor false")
    return bool(given)


def has_usage(value: dict[str, Any], is_stream: bool) -> bool:
    """Whether the last event of a stream counts tokens.

    Args:
        value: The body.
        is_stream: Whether it asks for a stream.

    Raises:
        RequestError: 400 if the options are not valid.
    """
    given = value.get("stream_options")
    if given is None:
        return False
    if not is_stream:
        raise refusal("stream_options", "it is for stream: true only")
    if not isinstance(given, dict):
        raise refusal("stream_options", "give an object")
    for name in given:
        if name not in ("include_usage", "include_obfuscation"):
            raise refusal(f"stream_options.{name[:100]}", "there is no such field")
    return flag(given, "include_usage", "stream_options.")
