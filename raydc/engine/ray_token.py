"""The token that Ray's processes show each other. Runs in the driver."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from raydc.engine import internals
from raydc.errors import ClusterError


def choose_auth(local: bool) -> None:
    """Turns token authentication on, unless the environment says otherwise.

    A local Ray always has it; for a cluster it is on if this user has a token. Ray would
    create a missing token file that everybody can read, so it is created here.

    Args:
        local: Whether a local Ray is about to start.

    Raises:
        ClusterError: The token cannot be stored.
    """
    loader = internals.AuthenticationTokenLoader.instance()
    if "RAY_AUTH_MODE" not in os.environ:
        if not local and not loader.has_token(ignore_auth_mode=True):
            return
        os.environ["RAY_AUTH_MODE"] = "token"
    # Ray has read the variable already, when it was imported.
    internals.Config.initialize("")
    if os.environ["RAY_AUTH_MODE"] == "token" and not loader.has_token(ignore_auth_mode=True):
        _create_token()
        loader.reset_cache()


def _create_token() -> None:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process of this user may have made it meanwhile.
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
    except OSError as error:
        # Containers with a random user id have a home that is not theirs.
        raise ClusterError(
            f"cannot keep the token of Ray in {path}: {error.strerror}",
            "Set RAY_AUTH_TOKEN_PATH to a file that this user can write, or HOME to its folder.",
        ) from error
