"""Sets of labels as one text for each row. Pure; used in tasks of Ray Data.

The text is a JSON list of the row's labels, sorted and each once. So a target of several labels is
a column of text like any other wherever rows are compared, split or refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence


def to_text(labels: Iterable[str]) -> str:
    """Text of a set of labels."""
    return json.dumps(sorted(set(labels)), ensure_ascii=False)


def parse(text: str) -> list[str]:
    """Labels of a text that `to_text` made."""
    labels: list[str] = json.loads(text)
    return labels


def parse_all(texts: Sequence[str | None]) -> list[list[str]]:
    """Labels of each row; a missing text has none."""
    return [[] if text is None else parse(text) for text in texts]
