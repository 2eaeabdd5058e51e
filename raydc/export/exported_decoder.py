"""The folder of an exported decoder: written, loaded by transformers and peft, and compared.

Runs in the driver.

Shape suffixes: L tokens, V codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydc.bundle import Bundle
from raydc.bundle.completion import find_prompts
from raydc.errors import CheckpointError, UsageError
from raydc.export import huggingface_folder
from raydc.features import Conversations, TokenBlock
from raydc.features.given_tokenizer import GivenTokenizer
from raydc.features.text_column import to_bytes
from raydc.models import adapters, text_encoders
from raydc.models.causal_network import make_causal_network, weights_of_decoder
from raydc.models.pretrained_decoders import PretrainedDecoder
from raydc.models.pretrained_part import part_of
from raydc.spec.sequence_models import HuggingFace

BASE = "base"
# No text has as many tokens.
_ALL = 2**62
_TEXTS = ("A short text, with a number: 42.", "one word after the other")
_CARD = """\
# {name}

A decoder of texts, exported by raydc.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
network = {network}.eval()
given = tokenizer("a text", return_tensors="pt")
print(tokenizer.decode(network.generate(**given)[0]))
```
"""


def write(loaded: Bundle, folder: Path, with_base: bool) -> list[str]:
    """Writes the files of a pretrained decoder.

    Args:
        loaded: Model of the task language_modelling, whose section is one of `huggingface`.
        folder: Empty folder.
        with_base: Whether to write the decoder under adapters, too, as folder `base`.

    Returns:
        Lines about what was written.

    Raises:
        UsageError: There are no adapters, whose base could be written.
    """
    model = huggingface_folder.require_pretrained(loaded)
    if with_base and model.lora is None:
        raise UsageError(
            f"{loaded.spec.name} has no adapters", "--base is for models with model.lora."
        )
    _write_tokenizer(loaded, model, folder)
    imports, network = "", "AutoModelForCausalLM.from_pretrained(FOLDER)"
    if model.lora is not None:
        adapters.write_files(loaded.model, folder)
        lines = ["adapters in peft's format, without their decoder"]
        if with_base:
            base = huggingface_folder.as_in_folder(make_causal_network(loaded.model, model), model)
            base.save_pretrained(folder / BASE)
            lines = [f"adapters in peft's format; their decoder in {BASE}"]
        imports = "from peft import PeftModel\n"
        network = "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), FOLDER)"
    else:
        network_of_folder = make_causal_network(loaded.model, model)
        # A model of conversations has learnt to stop at the end of a turn.
        ends = _column(loaded).end_codes
        others = find_prompts(loaded).end_codes.difference(ends)
        network_of_folder.generation_config.eos_token_id = [*ends, *sorted(others)]
        huggingface_folder.as_in_folder(network_of_folder, model).save_pretrained(folder)
        lines = ["a decoder of AutoModelForCausalLM"]
    card = _CARD.format(name=loaded.spec.name, imports=imports, network=network)
    if model.lora is not None:
        card += f"\nBASE is the decoder that was trained with adapters: `{model.path}`.\n"
    # Libraries write a page of their own, with blanks to fill in.
    (folder / "README.md").write_text(card, encoding="utf-8")
    return lines


def compare(loaded: Bundle, folder: Path) -> float:
    """Loads an exported folder as its users do, and compares weights, tokens and scores.

    Args:
        loaded: Model that was exported.
        folder: Folder that `write` has filled.

    Returns:
        Largest difference of a score, as a fraction of the largest one.

    Raises:
        CheckpointError: A weight or the tokens of a text differ.
    """
    from transformers import AutoTokenizer

    column, part = _column(loaded), part_of(loaded.model)
    assert isinstance(part, PretrainedDecoder)
    network = _load(loaded, folder)
    own_tokenizer = GivenTokenizer(column.tokenizer, None)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    golden = [row.get(loaded.features.target) for row in loaded.golden.get("rows", [])]
    difference, largest = 0.0, 1e-6
    for text in [*(one for one in golden if isinstance(one, str) and one), *_TEXTS]:
        codes = own_tokenizer.encode(to_bytes(text, column.normalisation), _ALL)
        # In raydc a text never holds special tokens.
        options = {"add_special_tokens": False, "split_special_tokens": True}
        if tokenizer(text, **options)["input_ids"] != codes:
            raise CheckpointError(
                f"the exported tokenizer gives other tokens for {text[:40]!r}",
                "Nothing was written. Report it with the tokenizer.json.",
            )
        tokens_1L = torch.tensor([[column.end_code, *codes][: column.length]])
        with torch.no_grad():
            expected_1LV, found_1LV = part(tokens_1L), network(tokens_1L).logits
        largest = max(largest, float(expected_1LV.abs().max()))
        difference = max(difference, float((expected_1LV - found_1LV).abs().max()))
    return difference / largest


def _load(loaded: Bundle, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = huggingface_folder.require_pretrained(loaded)
    options = {"local_files_only": True, "trust_remote_code": False, "dtype": torch.float32}
    if model.lora is None:
        network = AutoModelForCausalLM.from_pretrained(folder, **options)
        huggingface_folder.require_equal(
            _state(network), weights_of_decoder(loaded.model), loaded.spec.name
        )
        return network.eval()
    from peft import PeftModel

    base = make_causal_network(loaded.model, model)
    if (folder / BASE).is_dir():
        base = AutoModelForCausalLM.from_pretrained(folder / BASE, **options)
        huggingface_folder.require_equal(
            _state(base), weights_of_decoder(loaded.model), loaded.spec.name
        )
    return PeftModel.from_pretrained(base, folder).eval()


def _state(network: Any) -> dict[str, Tensor]:
    return dict(network.state_dict())


def _column(loaded: Bundle) -> TokenBlock | Conversations:
    (column,) = loaded.features.columns.values()
    assert isinstance(column, TokenBlock | Conversations)
    return column


def _write_tokenizer(loaded: Bundle, model: HuggingFace, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    column, config = _column(loaded), text_encoders.make_config(model)
    tokenizer = huggingface_folder.make_tokenizer(column.tokenizer, column.normalisation)

    def token_of(code: Any) -> str | None:
        return tokenizer.id_to_token(code) if isinstance(code, int) else None

    tokens = {
        "bos_token": token_of(config.bos_token_id),
        "eos_token": token_of(column.end_code),
        "pad_token": token_of(config.pad_token_id),
    }
    if isinstance(column, Conversations):
        # A template may name them, and was learnt with these.
        names, texts = column.special_tokens[::2], column.special_tokens[1::2]
        tokens |= dict(zip(names, texts, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **tokens,
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
        # A model of conversations is asked in the form in which it learnt to answer.
        chat_template=_template_of(loaded, model),
    ).save_pretrained(folder)


def _template_of(loaded: Bundle, model: HuggingFace) -> str | None:
    chat = loaded.spec.data.chat
    return chat.template if chat else model.content.chat_template if model.content else None
