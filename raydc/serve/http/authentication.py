"""Who may ask: bearer tokens, checked in the replica, because its own port can be reached as well.

A request costs one SHA-256 and one comparison. The list of tokens is read beside the requests, every
`REFRESH_INTERVAL_S`, so that a token that was created or revoked counts a few seconds later. It fails closed: a
token that was not read is refused, and where the list cannot be read for `MAX_STALE_S`, every token is.
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
# A storage that has not answered by now is asked no second time while the first goes on.
READ_TIMEOUT_S = 10.0
# A token that is revoked while the storage does not answer works for this long at most.
MAX_STALE_S = 300.0
# Whoever asks an endpoint that says `auth: none`.
ANYONE = Token("", "", "", RIGHTS, 0.0, None, "")


class Authenticator:
    """The tokens of one endpoint, as they were read last. Belongs to one event loop."""

    def __init__(self) -> None:
        self._tokens: TokenStore | None = None
        self._is_open = False
        self._read: dict[str, Token | None] = {}
        self._by_id: dict[str, Token] = {}
        self._read_at_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading: _Reading | None = None
        # Of its own: a storage that hangs takes no thread from what loads versions.
        self._thread = ThreadPoolExecutor(1, "tokens")

    async def configure(self, storage: str, model: str, auth: str) -> None:
        """Reads the tokens of a model, and goes on doing so.

        Args:
            storage: URI of the storage that holds the registry.
            model: Name of the model.
            auth: `none` lets everybody in; everything else means `token`.
        """
        if auth == "none":
            self.close()
            self._is_open = True
            return
        self._tokens = TokenStore(Storage(storage), model)
        await self.refresh()
        self._is_open = False
        if self._task is None:
            self._task = asyncio.create_task(self._keep_fresh())

    def close(self) -> None:
        """Reads no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Reads what is new, forgets what is gone; keeps what it has where the storage does not answer."""
        if self._tokens is None:
            return
        reading = self._reading
        if reading is None or reading.tokens is not self._tokens:
            result = asyncio.wrap_future(self._thread.submit(_read_all, self._tokens, self._read))
            reading = self._reading = _Reading(self._tokens, time.monotonic(), result)
        done, _ = await asyncio.wait({reading.result}, timeout=READ_TIMEOUT_S)
        if not done:
            logger.error("the tokens of this endpoint cannot be read: the storage does not answer")
            return
        if self._reading is not reading:
            return  # Somebody else has waited for it as well, or other tokens hold since.
        self._reading = None
        try:
            read = reading.result.result()
        except Exception as error:  # noqa: BLE001 -- a filesystem may raise anything; reading goes on.
            logger.error("the tokens of this endpoint cannot be read: %s", error)
            return
        self._read = read
        self._by_id = {token.id: token for token in read.values() if token is not None}
        self._read_at_s = reading.began_s

    def check(self, authorization: str | None) -> Token:
        """The token of a request.

        Args:
            authorization: The header.

        Raises:
            RequestError: 401 without a good token; 503 where the list of tokens is too old to be trusted.
        """
        if self._is_open:
            return ANYONE
        if self._read_at_s is None or time.monotonic() - self._read_at_s > MAX_STALE_S:
            raise RequestError(
                503, "tokens cannot be checked: the storage does not answer", {"retry-after": "5"}
            )
        if not authorization:
            raise _unauthorized("this endpoint wants a token: send `Authorization: Bearer ...`", "")
        scheme, _, text = authorization.partition(" ")
        text = text.strip()
        token = self._by_id.get(parse_token_id(text) or "") if scheme.lower() == "bearer" else None
        if token is None or not hmac.compare_digest(hash_token(text), token.sha256):
            raise _unauthorized(
                "the token is not one of this endpoint's", ', error="invalid_token"'
            )
        if token.has_expired(time.time()):
            raise _unauthorized(f"token {token.name!r} has expired", ', error="invalid_token"')
        return token


class _Reading(NamedTuple):
    tokens: TokenStore
    began_s: float
    result: asyncio.Future[dict[str, Token | None]]


def _read_all(tokens: TokenStore, known: dict[str, Token | None]) -> dict[str, Token | None]:
    found: dict[str, Token | None] = {}
    for file in tokens.list_files():
        # What holds no token is read again: it may have been half written.
        found[file] = known.get(file) or tokens.read(file)
        if found[file] is None and file not in known:
            logger.error("token file %s holds no token; it lets nobody in", file)
    return found


def demand(token: Token, right: str) -> None:
    """Raises RequestError 403 where a token lacks a right."""
    if right not in token.rights:
        challenge = f'Bearer realm="raydc", error="insufficient_scope", scope="{right}"'
        raise RequestError(
            403, f"token {token.name!r} has no right to {right}", {"www-authenticate": challenge}
        )


def _unauthorized(message: str, detail: str) -> RequestError:
    return RequestError(401, message, {"www-authenticate": f'Bearer realm="raydc"{detail}'})
