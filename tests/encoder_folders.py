"""Folders of small pretrained encoders with random weights, as Hugging Face lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from required import absent

from raydc.data import shards
from raydc.features import Features, Signature, text_column
from raydc.storage import Storage

WORDS = ["free", "prize", "call", "now", "lunch", "home", "later", "tomorrow", "ok", "müde"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = [*SPECIAL, *WORDS]
# The names that most architectures give to their sizes.
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_OTHER_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "albert": {**SIZES, "embedding_size": 16},
    "modernbert": {**SIZES, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 4},
}
CLASSES = ("ham", "spam")


def require_library() -> None:
    """Skips the test if the extra `language` is not installed."""
    try:
        import tokenizers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        absent(f"no {error.name}, which is an extra")


def tokenizer_json() -> str:
    """A tokenizer of words that frames a text as BERT does."""
    import tokenizers

    codes = {word: code for code, word in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(codes, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # As in many folders; the codes of a row must not contain it.
    tokenizer.enable_padding(length=60)
    return str(tokenizer.to_str())


def write_encoder(
    folder: Path, kind: str = "bert", seed: int = 0, pooling: str | None = "mean", **values: Any
) -> Path:
    """Writes a folder of an encoder with random weights.

    Args:
        folder: Folder to make.
        kind: Architecture, as `model_type` names it.
        seed: Seed of the weights.
        pooling: Pooling in the form of sentence-transformers; None for a folder without one.
        values: Further values of its config.
    """
    require_library()
    import torch
    from transformers import AutoConfig, AutoModel

    given = {"vocab_size": 20, "max_position_embeddings": 40, "pad_token_id": 0, **values}
    config = AutoConfig.for_model(kind, **{**_OTHER_SIZES.get(kind, SIZES), **given})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModel.from_config(config)
        # A new network has the same numbers in all normalisations and no biases.
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        modes = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "max_tokens")}
        content = {"word_embedding_dimension": 16, **modes}
        content["pooling_mode_mean_tokens"] = pooling == "mean"
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
    return folder


def change_config(folder: Path, **values: Any) -> Path:
    """Sets values in the `config.json` of a folder; returns the folder."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def text_features(task: Any = "classification", max_tokens: int = 30) -> Features:
    """Features of rows that are one text, with the tokenizer of the folders."""
    body = text_column.of_tokenizer(tokenizer_json(), max_tokens, "none")
    classes = () if task == "regression" else CLASSES
    signature = Signature("record", (), "", (), (), task, classes, {"body": body.field})
    return Features(signature, "verdict", {"body": body})


def make_texts(count: int, seed: int) -> tuple[list[str | None], Any]:
    """Texts of very different lengths, one of them missing, and whether each is an offer."""
    choose = np.random.default_rng(seed)
    texts: list[str | None] = []
    for _ in range(count):
        length = int(choose.integers(0, 4 if choose.random() < 0.7 else 40))
        texts.append(" ".join(WORDS[int(i)] for i in choose.integers(0, len(WORDS), length)))
    texts[0] = None
    return texts, np.array([int("free" in (t or "") or "prize" in (t or "")) for t in texts])


def write_texts(folder: Storage, task: Any = "classification") -> Storage:
    """A prepared data set of texts, whose target says whether they make an offer."""
    features, splits = text_features(task), {}
    for seed, (split, count) in enumerate({"train": 200, "validation": 60, "test": 40}.items()):
        texts, is_offer = make_texts(count, seed)
        targets: Any = is_offer.astype(np.int64)
        if task == "regression":
            targets = (is_offer - 0.5).astype(np.float32)
        elif task == "multilabel":
            targets = np.stack([1 - is_offer, is_offer], axis=1).astype(np.uint8)
        splits[split] = (features.apply({"body": texts}), targets)
    golden = [{"body": text} for text in ("free prize now", "lunch", "home later tomorrow ok")]
    shards.write_data_set(folder, features, splits, golden, num_rows_per_shard=64)
    return folder
