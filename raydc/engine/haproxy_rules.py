"""The rules that raydc adds to HAProxy's configuration, each as lines of its language. Pure.

`raydc.engine.haproxy` puts them in their places. It also runs as a script on nodes, hence only the
standard library is imported here.
"""

from __future__ import annotations

MARK = "raydc-haproxy"
HEAD_TIMEOUT_S = 10
# A replica announces `serve.request_timeout_s` in this header of each answer, in milliseconds.
TIMEOUT_HEADER = "x-raydc-timeout-ms"
# The replica's own 408 comes first; HAProxy's 504 is for a replica that cannot answer any more.
_TIMEOUT_MARGIN_MS = 2000
# Until the first answer of a replica the limit of its endpoint is not known.
_UNKNOWN_TIMEOUT_S = 3600
# A host that falls silent is noticed within ten seconds, however long a request may take: the
# kernel of a host that lives acknowledges, even if the replica on it is busy.
_SILENT_IDLE_S, _SILENT_INTERVAL_S, _SILENT_PROBES = 4, 2, 3
# Time limit of a health check once it is connected. HAProxy's default is one second: a replica
# whose event loop is busy for two would count as dead, and its requests would go to Ray Serve's
# slow proxy. A dead replica refuses the connection, and a silent host does not take it: both are
# noticed as before.
_CHECK_TIMEOUT_S = 3
# HAProxy can send a request to another replica only if it had all of it before it asked the first
# one, so it waits for bodies that its buffer takes. Larger ones go on at once: their replica may
# refuse them before they are sent.
BODY_TIMEOUT_S = 10
_KEPT_BODY_BYTES = 124 * 1024
# Appended to each server: the same for a host that falls silent before it has acknowledged the
# request. HAProxy does not pass it on from a `default-server`.
SERVER_OPTION = f" tcp-ut {_SILENT_IDLE_S + _SILENT_INTERVAL_S * _SILENT_PROBES}s"
_RETRY_AFTER_S = 1

# Maximum connections that raydc gives to Ray Serve: low enough for the files of any machine, as
# HAProxy would not start otherwise.
START_CONNECTIONS = 2048
# Maximum connections where enough files may be open. An idle one costs a few KiB.
MAX_CONNECTIONS = 20_000
# Pipes of two files each, through which long bodies are spliced; without a free one, copied.
_MAX_PIPES = 64
# Listeners, health checks, sockets and pipes.
_SPARE_FILES = 256 + 2 * _MAX_PIPES
# A connection has a second file, the one to the replica, while its request is there. A replica
# takes some hundreds at a time, so idle connections may have all but these.
_FILES_TO_REPLICAS = 4096
# From the first fraction of the connections, answers end theirs, so that idle ones cannot take the
# last places. From the second, requests are refused, and from the third, connections.
_CLOSE_FRACTION, _REFUSE_FRACTION, _REJECT_FRACTION = 0.75, 0.95, 0.99

# HAProxy's own answers: it could not read the request, or got none from a replica.
_OWN_ERRORS = {
    400: "the request is not valid HTTP, or the client ended it before the answer",
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
_REQUEST_ID = "%[var(txn.raydc_request_id)]"


def choose_max_connections(given: int, max_files: int) -> int:
    """Number of connections for HAProxy, as far as it has files for them.

    Args:
        given: The number in the configuration that Ray Serve wrote, which the user may have set.
        max_files: Maximum number of files that a process of this user may open.
    """
    free = max_files - _SPARE_FILES
    fits = max(1, free // 2, free - _FILES_TO_REPLICAS)
    return min(MAX_CONNECTIONS if given == START_CONNECTIONS else given, fits)


def for_process() -> list[str]:
    """Limits of files: HAProxy would not start without two for each connection, and pipes."""
    return ["no strict-limits", f"maxpipes {_MAX_PIPES}"]


def for_all_sections() -> list[str]:
    """Time limits and errors of all frontends and backends."""
    return [
        f"timeout http-request {HEAD_TIMEOUT_S}s",
        f"timeout server {_UNKNOWN_TIMEOUT_S}s",
        f"timeout check {_CHECK_TIMEOUT_S}s",
        "option srvtcpka",
        f"srvtcpka-idle {_SILENT_IDLE_S}s",
        f"srvtcpka-intvl {_SILENT_INTERVAL_S}s",
        f"srvtcpka-cnt {_SILENT_PROBES}",
        *(
            f"http-error status {status} {_body(status, sentence)}"
            for status, sentence in _OWN_ERRORS.items()
        ),
    ]


def for_frontend(max_connections: int) -> list[str]:
    """Rules that limit connections and give each request an id, so that all errors have it.

    Args:
        max_connections: Maximum number of connections of the HAProxy process.
    """
    close, refuse, reject = (
        int(max_connections * fraction)
        for fraction in (_CLOSE_FRACTION, _REFUSE_FRACTION, _REJECT_FRACTION)
    )
    full = _body(503, "too many connections; try again")
    return [
        # At its own limit HAProxy would leave clients waiting without a word.
        f"tcp-request connection reject if {{ fe_conn gt {reject} }}",
        # `serve_client.is_haproxy_edited` requests this path to find out whether these rules are in
        # force.
        f"http-request return status 204 hdr {MARK} edited if {{ path /-/{MARK} }}",
        "http-request set-header x-request-id %[uuid] if !{ req.hdr(x-request-id) -m found }",
        # For the access log. A proxy in front of this one has set it already, and knows the client.
        "http-request set-header x-forwarded-for %[src] if !{ req.hdr(x-forwarded-for) -m found }",
        "http-request set-var(txn.raydc_request_id) req.hdr(x-request-id),json(utf8s)",
        f"http-request return status 503 {full} if {{ fe_conn gt {refuse} }}",
        f"http-after-response set-header connection close if {{ fe_conn gt {close} }}",
    ]


def for_backend(index: int) -> list[str]:
    """Rules for the replicas of one application: time limits, and errors of Ray Serve as JSON.

    Args:
        index: Number of the application, which names its time limit.
    """
    limit, found = f"proc.raydc_timeout_{index}", f"{{ res.hdr({TIMEOUT_HEADER}) -m found }}"
    is_text = "{ res.hdr(content-type) -m beg text/plain }"
    return [
        f"http-request wait-for-body time {BODY_TIMEOUT_S}s"
        f" if {{ req.hdr_val(content-length) le {_KEPT_BODY_BYTES} }}",
        f"http-request set-timeout server var({limit}) if {{ var({limit}) -m found }}",
        f"http-response set-var({limit}) "
        f"res.hdr({TIMEOUT_HEADER}),add({_TIMEOUT_MARGIN_MS}) if {found}",
        f"http-response del-header {TIMEOUT_HEADER}",
        *(
            f"http-response return status {shown} {_body(shown, sentence)} "
            f"hdr x-request-id {_REQUEST_ID}"
            f" if {{ status {status} }} {is_text}"
            for status, (shown, sentence) in _SERVE_ERRORS.items()
        ),
    ]


def for_no_application(has_routes: bool) -> str:
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
