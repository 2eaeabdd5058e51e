"""Decides at the start of a replica which path its connections take. Runs in the replica.

Ray Serve starts uvicorn when the replica's constructor has returned, and configures the replica
after that. So raydc's protocol is installed in the constructor, connections take Ray Serve's path
at first, and the first configuration runs `start_check` against the port that listens by then. Only
if that succeeds do later connections take the direct path.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http import auto

from raydc.engine import direct_support
from raydc.errors import ClusterError
from raydc.serve.direct import own_replica, serve_accounting, start_check
from raydc.serve.direct.decision import Decision
from raydc.serve.direct.fast_path import FastPath, Respond, Write
from raydc.serve.direct.head_limits import LimitedProtocol
from raydc.serve.direct.serve_accounting import UnsupportedReplicaError
from raydc.serve.direct.start_check import CheckFailedError, Probe
from raydc.serve.http.request import Request

logger = logging.getLogger("ray.serve")

# Long, so that a busy machine does not fail the check; Ray Serve ends a replica that hangs.
_CHECK_TIMEOUT_S = 30.0


class PathSelection:
    """Makes the protocol of each connection, and gives it the application that its requests reach.

    Args:
        respond: Answers a request and writes the answer; returns the status.
    """

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._plain_protocol = auto.AutoHTTPProtocol
        self._has_head_limits = True
        self._is_direct = False
        # uvicorn has one application for all connections; its direct form is made once.
        self._direct_app: tuple[Any, FastPath] | None = None
        self._probes: dict[tuple[str, int], Probe] = {}

    def install(self) -> None:
        """Affects every uvicorn server that this process starts from now on."""
        # uvicorn looks this name up when a server loads its configuration. It has no setting that
        # would take a protocol through Ray Serve, which creates the server.
        auto.AutoHTTPProtocol = self._make_protocol  # type: ignore[assignment]

    def uninstall(self) -> None:
        """Gives servers that start later uvicorn's own protocol again."""
        auto.AutoHTTPProtocol = self._plain_protocol

    async def decide(self) -> Decision:
        """Checks the running server once, and applies the outcome to all later connections."""
        decision = await self._decide()
        self._has_head_limits, self._is_direct = decision.has_head_limits, decision.is_direct
        if not decision.has_head_limits:
            self.uninstall()
        return decision

    async def answer_probe(self, request: Request, write: Write) -> int:
        """Answers requests on Ray Serve's path while `decide` runs: its probes, and any others."""
        probe = self._probes.get(tuple(request.scope.get("client") or ()))
        respond = self._respond if probe is None else probe.respond
        return await respond(request, write)

    async def _decide(self) -> Decision:
        has_head_limits = False
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                address = own_replica.http_address(own_replica.find_replica())
                await start_check.check_head_limits(address, self._probes)
                has_head_limits = True
                # A few requests prove a limit, but not that private counters still mean the same.
                if untested := direct_support.untested_versions():
                    raise CheckFailedError("; ".join(untested))
                await start_check.check_answers(address, self._probes)
        except TimeoutError:
            reason = f"the check at start took more than {_CHECK_TIMEOUT_S:g} s"
        except (CheckFailedError, ClusterError) as error:
            reason = str(error)
        except Exception as error:  # Another Ray or uvicorn may fail in any way.
            logger.exception("the check of the direct path failed")
            reason = f"the check at start failed: {error!r}"
        else:
            versions = direct_support.installed_versions()
            shown = ", ".join(f"{name} {version}" for name, version in versions.items())
            return Decision(True, True, f"the check at start passed with {shown}")
        return Decision(False, has_head_limits, reason)

    def _make_protocol(self, *args: Any, **kwargs: Any) -> asyncio.Protocol:
        """Called by uvicorn for each connection."""
        if self._has_head_limits:
            return LimitedProtocol(*args, prepare=self._prepare, **kwargs)
        return self._plain_protocol(*args, **kwargs)

    def _prepare(self, protocol: LimitedProtocol) -> None:
        """Gives a new connection its application."""
        probe = self._probes.get(protocol.client) if self._probes and protocol.client else None
        if probe is not None:
            probe.is_seen = True
            protocol.head_timeout_s = probe.head_timeout_s
            if probe.is_direct:
                try:
                    protocol.app = self._direct(protocol.app, probe.respond)
                except UnsupportedReplicaError as error:
                    probe.problem = str(error)
        elif self._is_direct:
            if self._direct_app is None or self._direct_app[0] is not protocol.app:
                self._direct_app = protocol.app, self._direct(protocol.app, self._respond)
            protocol.app = self._direct_app[1]

    def _direct(self, app: Any, respond: Respond) -> FastPath:
        return FastPath(app, serve_accounting.find_accounting(app), respond)
