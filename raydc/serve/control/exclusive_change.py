"""One change of a model's aliases and endpoint at a time. Runs in the driver.

Two things keep alias and endpoint together. A lease on `models/<name>/change` lets one command in;
a second one is refused before it has touched anything. And the number of the newest entry of the
history, read before the command began, is compared when the change is recorded: a command that was
suspended, or another raydc without the lease, cannot slip in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from raydc.errors import OvertakenError, RunError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import lease

FOLDER = "change"


@contextlib.contextmanager
def hold_change(storage: Storage, model: str, after: int) -> Iterator[Registry]:
    """Keeps other commands from changing a model's aliases or endpoint inside the block.

    Args:
        storage: Storage that holds the registry and the claim.
        model: Name in the registry; the claim lies in the folder of that model.
        after: `Registry.history_number` on which the command has decided what to do.

    Returns:
        The registry, whose first change must come right after that entry.

    Raises:
        OvertakenError: Another command changes the model, or has changed it since `after`.
    """
    folder = storage / "models" / model / FOLDER
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lease.hold(folder))
        except RunError as error:
            raise OvertakenError(
                f"{lease.read_driver(folder) or 'another command'} is changing {model} at this "
                "moment; that goes on, and this change was not made",
                f"See `raydc models {model}`; then try again if it is still wanted.",
            ) from error
        registry = Registry(storage, after)
        registry.require_unchanged(model)
        yield registry
