"""The folder of a fine-tuned encoder as libraries of Hugging Face read it. Runs in the driver.

config.json, model.safetensors    encoder; with its last layer where transformers has the same
tokenizer.json, ...               its tokens
1_Pooling, 2_Dense, modules.json  how a vector becomes the outputs, for sentence-transformers
adapter_config.json, ...          adapters in place of the encoder, in peft's format
README.md                         how it is loaded, and what the outputs mean
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from raydc.bundle import Bundle
from raydc.errors import CheckpointError, UsageError
from raydc.export import huggingface_card
from raydc.features.text_column import Normalisation, Text
from raydc.models import adapters, text_encoders
from raydc.models.pretrained_part import part_of
from raydc.models.text_encoders import PooledEncoder
from raydc.spec.model import Builder
from raydc.spec.sequence_models import HuggingFace

HEAD = "2_Dense"
# Their classifiers are the pooler, a dropout and a linear layer, as here.
_SAME_HEAD = ("albert", "bert", "ernie")
_PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
_ENCODER, _HEAD = "body.reader.base.", "body.head."


def require_pretrained(loaded: Bundle) -> HuggingFace:
    """The section of a pretrained network. Raises UsageError for any other model."""
    model = loaded.spec.model
    if not isinstance(model, HuggingFace):
        kind = model.builder if isinstance(model, Builder) else model.name
        raise UsageError(
            f"{loaded.spec.name} is a model {kind}, which libraries of Hugging Face do not have",
            "--format huggingface is for model.name: huggingface; try --format torch_export.",
        )
    return model


def is_classifier(model: HuggingFace) -> bool:
    """Whether a network of transformers has the last layer, too."""
    kind = model.content.config["model_type"] if model.content else None
    return model.pooling == "pooler" and kind in _SAME_HEAD and model.lora is None


def write(loaded: Bundle, folder: Path, with_base: bool) -> list[str]:
    """Writes the files of a fine-tuned encoder.

    Args:
        loaded: Model, whose section is one of `huggingface`.
        folder: Empty folder.
        with_base: Whether to write the encoder under adapters, too, as folder `base`.

    Returns:
        Lines about what was written.
    """
    model = require_pretrained(loaded)
    if with_base and model.lora is None:
        raise UsageError(
            f"{loaded.spec.name} has no adapters", "--base is for models with model.lora."
        )
    _write_tokenizer(loaded, folder)
    _write_head(loaded, model, folder)
    if model.lora is not None:
        adapters.write_files(loaded.model, folder)
        lines = ["adapters in peft's format, without their encoder"]
        if with_base:
            as_in_folder(make_base(loaded, model), model).save_pretrained(folder / "base")
            lines = ["adapters in peft's format; their encoder in base"]
    elif is_classifier(model):
        as_in_folder(_make_classifier(loaded, model), model).save_pretrained(folder)
        lines = ["a network of AutoModelForSequenceClassification"]
    else:
        as_in_folder(make_base(loaded, model), model).save_pretrained(folder)
        lines = [f"an encoder of AutoModel, and its last layer in {HEAD}"]
    # Libraries write a page of their own, with blanks to fill in.
    (folder / "README.md").write_text(huggingface_card.render(loaded, model), encoding="utf-8")
    return lines


def as_in_folder(network: Any, model: HuggingFace) -> Any:
    """A network of transformers in the type of weights that the folder of the model had."""
    half = model.content.dtype if model.content else None
    return network if half is None else network.to(getattr(torch, half))


def rounded(loaded: Bundle) -> tuple[Bundle, list[str]]:
    """A model with the weights that its export has, and a line about what was rounded.

    Weights of half precision train in single precision. What was not trained is the same byte for
    byte in half precision again.

    Args:
        loaded: Model, whose section is one of `huggingface`; it stays as it is.

    Raises:
        UsageError: A weight is too large for half precision.
    """
    model = require_pretrained(loaded)
    half = model.content.dtype if model.content else None
    if half is None:
        return loaded, []
    network = copy.deepcopy(loaded.model)
    part = network if is_classifier(model) else part_of(network)
    num_changed = 0
    with torch.no_grad():
        for name, one in part.named_parameters():
            # Adapters have files of their own, in single precision.
            if not adapters.is_added(name):
                short = one.to(getattr(torch, half)).to(one.dtype)
                if short.isinf().any():
                    raise UsageError(
                        f"{loaded.spec.name} cannot be written as its folder was: a weight of "
                        f"{name} is too large for {half}",
                        "Nothing was written. The forms torch_export and onnx keep all weights.",
                    )
                num_changed += int(not torch.equal(short, one))
                one.copy_(short)
    line = f"weights in {half}, as in the folder of the model"
    if num_changed:
        line += f"; {num_changed} tensors that were trained are rounded to it"
    return replace(loaded, model=network), [line]


def make_base(loaded: Bundle, model: HuggingFace) -> Any:
    """A new encoder of transformers with the weights of a model, without adapters."""
    config = text_encoders.make_config(model)
    base: Any = PooledEncoder(text_encoders.make_base(model, config), model, "").base
    base.load_state_dict(weights_of_encoder(loaded))
    return base.eval()


def weights_of_encoder(loaded: Bundle) -> dict[str, Tensor]:
    """Weights of the encoder under the names of transformers, without adapters."""
    return {
        name.removeprefix(_ENCODER).replace(".base_layer.", "."): one.detach().cpu().contiguous()
        for name, one in loaded.model.state_dict().items()
        if name.startswith(_ENCODER) and not adapters.is_added(name)
    }


def head_of(loaded: Bundle) -> dict[str, Tensor]:
    """Weight and bias of the last layer."""
    return {
        name.removeprefix(_HEAD): one.detach().cpu().contiguous()
        for name, one in loaded.model.state_dict().items()
        if name.startswith(_HEAD)
    }


def _make_classifier(loaded: Bundle, model: HuggingFace) -> Any:
    from transformers import AutoModelForSequenceClassification

    signature = loaded.features.signature
    config = text_encoders.make_config(model)
    config.num_labels = signature.num_outputs
    config.problem_type = _PROBLEMS[signature.task]
    if signature.classes:
        config.id2label = dict(enumerate(signature.classes))
        config.label2id = {name: number for number, name in enumerate(signature.classes)}
    network: Any = AutoModelForSequenceClassification.from_config(
        config, attn_implementation=model.attention, dtype=torch.float32, trust_remote_code=False
    )
    weights = {f"{network.base_model_prefix}.{k}": v for k, v in weights_of_encoder(loaded).items()}
    head = {f"classifier.{name}": one for name, one in head_of(loaded).items()}
    network.load_state_dict(weights | head)
    return network.eval()


def _write_tokenizer(loaded: Bundle, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    _, column = column_of(loaded)
    tokenizer = make_tokenizer(column.tokenizer, column.normalisation)
    encoder = part_of(loaded.model)
    assert isinstance(encoder, PooledEncoder)
    padding = encoder.padding
    # The types of tokens are those of pairs, which not every architecture takes.
    names = ["input_ids", *(["token_type_ids"] if encoder.takes_types else []), "attention_mask"]
    # transformers 5 has names of special tokens of its own; only that of padding is needed here.
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tokenizer.id_to_token(padding),
        model_max_length=column.max_tokens,
        model_input_names=names,
    ).save_pretrained(folder)


def column_of(loaded: Bundle) -> tuple[str, Text]:
    """Name and column of the text that an encoder reads; of a pair, of the first one."""
    columns = loaded.features.columns.items()
    return next((name, one) for name, one in columns if isinstance(one, Text) and one.first is None)


def make_tokenizer(content: str, normalisation: Normalisation) -> Any:
    """A tokenizer of the library `tokenizers` that gives the tokens of a fitted column.

    Args:
        content: JSON text of its file.
        normalisation: Unicode form to which a text is brought first.
    """
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_padding()
    if normalisation != "none":
        own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        form = getattr(normalizers, normalisation)()
        tokenizer.normalizer = normalizers.Sequence([form, *own])
    return tokenizer


def require_equal(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Refuses a network that was loaded again with other weights than those of a model.

    Args:
        state: State of the network that was loaded.
        expected: Weights of the model, under the same names.
        name: Name of the model, for the message.

    Raises:
        CheckpointError: A weight is missing, or differs in a bit.
    """
    for key, one in expected.items():
        if key not in state or not torch.equal(state[key], one):
            raise CheckpointError(
                f"the exported weight {key} differs from that of {name}",
                "Nothing was written. Report it with the version of transformers.",
            )


def _write_head(loaded: Bundle, model: HuggingFace, folder: Path) -> None:
    """Pooling and last layer, as sentence-transformers lays them out."""
    head = head_of(loaded)
    num_outputs, width = head["weight"].shape
    (folder / HEAD).mkdir()
    _write_json(
        folder / HEAD / "config.json",
        {
            "in_features": width,
            "out_features": num_outputs,
            "bias": True,
            "activation_function": _class_path(nn.Identity),
        },
    )
    safetensors.torch.save_file(
        {f"linear.{name}": one for name, one in head.items()}, folder / HEAD / "model.safetensors"
    )
    if model.pooling == "pooler":
        return
    (folder / "1_Pooling").mkdir()
    _write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": model.pooling == "cls",
            "pooling_mode_mean_tokens": model.pooling == "mean",
        },
    )
    # An encoder in another folder is none that sentence-transformers could name.
    if model.lora is not None:
        return
    kinds = {"": "Transformer", "1_Pooling": "Pooling", HEAD: "Dense"}
    _write_json(
        folder / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, (path, kind) in enumerate(kinds.items())
        ],
    )
    _, column = column_of(loaded)
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": column.max_tokens, "do_lower_case": False},
    )


def _class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
