"""Text as a YAML scalar: read as the same text by raydc and by readers of YAML 1.1."""

from __future__ import annotations

import pytest
import yaml

from raydc.spec.document import parse, quote

PLAIN = ["age", "_x", "data/rows.csv", "./rows-1.csv", "a.b"]
QUOTED = ["", "no", "Yes", "y", "null", "true", "1", "1e5", ".5", ".inf", "it's", "a\\b", "a: b"]
QUOTED += [
    "# c",
    "- d",
    "x\ny",
    "x\n\ny ",
    "größe",
    " blank ",
    "\t",
    "\u2028",
    "\x01",
    "😀",
    "[",
    "*a",
]
QUOTED += ["many words " * 20 + "and one"]


@pytest.mark.parametrize("text", [*PLAIN, *QUOTED])
def test_quoted_text_is_read_as_it_is(text: str) -> None:
    quoted = quote(text)
    assert len(quoted.splitlines()) == 1
    for line in (f"a: {quoted}\n", f"a: {{b: 1, a: {quoted}}}\n", f"a: [{quoted}]  # c\n"):
        for read in (lambda line: parse(line, "x").value, yaml.safe_load):
            value = read(line)["a"]
            value = value["a"] if isinstance(value, dict) else value
            assert (value[0] if isinstance(value, list) else value) == text


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_has_no_quotes(text: str) -> None:
    assert quote(text) == text
