"""The files of a language model as vLLM reads them, made of a verified bundle. In the replica.

    config.json           config of transformers
    model.safetensors     the weights of the bundle in the names of transformers; in single
                          precision bit for bit
    adapter_config.json   of a model with adapters, with their file, in peft's format, in a folder
                          of their own

There is no tokenizer: raydc gives vLLM codes and gets codes. Nothing of it is code or a pickle.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from raydc.bundle import Bundle
from raydc.engine.owned_folder import OwnedFolder
from raydc.errors import ServeError
from raydc.models import adapters
from raydc.models.causal_network import make_causal_network, weights_of_decoder
from raydc.spec.sequence_models import HuggingFace

_WEIGHTS = "model.safetensors"


class VllmFolder:
    """A folder of this process, which goes with the object.

    A replica that is killed leaves it, with all weights if it was loading them; the next one on the
    machine removes it.

    Attributes:
        path: Where it is.
    """

    def __init__(self) -> None:
        try:
            owned = OwnedFolder("raydc-vllm-", tempfile.gettempdir())
            # Beside the file that says whose it is, which vLLM need not see.
            self.path = Path(owned.name) / "vllm"
            self.path.mkdir()
        except OSError as error:
            raise _no_space(error) from error
        self._finalizer = weakref.finalize(self, owned.cleanup)

    def remove(self) -> None:
        """Removes it now."""
        self._finalizer()


def write_decoder(bundle: Bundle, dtype: torch.dtype) -> VllmFolder:
    """Writes config and weights of a decoder, without adapters.

    Args:
        bundle: A verified language model, whose section is one of `huggingface`.
        dtype: Type to which the weights, of single precision, are rounded.

    Raises:
        CheckpointError: transformers has other names.
        ServeError: The files cannot be written.
    """
    folder, model = VllmFolder(), bundle.spec.model
    assert isinstance(model, HuggingFace)
    made = make_causal_network(bundle.model, model, has_weights=False)
    config = made.config
    config.architectures = [type(made).__name__]
    try:
        config.save_pretrained(folder.path)
        weights = {k: one.to(dtype) for k, one in weights_of_decoder(bundle.model).items()}
        safetensors.torch.save_file(weights, folder.path / _WEIGHTS, metadata={"format": "pt"})
    # A disk that is full is either of them.
    except (OSError, SafetensorError) as error:
        raise _no_space(error) from error
    return folder


def write_adapter(bundle: Bundle) -> VllmFolder | None:
    """Writes the adapters of a decoder; None if it has none.

    Args:
        bundle: A verified language model.

    Raises:
        ServeError: The files cannot be written.
    """
    model = bundle.spec.model
    if not isinstance(model, HuggingFace) or model.lora is None:
        return None
    folder = VllmFolder()
    try:
        adapters.write_files(bundle.model, folder.path)
    except (OSError, SafetensorError) as error:
        raise _no_space(error) from error
    return folder


def _no_space(error: Exception) -> ServeError:
    return ServeError(
        f"the files for vLLM cannot be written to {tempfile.gettempdir()}: {error}",
        "It needs room for the weights while vLLM loads them; TMPDIR of the replicas names "
        "another folder.",
    )
