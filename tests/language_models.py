"""Small language models with random weights that write varied texts: for tests of generation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from raydc import bundle, models, spec
from raydc.features import Features, PromptTexts, Signature, TokenBlock
from raydc.features.byte_pairs import words_of
from raydc.features.token_block import learn
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

LENGTH = 48
NAME = "small"
TEXTS = [
    "the cat sat on the mat and the dog sat on the log",
    "grün ist die Heide, blau das Meer, 日本語 und 😀 dazu",
    "one two three four five six seven eight nine ten",
    "a stitch in time saves nine",
]
# Weights of a new decoder are so small that it repeats its last token.
_LOUDER = 12.0


def language_features(length: int = LENGTH) -> Features:
    """Features of documents whose tokens were learnt from `TEXTS`."""
    counts = Counter(word for text in TEXTS * 2 for word in words_of(text.encode()))
    block = learn(counts, 300, length, "none")
    signature = Signature(
        "record", (), "", (), (), "language_modelling", (), {"text": block.field}, num_values=length
    )
    return Features(signature, "text", {"text": block})


def language_spec(
    storage: str, length: int = LENGTH, name: str = NAME, **serve: Any
) -> ResolvedSpec:
    """A resolved spec of a small decoder that is served.

    Args:
        storage: Folder of the storage.
        length: Tokens of a row.
        name: Name of the spec and of the model.
        serve: Fields of section `serve`.
    """
    value = {
        "name": name,
        "storage": storage,
        "data": {
            "source": "texts",
            "format": "text",
            "task": "language_modelling",
            "blocks": {"length": length},
        },
        "model": {"name": "decoder", "width": 32, "depth": 2, "heads": 2, "tied": False},
        "serve": {"port": 0, "auth": "none", **serve},
    }
    return spec.resolve(spec.from_dict(value))


def loud_weights(made: ResolvedSpec, features: Features, seed: int) -> dict[str, torch.Tensor]:
    """Weights of a new network, large enough for a token to follow from those before it.

    Args:
        made: Spec of the network.
        features: Features of the network.
        seed: Seed of the weights; different seeds write different texts.
    """
    network = models.build(made.model, features.signature, seed)
    return {
        name: tensor * _LOUDER if tensor.ndim > 1 else tensor.clone()
        for name, tensor in network.state_dict().items()
    }


def write_language_bundle(
    folder: Storage, seed: int = 0, length: int = LENGTH, **serve: Any
) -> ResolvedSpec:
    """Writes a bundle with random weights; returns its spec.

    Args:
        folder: Folder of the new bundle.
        seed: Seed of the weights.
        length: Tokens of a row.
        serve: Fields of section `serve`.
    """
    features = language_features(length)
    made = language_spec(str(folder.local_path.parent), length, **serve)
    golden = [{"text": text} for text in TEXTS]
    bundle.write(folder, made, features, loud_weights(made, features, seed), golden, {"run": "r"})
    return made


def block_of(features: Features) -> TokenBlock:
    """The column of documents."""
    column = features.token_column
    assert isinstance(column, TokenBlock)
    return column


def prompts_of(features: Features) -> PromptTexts:
    """How documents are continued."""
    return PromptTexts(block_of(features))
