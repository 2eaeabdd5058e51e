"""Access tokens of an endpoint, as files next to the versions of its model.

    models/<model>/tokens/<name>.<id>.json      one token: created once, never changed, deleted when
                                                it is revoked

A token is `raydc_<id>_<secret>`; its file holds only the SHA-256. The secret has 256 random bits,
which cannot be guessed. A slow hash protects passwords that people choose, and would only make each
request slower here. With one file for each token the list of the folder is the state, so people who
create and revoke at the same time do not undo each other's changes.

Used by the command line and, to check requests, by replicas.
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
from raydc.spec.sections import Serve
from raydc.storage import Storage, canonical_json

RIGHTS = ("read", "promote")
PREFIX = "raydc"
# Names of the temporary tokens that `raydc run` creates for its one request.
_TEMPORARY_PREFIX = "raydc-own-"
_TEMPORARY_LIFETIME_S = 300.0
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
_FILE = re.compile(r"^([A-Za-z][A-Za-z0-9_-]{0,63})\.([0-9a-f]{16})\.json$")


@dataclass(frozen=True)
class Token:
    """A token as it is stored.

    Attributes:
        name: Its name in logs and commands.
        id: Random id, the part of the token that names its file.
        sha256: Hash of the whole token.
        rights: `read` allows predictions and metadata; `promote` also allows requests to canaries
            and shadows by their version number.
        created_s: Unix time of its creation.
        expires_s: Unix time at which it expires; None means that it holds until it is revoked.
        who: Creator of the token, shown in the list of tokens; empty if unknown.
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
        """Whether raydc created it for a request that it makes itself."""
        return self.name.startswith(_TEMPORARY_PREFIX)

    def has_expired(self, now_s: float) -> bool:
        """Tells whether it has expired at a Unix time."""
        return self.expires_s is not None and now_s >= self.expires_s


class TokenStore:
    """The stored tokens of one model.

    Example:
        >>> text = TokenStore(storage, "digits").create("ada", lifetime_s=86400.0)

    Args:
        storage: Storage that holds the registry.
        model: Name of the model whose endpoints accept the tokens.
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
        """Creates a token.

        Args:
            name: Its name in logs and for `revoke`: a letter, then letters, digits, `_` and `-`.
            rights: What the token permits, at least one of `RIGHTS`.
            lifetime_s: Seconds until it expires; None means that it holds until it is revoked.
            who: Creator of the token, shown in the list of tokens; empty if unknown.

        Returns:
            The token, which is not stored: if it is lost, create a new one.

        Raises:
            UsageError: The name is taken or malformed, or there is no right or no lifetime.
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
        known = f"Known rights: {', '.join(RIGHTS)}."
        if unknown:
            raise UsageError(f"unknown rights: {', '.join(unknown)}", known)
        if not rights:
            raise UsageError("a token needs a right", known)
        if lifetime_s is not None and not lifetime_s > 0:
            raise UsageError(
                f"a token for {lifetime_s:g} s would be of no use", "Give a time above 0."
            )
        identifier = secrets.token_hex(8)
        text = f"{PREFIX}_{identifier}_{secrets.token_urlsafe(32)}"
        now_s = round(time.time(), 3)
        expires_s = None if lifetime_s is None else round(now_s + lifetime_s, 3)
        # Always in the same order, so that lists look alike.
        ordered = tuple(right for right in RIGHTS if right in rights)
        made = Token(name, identifier, hash_token(text), ordered, now_s, expires_s, who)
        self._folder.create_bytes(
            f"{name}.{identifier}.json", canonical_json(asdict(made), indent=2) + b"\n"
        )
        return text

    def read_all(self) -> list[Token]:
        """Reads all tokens, in the order of their names. Raises OSError."""
        found = [self.read(file) for file in self.list_files()]
        return [one for one in found if one is not None]

    def list_files(self) -> list[str]:
        """Lists the files of all tokens, which never change. Raises OSError."""
        return [file for file in self._folder.names() if _FILE.match(file)]

    def read(self, file: str) -> Token | None:
        """Reads one token.

        Args:
            file: File name as `list_files` returns it.

        Returns:
            The token; None if the file has been deleted or does not hold a token.

        Raises:
            OSError: The storage does not answer.
        """
        try:
            # A token may be revoked between the list of files and this.
            return _parse(self._folder.read_json(file))
        except (FileNotFoundError, ValueError):
            return None

    @contextlib.contextmanager
    def temporary(self, who: str = "") -> Iterator[str]:
        """Yields a token with the right to read, and revokes it at the end of the block.

        Args:
            who: Creator of the token, shown in the list of tokens; empty if unknown.
        """
        name = _TEMPORARY_PREFIX + secrets.token_hex(4)
        # It expires by itself if this process dies before it can revoke it.
        text = self.create(name, ("read",), _TEMPORARY_LIFETIME_S, who)
        try:
            yield text
        finally:
            self.revoke(name)

    def revoke(self, name: str) -> None:
        """Deletes a token; replicas refuse it within seconds.

        Args:
            name: Name that the token was created with; every file with this name goes.

        Raises:
            RegistryError: There is no token of this name.
        """
        files = self.list_files()
        ours = [file for file in files if file.partition(".")[0] == name]
        if not ours:
            names = ", ".join(file.partition(".")[0] for file in files)
            raise RegistryError(
                f"model {self.model} has no token {name!r}",
                f"There are: {names}." if names else "There is none.",
            )
        # Two processes may have created the same name at the same time.
        for file in ours:
            self._folder.delete(file)


def hash_token(text: str) -> str:
    """Returns the hash of a token that is stored."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_token_id(text: str) -> str | None:
    """Returns the id in a token; None if the text is not a token."""
    # The secret may contain underscores, so only the first two count.
    prefix, _, rest = text.partition("_")
    identifier, _, secret = rest.partition("_")
    return identifier if prefix == PREFIX and secret else None


def _parse(value: Any) -> Token:
    """Parses a stored token. Raises ValueError for anything that is not exactly a token."""
    # A file with a missing or an additional key may come from another version, where its rights
    # could mean something else.
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


def describe_access(section: Serve | None, tokens: TokenStore) -> str | None:
    """A line about open or locked access; None if there are tokens, or all clients are local.

    Args:
        section: Section `serve` of the spec.
        tokens: Tokens of its model.
    """
    if section is None or (section.auth == "none" and section.is_local):
        return None
    if section.auth == "none":
        return f"anyone who reaches {section.host} can send requests: serve.auth is none"
    if any(not one.is_internal for one in tokens.read_all()):
        return None
    return "requests need a token, and there is none: raydc token create SPEC --name NAME"
