"""Forms of section `model` that read texts and series item by item. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raydc.spec.base import Count, Depth, Fraction, Positive, Section
from raydc.spec.forecast_models import NORMALISE_TEXT, Normalise
from raydc.spec.model_section import ModelSection, one_or_more

Pooling = Literal["mean", "cls", "pooler"]
_SHA256 = r"^[0-9a-f]{64}$"


class Recurrent(ModelSection):
    """Layers of recurrent cells that read texts or series item by item."""

    name: Literal["lstm", "gru"]
    width: Count = Field(128, description="Width of the state, and of the vector of an item.")
    depth: Depth = Field(1, description="Number of layers.")
    bidirectional: bool = Field(True, description="Whether lists are read from both ends.")
    dropout: Fraction = Field(0.0, description="Dropout between layers and before the last one.")
    normalise: Normalise = Field("none", description=NORMALISE_TEXT)


class Transformer(ModelSection):
    """Layers of attention over the items of texts or series, then their mean."""

    name: Literal["transformer"]
    width: Count = Field(128, description="Width of the vector of an item.")
    depth: Depth = Field(2, description="Number of layers.")
    heads: Count = Field(4, description="Heads of attention; the width is a multiple of it.")
    positions: Literal["learned", "sinusoidal"] = Field(
        "learned", description="Whether the vectors of positions are learned or given by waves."
    )
    dropout: Fraction = Field(0.1, description="Dropout in each layer and before the last one.")

    @model_validator(mode="after")
    def _heads_fit(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Decoder(ModelSection):
    """A decoder of texts from scratch: causal attention with rotary positions."""

    name: Literal["decoder"]
    width: Count = Field(256, description="Width of the vector of a token.")
    depth: Depth = Field(4, description="Number of layers.")
    heads: Count = Field(
        4, description="Heads of attention; the width is a multiple of twice their number."
    )
    feed_forward: Count | None = Field(
        None, description="Width of the hidden layer behind each attention. Default: 4 widths."
    )
    activation: Literal["gelu", "swiglu"] = Field(
        "gelu", description="Activation of that layer; `swiglu` multiplies by a gate of its own."
    )
    norm: Literal["rms", "layer"] = Field(
        "rms", description="Normalisation before each part of a layer: RMSNorm or LayerNorm."
    )
    rotary_base: Positive = Field(
        10_000.0, description="Longest wavelength of the rotary positions, over 2 pi."
    )
    tied: bool = Field(
        True, description="Whether the last layer has the vectors of the tokens as its weights."
    )
    dropout: Fraction = Field(
        0.0, description="Dropout of the vectors of tokens and behind each part of a layer."
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Decoder:
        # Rotary positions turn pairs of numbers of a head.
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} is not a multiple of twice the heads, {2 * self.heads}"
            )
        return self


class FolderContent(Section):
    """What a run noted of the folder of a pretrained model when it began."""

    config: dict[str, Any] = Field(description="Values of `config.json`.")
    files: dict[str, Annotated[str, Field(pattern=_SHA256)]] = Field(
        description="sha256 of each file by its name; empty where no weights are read from them."
    )
    dtype: Literal["bfloat16", "float16"] | None = Field(
        None,
        description="Type of the weights in its files, if all have half precision. They train in "
        "single precision, and an export has this type again.",
    )
    revision: str | None = Field(None, description="Commit of a model on the hub.")
    chat_template: str | None = Field(
        None, description="Chat template of a decoder, in the language of Jinja."
    )
    special_tokens: dict[str, str] = Field(
        default_factory=dict, description="Tokens that its template may name, such as `eos_token`."
    )
    # Not an empty list: without any, the hash of a spec is that of an older raydc.
    end_codes: list[int] | None = Field(
        None,
        description="Codes that end an answer, of `generation_config.json`, beside those of "
        "`config.json`.",
    )


class Lora(Section):
    """Adapters of low rank beside frozen linear layers (LoRA, Hu et al. 2021)."""

    rank: Count = Field(
        8, description="Rank of an adapter: a layer of n inputs and m outputs gets rank * (n + m)."
    )
    alpha: Positive = Field(16.0, description="What an adapter adds is multiplied by alpha / rank.")
    dropout: Fraction = Field(0.0, description="Dropout in front of an adapter.")
    targets: Annotated[list[str], BeforeValidator(one_or_more), Field(min_length=1)] | None = Field(
        None,
        description="Linear layers of the network that get an adapter, by the end of their name or "
        "a pattern: `query`, `attention.*.dense`, `encoder.layer.[45].*`. Default: all.",
    )


class HuggingFace(ModelSection):
    """A pretrained network of texts, from a folder of Hugging Face.

    An encoder with a new last layer; or a decoder, for task: language_modelling.
    """

    name: Literal["huggingface"]
    path: str = Field(
        min_length=1,
        description="Folder with `config.json`, `tokenizer.json` and weights as safetensors that "
        "every worker reaches, or the name of a model on the hub, which is downloaded. Needs "
        "`pip install 'raydc[language]'`.",
    )
    pooling: Pooling | None = Field(
        None,
        description="How the vectors of a text's tokens become one: their mean, that of the first "
        "token (`cls`), or a layer over that one (`pooler`). Default: what `1_Pooling/config.json` "
        "or `classifier_pooling` of the folder says; else `pooler` if the folder has weights for "
        "it, else `cls`.",
    )
    attention: Literal["eager", "sdpa"] = Field(
        "eager",
        description="Implementation of attention: `eager` computes plain products; `sdpa` is "
        "torch's fused attention, faster for long texts, with other last bits.",
    )
    dropout: Fraction | None = Field(
        None,
        description="Dropout in all layers and before the last one. Default: what the folder says. "
        "Layers that are frozen as a whole have none.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Whether a step keeps the inputs of layers only and computes the layers again "
        "when it needs what is inside: less memory, more time, the same bits.",
    )
    lora: Lora | None = Field(
        None,
        description="Adapters that are trained in place of the network, which stays as it is; the "
        "new last layer of an encoder is trained, too. Default: none, and the network trains.",
    )
    content: FolderContent | None = Field(
        None, description="What the folder holds. A run notes it, and refuses a different content."
    )

    @property
    def reads_folder(self) -> bool:
        """Whether the first weights are those of the folder."""
        return self.weights is None and bool(self.content and self.content.files)

    @property
    def libraries(self) -> tuple[str, ...]:
        """Packages that compute the network, beside torch."""
        return ("transformers", "tokenizers", *(("peft",) if self.lora else ()))

    def without_weights(self) -> Self:
        """This section without weights; the network is built from the content that was noted."""
        content = self.content and self.content.model_copy(update={"files": {}})
        return super().without_weights().model_copy(update={"content": content})
