"""Checks of a new network before anything is computed with it. Used where networks are built.

All passes run on a copy, so that the network itself stays as its builder left it.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from raydc.errors import first_line
from raydc.features import Signature, example_rows
from raydc.models.network_parts import SHAPE_ROWS, Network, model_problem
from raydc.models.row_tensors import RowTensors, network_inputs, to_tensors

_FIELD = "model.builder"


def check_outputs(
    network: Network, make_again: Callable[[], Network], name: str, signature: Signature
) -> None:
    """Proves that a network maps rows to outputs of the expected shape, for any number of rows.

    Args:
        network: A new network; it is not changed.
        make_again: Makes the network again, for one that cannot be copied.
        name: Name of the builder, for the message.
        signature: Shape and type of a row, and the number of outputs that is expected.

    Raises:
        SpecError: A weight has no shape yet, or the network fails or gives a different shape.
    """
    _refuse_lazy(network, name)
    try:
        trial = copy.deepcopy(network)
    # Old forms of weight normalisation hold tensors that torch does not copy.
    except Exception:  # noqa: BLE001
        trial = make_again()
    # In evaluation mode: batch normalisation of one row would fail otherwise.
    trial.eval()
    for num_rows in SHAPE_ROWS:
        rows = to_tensors(example_rows.zeros(signature, num_rows))
        with user_code(name, f"its network fails on {_describe(rows)}"), torch.no_grad():
            outputs_BK = trial(network_inputs(rows))
        refuse_shape(tuple(outputs_BK.shape), (num_rows, signature.num_outputs), name)


def _describe(rows: RowTensors) -> str:
    """Names the inputs of a network with their types and shapes."""
    inputs = network_inputs(rows)
    if isinstance(inputs, torch.Tensor):
        return f"{_type_name(inputs)} inputs of {tuple(inputs.shape)}"
    named = (f"{k}: {_type_name(v)} of {tuple(v.shape)}" for k, v in inputs.items())
    return f"the inputs {', '.join(named)}"


def _type_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def refuse_shape(found: tuple[int, ...], expected: tuple[int, int], name: str) -> None:
    """Refuses outputs of a wrong shape.

    Args:
        found: Shape that the network gave for these rows.
        expected: Rows that went in, and outputs of the signature.
        name: Name of the builder, for the message.

    Raises:
        SpecError: The shapes differ.
    """
    if found != expected:
        rows = "1 row" if expected[0] == 1 else f"{expected[0]} rows"
        raise model_problem(
            _FIELD, f"{name}: its network gives {found} for {rows}, expected {expected}"
        )


def _refuse_lazy(network: nn.Module, name: str) -> None:
    lazy = [
        key
        for key, tensor in (*network.named_parameters(), *network.named_buffers())
        if torch.nn.parameter.is_lazy(tensor)
    ]
    if lazy:
        raise model_problem(
            _FIELD,
            f"{name}: {lazy[0]} has no shape before the first pass, so no checkpoint could be "
            "loaded; give the layer its sizes (they are in signature.shape), or pass zeros "
            "through the network in the builder",
        )


@contextlib.contextmanager
def user_code(name: str, what: str) -> Iterator[None]:
    """Turns any error of a user's network inside the block into one problem of the spec.

    Args:
        name: Name of the builder, for the message.
        what: What it does, for the message, such as "its network fails on ...".

    Raises:
        SpecError: The block raised an error.
    """
    try:
        yield
    # A user's code may raise anything.
    except Exception as error:
        raise model_problem(
            _FIELD,
            f"{name}: {what}: {type(error).__name__}: {first_line(error)}",
        ) from error


@contextlib.contextmanager
def without_trace() -> Iterator[None]:
    """Lets checks run inside the block without an effect on what the process computes later.

    The random generators are put back at its end, and nothing is compiled.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    # Checks run on the CPU, so the generators of a GPU are not used. Compiling for the few rows of
    # a check would take a minute.
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
