"""Pretrained encoders of texts, built by transformers. Used in workers and replicas.

The network follows from the content of the folder that the spec has noted; its weights are read by
`encoder_weights`. A row attends to its own tokens only, and random numbers come from torch's
generator, which is set for each logical shard.

Shape suffixes: B rows, L tokens of padded texts, D width.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydc.features import Signature
from raydc.features.record import LENGTH
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.models.pretrained_part import PretrainedPart
from raydc.models.record_networks import mean_of_lists
from raydc.spec.encoder_folder import positions_of
from raydc.spec.model_files import INSTALL
from raydc.spec.sequence_models import HuggingFace

# Names of dropouts among the values of a config, whatever the architecture.
_DROPOUTS = (
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "dropout",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "resid_pdrop",
    "residual_dropout",
)
# That of the head, the first that has a value.
_OF_HEAD = (
    "classifier_dropout",
    "seq_classif_dropout",
    "classifier_dropout_prob",
    "hidden_dropout_prob",
)
_PACKAGES = ("transformers", "tokenizers")


class PooledEncoder(PretrainedPart):
    """A pretrained encoder, and one vector of the vectors of its tokens.

    Args:
        base: Network of transformers without a head.
        model: Section `model` of the spec, with pooling and attention.
        name: Field of the rows with the tokens.
        num_codes: Number of codes of tokens, which is added to those of the second type of a pair;
            0 for rows of one text.
    """

    def __init__(self, base: nn.Module, model: HuggingFace, name: str, num_codes: int = 0) -> None:
        super().__init__(base)
        self.num_codes = num_codes
        self.name = name
        self.pooling = model.pooling
        self.is_fused = model.attention == "sdpa"
        config: Any = base.config
        self.padding = int(config.pad_token_id or 0)
        self.width = int(config.hidden_size)
        self.num_positions = positions_of(config.to_dict())
        # Some architectures know no types, whatever their tokenizer counts.
        known = inspect.signature(base.forward).parameters
        num_types = getattr(config, "type_vocab_size", 0)
        self.takes_types = bool(num_codes) and "token_type_ids" in known and num_types > 1
        # Its weights would have no gradient.
        if model.pooling != "pooler" and getattr(base, "pooler", None) is not None:
            base.pooler = None  # type: ignore[assignment]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Vectors of texts, [B, D].

        Args:
            inputs: Codes of tokens, int64 [B, L], and the length of each text before padding.
        """
        # Texts are padded to lengths that may go beyond the last position, but no text does.
        codes_BL = inputs[self.name][:, : self.num_positions]
        lengths_B = inputs[self.name + LENGTH]
        types: dict[str, Tensor] = {}
        if self.num_codes:
            types_BL = torch.div(codes_BL, self.num_codes, rounding_mode="floor")
            codes_BL = codes_BL - self.num_codes * types_BL
            types = {"token_type_ids": types_BL} if self.takes_types else {}
        places_L = torch.arange(codes_BL.shape[1], device=codes_BL.device)
        is_real_BL = places_L < lengths_B[:, None]
        # Rows are padded with zeros, and some architectures count positions by the code of padding.
        codes_BL = codes_BL.where(is_real_BL, self.padding)
        # A text without tokens attends to a place of padding: what attention to nothing gives
        # depends on the kernel.
        mask = is_real_BL | (places_L == 0)
        if self.is_fused:
            # For a batch without padding, transformers would leave out a mask of two axes, and a
            # GPU would take another kernel: a row would depend on the rows beside it.
            mask = mask[:, None, None].expand(-1, 1, mask.shape[1], -1)
        given = mask if self.is_fused else mask.long()
        found = self.base(input_ids=codes_BL, attention_mask=given, **types)
        if self.pooling == "pooler":
            pooled: Tensor = found.pooler_output
            return pooled
        tokens_BLD: Tensor = found.last_hidden_state
        if self.pooling == "cls":
            return tokens_BLD[:, 0]
        return mean_of_lists(tokens_BLD, lengths_B)


def build(model: HuggingFace, signature: Signature) -> Network:
    """Makes an encoder with random weights and a new last layer.

    Args:
        model: Section `model` of a resolved spec, with the content of its folder.
        signature: Signature of the rows, a record with one field, the tokens of a text.

    Raises:
        SpecError: A package is not installed, or the rows do not fit.
    """
    require_packages()
    config = make_config(model)
    name, num_codes = _text_of(signature, config)
    # The last layer first, so that its weights do not depend on what the library draws.
    head = nn.Linear(config.hidden_size, signature.num_outputs)
    nn.init.normal_(head.weight, std=float(getattr(config, "initializer_range", 0.02)))
    nn.init.zeros_(head.bias)
    encoder = PooledEncoder(make_base(model, config), model, name, num_codes)
    dropout = nn.Dropout(_head_dropout(config))
    parts = OrderedDict(reader=encoder, dropout=dropout, head=head)
    # A plain sequence, so that it can be cut behind a frozen encoder.
    return Network(RecordInput(signature), nn.Sequential(parts))


