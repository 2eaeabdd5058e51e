"""Folders of small pretrained decoders with random weights, as Hugging Face lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from encoder_folders import require_library

WORDS = ["the", "cat", "sees", "a", "dog", "and", "then", "goes", "home", "again", "ok", "müde"]
BEGIN, END = "<|im_start|>", "<|im_end|>"
SPECIAL = [BEGIN, END, "[UNK]", "user", "assistant", "system", "\n"]
VOCABULARY = [*SPECIAL, *WORDS]
END_CODE = VOCABULARY.index(END)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    # As of SmolLM2-Instruct: the end is the token of padding, too.
    "pad_token_id": END_CODE,
}
# Without marks of what is generated, as in most folders.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_OTHER_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def tokenizer_json() -> str:
    """A tokenizer of words, whose special tokens are those of a template for chats."""
    import tokenizers

    codes = {word: code for code, word in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(codes, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split("\n", "isolated"),
            tokenizers.pre_tokenizers.Split(" ", "removed"),
        ]
    )
    tokenizer.add_special_tokens([BEGIN, END])
    return str(tokenizer.to_str())


def write_decoder(folder: Path, kind: str = "llama", seed: int = 0, **values: Any) -> Path:
    """Writes a folder of a decoder with random weights.

    Args:
        folder: Folder to make.
        kind: Architecture, as `model_type` names it.
        seed: Seed of the weights.
        values: Further values of its config.
    """
    require_library()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {"vocab_size": 24, "eos_token_id": END_CODE, "bos_token_id": 0, **values}
    config = AutoConfig.for_model(kind, **{**_OTHER_SIZES.get(kind, SIZES), **given})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # A new network has the same numbers in all normalisations and no biases.
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    special = {"bos_token": BEGIN, "eos_token": {"content": END}, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def decoder_spec(folder: Path, data: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    """A spec as plain values: a pretrained decoder on texts.

    Args:
        folder: Folder of the decoder.
        data: Further values of section `data`.
        model: Further values of section `model`.
    """
    return {
        "name": "words",
        "data": {
            "source": "texts",
            "task": "language_modelling",
            "blocks": {"length": 16},
            **(data or {}),
        },
        "model": {"name": "huggingface", "path": str(folder), **model},
    }


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in the file of a folder."""
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: one["shape"] for name, one in header.items() if name != "__metadata__"}
