"""Access control: bearer tokens, checked in the replica because its own port is reachable too.

A request costs one SHA-256 and one comparison. The list of tokens is read in the background, every
`REFRESH_INTERVAL_S`, so a token that was created or revoked counts a few seconds later. It fails
closed: a token that was not read is refused, and once the list could not be read for
`MAX_STALE_S`, every token is.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from raydc.serve.protocol.interface import RequestError
from raydc.storage import Storage
from raydc.tokens import RIGHTS, Token, TokenStore, hash_token, parse_token_id

logger = logging.getLogger("ray.serve")

REFRESH_INTERVAL_S = 2.0
# How long a refresh waits. The read itself continues, and the next refresh waits for it.
READ_TIMEOUT_S = 10.0
# Longest time that a revoked token works while the storage does not answer.
MAX_STALE_S = 300.0
# Stands for every client of an endpoint with `auth: none`.
ANYONE = Token("", "", "", RIGHTS, 0.0, None, "")


class Authenticator:
    """The tokens of one endpoint as they were last read. Belongs to one event loop."""

    def __init__(self) -> None:
        self._tokens: TokenStore | None = None
        self._is_open = False
        # By file name; None for a file that held no token.
        self._read: dict[str, Token | None] = {}
        self._by_id: dict[str, Token] = {}
        # Monotonic time at which the last successful read started; None before there is one.
        self._read_at_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending: _PendingRead | None = None
        # A separate thread: a storage that hangs must not block those that load versions.
        self._thread = ThreadPoolExecutor(1, "tokens")

    async def configure(self, storage: str, model: str, auth: str) -> None:
        """Reads the tokens of a model, and keeps reading them in the background.

        Args:
            storage: URI of the storage that holds the registry.
            model: Name of the model, whose tokens are read.
            auth: `none` admits everybody; anything else means `token`.
        """
        if auth == "none":
            self.close()
            self._is_open = True
            return
        self._tokens = TokenStore(Storage(storage), model)
        # Open until the tokens are read: a change from `none` refuses no client by accident.
        await self.refresh()
        self._is_open = False
        if self._task is None:
            self._task = asyncio.create_task(self._refresh_forever())

    def close(self) -> None:
        """Stops reading in the background."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Reads new tokens and drops revoked ones; keeps the old list if the storage fails."""
        if self._tokens is None:
            return
        pending = self._pending
        if pending is None or pending.tokens is not self._tokens:
            result = asyncio.wrap_future(self._thread.submit(_read_all, self._tokens, self._read))
            # The age of the list counts from the start of the read: a revocation may follow it.
            pending = self._pending = _PendingRead(self._tokens, time.monotonic(), result)
        done, _ = await asyncio.wait({pending.result}, timeout=READ_TIMEOUT_S)
        if not done:
            logger.error("the tokens of this endpoint cannot be read: the storage does not answer")
            return
        if self._pending is not pending:
            return  # Another refresh took this result, or the model has changed meanwhile.
        self._pending = None
        try:
            read = pending.result.result()
        except Exception as error:  # noqa: BLE001 -- a filesystem may raise anything.
            logger.error("the tokens of this endpoint cannot be read: %s", error)
            return
        self._read = read
        self._by_id = {token.id: token for token in read.values() if token is not None}
        self._read_at_s = pending.started_s

    def check(self, authorization: str | None) -> Token:
        """Returns the token of a request.

        Args:
            authorization: Value of the header `Authorization`; None or empty if it is missing.

        Raises:
            RequestError: 401 without a valid token; 503 if the list of tokens is too old to trust.
        """
        if self._is_open:
            return ANYONE
        if self._read_at_s is None or time.monotonic() - self._read_at_s > MAX_STALE_S:
            raise RequestError(
                503, "tokens cannot be checked: the storage does not answer", {"retry-after": "5"}
            )
        if not authorization:
            raise _unauthorized("this endpoint needs a token: send `Authorization: Bearer ...`", "")
        scheme, _, text = authorization.partition(" ")
        text = text.strip()
        token = self._by_id.get(parse_token_id(text) or "") if scheme.lower() == "bearer" else None
        # compare_digest takes the same time wherever the first difference is.
        if token is None or not hmac.compare_digest(hash_token(text), token.sha256):
            raise _unauthorized(
                "the token is not one of this endpoint's", ', error="invalid_token"'
            )
        if token.has_expired(time.time()):
            raise _unauthorized(f"token {token.name!r} has expired", ', error="invalid_token"')
        return token


class _PendingRead(NamedTuple):
    """A read of the list that is under way, and when it started (monotonic)."""

    tokens: TokenStore
    started_s: float
    result: asyncio.Future[dict[str, Token | None]]


def _read_all(tokens: TokenStore, known: dict[str, Token | None]) -> dict[str, Token | None]:
    found: dict[str, Token | None] = {}
    for file in tokens.list_files():
        # Files never change, so a token is read once. A file without a token is read again: it may
        # have been half written.
        found[file] = known.get(file) or tokens.read(file)
        if found[file] is None and file not in known:
            logger.error("token file %s holds no token and is ignored", file)
    return found


def require_right(token: Token, right: str) -> None:
    """Raises RequestError 403 if a token lacks a right."""
    if right not in token.rights:
        # RFC 6750, 3.1: the challenge names the scope that is missing.
        challenge = f'Bearer realm="raydc", error="insufficient_scope", scope="{right}"'
        raise RequestError(
            403, f"token {token.name!r} has no right to {right}", {"www-authenticate": challenge}
        )


def _unauthorized(message: str, detail: str) -> RequestError:
    return RequestError(401, message, {"www-authenticate": f'Bearer realm="raydc"{detail}'})
