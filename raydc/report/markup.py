"""HTML and SVG as text in which everything that is not markup already is escaped. Pure.

Names of columns and classes come from data, so pages are never put together from plain text.
"""

from __future__ import annotations

import re
from typing import Any

_VOID = {"br", "hr", "meta", "link", "col"}
# HTML cannot hold the control characters; the others change the direction of the text after them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Markup(str):
    """Text that is HTML or SVG, made by `tag` or `join` only."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Escapes the text of a value for a page; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    text = _LONE_SURROGATE.sub("\ufffd", _UNPRINTABLE.sub("\ufffd", str(value)))
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, entity)
    return Markup(text.replace("'", "&#39;"))


def join(*parts: Any) -> Markup:
    """Joins parts; None is skipped, and lists are joined in turn."""
    found: list[str] = []
    for part in parts:
        if part is None:
            continue
        if isinstance(part, list | tuple):
            found.append(join(*part))
        else:
            found.append(escape(part))
    return Markup("".join(found))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Makes an element.

    Args:
        name: Name of the element, such as `td`.
        *children: Content of the element; everything but markup is escaped.
        **attributes: Attributes; `class_` is `class`, `_` in a name is `-`, and None leaves one
            out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def table(titles: list[Any], rows: list[list[Any]], numeric: set[int] | None = None) -> Markup:
    """A table that scrolls sideways on a narrow screen.

    Args:
        titles: One for each column, from left to right; they are escaped.
        rows: Cells of each row, in the order of the titles; they are escaped.
        numeric: Positions of the columns that are aligned to the right.
    """
    right = numeric or set()

    def cells(kind: str, row: list[Any]) -> list[Markup]:
        return [
            tag(
                kind,
                cell,
                class_="n" if index in right else None,
                scope="col" if kind == "th" else None,
            )
            for index, cell in enumerate(row)
        ]

    head = tag("thead", tag("tr", cells("th", titles)))
    body = tag("tbody", [tag("tr", cells("td", row)) for row in rows])
    # Focusable, because a keyboard can scroll only what has the focus.
    return tag("div", tag("table", head, body), class_="scroll", tabindex="0")
