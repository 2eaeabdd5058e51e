"""The frame of a page: one HTML file with its style, light and dark, on paper and on a phone. Pure.

A page has no script and loads nothing; its content security policy forbids both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydc.report.markup import Markup, join, tag

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)

# Okabe and Ito's colours, which colour-blind readers can tell apart; lighter on a dark page.
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--card:#f6f8fa;
--high:#b42318;--highbg:#fdecea;--low:#7a5600;--lowbg:#fff6dd;
--s0:#0068a8;--s1:#c65300;--s2:#00795a;--s3:#a8467f;--s4:#8a6d00;--s5:#3f9bd1;--s6:#6b4fb3;--s7:#5b6670}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e9ed;--dim:#9aa4af;--line:#363d46;
--card:#1c2127;--high:#ff9d92;--highbg:#3a1a18;--low:#f0c84b;--lowbg:#332a10;
--s0:#5cb3ea;--s1:#f0954a;--s2:#3cc79d;--s3:#e08fc0;--s4:#d8b93c;--s5:#9bd4f5;--s6:#b39df0;--s7:#a9b3bd}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main,header{max-width:1320px;margin:0 auto;padding:0 20px}
header{padding-top:24px}
h1{font-size:1.6rem;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:36px 0 10px;padding-top:12px;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:0 0 6px;overflow-wrap:anywhere}
p{margin:6px 0;max-width:80ch}
.dim,figcaption,th{color:var(--dim)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:10px}
a{color:var(--s0)}
.grid{display:grid;gap:16px;align-items:start;grid-template-columns:repeat(auto-fill,minmax(min(100%,370px),1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px;
min-width:0}
.card+.grid{margin-top:16px}
figure{margin:0;min-width:0}
.card+.grid{margin-top:16px}
figcaption{font-weight:600;font-size:.9rem;margin-bottom:4px}
svg.chart{width:100%;max-width:560px;height:auto;display:block}
svg.wide{width:auto;max-width:none}
svg text.halo{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.grid+.scroll,.grid+details{margin-top:12px}
svg text{font:12px system-ui,sans-serif;fill:var(--dim)}
svg text.t{fill:var(--fg)}
.axis{stroke:var(--dim);stroke-width:1}
line.grid{stroke:var(--line);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.faint{stroke-width:1;opacity:.55}
.line.best{stroke-width:3}
.back{fill:none;stroke:var(--dim);stroke-width:1;opacity:.4}
.back.mark{fill:var(--dim)}
.guide{fill:none;stroke:var(--dim);stroke-width:1}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.85rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:4px 10px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
unicode-bidi:isolate}
th{font-weight:600}
thead th{white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.nw{white-space:nowrap}
table.bars{width:100%;table-layout:fixed}
table.bars th{font-weight:400;color:var(--fg);width:41%;overflow-wrap:anywhere}
table.bars td.n{width:8em}
table.bars th,table.bars td{padding:2px 6px;border:0}
img.row{height:64px;image-rendering:pixelated;display:block}
svg.bar{width:100%;height:12px;display:block}
table.matrix td{text-align:right;border:1px solid var(--line);min-width:4ch;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
table.matrix th{white-space:nowrap}
dl{display:grid;grid-template-columns:auto 1fr;gap:2px 14px;margin:8px 0;font-size:.9rem}
dt{color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
ul.found{list-style:none;padding:0;margin:8px 0}
ul.found li{padding:7px 12px;margin:6px 0;border-left:4px solid var(--low);background:var(--lowbg);
border-radius:4px;overflow-wrap:anywhere;print-color-adjust:exact;-webkit-print-color-adjust:exact}
ul.found li.high{border-color:var(--high);background:var(--highbg)}
ul.found b{color:var(--low)}
ul.found li.high b{color:var(--high)}
.badge{font-size:.78rem;font-weight:400;color:var(--dim);border:1px solid var(--line);
border-radius:99px;padding:1px 8px;margin-left:6px;white-space:nowrap}
summary{cursor:pointer;color:var(--s0);margin:6px 0}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:12px;font-size:.85rem}
footer{max-width:1320px;margin:40px auto 0;padding:12px 20px 30px;color:var(--dim);font-size:.85rem}
@media (max-width:520px){main,header,footer{padding-left:12px;padding-right:12px}
.card{padding:10px}}
@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--card:#fff;
--high:#b42318;--highbg:#fdecea;--low:#7a5600;--lowbg:#fff6dd;
--s0:#0068a8;--s1:#c65300;--s2:#00795a;--s3:#a8467f;--s4:#8a6d00;--s5:#3f9bd1;--s6:#6b4fb3;--s7:#5b6670}
html,body{font-size:11px}nav{display:none}.card,figure,tr,li{break-inside:avoid}h2{break-after:avoid}
.scroll{overflow:visible}svg.wide{max-width:100%}.grid{grid-template-columns:repeat(2,1fr)}details{display:block}}
"""
_COLOURS = "".join(
    f".line.s{n}{{stroke:var(--s{n})}}.fill.s{n},.mark.s{n}{{fill:var(--s{n})}}" for n in range(8)
)


@dataclass(frozen=True)
class Part:
    """A section of a page.

    Attributes:
        name: Anchor for links, such as `curves`.
        title: Heading of the section.
        body: HTML below the heading; a section without any is left out.
    """

    name: str
    title: str
    body: Markup


def page(title: str, lead: Markup, parts: Sequence[Part], foot: str) -> str:
    """Makes a complete page, as HTML.

    Args:
        title: Heading of the page, and title of its tab.
        lead: HTML between the heading and the first section.
        parts: Sections in the order of the page.
        foot: Text of the last line.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(_STYLE + _COLOURS)),
    )
    links = [tag("a", part.title, href=f"#{part.name}") for part in parts]
    body = tag(
        "body",
        tag("header", tag("h1", title), lead, tag("nav", links, aria_label="Sections")),
        tag("main", [_section(part) for part in parts]),
        tag("footer", foot),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _section(part: Part) -> Markup:
    heading = tag("h2", part.title, id=f"{part.name}-title")
    return tag("section", heading, part.body, id=part.name, aria_labelledby=f"{part.name}-title")


def facts(pairs: Sequence[tuple[str, object]]) -> Markup:
    """A list of names and values; pairs without a value are left out."""
    return tag(
        "dl",
        [
            join(tag("dt", name), tag("dd", value))
            for name, value in pairs
            if value not in (None, "")
        ],
    )


def card(title: object, *body: object, badge: str | None = None) -> Markup:
    """A framed box in a grid.

    Args:
        title: Heading of the box.
        *body: Text or HTML below the heading.
        badge: Small text beside the heading; None for none.
    """
    mark = tag("span", badge, class_="badge") if badge else None
    return tag("div", tag("h3", title, mark), *body, class_="card")


def grid(*cards: object) -> Markup:
    """Puts as many cards in a row as the page has room for."""
    return tag("div", *cards, class_="grid")
