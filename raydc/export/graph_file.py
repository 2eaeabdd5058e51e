"""A model as a graph in one file: a program of `torch.export`, or ONNX. Runs in the driver.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raydc.bundle import Bundle
from raydc.errors import CheckpointError, UsageError, first_line
from raydc.features import Inputs, example_rows
from raydc.features.record import LENGTH, contiguous
from raydc.models.row_tensors import NetworkInputs, network_inputs, to_tensors
from raydc.spec.language import LANGUAGE
from raydc.storage import canonical_json

PROGRAM, ONNX = "model.pt2", "model.onnx"
# Input of a language model.
TOKENS = "tokens"
_MOST_TOKENS = 64
# Fraction of the largest output.
_TOLERANCE = 1e-5
# What torch needs to write ONNX, and what runs it.
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_NUM_ROWS = 4

Run = Callable[[NetworkInputs], npt.NDArray[np.float32]]


def write_program(loaded: Bundle, folder: Path) -> list[str]:
    """Writes a program of `torch.export`, for any number of rows, and compares it.

    Args:
        loaded: Model to export.
        folder: Empty folder.

    Returns:
        Lines about what was written and compared.

    Raises:
        UsageError: torch cannot turn the network into a graph.
        CheckpointError: The program gives other outputs.
    """
    path = folder / PROGRAM
    with _quiet():
        torch.export.save(_trace(loaded), path)
        program: Any = torch.export.load(path).module()

    def run(given: NetworkInputs) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            outputs_BK: npt.NDArray[np.float32] = program(given).numpy()
        return outputs_BK

    return _finish(loaded, folder, run, PROGRAM)


def write_onnx(loaded: Bundle, folder: Path) -> list[str]:
    """Writes an ONNX file, for any number of rows, and compares it in onnxruntime.

    Args:
        loaded: Model to export.
        folder: Empty folder.

    Returns:
        Lines about what was written and compared.

    Raises:
        UsageError: A package is missing, or the network cannot be written as ONNX.
        CheckpointError: The file gives other outputs.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--format onnx needs {', '.join(missing)}", "pip install 'raydc[onnx]'")
    import onnxruntime

    path, program = folder / ONNX, _trace(loaded)
    names = _names(_examples(loaded)[0])
    try:
        with _quiet():
            torch.onnx.export(
                program, (), path, dynamo=True, input_names=names, output_names=["outputs"]
            )
    # Its translation raises errors of many kinds.
    except Exception as error:
        raise UsageError(
            f"the network of {loaded.spec.name} cannot be written as ONNX: "
            f"{first_line(_first_cause(error))}",
            "--format torch_export writes what torch itself runs.",
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}

    def run(given: NetworkInputs) -> npt.NDArray[np.float32]:
        tensors = list(given.values()) if isinstance(given, dict) else [given]
        feeds = {n: one.numpy() for n, one in zip(names, tensors, strict=True) if n in taken}
        outputs_BK: npt.NDArray[np.float32] = session.run(["outputs"], feeds)[0]
        return outputs_BK

    return _finish(loaded, folder, run, ONNX)


def _examples(loaded: Bundle) -> list[NetworkInputs]:
    """Golden rows as the network takes them: in a batch, alone, and in a larger batch.

    A language model takes documents of any length.
    """
    if loaded.features.signature.task == LANGUAGE:
        return [{TOKENS: torch.from_numpy(one)} for one in _documents(loaded)]
    features, rows = loaded.features, loaded.golden.get("rows", [])
    if not rows:
        sizes = (_NUM_ROWS, 1, 2 * _NUM_ROWS)
        return [_given(example_rows.zeros(features.signature, size)) for size in sizes]
    batches = [(rows * _NUM_ROWS)[: max(len(rows), _NUM_ROWS)], rows[:1], rows[-1:], rows + rows]
    return [_given(features.apply(features.from_json_rows(batch))) for batch in batches]


