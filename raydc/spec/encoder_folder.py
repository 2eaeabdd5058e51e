"""The folder of a pretrained encoder: what it holds, and what in it cannot be used.

Runs in the driver when a spec is resolved, and where weights are read. Only JSON and the headers of
safetensors files are read here, and no code: neither that of the folder nor pickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydc.errors import Problem, SpecError, first_line

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, INDEX, POOLING = "model.safetensors", "model.safetensors.index.json", "1_Pooling"
INSTALL = "pip install 'raydc[language]'"
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
_FIELD = "model.path"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
# A name on the hub, such as `bert-base-uncased` or `google/electra-small-discriminator`.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Where the library and the version of a file are named, or code that would be loaded.
_UNUSED_KEYS = (
    *("architectures", "auto_map", "dtype", "id2label", "label2id", "torch_dtype"),
    # They change what a pass returns, and for which lengths it can be computed.
    *("return_dict", "chunk_size_feed_forward"),
)
_MOST_HEADER_BYTES = 100 * 1024 * 1024


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
        names = [CONFIG, TOKENIZER, *weight_files(folder)]
        model["content"] = {
            "config": _plain(config),
            "files": {name: file_sha256(folder / name) for name in names},
            "revision": revision,
        }
    if text.get("tokenizer") is None:
        folder, _ = locate(model["path"], model["content"].get("revision"))
        text["tokenizer"] = str(folder / TOKENIZER)


def locate(path: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder of a model on this machine, and its commit if it comes from the hub.

    Args:
        path: Path of a folder, or a name on the hub, whose files are downloaded if they are not in
            the cache of the library.
        revision: Commit to take from the hub; None takes the newest.

    Raises:
        SpecError: There is no such folder, and nothing of this name can be downloaded.
    """
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    if folder.is_dir():
        return folder, None
    if not _HUB_NAME.fullmatch(path):
        raise SpecError([Problem("", _FIELD, f"{folder} is not a folder")])
    try:
        # Imported late: most models are folders, and need no hub.
        from huggingface_hub import snapshot_download
    except ImportError as error:
        message = f"{folder} is not a folder, and a download of {path} needs {INSTALL}"
        raise SpecError([Problem("", _FIELD, message)]) from error
    wanted = [CONFIG, TOKENIZER, f"{POOLING}/{CONFIG}", "model*.safetensors", INDEX]
    try:
        found = Path(snapshot_download(path, revision=revision, allow_patterns=wanted))
    # The library raises errors of its own, of its transport and of the system.
    except Exception as error:
        message = (
            f"{folder} is not a folder, and {path} cannot be downloaded from the hub: "
            f"{first_line(error)}"
        )
        raise SpecError([Problem("", _FIELD, message)]) from error
    return found, found.name


def weight_files(folder: Path) -> list[str]:
    """Names of the files with the weights, in their order; none if there are no safetensors."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        message = f"{folder / INDEX} does not say in which file each tensor is (weight_map)"
        raise SpecError([Problem("", _FIELD, message)])
    # A name from a file of the folder must not lead out of it.
    return [name for name in sorted(set(files.values())) if Path(name).name == name != ".."]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises SpecError if the file does not hold one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read: {first_line(error)}"
        raise SpecError([Problem("", _FIELD, message)]) from error
    if not isinstance(value, dict):
        raise SpecError([Problem("", _FIELD, f"{path} does not hold a JSON object")])
    return value


def file_sha256(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a folder by name, from the headers of its files.

    Raises:
        SpecError: A file is not one of safetensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name in weight_files(folder):
        try:
            with (folder / name).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
                shapes |= {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{folder / name} is not a file of safetensors: {first_line(error)}"
            raise SpecError([Problem("", _FIELD, message)]) from error
    return shapes


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
    if not (folder / CONFIG).is_file():
        yield _FIELD, f"{folder} has no {CONFIG}; give the folder of a model of Hugging Face"
        return
    config = read_json(folder / CONFIG)
    if config.get("auto_map"):
        given = config["auto_map"]
        names = ", ".join(map(str, given.values())) if isinstance(given, dict) else str(given)
        yield (
            _FIELD,
            f"{folder / CONFIG} names code of its own (auto_map: {names}), and code of a model is "
            "never run; take a model whose architecture is part of transformers",
        )
    if wrong := list(_value_problems(folder / CONFIG, config)):
        yield from wrong
        return
    yield from _architecture_problems(folder / CONFIG, config, model)
    if not (folder / TOKENIZER).is_file():
        yield (
            _FIELD,
            f"{folder} has no {TOKENIZER}; AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER) of transformers writes one",
        )
    yield from _weight_problems(folder)
    if config.get("model_type") not in ENCODERS:
        return
    if positions_of(config) < text["max_tokens"]:
        yield (
            "data.features.text.max_tokens",
            f"{text['max_tokens']} tokens are more than the {positions_of(config)} positions of "
            f"{folder}; give at most {positions_of(config)}",
        )
    if model.get("pooling") is None and weight_files(folder):
        found = pooling_of(folder, config)
        if found.startswith("{"):
            modes = found.strip("{}") or "none"
            yield (
                "model.pooling",
                f"{folder / POOLING / CONFIG} says {modes}, which is not supported; choose mean, "
                "cls or pooler",
            )


def _value_problems(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the values that are read here; transformers checks the others."""
    if not isinstance(config.get("model_type"), str | None):
        yield _FIELD, f"{path}: model_type {config['model_type']!r} is not a name"
    for name in ("max_position_embeddings", "vocab_size"):
        value = config.get(name, 1)
        if type(value) is not int or value < 1:
            yield _FIELD, f"{path}: {name} {value!r} is not a whole number above 0"
            return
    padding, most = config.get("pad_token_id"), config.get("vocab_size", 2**31)
    if padding is not None and (type(padding) is not int or not 0 <= padding < most):
        yield _FIELD, f"{path}: pad_token_id {padding!r} is not one of the {most:,} tokens"


def _architecture_problems(
    path: Path, config: dict[str, Any], model: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    kind = config.get("model_type")
    if kind not in ENCODERS:
        yield (
            _FIELD,
            f"{path}: model_type {kind!r} is not an encoder that can be fine-tuned here; there are "
            f"{', '.join(ENCODERS)}",
        )
        return
    if config.get("is_decoder") or config.get("is_encoder_decoder"):
        yield _FIELD, f"{path}: is_decoder is true, and only encoders can be fine-tuned here"
    # transformers 5 would take absolute positions, whatever the weights were trained with.
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        yield _FIELD, f"{path}: position_embedding_type {positions!r} is not part of transformers 5"
    if model.get("attention") == "sdpa" and kind not in FUSED:
        yield "model.attention", f"{kind} cannot use sdpa here; choose eager"
    if model.get("pooling") == "pooler" and kind not in _POOLED:
        yield "model.pooling", f"{kind} has no pooler; choose mean or cls"


def _weight_problems(folder: Path) -> Iterator[tuple[str, str]]:
    files = weight_files(folder)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        yield _FIELD, f"{folder} lacks {', '.join(missing)}, which {INDEX} names"
    if files:
        return
    pickles = sorted(one.name for one in folder.iterdir() if one.name.endswith(_PICKLES))
    if pickles:
        yield (
            _FIELD,
            f"{folder} has its weights only in {pickles[0]}, and a pickle may run code; load it "
            "with transformers where you trust it, and save_pretrained(FOLDER) writes safetensors",
        )
    else:
        yield _FIELD, f"{folder} has no {WEIGHTS}; copy all files of the model"
