"""Networks that a function of the user's own package builds. Used in workers and replicas."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from raydc.features import Signature
from raydc.models import build_check
from raydc.models.network_parts import Input, Network, RecordInput, model_problem
from raydc.spec import ResolvedSpec
from raydc.spec.metric import own_names
from raydc.spec.model import Builder
from raydc.storage import sha256
from raydc.user_import import import_path


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
        first = RecordInput(signature) if signature.kind == "record" else Input(signature)
        return Network(first, body)

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
        # None stands for the signature of the data: only names of arguments are checked here.
        inspect.signature(function).bind(None, **model.arguments)
    except TypeError as error:
        raise model_problem(
            "model.arguments", f"{model.builder} does not take them: {error}"
        ) from error
    # Some callables written in C have no signature to look at.
    except ValueError:
        pass
    return function


def named_functions(spec: ResolvedSpec) -> list[tuple[str, str]]:
    """Lists the functions of the user's own that a spec names: dotted field and `module:function`.

    Args:
        spec: Resolved spec whose model, transforms, loss and metrics are looked at.
    """
    found = [("model.builder", spec.model.builder)] if isinstance(spec.model, Builder) else []
    augment = spec.data.augment
    names = [name for item in (augment and augment.transforms) or () for name in item]
    found += [("data.augment.transforms", name) for name in names if ":" in name]
    if spec.train.loss is not None and ":" in spec.train.loss.name:
        found.append(("train.loss.name", spec.train.loss.name))
    metrics = own_names(spec.train.metrics, spec.train.metric)
    return found + [("train.metrics", name) for name in metrics]


def hash_functions(spec: ResolvedSpec) -> dict[str, str]:
    """sha256 of the files of the user's functions, such as `builder_sha256`; empty without any.

    What their modules import is not part of it.
    """
    hashes = {}
    for field, function in named_functions(spec):
        module = inspect.getmodule(import_function(function, field))
        path = getattr(module, "__file__", None)
        # A module in an archive has no file of its own.
        if path is not None and os.path.isfile(path):
            name = "builder" if field == "model.builder" else function
            hashes[f"{name}_sha256"] = sha256(Path(path).read_bytes())
    return hashes


def import_builder(path: str) -> Callable[..., Any]:
    """Imports the function `module:function` of `model.builder`. Raises SpecError if that fails."""
    return import_function(path, "model.builder")


def import_function(path: str, field: str) -> Callable[..., Any]:
    """Imports a function of a user.

    Args:
        path: `module:function`.
        field: Dotted path of the field of the spec that names it, for the message.

    Raises:
        SpecError: The module cannot be imported, or has no such function.
    """
    try:
        return import_path(path)
    except LookupError as error:
        # What the user's code raised is the cause of that error.
        raise model_problem(field, str(error)) from error.__cause__ or error
