"""Comparison of an exported encoder, as transformers and peft load it, with its model.

Runs in the driver.

Shape suffixes: B texts, L tokens, D width, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from raydc.bundle import Bundle
from raydc.errors import CheckpointError
from raydc.export import huggingface_folder
from raydc.features import Record

# Fraction of the largest output: sums of another length are rounded in another way.
TOLERANCE = 1e-4
# Beside the golden rows: a short text, and one that is cut off.
_TEXTS = ("A short text, with a number: 42.", "one word after the other " * 600)


def compare(loaded: Bundle, folder: Path) -> float:
    """Loads an exported folder as its users do, and compares weights, tokens and outputs.

    Args:
        loaded: Model that was exported.
        folder: Folder that `huggingface_folder.write` has filled.

    Returns:
        Largest difference of an output, as a fraction of the largest output.

    Raises:
        CheckpointError: A weight or the tokens of a text differ.
    """
    from transformers import AutoTokenizer

    name, column = huggingface_folder.column_of(loaded)
    names = [name] if column.second is None else [name, column.second]
    golden = [[row.get(one) for one in names] for row in loaded.golden.get("rows", [])]
    rows = [row for row in golden if all(isinstance(text, str) and text for text in row)]
    rows += [[text, *reversed(_TEXTS)][: len(names)] for text in _TEXTS]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    run = _load(loaded, folder)
    expected, found = [], []
    for row in rows:
        x = loaded.features.apply({one: [text] for one, text in zip(names, row, strict=True)})
        assert isinstance(x, Record)
        codes = x.fields[name].values_N.astype(np.int64)  # type: ignore[union-attr]
        given = tokenizer(*row, truncation=True, return_tensors="pt")
        # A network without types reads codes alone.
        types = given.get("token_type_ids", torch.from_numpy(codes[None] // column.num_codes))
        tokens = (given["input_ids"] + column.num_codes * types)[0].tolist()
        if tokens != codes.tolist():
            raise CheckpointError(
                f"the exported tokenizer gives other tokens for {row[0][:40]!r}",
                "Nothing was written. Report it with the tokenizer.json.",
            )
        expected.append(loaded.run(x)[0])
        with torch.no_grad():
            found.append(run(dict(given))[0].numpy())
    largest = max(float(np.abs(expected).max()), 1e-6)
    return float(np.abs(np.array(expected) - np.array(found)).max()) / largest


def _load(loaded: Bundle, folder: Path) -> Any:
    """A function from inputs int64 [1, L] by name to outputs [1, K], by the folder's libraries."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    model = huggingface_folder.require_pretrained(loaded)
    options = {"local_files_only": True, "trust_remote_code": False, "dtype": torch.float32}
    if huggingface_folder.is_classifier(model):
        network = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
        _require_equal(
            {k.removeprefix(f"{network.base_model_prefix}."): v for k, v in _state(network)}, loaded
        )
        return lambda inputs: network(**inputs).logits
    if model.lora is not None:
        from peft import PeftModel

        base = huggingface_folder.make_base(loaded, model)
        if (folder / "base").is_dir():
            base = AutoModel.from_pretrained(folder / "base", **options)
            _require_equal(dict(_state(base)), loaded)
        encoder = PeftModel.from_pretrained(base, folder).eval()
    else:
        encoder = AutoModel.from_pretrained(folder, **options).eval()
        _require_equal(dict(_state(encoder)), loaded)
    head = safetensors.torch.load_file(folder / huggingface_folder.HEAD / "model.safetensors")

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        found = encoder(**inputs)
        if model.pooling == "pooler":
            vectors_BD = found.pooler_output
        elif model.pooling == "cls":
            vectors_BD = found.last_hidden_state[:, 0]
        else:
            vectors_BD = found.last_hidden_state.mean(dim=1)
        outputs_BK: Tensor = functional.linear(
            vectors_BD, head["linear.weight"], head["linear.bias"]
        )
        return outputs_BK

    return run


def _state(network: Any) -> Any:
    return network.state_dict().items()


def _require_equal(state: dict[str, Tensor], loaded: Bundle) -> None:
    expected = huggingface_folder.weights_of_encoder(loaded)
    huggingface_folder.require_equal(state, expected, loaded.spec.name)
