"""The folder of a pretrained encoder: what it holds, and what in it cannot be used.

Runs in the driver when a spec is resolved. No code is read: neither that of the folder nor pickles.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raydc.errors import Problem, SpecError
from raydc.spec.model_files import (
    CONFIG,
    FIELD,
    INDEX,
    POOLING,
    TOKENIZER,
    WEIGHTS,
    file_sha256,
    half_type,
    locate,
    read_json,
    read_shapes,
    weight_files,
)

# Architectures that are tested: rows do not depend on padding, and weights have their own names.
# The number is that of positions which no token takes.
ENCODERS = {
    "albert": 0,
    "bert": 0,
    "camembert": 2,
    "deberta-v2": 0,
    "distilbert": 0,
    "electra": 0,
    "ernie": 0,
    "modernbert": 0,
    "mpnet": 2,
    "roberta": 2,
    "xlm-roberta": 2,
}
# The others have no fused attention, or take masks of a form of their own.
FUSED = ("albert", "bert", "camembert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")
# Encoders that have a layer over the first token; others may have one in a head.
_POOLED = ("albert", "bert", "camembert", "ernie", "mpnet", "roberta", "xlm-roberta")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
# Where the library and the version of a file are named, or code that would be loaded.
_UNUSED_KEYS = (
    *("architectures", "auto_map", "dtype", "id2label", "label2id", "torch_dtype"),
    # They change what a pass returns, and for which lengths it can be computed.
    *("return_dict", "chunk_size_feed_forward"),
)


def fill_in(value: dict[str, Any]) -> None:
    """Notes what the folder of a pretrained encoder holds, and takes its tokenizer and pooling.

    A content that is noted already stays, so that a stored spec does not need its folder.

    Args:
        value: A spec as plain values, changed in place; its model is one of Hugging Face.

    Raises:
        SpecError: Everything in the folder that cannot be used.
    """
    model, text = value["model"], value["data"]["features"]["text"]
    if model.get("content") is None:
        folder, revision = locate(model["path"])
        if os.path.isdir(os.path.expanduser(model["path"])):
            model["path"] = str(folder)
        problems = list(_problems(folder, model, text))
        if problems:
            raise SpecError([Problem("", path, message) for path, message in problems])
        config = read_json(folder / CONFIG)
        model["pooling"] = model.get("pooling") or pooling_of(folder, config)
        model["content"] = note_content(folder, revision)
    if text.get("tokenizer") is None:
        folder, _ = locate(model["path"], model["content"].get("revision"))
        text["tokenizer"] = str(folder / TOKENIZER)


def note_content(folder: Path, revision: str | None) -> dict[str, Any]:
    """What a run notes of a folder of Hugging Face: `model.content` as plain values.

    Args:
        folder: Folder of the model.
        revision: Its commit on the hub; None for a folder of this machine.
    """
    names = [CONFIG, TOKENIZER, *weight_files(folder)]
    half = half_type(folder)
    return {
        **({} if half is None else {"dtype": half}),
        "config": _plain(read_json(folder / CONFIG)),
        "files": {name: file_sha256(folder / name) for name in names},
        "revision": revision,
    }


def pooling_of(folder: Path, config: dict[str, Any]) -> str:
    """How a folder makes one vector of the vectors of all tokens.

    Args:
        folder: Folder of the model.
        config: Content of its `config.json`.

    Returns:
        The name in `model.pooling`; or, in braces, a name of the folder that is not supported.
    """
    if (folder / POOLING / CONFIG).is_file():
        given = read_json(folder / POOLING / CONFIG)
        modes = {k.removeprefix("pooling_mode_") for k, on in given.items() if on is True}
        # Newer folders have one field, which may be a text or a list.
        newer = given.get("pooling_mode")
        modes |= (
            set(map(str, newer)) if isinstance(newer, list) else {str(newer)} if newer else set()
        )
        modes -= {"include_prompt"}
        only = next(iter(modes)).removesuffix("_tokens").removesuffix("_token") if modes else ""
        is_known = len(modes) == 1 and only in ("mean", "cls")
        return only if is_known else "{" + ", ".join(sorted(modes)) + "}"
    if config.get("classifier_pooling") in ("cls", "mean"):
        return str(config["classifier_pooling"])
    names = read_shapes(folder) if config["model_type"] in _POOLED else {}
    has_pooler = any(name.endswith(("pooler.dense.weight", "pooler.weight")) for name in names)
    return "pooler" if has_pooler else "cls"


def positions_of(config: dict[str, Any]) -> int:
    """Most tokens of a text, special ones included."""
    unused = ENCODERS[config["model_type"]]
    if unused:
        # Positions begin behind the code of padding, which is 1 unless the folder says otherwise.
        unused = max(unused, (config.get("pad_token_id") or 0) + 1)
    return int(config.get("max_position_embeddings", 512)) - unused


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The values of a config that describe the network."""
    return {
        name: value
        for name, value in config.items()
        # Keys with an underscore are notes of the library; one of them would choose its kernels.
        if name not in _UNUSED_KEYS and not name.startswith(("_", "transformers", "attn_"))
    }


