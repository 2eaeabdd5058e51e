"""Bodies of `/v1/embeddings` in OpenAI's format, and their answers. Pure.

Shape suffixes: B texts, D width.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raydc.errors import shown
from raydc.serve.protocol import body_fields
from raydc.serve.protocol.body_fields import refusal
from raydc.serve.protocol.interface import json_type_of

Format = Literal["float", "base64"]
_KNOWN = ("model", "input", "encoding_format", "dimensions")


@dataclass(frozen=True)
class EmbeddingBody:
    """A request for embeddings.

    Attributes:
        model: Name of the model, maybe with a version behind a colon.
        texts: Texts, one or more.
        form: How numbers are sent.
        width: Numbers of an embedding that are asked for; None if the client leaves it open.
    """

    model: str
    texts: list[str]
    form: Format
    width: int | None

    def require_width(self, width: int) -> None:
        """Raises RequestError 400 if the model has embeddings of another width."""
        if self.width not in (None, width):
            raise refusal("dimensions", f"it is {self.width}; this model has {width}")


def parse_embeddings(content: bytes, max_texts: int) -> EmbeddingBody:
    """Reads a body.

    Args:
        content: JSON of an object.
        max_texts: Most texts that are allowed.

    Raises:
        RequestError: 400 if it is malformed or asks for what is not supported; names the field.
    """
    value = body_fields.parse_object(content)
    body_fields.check_names(value, _KNOWN, {})
    width = body_fields.whole_number(value, "dimensions", 1, 2**31)
    return EmbeddingBody(body_fields.model_of(value), _texts(value, max_texts), _form(value), width)


def _texts(value: dict[str, Any], max_texts: int) -> list[str]:
    given = value.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        what = "missing" if "input" not in value else json_type_of(given)
        raise refusal("input", f"it is {what}; give a text or a list of texts")
    if len(texts) > max_texts:
        raise refusal("input", f"{len(texts)} texts; at most {max_texts} are allowed")
    for number, one in enumerate(texts):
        if not isinstance(one, str):
            what = f"it is {json_type_of(one)}; give a text, and no codes of tokens"
            raise refusal(f"input[{number}]", what)
    return texts


def _form(value: dict[str, Any]) -> Format:
    given = value.get("encoding_format")
    if given is None or given == "float":
        return "float"
    if given != "base64":
        raise refusal("encoding_format", f"{shown(given)} is neither float nor base64")
    return "base64"


def describe_embeddings(
    vectors_BD: npt.NDArray[np.float32], form: Format, model: str, num_tokens: int
) -> dict[str, Any]:
    """The body of an answer.

    Args:
        vectors_BD: Embeddings of the texts.
        form: Numbers, or base64 of float32 in the order of bytes of Intel.
        model: Name of the model with its version.
        num_tokens: Tokens of all texts.
    """
    coded: list[Any] = (
        vectors_BD.tolist()
        if form == "float"
        else [base64.b64encode(one.astype("<f4").tobytes()).decode() for one in vectors_BD]
    )
    data = [
        {"object": "embedding", "index": number, "embedding": one}
        for number, one in enumerate(coded)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
