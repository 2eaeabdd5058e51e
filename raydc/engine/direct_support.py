"""What the setting `serve.direct: auto` needs, and what is missing without it.

`auto` reaches into private parts of Ray Serve and uvicorn: `raydc.serve.direct` in the replicas,
`raydc.engine.haproxy` in front of them. This module has what both sides and the driver share: the
versions with which those parts were tested, the limits that only they can give, and a look at the
template of the installed Ray Serve. Runs in the driver and in replicas; imports Ray and
uvicorn only inside functions.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raydc.engine import haproxy, haproxy_rules

# Package -> its minor versions that passed the whole test suite. pyproject.toml has the same range.
TESTED_VERSIONS = {
    "ray": ("2.59", "2.60"),
    "uvicorn": ("0.53", "0.54"),
}

MAX_HEAD_BYTES = 64 * 1024
# The same limit as in HAProxy. It is defined there, because that script cannot import raydc.
HEAD_TIMEOUT_S = float(haproxy_rules.HEAD_TIMEOUT_S)
UNREAD_ANSWER_TIMEOUT_S = 30.0

# How HAProxy gets its limits on a Ray that raydc did not start.
WAY_OUT = (
    "HAProxy there has Ray Serve's own configuration: install raydc at the same path on every "
    "node, or start Ray with RAY_SERVE_HAPROXY_BINARY_PATH=$(command -v raydc-haproxy); a Serve "
    "that runs already ends with `raydc stop --all`"
)

# Nodes that a message names.
_MAX_NODES = 5

Part = Literal["head limits", "direct path", "HAProxy"]


@dataclass(frozen=True)
class DirectLimit:
    """A limit that plain Ray Serve does not have.

    Attributes:
        part: What enforces it; without that part the limit is not in force.
        text: The limit in one clause, for logs and documentation.
    """

    part: Part
    text: str


LIMITS = (
    DirectLimit(
        "head limits",
        f"at a replica's own port the head of a request has at most "
        f"{MAX_HEAD_BYTES // 1024} KiB (431)",
    ),
    DirectLimit(
        "head limits",
        f"at a replica's own port the head of a request arrives within {HEAD_TIMEOUT_S:g} s (408)",
    ),
    DirectLimit(
        "head limits",
        "at a replica's own port the rest of a body whose request has been answered already "
        f"arrives within {HEAD_TIMEOUT_S:g} s, or the connection is closed",
    ),
    DirectLimit(
        "direct path",
        "a client that sends requests and reads no answers is cut off after "
        f"{UNREAD_ANSWER_TIMEOUT_S:g} s",
    ),
    DirectLimit(
        "HAProxy", f"at HAProxy the head of a request arrives within {HEAD_TIMEOUT_S:g} s (408)"
    ),
    DirectLimit(
        "HAProxy",
        "errors of Ray Serve, and of HAProxy about requests that it could read, are JSON with the "
        "request id, and with Retry-After if a retry may help",
    ),
    DirectLimit(
        "HAProxy", "HAProxy adds a request id and x-forwarded-for to requests that have none"
    ),
    DirectLimit(
        "HAProxy",
        "at HAProxy a request to a replica that does not answer any more ends with 504 after "
        "serve.request_timeout_s and two seconds; one to a host that has fallen silent goes to "
        "another replica after ten",
    ),
    DirectLimit(
        "HAProxy",
        f"HAProxy takes up to {haproxy_rules.MAX_CONNECTIONS:,} connections, as far as it may open "
        "files; near that number answers close theirs, at it clients are refused at once (503)",
    ),
    DirectLimit(
        "HAProxy",
        "HAProxy's metrics and statistics listen on loopback, and only their owner opens "
        "its socket",
    ),
)


def missing_limits(parts_in_force: Collection[Part]) -> list[str]:
    """Texts of the limits whose part is not in force."""
    return [limit.text for limit in LIMITS if limit.part not in parts_in_force]


def missing_haproxy_limits() -> list[str]:
    """Texts of the limits that HAProxy will not have on the connected Ray."""
    from raydc.engine import serve_client, serve_start

    # What runs counts, however it was started.
    is_edited = (
        serve_client.is_haproxy_edited(*serve_client.address())
        if serve_client.applications()
        else serve_start.will_edit_haproxy()
    )
    others: set[Part] = {"head limits", "direct path"}
    return [] if is_edited else missing_limits(others)


def way_out() -> str:
    """How HAProxy gets its limits on the connected Ray, with the nodes that keep it from them."""
    from raydc.engine import serve_start

    found = serve_start.nodes_without_program()
    more = f", and {len(found) - _MAX_NODES} more" if len(found) > _MAX_NODES else ""
    if not found:
        return WAY_OUT
    return f"{WAY_OUT}. raydc-haproxy: {', '.join(found[:_MAX_NODES])}{more}"


def installed_versions() -> dict[str, str]:
    """Installed versions of the packages of `TESTED_VERSIONS`; empty text for a missing one."""
    found = {}
    for package in TESTED_VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def untested_versions() -> list[str]:
    """One clause for each package whose installed version is not among the tested ones."""
    return [
        f"{package} {version or '(not installed)'} is not among the tested {', '.join(tested)}"
        for package, version in installed_versions().items()
        for tested in [TESTED_VERSIONS[package]]
        if ".".join(version.split(".")[:2]) not in tested
    ]


def render_template(folder: Path, **options: Any) -> Path:
    """Writes the configuration that the installed Ray Serve would give to HAProxy.

    Args:
        folder: Where the configuration and HAProxy's sockets go.
        options: `port` and `host` of the endpoint; `replica_port` of an application `small` below
            `/small`, or None for no application; `metrics_port`, `stats_port`; `retry_on` and
            `retries` as HAProxy names them.

    Returns:
        The file.

    Raises:
        ClusterError: The installed Ray differs from what raydc expects.
    """
    from ray.serve.config import HTTPOptions

    from raydc.engine import internals

    names: Any = internals
    host, port = options.pop("host", "127.0.0.1"), options.pop("port", 1)
    replica_port = options.pop("replica_port", None)
    path = folder / "node" / "haproxy.cfg"
    config = names.HAProxyConfig(
        http_options=HTTPOptions(host=host, port=port),
        socket_path=str(folder / "node" / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_enabled=False,
        has_received_routes=replica_port is not None,
        **options,
    )
    backends = {}
    if replica_port is not None:
        server = names.ServerConfig("replica", "127.0.0.1", replica_port)
        backends["http-small"] = names.BackendConfig(
            name="http-small", path_prefix="/small", app_name="small", servers=[server]
        )
    names.HAProxyApi(config, backends, str(path))._generate_config_file_internal()
    return path


def template_problem() -> str | None:
    """Says why `haproxy.rewrite` refuses the template of the installed Ray Serve, or None."""
    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        try:
            for replica_port in (None, 1):
                haproxy.rewrite(
                    render_template(Path(folder), replica_port=replica_port).read_text()
                )
        except Exception as error:  # noqa: BLE001 - another Ray may fail in any way.
            return str(error) or repr(error)
    return None


def describe_support() -> str:
    """One line for `raydc plan`: whether `auto` can take the direct path with what is installed."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    if untested := untested_versions():
        return f"not taken: {'; '.join(untested)}"
    if problem := template_problem():
        return f"{versions} were tested, but HAProxy keeps Ray Serve's configuration: {problem}"
    return f"{versions} were tested; each replica checks itself when it starts"
