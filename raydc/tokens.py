"""Tokens of an endpoint: who may ask it, as files beside the versions of its model.

    models/<model>/tokens/<name>.<id>.json      one token: made once, never changed, deleted when it is revoked

A token is `raydc_<id>_<secret>`; the file has the SHA-256 of it and no more. The secret is 256 random bits, so
nobody finds it by trying: a slow hash, which protects what people think up themselves, would only make each
request slower. One file for each token makes the folder's list the state: of two people who create and revoke
at once, none takes back what the other did.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from raydc.errors import RegistryError, UsageError
from raydc.storage import Storage, canonical_json

RIGHTS = ("read", "promote")
PREFIX = "raydc"
# Tokens of raydc itself, for the one request at the end of `raydc run`.
_OWN = "raydc-own-"
_OWN_LIFETIME_S = 300.0
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
_FILE = re.compile(r"^([A-Za-z][A-Za-z0-9_-]{0,63})\.([0-9a-f]{16})\.json$")


@dataclass(frozen=True)
class Token:
    """One token as it is kept.

    `read` is the right to ask the model and to see what it takes and gives, `promote` the right to ask versions
    that are not the public one by their number. Times are seconds since 1970; a token without `expires_s` is
    good until it is revoked.
    """

    name: str
    id: str
    sha256: str
    rights: tuple[str, ...]
    created_s: float
    expires_s: float | None
    who: str

    @property
    def is_internal(self) -> bool:
        """raydc made it for a request of its own."""
        return self.name.startswith(_OWN)

    def has_expired(self, now_s: float) -> bool:
        return self.expires_s is not None and now_s >= self.expires_s


class TokenStore:
    """The tokens of one model.

    Args:
        storage: The storage that holds the registry.
        model: Name of the model.
    """

    def __init__(self, storage: Storage, model: str) -> None:
        self.model = model
        self._folder = storage / "models" / model / "tokens"

    def create(
        self,
        name: str,
        rights: tuple[str, ...] = ("read",),
        lifetime_s: float | None = None,
        who: str = "",
    ) -> str:
        """Makes a token. What is returned is kept nowhere: whoever loses it needs another one.

        Args:
            name: What it is called in logs, and by `revoke`.
            rights: Some of `RIGHTS`.
            lifetime_s: Seconds for which it is good; None: until it is revoked.
            who: Made it.

        Raises:
            UsageError: A name that is taken or none, unknown rights, or no time to live.
        """
        if not _NAME.match(name):
            raise UsageError(
                f"{name!r} cannot name a token", "A letter, then up to 63 letters, digits, _ and -."
            )
        if any(one.name == name for one in self.read_all()):
            raise UsageError(
                f"model {self.model} has a token {name!r} already",
                "Revoke it first, or choose another.",
            )
        unknown = sorted(set(rights) - set(RIGHTS))
        if unknown or not rights:
            raise UsageError(
                f"rights {unknown or 'none'} of a token", f"There are: {', '.join(RIGHTS)}."
            )
        if lifetime_s is not None and not lifetime_s > 0:
            raise UsageError(
                f"a token for {lifetime_s:g} s would be of no use", "Give a time above 0."
            )
        identifier = secrets.token_hex(8)
        text = f"{PREFIX}_{identifier}_{secrets.token_urlsafe(32)}"
        now_s = round(time.time(), 3)
        expires_s = None if lifetime_s is None else round(now_s + lifetime_s, 3)
        ordered = tuple(right for right in RIGHTS if right in rights)
        made = Token(name, identifier, hash_token(text), ordered, now_s, expires_s, who)
        self._folder.create_bytes(
            f"{name}.{identifier}.json", canonical_json(asdict(made), indent=2) + b"\n"
        )
        return text

    def read_all(self) -> list[Token]:
        """All tokens, by name. Raises OSError."""
        found = [self.read(file) for file in self.list_files()]
        return [one for one in found if one is not None]

    def list_files(self) -> list[str]:
        """Names of the files of all tokens. A file never changes. Raises OSError."""
        return [file for file in self._folder.names() if _FILE.match(file)]

    def read(self, file: str) -> Token | None:
        """A token; None where the file is gone or does not hold one. Raises another OSError."""
        try:
            return _parse(self._folder.read_json(file))
        except (FileNotFoundError, ValueError):
            return None

    @contextlib.contextmanager
    def temporary(self, who: str = "") -> Iterator[str]:
        """A token to read with that lasts no longer than this context."""
        name = _OWN + secrets.token_hex(4)
        text = self.create(name, ("read",), _OWN_LIFETIME_S, who)
        try:
            yield text
        finally:
            self.revoke(name)

    def revoke(self, name: str) -> None:
        """Deletes a token.

        Raises:
            RegistryError: There is none of this name.
        """
        files = self.list_files()
        ours = [file for file in files if file.partition(".")[0] == name]
        if not ours:
            names = ", ".join(file.partition(".")[0] for file in files)
            raise RegistryError(
                f"model {self.model} has no token {name!r}",
                f"There are: {names}." if names else "There is none.",
            )
        for file in ours:
            self._folder.delete(file)


def hash_token(text: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_token_id(text: str) -> str | None:
    """The part of a token that names its file; None where the text is no token."""
    prefix, _, rest = text.partition("_")
    identifier, _, secret = rest.partition("_")
    return identifier if prefix == PREFIX and secret else None


def _parse(value: Any) -> Token:
    """Raises ValueError; whatever is not exactly a token gives nobody any right."""
    if not isinstance(value, dict) or set(value) != set(Token.__dataclass_fields__):
        raise ValueError("not a token")
    texts = (value["name"], value["id"], value["sha256"], value["who"])
    times = (value["created_s"], 0 if value["expires_s"] is None else value["expires_s"])
    rights = value["rights"]
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(isinstance(time_s, int | float) for time_s in times)
        or not isinstance(rights, list)
        or not set(map(str, rights)) <= set(RIGHTS)
    ):
        raise ValueError("not a token")
    return Token(**{**value, "rights": tuple(rights)})
