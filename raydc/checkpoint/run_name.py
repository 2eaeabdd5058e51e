"""Whether a run of a name exists. Runs in the driver, before anything is written."""

from __future__ import annotations

from raydc.errors import RunError, close_names
from raydc.storage import Storage
from raydc.tracking import lease

# The file that makes a folder a run.
RESOLVED = "resolved.yaml"
_NUM_NAMES = 5


def refuse_taken_name(runs: Storage, name: str, resume: bool, new: bool) -> None:
    """Refuses a name that is taken or, for a resume, free.

    Args:
        runs: Folder that holds the folders of all runs.
        name: Name that the run should have.
        resume: Whether an existing run is continued.
        new: Whether an existing run is renamed.

    Raises:
        RunError: A run of this name exists and neither flag was given; there is nothing to resume;
            or the folder holds parts of a run.
    """
    folder = runs / name
    if resume:
        require_run(folder, runs, name)
    exists = folder.exists(RESOLVED)
    if exists and not resume and not new:
        raise RunError(
            f"run {name!r} exists already at {folder.uri}",
            "Pass --resume to continue it, --new to start again (the old one is renamed), "
            "or choose another name: --set name=...",
        )
    if not exists:
        _refuse_leftovers(folder, name)


def _refuse_leftovers(folder: Storage, name: str) -> None:
    """Refuses a folder without a run in it: records of an old run would become part of the new."""
    # A driver that died while it made the folder leaves these, which do not make the folder a run.
    harmless = {"spec.yaml", lease.FILE, lease.LOCK_FILE}
    if set(folder.names()) - harmless:
        raise RunError(
            f"{folder.uri} holds parts of a run without its resolved.yaml, as an interrupted "
            "removal leaves them",
            f"Remove the rest: raydc rm run {name} --yes",
        )


def require_run(folder: Storage, runs: Storage, name: str) -> None:
    """Refuses to continue a run that does not exist.

    Args:
        folder: Folder in which the run is expected.
        runs: Folder of all runs, from which the message takes similar names.
        name: Name as the user typed it, for the message.

    Raises:
        RunError: There is no such run; the message lists similar names.
    """
    if folder.exists(RESOLVED):
        return
    if folder.exists("checkpoints"):
        raise RunError(
            f"{folder.uri}/{RESOLVED} is missing: it was lost, or a removal of the run was "
            "interrupted",
            "To continue the run, put it back: checkpoints/step_*/spec.yaml there is a copy. To "
            f"remove the rest: raydc rm run {name} --yes",
        )
    known = [known for known in runs.names() if (runs / known).exists(RESOLVED)]
    close = close_names(name, known, num=3) or known[:_NUM_NAMES]
    there = f"there are: {', '.join(close)}" if close else "there is none"
    raise RunError(
        f"there is no run {name!r} at {folder.uri}; {there}",
        "Check name and storage; `raydc runs` lists what there is.",
    )


def set_aside(runs: Storage, name: str) -> str:
    """Renames an existing run to the first free `<name>.<number>`, and returns that name.

    Args:
        runs: Folder of all runs.
        name: Name of the run.
    """
    taken = set(runs.names())
    number = next(n for n in range(1, len(taken) + 2) if f"{name}.{n}" not in taken)
    with lease.hold(runs / name):
        runs.move(name, f"{name}.{number}")
    # The lease moved with the folder, and no process drives the old run.
    (runs / f"{name}.{number}").delete(lease.FILE)
    return f"{name}.{number}"