def require_packages() -> None:
    """Raises SpecError if a package for pretrained encoders is not installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise model_problem(
            "model.name", f"huggingface needs {' and '.join(missing)}; install them: {INSTALL}"
        )


def make_config(model: HuggingFace) -> Any:
    """The config of transformers for a section, with the dropout of the section.

    Args:
        model: Section `model` of a resolved spec.

    Raises:
        SpecError: transformers refuses the values.
    """
    # Imported late: it takes a second, and most models do not need it.
    from transformers import AutoConfig

    if model.content is None:
        raise model_problem(
            "model.path", "the spec is not resolved; nothing is known of the folder"
        )
    values = dict(model.content.config)
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
    # Each architecture checks its values in its own way.
    except Exception as error:
        message = f"transformers refuses the config.json of {model.path}: {error}"
        raise model_problem("model.path", message) from error
    for name in (*_DROPOUTS, *_OF_HEAD) if model.dropout is not None else ():
        if hasattr(config, name):
            setattr(config, name, model.dropout)
    return config


def make_base(model: HuggingFace, config: Any) -> Any:
    """Makes the network of a section with random weights, without a last layer, in training mode.

    Raises:
        SpecError: transformers cannot build it.
    """
    from transformers import AutoModel

    try:
        # By the class of the config, which is one of the library: no code of a folder is run.
        base: Any = AutoModel.from_config(
            config,
            attn_implementation=model.attention,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except Exception as error:
        message = f"transformers cannot build the network of {model.path}: {error}"
        raise model_problem("model.path", message) from error
    if model.gradient_checkpointing:
        if not base.supports_gradient_checkpointing:
            message = f"{config.model_type} cannot compute its layers again; leave it out"
            raise model_problem("model.gradient_checkpointing", message)
        set_checkpointing(base, is_on=True)
    return base.train()


def set_checkpointing(base: Any, is_on: bool) -> None:
    """Makes a network of transformers compute its layers again, or keep what they need.

    Args:
        base: Network of transformers that can do both.
        is_on: Whether layers are computed again.
    """
    # The first is a newer name of the second one.
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if hasattr(base, f"{name}_enable"):
            # The other form of torch's checkpoints would compute no gradients behind frozen inputs.
            given = [{"use_reentrant": False}] if is_on else []
            getattr(base, f"{name}_{'enable' if is_on else 'disable'}")(*given)
            return


def _head_dropout(config: Any) -> float:
    values = (getattr(config, name, None) for name in _OF_HEAD)
    return float(next((value for value in values if value is not None), 0.0))


def _text_of(signature: Signature, config: Any) -> tuple[str, int]:
    """Name of the field of tokens, and as `PooledEncoder` the number of codes of a pair.

    Refuses rows that are anything else.
    """
    fields = signature.fields
    texts = [name for name, one in fields.items() if one.form == "list" and one.num_codes]
    others = [name for name in fields if name not in texts]
    if len(texts) != 1 or others:
        what = f"they have {', '.join(fields)}" if fields else "they have no text"
        raise model_problem(
            "model.name",
            f"huggingface reads rows of one text and nothing else, and {what}; name the text in "
            "data.features.columns: {COLUMN: text}, two of them in data.features.text.pair, the "
            "others in data.features.exclude",
        )
    longest, most = fields[texts[0]].max_length, positions_of(config.to_dict())
    if longest > most:
        raise model_problem(
            "data.features.text.max_tokens",
            f"{longest} tokens are more than the {most} positions of the network; give at most "
            f"{most}",
        )
    field = fields[texts[0]]
    num_codes = field.num_codes // 2 if field.is_pair else field.num_codes
    require_codes(num_codes, config.vocab_size)
    return texts[0], num_codes if field.is_pair else 0


def require_codes(num_codes: int, vocab_size: int) -> None:
    """Refuses a tokenizer with tokens that the network has no vector for.

    Args:
        num_codes: Number of codes of the tokenizer.
        vocab_size: Number of vectors of the network.

    Raises:
        SpecError: There are more codes than vectors.
    """
    if num_codes > vocab_size:
        raise model_problem(
            "data.features.text.tokenizer",
            f"it has {num_codes:,} tokens, and the network has vectors for {vocab_size:,}; take "
            "the tokenizer.json and the config.json of one model",
        )
