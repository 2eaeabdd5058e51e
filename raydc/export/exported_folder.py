"""The folder of an exported model: nothing takes its place before its outputs were compared.

Runs in the driver.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from raydc.bundle import Bundle
from raydc.errors import CheckpointError, UsageError
from raydc.export import exported_decoder, graph_file, huggingface_check, huggingface_folder
from raydc.spec.language import LANGUAGE

Form = Literal["huggingface", "torch_export", "onnx"]


def require_free(folder: Path) -> None:
    """Raises UsageError for a place that holds something already, or that has no parent folder."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty", "Name another folder with --to, or remove this one."
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "Name another one with --to.")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder.absolute().parent} is not a folder", "Make it, or correct --to.")


def write(loaded: Bundle, form: Form, folder: Path, with_base: bool = False) -> list[str]:
    """Writes a model in a format of another library, loads it again and compares its outputs.

    Args:
        loaded: Model to export.
        form: Format: a folder of Hugging Face, a program of `torch.export`, or an ONNX file.
        folder: Folder to make; it must not exist, or be empty.
        with_base: Whether to write the network under adapters, too, as folder `base`.

    Returns:
        Lines about what was written and compared.

    Raises:
        UsageError: The folder is taken, a package is missing, or the model has no such form.
        CheckpointError: What was written does not compute what the model computes. Nothing is left.
    """
    require_free(folder)
    writers: dict[Form, Callable[[Path], list[str]]] = {
        "huggingface": lambda draft: _write_huggingface(loaded, draft, with_base),
        "torch_export": lambda draft: graph_file.write_program(loaded, draft),
        "onnx": lambda draft: graph_file.write_onnx(loaded, draft),
    }
    # Beside its place, so that it gets there by a rename.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        lines = writers[form](draft)
        _open_up(draft)
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return lines


def _open_up(draft: Path) -> None:
    """Gives files and folders the permissions of others of the user.

    Drafts and files of safetensors are made for their owner only.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in (draft, *draft.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars and notes of transformers away from the user.

    It would tell of a pooler that is missing, which the model does not use.
    """
    from transformers.utils import logging

    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers under a name that is going to change.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()


def _write_huggingface(loaded: Bundle, draft: Path, with_base: bool) -> list[str]:
    loaded, notes = huggingface_folder.rounded(loaded)
    with _quiet():
        if loaded.spec.data.task == LANGUAGE:
            lines = exported_decoder.write(loaded, draft, with_base)
            difference = exported_decoder.compare(loaded, draft)
        else:
            lines = huggingface_folder.write(loaded, draft, with_base)
            difference = huggingface_check.compare(loaded, draft)
    # Also for an output that is no number.
    if not difference <= huggingface_check.TOLERANCE:
        raise CheckpointError(
            f"the exported model differs from {loaded.spec.name}: by {difference:.2g} of the "
            "largest output",
            "Nothing was written. Report it with the versions of transformers and peft.",
        )
    return [*lines, *notes, f"loaded again: outputs differ by {difference:.1g} of the largest"]
