"""Networks that a function of the user's own package builds. Used in workers and replicas."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from raydc.errors import did_you_mean
from raydc.features import Signature
from raydc.models.network_parts import Input, Network, model_problem
from raydc.spec.model import Builder


def build(model: Builder, signature: Signature) -> Network:
    """Calls the user's builder, and checks the network that it returns on two rows.

    Args:
        model: Section `model` of a spec, with the builder and its arguments.
        signature: Signature of the rows, which the builder gets too.

    Raises:
        SpecError: The builder cannot be imported, refuses its arguments, or returns something
            that does not map rows to outputs.
    """
    function = _import_builder(model.builder)
    try:
        body = function(signature, **model.arguments)
    except TypeError as error:
        raise model_problem(
            "model.arguments", f"{model.builder} does not take them: {error}"
        ) from error
    if not isinstance(body, nn.Module):
        raise model_problem(
            "model.builder",
            f"{model.builder} returned a {type(body).__name__}, not a torch.nn.Module",
        )
    network = Network(Input(signature), body)
    _check_outputs(network, model.builder, signature)
    return network


def _import_builder(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        with _current_folder_on_path():
            module = importlib.import_module(module_name)
    except ImportError as error:
        message = (
            f"cannot import {module_name}: {error}; it is looked for in {os.getcwd()} and on "
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


def _check_outputs(network: Network, name: str, signature: Signature) -> None:
    dtype = torch.uint8 if signature.dtype == "uint8" else torch.float32
    # Two rows: a network that sums over the batch by mistake gives one output.
    rows = torch.zeros((2, *signature.shape), dtype=dtype)
    expected = (2, signature.num_outputs)
    # In evaluation mode, so that the check leaves no trace in running means.
    network.eval()
    try:
        with torch.no_grad():
            found = tuple(network(rows).shape)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise model_problem(
            "model.builder",
            f"{name}: its network fails on float32 inputs of {tuple(rows.shape)}: {error}",
        ) from error
    finally:
        network.train()
    if found != expected:
        raise model_problem(
            "model.builder", f"{name}: its network gives {found} for 2 rows, expected {expected}"
        )
