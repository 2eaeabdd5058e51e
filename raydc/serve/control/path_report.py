"""Report on the path of requests, shown when an endpoint is ready. Runs in the driver."""

from __future__ import annotations

import urllib.parse

from raydc.engine import direct_support, serve_client
from raydc.engine.direct_support import Part
from raydc.serve.control.readiness import Endpoint, fetch_replica_states


def describe_path(endpoint: Endpoint) -> list[str]:
    """Which path the replicas take and why, and each limit that is not in force.

    Args:
        endpoint: An endpoint that answers.

    Returns:
        Lines; none if no replica runs, because each decides when it starts.
    """
    found = [state["request_path"] for state in fetch_replica_states(endpoint.app_name)]
    known = {(one["path"], one["reason"]): one for one in found if one}
    names = {"direct": "the direct", "serve": "Ray Serve's"}
    lines = [f"requests take {names[path]} path: {reason}" for path, reason in known]
    missing = [text for one in known.values() for text in one["limits_not_in_force"]]
    way_out = []
    if known and not _has_edited_haproxy(endpoint.url):
        parts: set[Part] = {"head limits", "direct path"}
        missing += direct_support.missing_limits(parts)
        # With `serve.direct: off` the user wants the HAProxy of Ray Serve, and needs no way out.
        way_out = [direct_support.way_out()] if any(path == "direct" for path, _ in known) else []
    return [*lines, *(f"not in force: {text}" for text in dict.fromkeys(missing)), *way_out]


def _has_edited_haproxy(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return serve_client.is_haproxy_edited(parts.hostname or "", parts.port or 80)
