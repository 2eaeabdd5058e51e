"""Files of a pretrained model: where its folder is, and what JSON and headers of weights say.

Runs in the driver when a spec is resolved, and where weights are read. Only JSON and the headers of
safetensors files are read here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from raydc.errors import Problem, SpecError, first_line

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
GENERATION = "generation_config.json"
WEIGHTS, INDEX, POOLING = "model.safetensors", "model.safetensors.index.json", "1_Pooling"
INSTALL = "pip install 'raydc[language]'"
FIELD = "model.path"
# Names in the headers of safetensors, and torch's.
_HALF_TYPES = {"BF16": "bfloat16", "F16": "float16"}
_ENDING = ".safetensors"
# A name on the hub, such as `bert-base-uncased` or `google/electra-small-discriminator`.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MOST_HEADER_BYTES = 100 * 1024 * 1024


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
        raise SpecError([Problem("", FIELD, f"{folder} is not a folder")])
    try:
        # Imported late: most models are folders, and need no hub.
        from huggingface_hub import snapshot_download
    except ImportError as error:
        message = f"{folder} is not a folder, and a download of {path} needs {INSTALL}"
        raise SpecError([Problem("", FIELD, message)]) from error
    wanted = [CONFIG, TOKENIZER, f"{POOLING}/{CONFIG}", "model*.safetensors", INDEX]
    wanted += [TEMPLATE, TOKENIZER_CONFIG, GENERATION]
    try:
        found = Path(snapshot_download(path, revision=revision, allow_patterns=wanted))
    # The library raises errors of its own, of its transport and of the system.
    except Exception as error:
        message = (
            f"{folder} is not a folder, and {path} cannot be downloaded from the hub: "
            f"{first_line(error)}"
        )
        raise SpecError([Problem("", FIELD, message)]) from error
    return found, found.name


def weight_files(folder: Path) -> list[str]:
    """Names of the files with the weights, in their order; none if there are no safetensors.

    Raises:
        SpecError: The index cannot be read, or names what is not a file of the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        message = f"{folder / INDEX} does not say in which file each tensor is (weight_map)"
        raise SpecError([Problem("", FIELD, message)])
    names = sorted(set(files.values()))
    for name in names:
        # A name from a file of the folder must not lead out of it, nor to a pickle.
        if Path(name).name != name or not name.endswith(_ENDING):
            message = (
                f"{folder / INDEX} names {name!r} in weight_map, which is not the name of a "
                f"{_ENDING} file of this folder; copy all files of the model again"
            )
            raise SpecError([Problem("", FIELD, message)])
    return names


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises SpecError if the file does not hold one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read: {first_line(error)}"
        raise SpecError([Problem("", FIELD, message)]) from error
    if not isinstance(value, dict):
        raise SpecError([Problem("", FIELD, f"{path} does not hold a JSON object")])
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
    return {name: tuple(one["shape"]) for name, one in _read_headers(folder).items()}


def half_type(folder: Path) -> str | None:
    """torch's name of the type of all weights of a folder; None unless it is half.

    Whole numbers do not count.

    Raises:
        SpecError: A file is not one of safetensors.
    """
    types = {one.get("dtype") for one in _read_headers(folder).values()}
    found = {name for name in types if name and name[0] in "BF" and name != "BOOL"}
    return _HALF_TYPES.get(found.pop()) if len(found) == 1 else None


def _read_headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Type and shape of each tensor by name."""
    tensors: dict[str, dict[str, Any]] = {}
    for name in weight_files(folder):
        try:
            with (folder / name).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
                found = {k: v for k, v in header.items() if k != "__metadata__"}
                # Each must have a shape, or the file is none of safetensors.
                tensors |= {k: {**v, "shape": tuple(v["shape"])} for k, v in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{folder / name} is not a file of safetensors: {first_line(error)}"
            raise SpecError([Problem("", FIELD, message)]) from error
    return tensors