def _documents(loaded: Bundle) -> list[npt.NDArray[np.int64]]:
    """Rows of tokens, [B, L], of which some hold two documents."""
    column = loaded.features.token_column
    assert column is not None
    choose = np.random.default_rng(0)
    found = []
    longest = max(4, min(_MOST_TOKENS, column.length))
    for shape in ((_NUM_ROWS, longest), (1, longest), (2 * _NUM_ROWS, longest - 1), (1, 3)):
        tokens_BL = choose.integers(0, column.num_codes, shape)
        tokens_BL[:, 0] = tokens_BL[0, shape[1] // 2] = column.end_code
        found.append(tokens_BL)
    return found


def _network(loaded: Bundle) -> nn.Module:
    """What is exported: of a language model the scores of each next token, not its losses."""
    if loaded.features.signature.task != LANGUAGE:
        return loaded.model
    decoder: Any = loaded.model.body
    return _Scores(decoder.decoder).eval()


class _Scores(nn.Module):
    """A decoder under the name of its input.

    Args:
        decoder: Maps tokens [B, L] to scores of the token behind each, [B, L, V].
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Scores of the token behind each one, [B, L, V]."""
        scores_BLV: torch.Tensor = self.decoder(rows[TOKENS])
        return scores_BLV


def _given(x: Inputs) -> NetworkInputs:
    return network_inputs(to_tensors(contiguous(x)))


def _names(given: NetworkInputs) -> list[str]:
    return list(given) if isinstance(given, dict) else ["rows"]


def _trace(loaded: Bundle) -> Any:
    """The network as a graph in which the number of rows and the length of lists are free."""
    given = _examples(loaded)[0]
    fields = loaded.features.signature.fields
    rows, free = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO
    shapes: Any = {0: rows}
    if isinstance(given, dict):
        lists = {name for name in given if name + LENGTH in given and name in fields}
        lists |= {TOKENS} & given.keys()
        shapes = {name: {0: rows, 1: free} if name in lists else {0: rows} for name in given}
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(
                _Positional(_network(loaded)), (given,), dynamic_shapes=(shapes,)
            )
    # torch raises errors of many kinds, and so may the code of a user.
    except Exception as error:
        raise UsageError(
            f"torch.export cannot turn the network of {loaded.spec.name} into a graph: "
            f"{first_line(error)}",
            "Its code may depend on the values of a row, or on their number.",
        ) from error


class _Positional(nn.Module):
    """A network under the name of its argument, whatever a user's own calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: NetworkInputs) -> torch.Tensor:
        """Raw outputs [B, K] of rows."""
        outputs_BK: torch.Tensor = self.network(rows)
        return outputs_BK.float()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps notes of libraries about their own progress away from the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _finish(loaded: Bundle, folder: Path, run: Run, name: str) -> list[str]:
    """Compares a file with the model, and writes what describes its inputs."""
    differences, largest, network = [], 1e-6, _network(loaded)
    for given in _examples(loaded):
        with torch.no_grad():
            expected_BK = network(given).float().numpy()
        try:
            found_BK = run(given)
        # Each runtime has errors of its own; one that takes fewer rows is no copy of the model.
        except Exception as error:
            raise CheckpointError(
                f"{name} cannot compute {len(expected_BK)} rows: {first_line(error)}",
                "Nothing was written.",
            ) from error
        largest = max(largest, float(np.abs(expected_BK).max()))
        differences.append(float(np.abs(expected_BK - found_BK).max()))
    difference = max(differences) / largest
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"{name} differs from {loaded.spec.name}: by {difference:.2g} of the largest output",
            "Nothing was written.",
        )
    given = _examples(loaded)[0]
    (folder / "signature.json").write_bytes(
        canonical_json({"inputs": _names(given), **loaded.features.signature.to_dict()}, indent=2)
        + b"\n"
    )
    return [f"{name} for any number of rows", f"loaded again: outputs differ by {difference:.1g}"]


def _first_cause(error: BaseException) -> BaseException:
    """The error from which another one was raised: torch wraps it in advice for its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
