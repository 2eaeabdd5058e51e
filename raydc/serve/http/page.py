"""The page at `/`: a model card, and a place to try the model. Files beside this one, nothing from elsewhere.

Everybody may read these files: they know nothing of the model. What the page shows it asks for like any client, with
a token where the endpoint wants one.
"""

from __future__ import annotations

from importlib import resources

from starlette.responses import Response

from raydc.serve.http.request import Request

# By the path; "" is the page itself. Modules of JavaScript are loaded from page.js.
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"{module}.js": (f"{module}.js", "text/javascript; charset=utf-8")
        for module in ("page", "client", "dom", "picture", "pad", "ink", "row", "answer", "card")
    },
}

NAMES = frozenset(_FILES)

_HEADERS = {
    # Only what this endpoint serves, and no text that becomes code: names of classes and columns come from data.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

_ASSETS = {
    path: ((resources.files("raydc.serve.http") / "static" / name).read_bytes(), media_type)
    for path, (name, media_type) in _FILES.items()
}


def answer(asked: Request) -> Response | None:
    """The page or one of its files; None for another path or method."""
    scope = asked.scope
    prefix: str = scope.get("root_path", "")
    path: str = scope["path"].removeprefix(prefix)
    asset = _ASSETS.get(path[1:])
    if asset is None or asked.method not in ("GET", "HEAD"):
        return None
    if not path:
        # The page names its files relative to itself, so that it works below any path that a proxy takes away.
        return Response(status_code=307, headers={"location": f"{prefix.rpartition('/')[2]}/"})
    content, media_type = asset
    return Response(content, 200, _HEADERS, media_type=media_type)
