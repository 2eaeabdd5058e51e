"""A decoder of texts: causal attention within documents. Used in workers and replicas.

A row is a stretch of documents, one behind the other. Attention never leaves a document, and its
positions begin anew with each, so that a document has the same losses in every row that holds it
whole. Attention is torch's scaled dot product, whose kernel follows from the shapes and the device.

Shape suffixes: B rows, L tokens that a row predicts, M = L + 1 tokens of a row, D width, H heads,
E width of a head, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.features import Signature
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.spec.language import LANGUAGE
from raydc.spec.sequence_models import Decoder

# Standard deviation of the first weights, as in GPT-2.
_DEVIATION = 0.02
_FEED_FORWARD = 4
# Cosine and sine of the angles of positions.
Turn = tuple[Tensor, Tensor]


def build(model: Decoder, signature: Signature) -> Network:
    """Makes a decoder whose outputs are the losses of tokens, [B, L].

    Args:
        model: Section `model` of a spec.
        signature: Signature of rows of tokens.

    Raises:
        SpecError: The rows are not such rows.
    """
    if signature.task != LANGUAGE:
        raise model_problem("model.name", f"decoder is for data.task: {LANGUAGE}")
    ((name, field),) = signature.fields.items()
    assert field.end_code is not None
    losses = TokenLosses(
        name, CausalDecoder(model, field.num_codes, field.end_code, field.shape[0])
    )
    return Network(RecordInput(signature), losses)


class TokenLosses(nn.Module):
    """Losses of the tokens of a row, each predicted from those before it in its document.

    Args:
        name: Name of the field of tokens.
        decoder: Gives the scores of each next token.
    """

    def __init__(self, name: str, decoder: CausalDecoder) -> None:
        super().__init__()
        self.name = name
        self.decoder = decoder

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of tokens in natural units, float32 [B, L].

        Args:
            inputs: Token codes int64 [B, M] under the name of the field.
        """
        tokens_BM = inputs[self.name]
        logits_BLV = self.decoder(tokens_BM[:, :-1])
        losses = functional.cross_entropy(
            logits_BLV.float().flatten(0, 1), tokens_BM[:, 1:].flatten(), reduction="none"
        )
        # `len` would fix the number of rows of a graph that is exported.
        return losses.view(tokens_BM.shape[0], -1)


