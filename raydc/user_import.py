"""Functions of a user's own modules, by the path `module:function`. Used in every process."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from raydc.errors import did_you_mean


def import_path(path: str) -> Callable[..., Any]:
    """Imports a function, from the current directory too.

    Args:
        path: `module:function`.

    Raises:
        LookupError: The module cannot be imported, or has no such function; the message says which.
    """
    module_name, _, function_name = path.partition(":")
    try:
        with _current_folder_on_path():
            module = importlib.import_module(module_name)
    # Importing runs the user's code, which may raise anything.
    except Exception as error:
        what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise LookupError(
            f"cannot import {module_name}: {what}; it is looked for in {os.getcwd()} and on "
            "PYTHONPATH"
        ) from error
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if function is None or not callable(function):
        names = [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_")
        ]
        message = f"module {module_name} has no function {function_name}"
        advice = did_you_mean(function_name, names)
        raise LookupError("; ".join(filter(None, (message, advice))))
    return function


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """Adds the current directory, as `python -m` does and the console script does not."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
