"""The page at `/docs`: the OpenAPI document for people. No script, no file from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import Any

from starlette.responses import Response

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #8889 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { margin-bottom: 0 } h2 { border-top: 1px solid var(--line); padding-top: 1rem; font-size: 1.1rem }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { overflow: auto; padding: .6rem; border: 1px solid var(--line);
border-radius: 6px; max-height: 24rem } b.m { font: 700 13px ui-monospace, monospace; border: 1px solid var(--dim);
border-radius: 4px; padding: .1rem .4rem; margin-right: .4rem } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line) }
summary { cursor: pointer }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def page(document: dict[str, Any]) -> Response:
    """The page."""
    return Response(html(document), 200, _HEADERS, media_type="text/html; charset=utf-8")


def html(document: dict[str, Any]) -> str:
    """The page's text. All that comes from the model is escaped."""
    info, components = document["info"], document["components"]
    prefix = document["servers"][0]["url"].rstrip("/")
    parts = [
        f"<h1>{escape(info['title'])}</h1>",
        f"<p>Version {escape(info['version'])}. {_inline(info['description'])}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>',
    ]
    if "security" in document:
        parts.append(
            "<p>Every request but those for health needs a token, which the commands below leave out: "
            "<code>-H 'Authorization: Bearer TOKEN'</code></p>"
        )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(prefix + path, method.upper(), operation))
    errors = "".join(
        f"<tr><td>{status}</td><td>{_inline(response['description'])}</td></tr>"
        for status, response in components["responses"].items()
    )
    parts.append(
        f"<h2>Errors</h2><p>Each is JSON: <code>error</code> and <code>request_id</code>.</p><table>{errors}</table>"
    )
    parts.append("<h2>Schemas</h2>")
    parts += [_details(name, schema) for name, schema in components["schemas"].items()]
    title = escape(f"{info['title']} version {info['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<h2 id="{escape(operation["operationId"])}"><b class="m">{method}</b><code>{escape(path)}</code></h2>'
    ]
    parts.append(f"<p>{_inline(operation['summary'])}.</p>")
    content = operation.get("requestBody", {}).get("content", {})
    parts += [_example(path, kind, media) for kind, media in content.items()]
    if not content:
        parts.append(f"<pre>curl -s localhost:8000{escape(path)}</pre>")
    answers = operation["responses"]["200"]["content"]
    names = ", ".join(
        f"<code>{escape(_name(media['schema']))}</code>" for media in answers.values()
    )
    codes = ", ".join(status for status in operation["responses"] if status != "200")
    parts.append(f"<p>200: {names}. Errors: {codes}.</p>")
    return "".join(parts)


def _example(path: str, kind: str, media: dict[str, Any]) -> str:
    values = [example["value"] for example in media.get("examples", {}).values()] or [
        media.get("example")
    ]
    value = values[0]
    if kind.startswith("image/"):
        data, kind = "--data-binary @image.png", "image/png"
    elif kind == "multipart/form-data":
        fields = media["schema"]["properties"]
        data = " ".join(
            f"-F {name}=@image.png" if "required" in media["schema"] else f"-F {name}=..."
            for name in fields
        )
    elif kind == "application/x-www-form-urlencoded":
        data = " ".join(f"--data-urlencode {name}=..." for name in media["schema"]["properties"])
    elif value is None:
        data = "--data-binary @tensor.bin"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        quoted = text.replace("'", "'\\''")
        data = f"--data-binary '{quoted}'"
    header = "" if kind == "multipart/form-data" else f" -H 'Content-Type: {kind}'"
    schema = media["schema"]
    about = _inline(schema.get("description", "")) or f"<code>{escape(_name(schema))}</code>"
    command = f"curl -s localhost:8000{path}{header} {data}"
    return f"<p><code>{escape(kind)}</code>: {about}</p><pre>{escape(command)}</pre>"


def _name(schema: dict[str, Any]) -> str:
    return (
        str(schema["$ref"]).rpartition("/")[2]
        if "$ref" in schema
        else str(schema.get("description", schema.get("type")))
    )


def _details(name: str, schema: dict[str, Any]) -> str:
    text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return f"<details><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>"


def _inline(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces)
    )
