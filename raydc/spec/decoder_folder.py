"""The folder of a pretrained decoder: what it holds, and what in it cannot be used.

Runs in the driver when a spec is resolved. No code is read: neither that of the folder nor pickles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydc.errors import Problem, SpecError
from raydc.spec import encoder_folder
from raydc.spec.model_files import (
    FIELD,
    GENERATION,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    locate,
    read_json,
)

# Architectures that are tested: a document has the same losses alone and in a row with others.
DECODERS = ("gpt2", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "starcoder2")
# Their angles depend on the longest text of a pass, and a document would on its neighbours.
_MOVING_POSITIONS = ("dynamic", "longrope")
# Names of the same thing in older folders of Phi-3; elsewhere `yarn` has fixed angles.
_MOVING_OF = {"phi3": ("su", "yarn")}
_CLOCK = "strftime_now"
_END = "data.blocks.end_token"


def fill_in(value: dict[str, Any]) -> None:
    """Notes what the folder of a pretrained decoder holds, and takes its tokenizer and its end.

    A content that is noted already stays, so that a stored spec does not need its folder.

    Args:
        value: A spec as plain values, changed in place; its model is one of Hugging Face, and its
            task is language modelling.

    Raises:
        SpecError: Everything in the folder that cannot be used.
    """
    model, text, blocks = value["model"], value["data"]["features"]["text"], value["data"]["blocks"]
    if model.get("content") is None:
        folder, revision = locate(model["path"])
        if os.path.isdir(os.path.expanduser(model["path"])):
            model["path"] = str(folder)
        problems = list(_problems(folder))
        if problems:
            raise SpecError([Problem("", path, message) for path, message in problems])
        template, special = _chat_of(folder)
        content = encoder_folder.note_content(folder, revision)
        known, named = (_codes(one) for one in (content["config"], _generation_of(folder)))
        further = [code for code in named if code not in known]
        model["content"] = {
            **content,
            "chat_template": template,
            "special_tokens": special,
            # Noted only where there are some: a run of an older raydc notes none.
            **({"end_codes": further} if further else {}),
        }
    folder, _ = locate(model["path"], model["content"].get("revision"))
    own_tokenizer = text.get("tokenizer") is None
    if own_tokenizer:
        text["tokenizer"] = str(folder / TOKENIZER)
    if own_tokenizer and blocks.get("end_token") is None:
        blocks["end_token"] = _end_token(folder, model["content"]["config"])
    if value["data"].get("chat") is not None:
        _fill_in_chat(value["data"]["chat"], model)


def _fill_in_chat(chat: dict[str, Any], model: dict[str, Any]) -> None:
    content = model["content"]
    if chat.get("template") is None:
        chat["template"] = content.get("chat_template")
    if chat.get("special_tokens") is None:
        chat["special_tokens"] = content.get("special_tokens") or {}
    message = None
    if chat["template"] is None:
        message = f"{model['path']} has no chat template; give one"
    elif _CLOCK in chat["template"]:
        # The same files would be another data set on another day.
        message = f"the template writes today's date ({_CLOCK}); give one without it"
    if message is not None:
        raise SpecError([Problem("", "data.chat.template", message)])


def _generation_of(folder: Path) -> dict[str, Any]:
    """How the makers of a model generate with it; only its ends are taken."""
    path = folder / GENERATION
    return read_json(path) if path.is_file() else {}


def _codes(config: dict[str, Any]) -> list[int]:
    """Codes that end a text, as a config names them: one, several, or none."""
    given = config.get("eos_token_id")
    codes = given if isinstance(given, list) else [given]
    return [code for code in codes if isinstance(code, int)]


def _chat_of(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Chat template of a folder, and the special tokens that it may name."""
    path = folder / TOKENIZER_CONFIG
    values = read_json(path) if path.is_file() else {}
    special = {}
    for name, given in values.items():
        # Older folders describe a token by an object.
        text = given.get("content") if isinstance(given, dict) else given
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    template = values.get("chat_template")
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if (folder / TEMPLATE).is_file():
        try:
            template = (folder / TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = f"{folder / TEMPLATE} cannot be read: {error}"
            raise SpecError([Problem("", FIELD, message)]) from error
    return (template if isinstance(template, str) else None), special


def _problems(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields the field and the message of everything that cannot be used."""
    yield from encoder_folder.common_problems(folder, _architecture_problems)


def _architecture_problems(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kind = config.get("model_type")
    if kind not in DECODERS:
        yield (
            FIELD,
            f"{path}: model_type {kind!r} is not a decoder that can be trained here; there are "
            f"{', '.join(DECODERS)}",
        )
        return
    # The name that transformers 5 writes, and the one of before.
    for name in ("rope_parameters", "rope_scaling"):
        given = config.get(name)
        form = (given.get("rope_type") or given.get("type")) if isinstance(given, dict) else None
        if form in (*_MOVING_POSITIONS, *_MOVING_OF.get(kind, ())):
            yield (
                FIELD,
                f"{path}: {name} is {form!r}, with which the positions of a document "
                "depend on its neighbours; take a model with fixed ones",
            )


def _end_token(folder: Path, config: dict[str, Any]) -> str:
    """The token with which the model ends a text.

    Raises:
        SpecError: The config names none, or the tokenizer has none of this code.
    """
    given = config.get("eos_token_id")
    if given is None:
        given = _generation_of(folder).get("eos_token_id")
    code = given[0] if isinstance(given, list) and given else given
    tokenizer = read_json(folder / TOKENIZER)
    try:
        added = {one["id"]: one["content"] for one in tokenizer.get("added_tokens", ())}
        named = tokenizer["model"]["vocab"]
        # Tokens with probabilities are a list in the order of their codes.
        pairs = (
            ((number, one[0]) for number, one in enumerate(named))
            if isinstance(named, list)
            else ((number, token) for token, number in named.items())
        )
        known = {**dict(pairs), **added}
    except (KeyError, IndexError, TypeError, AttributeError):
        known = {}
    if not isinstance(code, int) or code not in known:
        message = f"{folder} names no token that ends a text (eos_token_id: {given!r}); give one"
        raise SpecError([Problem("", _END, message)])
    return str(known[code])
