"""The line of a run about the one request that it sends to its endpoint. Pure; in the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_example(url: str, answer: Mapping[str, Any] | None, expected: Any) -> str:
    """Says what an endpoint has answered.

    Args:
        url: Address of the endpoint.
        answer: Its JSON; None if no row was sent.
        expected: What the data set has for the row; of a language model, the text that was sent.
    """
    if answer is None:
        return "predict   no held-out row was sent: each lacks a value that the endpoint needs"
    if "choices" in answer:
        choice = answer["choices"][0]
        # As Python writes texts: they may hold line breaks.
        if "message" in choice:
            said, asked = choice["message"]["content"], expected[-1]["content"]
            return f"chat      {url}/v1/chat/completions answered {asked!r} with {said!r}"
        text = choice["text"]
        return f"complete  {url}/v1/completions continued {expected!r} with {text!r}"
    one = answer["predictions"][0]
    # A classifier answers with a label or several, a regression with a value.
    said = one.get("label", one.get("labels", one.get("value")))
    score = f" (score {one['score']:.3f})" if "score" in one else ""
    truth = "" if expected is None else f"; the held-out row says {expected}"
    return f"predict   {url}/predict answered {said}{score}{truth}"