def _problems(
    folder: Path, model: dict[str, Any], text: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yields the field and the message of everything that cannot be used."""

    def of_architecture(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
        return _architecture_problems(path, config, model)

    yield from common_problems(folder, of_architecture)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if list(_value_problems(folder / CONFIG, config)) or config.get("model_type") not in ENCODERS:
        return
    if positions_of(config) < text["max_tokens"]:
        yield (
            "data.features.text.max_tokens",
            f"{text['max_tokens']} tokens are more than the {positions_of(config)} positions of "
            f"{folder}; give at most {positions_of(config)}",
        )
    if model.get("pooling") is None and weight_files(folder):
        modes = pooling_of(folder, config)
        if modes.startswith("{"):
            yield (
                "model.pooling",
                f"{folder / POOLING / CONFIG} says {modes.strip('{}') or 'none'}, which is not "
                "supported; choose mean, cls or pooler",
            )


def common_problems(
    folder: Path,
    of_architecture: Callable[[Path, dict[str, Any]], Iterator[tuple[str, str]]],
) -> Iterator[tuple[str, str]]:
    """Yields field and message of what no folder may lack or have, whatever its network.

    Args:
        folder: Folder of the model.
        of_architecture: Yields the problems of a config, from its path and its content.
    """
    if not (folder / CONFIG).is_file():
        yield FIELD, f"{folder} has no {CONFIG}; give the folder of a model of Hugging Face"
        return
    config = read_json(folder / CONFIG)
    if config.get("auto_map"):
        given = config["auto_map"]
        names = ", ".join(map(str, given.values())) if isinstance(given, dict) else str(given)
        yield (
            FIELD,
            f"{folder / CONFIG} names code of its own (auto_map: {names}), and code of a model is "
            "never run; take a model whose architecture is part of transformers",
        )
    if wrong := list(_value_problems(folder / CONFIG, config)):
        yield from wrong
        return
    yield from of_architecture(folder / CONFIG, config)
    if not (folder / TOKENIZER).is_file():
        yield (
            FIELD,
            f"{folder} has no {TOKENIZER}; AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER) of transformers writes one",
        )
    yield from _weight_problems(folder)


def _value_problems(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the values that are read here; transformers checks the others."""
    if not isinstance(config.get("model_type"), str | None):
        yield FIELD, f"{path}: model_type {config['model_type']!r} is not a name"
    for name in ("max_position_embeddings", "vocab_size"):
        value = config.get(name, 1)
        if type(value) is not int or value < 1:
            yield FIELD, f"{path}: {name} {value!r} is not a whole number above 0"
            return
    padding, most = config.get("pad_token_id"), config.get("vocab_size", 2**31)
    if padding is not None and (type(padding) is not int or not 0 <= padding < most):
        yield FIELD, f"{path}: pad_token_id {padding!r} is not one of the {most:,} tokens"


def _architecture_problems(
    path: Path, config: dict[str, Any], model: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    kind = config.get("model_type")
    if kind not in ENCODERS:
        yield (
            FIELD,
            f"{path}: model_type {kind!r} is not an encoder that can be fine-tuned here; there are "
            f"{', '.join(ENCODERS)}",
        )
        return
    if config.get("is_decoder") or config.get("is_encoder_decoder"):
        yield FIELD, f"{path}: is_decoder is true, and only encoders can be fine-tuned here"
    # transformers 5 would take absolute positions, whatever the weights were trained with.
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        yield FIELD, f"{path}: position_embedding_type {positions!r} is not part of transformers 5"
    if model.get("attention") == "sdpa" and kind not in FUSED:
        yield "model.attention", f"{kind} cannot use sdpa here; choose eager"
    if model.get("pooling") == "pooler" and kind not in _POOLED:
        yield "model.pooling", f"{kind} has no pooler; choose mean or cls"


def _weight_problems(folder: Path) -> Iterator[tuple[str, str]]:
    files = weight_files(folder)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        yield FIELD, f"{folder} lacks {', '.join(missing)}, which {INDEX} names"
    if files:
        return
    pickles = sorted(one.name for one in folder.iterdir() if one.name.endswith(_PICKLES))
    if pickles:
        yield (
            FIELD,
            f"{folder} has its weights only in {pickles[0]}, and a pickle may run code; load it "
            "with transformers where you trust it, and save_pretrained(FOLDER) writes safetensors",
        )
    else:
        yield FIELD, f"{folder} has no {WEIGHTS}; copy all files of the model"
