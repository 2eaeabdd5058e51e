"""Nothing that comes from data becomes a part of a page's own code."""

from __future__ import annotations

from html.parser import HTMLParser

from raydc.report.markup import Markup, escape, join, table, tag

HOSTILE = ("<script>alert(1)</script>", "\"' onload=x", "a & b", "<!--", "</style>", "&lt;")


class Reader(HTMLParser):
    """Elements and text as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_text_and_attributes_come_back_as_they_were() -> None:
    for text in HOSTILE:
        found = read(tag("p", text, title=text, class_="x"))
        assert found.elements == ["p"]
        assert found.text == text
        assert dict(found.attributes) == {"title": text, "class": "x"}


def test_markup_is_not_escaped_twice_and_plain_text_never_passes() -> None:
    inner = tag("b", "<i>")
    assert inner == "<b>&lt;i&gt;</b>"
    assert tag("p", inner, " <") == "<p><b>&lt;i&gt;</b> &lt;</p>"
    # Adding to markup makes plain text of it, so that it is escaped rather than trusted.
    assert not isinstance(inner + "<i>", Markup)


def test_characters_that_no_page_may_hold_are_replaced() -> None:
    assert escape("a\x00b\x1b\u202ec\ud800") == "a\ufffdb\ufffd\ufffdc\ufffd"
    assert escape("a\tb\n\u05d0") == "a\tb\n\u05d0"
    escape("\ud800").encode()


def test_table_has_a_head_and_leaves_out_nothing() -> None:
    found = read(table(["name", "<n>"], [["a", 1], ["b", None]], {1}))
    assert found.elements.count("tr") == 3
    assert found.text == "name<n>a1b"
    assert ("scope", "col") in found.attributes


def test_join_flattens_lists_and_drops_nothing_else() -> None:
    assert join("a", None, ["b", ["<"]], 0) == "ab&lt;0"
