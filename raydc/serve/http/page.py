"""Page at `/`: a model card and a place to try the model. Served by the replica.

Its files are in `static/` and nothing comes from elsewhere. Everybody may read them: they contain
nothing about the model. The page requests what it shows like any client, with a token if needed.
"""

from __future__ import annotations

from importlib import resources

from starlette.responses import Response

from raydc.serve.http.request import Request

_MODULES = ("page", "client", "dom", "picture", "pad", "ink", "row", "text", "answer", "card")
# File and media type by path; "" is the page itself. page.js imports the other modules.
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"{module}.js": (f"{module}.js", "text/javascript; charset=utf-8") for module in _MODULES},
}

NAMES = frozenset(FILES)

_HEADERS = {
    # Only files of this endpoint, and no text that becomes code: names of classes and columns come
    # from data. `blob:` is for the preview of a chosen image.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Files have no version in their name; a browser asks again after an upgrade.
    "cache-control": "no-cache",
}

# Read once, at import: a request must not wait for a disk.
_CONTENTS = {
    path: ((resources.files("raydc.serve.http") / "static" / name).read_bytes(), media_type)
    for path, (name, media_type) in FILES.items()
}


def serve_file(request: Request) -> Response | None:
    """Returns the page or one of its files; None for another path or method."""
    prefix: str = request.scope.get("root_path", "")
    path: str = request.scope["path"].removeprefix(prefix)
    found = _CONTENTS.get(path[1:])
    if found is None or request.method not in ("GET", "HEAD"):
        return None
    if not path:
        # `/small` is not a folder to a browser. Files are named relative to the page, so that it
        # works below any path that a proxy removes; hence a slash at its end.
        return Response(status_code=307, headers={"location": f"{prefix.rpartition('/')[2]}/"})
    content, media_type = found
    return Response(content, 200, _HEADERS, media_type=media_type)
