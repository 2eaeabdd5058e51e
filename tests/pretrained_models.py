"""Small pretrained decoders with random weights in a registry: for tests of serving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from decoder_folders import END_CODE, decoder_spec, write_decoder
from in_process import spoil_golden

from raydc import bundle, models
from raydc import spec as specs
from raydc.bundle import Bundle
from raydc.data.tokenizer_file import check_blocks, check_conversations
from raydc.features import Features, Signature
from raydc.registry import Registry
from raydc.serve.control.application import build_settings
from raydc.serve.settings import Settings, Traffic
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

NAME, LENGTH = "words", 48
LORA = {"rank": 2, "alpha": 8.0}
TALKS = [
    [{"role": "user", "content": one}, {"role": "assistant", "content": "a dog goes home"}]
    for one in ("the cat", "a dog sees the cat", "then home", "ok")
]
# The text of a quiet network depends on the last token only.
_LOUDER = 0.3


def pretrained_spec(
    decoder: Path,
    storage: str,
    is_chat: bool = True,
    serve: dict[str, Any] | None = None,
    **model: Any,
) -> ResolvedSpec:
    """A resolved spec of a pretrained decoder that is served.

    Args:
        decoder: Folder of the decoder.
        storage: Folder of the storage.
        is_chat: Whether it is trained with conversations, or with documents.
        serve: Fields of section `serve`.
        model: Fields of section `model`.
    """
    data: dict[str, Any] = (
        {"source": "talks.jsonl", "chat": {}} if is_chat else {"source": "texts", "format": "text"}
    )
    value = decoder_spec(decoder, {**data, "blocks": {"length": LENGTH}}, **model)
    section = {"port": 0, "auth": "none", **(serve or {})}
    return specs.resolve(specs.from_dict({**value, "storage": storage, "serve": section}))


def write_pretrained_bundle(
    folder: Storage, made: ResolvedSpec, seed: int = 0, is_endless: bool = False
) -> None:
    """Writes a bundle whose trained weights are random, and its other ones those of the folder.

    Args:
        folder: Folder of the new bundle.
        made: Spec of the model.
        seed: Seed of the trained weights; different seeds write different texts.
        is_endless: Whether the end is never the likeliest token.
    """
    is_chat = made.data.chat is not None
    column = check_conversations(made.data) if is_chat else check_blocks(made.data)
    target, length = made.data.target, made.data.blocks.length
    signature = Signature(
        "record", (), "", (), (), made.data.task, fields={target: column.field}, num_values=length
    )
    features = Features(signature, target, {target: column})
    network = models.build(made.model, signature, made.seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weights in network.parameters():
            if weights.requires_grad:
                noise = torch.randn_like(weights)
                # A matrix is loud, and biases and normalisations stay near what they are.
                weights.add_(noise * (_LOUDER if weights.ndim > 1 else 0.05))
        if is_endless:
            # Its score is zero then, and one of the others is greater.
            network.get_submodule("body.decoder.head").get_parameter("weight")[END_CODE] = 0.0
    golden = [{target: json.dumps(one) if is_chat else one[0]["content"]} for one in TALKS]
    bundle.write(folder, made, features, network.state_dict(), golden, {"run": NAME})


class PretrainedStore:
    """A registry with versions of a pretrained decoder; the golden prompts of the last differ.

    Args:
        folder: Folder for all files.
        is_chat: Whether it is trained with conversations, or with documents.
        num_versions: Good versions.
        kind: Architecture.
        template: Chat template of its folder; None for the usual one.
        generation: Values of `generation_config.json`; None for what transformers writes.
        sizes: Further values of the config of its folder.
        is_endless: Whether no greedy text ends by itself.
        model: Fields of section `model`.
    """

    def __init__(
        self,
        folder: Path,
        is_chat: bool = True,
        num_versions: int = 2,
        kind: str = "llama",
        template: str | None = None,
        generation: dict[str, Any] | None = None,
        sizes: dict[str, Any] | None = None,
        is_endless: bool = False,
        **model: Any,
    ) -> None:
        self.storage = Storage(str(folder / "store"))
        self.registry = Registry(self.storage)
        decoder = write_decoder(
            folder / "decoder", kind, **{"tie_word_embeddings": False, **(sizes or {})}
        )
        if template is not None:
            (decoder / "chat_template.jinja").write_text(template)
        if generation is not None:
            (decoder / "generation_config.json").write_text(json.dumps(generation))
        self.spec = pretrained_spec(decoder, self.storage.uri, is_chat, **model)
        for seed in range(num_versions + 1):
            made = Storage(str(folder / f"bundle-{seed}"))
            write_pretrained_bundle(made, self.spec, seed, is_endless)
            if seed == num_versions:
                spoil_golden(made)
            self.registry.register(NAME, made, {"run": NAME})

    def settings(self, version: int = 1, **fields: Any) -> Settings:
        assert self.spec.serve is not None
        made = build_settings(NAME, self.spec.serve, self.storage, Traffic(version=version))
        return made.model_copy(update={"access_log": False, **fields})

    def bundle(self, version: int = 1) -> Bundle:
        return bundle.load(self.registry.folder(NAME, version))