class CausalDecoder(nn.Module):
    """Layers of attention to earlier tokens of the same document, and scores of the next token.

    Args:
        model: Section `model` of a spec.
        num_codes: Codes of tokens.
        end_code: Code with which a document begins.
        max_length: Most tokens of a row.
    """

    def __init__(self, model: Decoder, num_codes: int, end_code: int, max_length: int) -> None:
        super().__init__()
        self.end_code = end_code
        self.tokens = nn.Embedding(num_codes, model.width)
        self.dropout = nn.Dropout(model.dropout)
        self.layers = nn.ModuleList(DecoderLayer(model) for _ in range(model.depth))
        self.norm = _make_norm(model)
        # Tied weights are those of the tokens, which a state then holds once.
        self.head = None if model.tied else nn.Linear(model.width, num_codes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_DEVIATION)
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            layer.shrink_outputs(1.0 / math.sqrt(2 * model.depth))
        angles_LE = _angles(max_length, model.width // model.heads, model.rotary_base)
        self.register_buffer("angles_LE", angles_LE, persistent=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Scores of the token behind each one, [B, L, V].

        Args:
            tokens_BL: Token codes, int64; each row begins a document or goes on with one.
        """
        mask_B1LL, positions_BL = find_documents(tokens_BL, self.end_code)
        angles_BLE = self.angles_LE[positions_BL]  # type: ignore[index]
        # One axis for the heads, which share the positions.
        turn = angles_BLE.cos()[:, None], angles_BLE.sin()[:, None]
        x_BLD = self.dropout(self.tokens(tokens_BL))
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask_B1LL, turn)
        weights_VD = self.tokens.weight if self.head is None else self.head.weight
        return functional.linear(self.norm(x_BLD), weights_VD)


def find_documents(tokens_BL: Tensor, end_code: int) -> tuple[Tensor, Tensor]:
    """What each token of a row may look at, and its place in its document.

    Args:
        tokens_BL: Token codes, int64.
        end_code: Code with which a document begins.

    Returns:
        bool [B, 1, L, L], true where the second token is an earlier one of the same document or the
        token itself; and int64 [B, L], positions from 0.
    """
    begins_BL = tokens_BL == end_code
    numbers_BL = begins_BL.cumsum(dim=1)
    places_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    is_same_BLL = numbers_BL[:, :, None] == numbers_BL[:, None, :]
    if torch.compiler.is_exporting():
        # ONNX has no running maximum. The first token of the same document is the same place, for
        # which a pass through all pairs is needed.
        starts_BL = is_same_BLL.int().argmax(dim=2)
    else:
        starts_BL = torch.where(begins_BL, places_L, 0).cummax(dim=1).values
    is_earlier_LL = places_L[:, None] >= places_L
    return (is_same_BLL & is_earlier_LL)[:, None], places_L - starts_BL


def _angles(num_positions: int, width: int, base: float) -> Tensor:
    """Angles of rotary positions (Su et al. 2021, arXiv 2104.09864), float32 [L, E / 2]."""
    rates = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles: Tensor = torch.arange(num_positions, dtype=torch.float64)[:, None] * rates
    return angles.float()


def _rotate(x_BHLE: Tensor, turn: Turn) -> Tensor:
    """Turns each pair of numbers, one of either half of a head, by the angle of its position."""
    cosine, sine = turn
    first, second = x_BHLE.chunk(2, dim=3)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(turned, dim=3).to(x_BHLE.dtype)


def _make_norm(model: Decoder) -> nn.Module:
    if model.norm == "layer":
        return nn.LayerNorm(model.width)
    return nn.RMSNorm(model.width, eps=1e-5)


class DecoderLayer(nn.Module):
    """Attention to earlier tokens, then a layer for each token; both are added to what comes in."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        hidden = model.feed_forward or _FEED_FORWARD * model.width
        self.num_heads = model.heads
        self.is_gated = model.activation == "swiglu"
        self.norm_attention = _make_norm(model)
        self.projection = nn.Linear(model.width, 3 * model.width, bias=False)
        self.output = nn.Linear(model.width, model.width, bias=False)
        self.norm_forward = _make_norm(model)
        self.widen = nn.Linear(model.width, (2 if self.is_gated else 1) * hidden, bias=False)
        self.narrow = nn.Linear(hidden, model.width, bias=False)
        self.dropout = nn.Dropout(model.dropout)

    @torch.no_grad()
    def shrink_outputs(self, factor: float) -> None:
        """Multiplies the first weights of what is added, so that the sum stays as wide as one."""
        self.output.weight.mul_(factor)
        self.narrow.weight.mul_(factor)

    def forward(self, x_BLD: Tensor, mask_B1LL: Tensor, turn: Turn) -> Tensor:
        query, key, value = self.project(x_BLD, turn)
        read_BHLE = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_B1LL)
        return self.add_parts(x_BLD, read_BHLE)

    def project(self, x_BLD: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """What each token looks for, what it is found by and what it gives, each [B, H, L, E].

        Args:
            x_BLD: What comes into the layer.
            turn: Cosine and sine of the positions of the tokens.
        """
        x_BLD = self.norm_attention(x_BLD)
        shape = (*x_BLD.shape[:2], self.num_heads, -1)
        query, key, value = (
            part.reshape(shape).transpose(1, 2) for part in self.projection(x_BLD).chunk(3, dim=2)
        )
        return _rotate(query, turn), _rotate(key, turn), value

    def add_parts(self, x_BLD: Tensor, read_BHLE: Tensor) -> Tensor:
        """Adds both parts of the layer to what came in, [B, L, D].

        Args:
            x_BLD: What came into the layer.
            read_BHLE: What its attention has read.
        """
        read_BLD = self.output(read_BHLE.transpose(1, 2).flatten(2))
        x_BLD = x_BLD + self.dropout(read_BLD)
        wide = self.widen(self.norm_forward(x_BLD))
        if self.is_gated:
            gate, wide = wide.chunk(2, dim=2)
            wide = functional.silu(gate) * wide
        else:
            wide = functional.gelu(wide)
        return x_BLD + self.dropout(self.narrow(wide))  # type: ignore[no-any-return]
