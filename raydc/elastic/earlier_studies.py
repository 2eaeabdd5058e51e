"""Results of studies of Optuna, with which a sweep begins. Runs in the driver.

Optuna keeps them in a database or in a file of JSON lines; nothing of them is unpickled.
"""

from __future__ import annotations

import logging
import math
import os
import re
from typing import Any

from raydc.errors import UsageError, first_line

_JOURNAL_ENDING = ".log"
# The path of a URL such as `sqlite:///study.db?timeout=10`, with or without a driver.
_SQLITE_FILE = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)")


def is_study(name: str) -> bool:
    """Whether a name of `sweep.warm_start` is a study: a URL, `$NAME`, or a journal file."""
    place = name.partition("#")[0]
    return "://" in place or place.startswith("$") or place.endswith(_JOURNAL_ENDING)


def read_study(name: str, mode: str) -> list[tuple[dict[str, Any], float | None]]:
    """Reads the trials of a study that are complete, in the order of their numbers.

    Args:
        name: URL of Optuna's storage, or path of its journal file, or `$NAME` for an environment
            variable with one of them; `#NAME` chooses one of several studies.
        mode: Whether the sweep looks for the largest or the smallest metric: `max` or `min`.

    Returns:
        For each trial its parameters by name, and its value; None if it is no number.

    Raises:
        UsageError: There is no such study, it cannot be read, or it has another direction.
    """
    import optuna

    logging.getLogger("optuna").setLevel(logging.ERROR)
    place, _, chosen = name.partition("#")
    try:
        # What a variable holds may have a password, so messages have its name.
        storage = _open(_variable(place[1:]) if place.startswith("$") else place)
        names = optuna.get_all_study_names(storage)
        if len(names) != 1 and chosen not in names:
            raise UsageError(
                f"sweep.warm_start: {place} has {len(names)} studies"
                f"{': ' if names else ''}{', '.join(names[:5])}",
                "Choose one with #NAME.",
            )
        study = optuna.load_study(study_name=chosen or names[0], storage=storage)
        trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        directions = [one.name for one in study.directions]
    except UsageError:
        raise
    # Drivers of databases have errors of their own.
    except Exception as error:
        raise UsageError(
            # Optuna's own says little. After the first line come the query and a link.
            f"sweep.warm_start: {name} cannot be read: {first_line(error.__cause__ or error)}",
            "Give the URL of a storage of Optuna, or the path of its journal file.",
        ) from error
    if directions != ["MAXIMIZE" if mode == "max" else "MINIMIZE"]:
        raise UsageError(
            f"sweep.warm_start: study {study.study_name} has {', '.join(directions).lower()}, and "
            f"this sweep looks for the {mode} of one metric",
            "Set train.metric and train.mode as there, or leave it out.",
        )
    return [(dict(one.params), _finite(one.values[0])) for one in trials]


def _variable(name: str) -> str:
    if not os.environ.get(name):
        raise UsageError(
            f"sweep.warm_start: the environment variable {name} is not set",
            f"Set it where raydc runs: export {name}=postgresql://...",
        )
    return os.environ[name]


def _open(place: str) -> Any:
    import optuna

    if not place.endswith(_JOURNAL_ENDING):
        # A mistyped path would make a new database.
        match = _SQLITE_FILE.match(place)
        if match is not None and not os.path.exists(match[1]):
            raise FileNotFoundError(f"no file {match[1]}")
        # Another database would get the tables of Optuna.
        return optuna.storages.RDBStorage(place, skip_table_creation=True)
    if not os.path.exists(place):
        raise FileNotFoundError(f"no file {place}")
    backend = optuna.storages.journal.JournalFileBackend(place)
    return optuna.storages.JournalStorage(backend)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
