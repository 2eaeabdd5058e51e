"""Pretrained decoders of texts, built by transformers. Used in workers and replicas.

A row is a stretch of documents, as for a decoder from scratch: attention never leaves a document,
and its positions begin anew with each. transformers takes a mask of four axes as it is, so that
every architecture of the list computes a document in a row as it computes it alone.

Shape suffixes: B rows, L tokens that a row predicts, M = L + 1 tokens of a row, D width, V codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.features import Signature
from raydc.features.conversation_column import LEARNT
from raydc.models import text_encoders
from raydc.models.decoders import find_documents
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.models.pretrained_part import PretrainedPart
from raydc.spec.language import LANGUAGE
from raydc.spec.sequence_models import HuggingFace


class PretrainedDecoder(PretrainedPart):
    """A pretrained decoder, and scores of the next token.

    Args:
        model: Section `model` of a resolved spec.
        config: Config of transformers for it.
        end_code: Code with which a document begins.
    """

    def __init__(self, model: HuggingFace, config: Any, end_code: int) -> None:
        base = text_encoders.make_base(model, config)
        # Rows have no padding. Where its token is the end as well, the vector of the end must
        # train all the same.
        base.get_input_embeddings().padding_idx = None
        # Tied weights are those of the tokens, which a state then holds once.
        is_tied = bool(config.tie_word_embeddings)
        head = None if is_tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        super().__init__(base, head)
        self.end_code = end_code
        self.is_fused = model.attention == "sdpa"

    def forward(self, tokens_BL: Tensor, begins_BL: Tensor | None = None) -> Tensor:
        """Scores of the token behind each one, [B, L, V].

        Args:
            tokens_BL: Token codes, int64; each row begins a document or goes on with one.
            begins_BL: 1 where a document begins, int64; None where `end_code` says it.
        """
        mask_B1LL, positions_BL = (
            find_documents(tokens_BL, self.end_code)
            if begins_BL is None
            else find_documents(begins_BL, 1)
        )
        found = self.base(
            input_ids=tokens_BL,
            attention_mask=mask_B1LL if self.is_fused else added_mask(mask_B1LL),
            position_ids=positions_BL,
            use_cache=False,
        )
        base: Any = self.base
        weights_VD = base.get_input_embeddings().weight if self.head is None else self.head.weight
        return functional.linear(found.last_hidden_state, weights_VD)


class DocumentLosses(nn.Module):
    """Losses of the tokens of a row, each predicted from those before it in its document.

    Args:
        name: Name of the field of tokens.
        decoder: Gives the scores of each next token.
        length: Tokens that a row predicts.
        marks_from: Codes with marks begin here; None if there are no marks.
    """

    def __init__(
        self, name: str, decoder: PretrainedDecoder, length: int, marks_from: int | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.length = length
        self.decoder = decoder
        self.marks_from = marks_from

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of tokens in natural units, float32 [B, L].

        With marks those of the learnt tokens come first, in their order, and then zeros.

        Args:
            inputs: Token codes int64 [B, M] under the name of the field.
        """
        tokens_BM = inputs[self.name]
        if self.marks_from is None:
            return self._losses(tokens_BM, None)
        marks_BM = tokens_BM // self.marks_from
        begins_BM = marks_BM % LEARNT
        losses_BL = self._losses(tokens_BM % self.marks_from, begins_BM[:, :-1])
        is_learnt_BL = marks_BM[:, 1:] >= LEARNT
        # A stable sort: which losses of a row are added, and in which order, is its own affair.
        order_BL = is_learnt_BL.logical_not().byte().argsort(dim=1, stable=True)
        return losses_BL.where(is_learnt_BL, 0.0).gather(1, order_BL)

    def _losses(self, tokens_BM: Tensor, begins_BL: Tensor | None) -> Tensor:
        logits_BLV = self.decoder(tokens_BM[:, :-1], begins_BL)
        losses = functional.cross_entropy(
            logits_BLV.float().flatten(0, 1), tokens_BM[:, 1:].flatten(), reduction="none"
        )
        return losses.view(tokens_BM.shape[0], -1)


def build(model: HuggingFace, signature: Signature) -> Network:
    """Makes a decoder with random weights, whose outputs are the losses of tokens, [B, L].

    Args:
        model: Section `model` of a resolved spec, with the content of its folder.
        signature: Signature of rows of tokens.

    Raises:
        SpecError: A package is not installed, or the rows do not fit.
    """
    text_encoders.require_packages()
    if signature.task != LANGUAGE:
        raise model_problem("model.path", f"a decoder is for data.task: {LANGUAGE}")
    config = text_encoders.make_config(model)
    (field,) = signature.fields.values()
    assert field.end_code is not None
    require_size(config, field.num_codes, signature.num_values)
    return read_rows(PretrainedDecoder(model, config, field.end_code), signature)


def read_rows(decoder: PretrainedDecoder, signature: Signature) -> Network:
    """Makes a network of a decoder, which is used and not copied, for rows of a signature.

    Args:
        decoder: The decoder; gets the code with which a document of these rows begins.
        signature: Signature of rows of tokens, whose codes it knows.
    """
    ((name, field),) = signature.fields.items()
    assert field.end_code is not None
    decoder.end_code = field.end_code
    marks_from = field.num_codes if field.has_marks else None
    losses = DocumentLosses(name, decoder, signature.num_values, marks_from)
    return Network(RecordInput(signature), losses)


def require_size(config: Any, num_codes: int, length: int) -> None:
    """Refuses rows that are longer than the network can read, or have tokens that it lacks.

    Args:
        config: Config of transformers.
        num_codes: Codes of tokens.
        length: Tokens that a row predicts.

    Raises:
        SpecError: They do not fit.
    """
    text_encoders.require_codes(num_codes, config.vocab_size)
    require_positions(config, length, "data.blocks.length")


def require_positions(config: Any, length: int, field: str) -> None:
    """Refuses texts that are longer than a network can read.

    Args:
        config: Config of transformers.
        length: Tokens of a text.
        field: Field of the spec that says so.

    Raises:
        SpecError: There are fewer positions.
    """
    most = most_positions(config)
    if length > most:
        raise model_problem(
            field,
            f"{length} tokens are more than the {most} positions of the network; give at most "
            f"{most}",
        )


def most_positions(config: Any) -> int:
    """Most tokens of a text that a decoder of transformers with this config can read."""
    most = int(config.max_position_embeddings)
    # Attention to the nearest tokens only would take the place of the mask of documents.
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        most = min(most, int(window))
    return most


def added_mask(mask_B1LL: Tensor) -> Tensor:
    """Turns a mask into numbers that are added to scores of attention, float32."""
    lowest = torch.finfo(torch.float32).min
    return torch.zeros_like(mask_B1LL, dtype=torch.float32).masked_fill(~mask_B1LL, lowest)
