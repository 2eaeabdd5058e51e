"""Networks that a function of the user's own package builds. Used in workers and replicas."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from raydc.errors import did_you_mean
from raydc.features import Signature
from raydc.models import build_check
from raydc.models.network_parts import Input, Network, model_problem
from raydc.spec.model import Builder, Model
from raydc.storage import sha256


def build(model: Builder, signature: Signature) -> Network:
    """Calls the user's builder, and checks the network that it returns.

    Args:
        model: Section `model` of a spec, with the builder and its arguments.
        signature: Signature of the rows, which the builder gets too.

    Raises:
        SpecError: The builder cannot be imported, refuses its arguments, fails, or returns
            something that does not map any number of rows to outputs.
    """
    function = require_builder(model)

    def make() -> Network:
        with build_check.user_code(model.builder, "raises"):
            body = function(signature, **model.arguments)
        if not isinstance(body, nn.Module):
            raise model_problem(
                "model.builder",
                f"{model.builder} returned a {type(body).__name__}, not a torch.nn.Module",
            )
        return Network(Input(signature), body)

    network = make()
    with build_check.without_trace():
        build_check.check_outputs(network, make, model.builder, signature)
    return network


def require_builder(model: Builder) -> Callable[..., Any]:
    """Imports the builder of a section, which must take its arguments; does not call it.

    Raises:
        SpecError: It cannot be imported, or does not take the arguments.
    """
    function = import_builder(model.builder)
    try:
        # What stands for the signature of the data does not matter here.
        inspect.signature(function).bind(None, **model.arguments)
    except TypeError as error:
        raise model_problem(
            "model.arguments", f"{model.builder} does not take them: {error}"
        ) from error
    # Some callables written in C have no signature to look at.
    except ValueError:
        pass
    return function


def hash_builder(model: Model) -> dict[str, str]:
    """sha256 of the file of the user's builder, as `builder_sha256`; empty for other networks.

    What that module imports is not part of it.
    """
    if not isinstance(model, Builder):
        return {}
    module = inspect.getmodule(import_builder(model.builder))
    path = getattr(module, "__file__", None)
    # A module in an archive has no file of its own.
    if path is None or not os.path.isfile(path):
        return {}
    return {"builder_sha256": sha256(Path(path).read_bytes())}


def import_builder(path: str) -> Callable[..., Any]:
    """Imports the function `module:function`. Raises SpecError if that fails."""
    module_name, _, function_name = path.partition(":")
    try:
        with _current_folder_on_path():
            module = importlib.import_module(module_name)
    # Importing runs the user's code, which may raise anything.
    except Exception as error:
        what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        message = (
            f"cannot import {module_name}: {what}; it is looked for in {os.getcwd()} and on "
            "PYTHONPATH"
        )
        raise model_problem("model.builder", message) from error
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if function is None or not callable(function):
        names = [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_")
        ]
        message = f"module {module_name} has no function {function_name}"
        advice = did_you_mean(function_name, names)
        raise model_problem("model.builder", "; ".join(filter(None, (message, advice))))
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
