"""A trained model with everything that answering needs, in one folder that no code is read from.

    model.safetensors   weights and buffers
    features.json       from raw columns to inputs, and from outputs to answers
    signature.json      shapes and meaning of the network's inputs and outputs
    spec.yaml           the resolved spec that made it
    facts.json          where it comes from: run, step, data hash, metrics, versions of the libraries
    golden.json         held-out rows with the inputs and outputs that they must give
    card.md             the same for people
    MANIFEST.json       name, bytes and sha256 of each file, written last

Evaluation, batch prediction and the endpoint all call `Bundle.forward`, and so does `write` for the golden
rows: what is checked is what runs.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError

from raydc import artefact, models
from raydc import spec as specs
from raydc.bundle import card, golden
from raydc.errors import CheckpointError, DataError, SpecError
from raydc.features import Features
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, canonical_json, sha256

Array = npt.NDArray[Any]

NUM_THREADS = 1


@dataclass(frozen=True)
class Bundle:
    """A loaded model. `digest` is the sha256 of its manifest, and with it of every byte."""

    model: torch.nn.Module
    features: Features
    spec: ResolvedSpec
    facts: dict[str, Any]
    golden: dict[str, Any]
    digest: str
    device: str = "cpu"
    num_threads: int = NUM_THREADS
    compute: str = "as trained"
    """What runs: the network as it was trained, or a form of it (see `raydc.bundle.optimize`)."""

    def forward(self, x: Array) -> npt.NDArray[np.float32]:
        """Network inputs to raw outputs.

        The number of threads is fixed, because how a sum is split among threads changes its last bits.

        Args:
            x: [B, *signature.shape] of signature.dtype.

        Returns:
            float32 [B, K].
        """
        with _threads(self.num_threads), torch.inference_mode():
            inputs = torch.from_numpy(x if x.flags.writeable else x.copy()).to(self.device)
            outputs_BK: npt.NDArray[np.float32] = self.model(inputs).float().cpu().numpy()
        return outputs_BK

    def predict_columns(self, columns: dict[str, Any]) -> list[dict[str, Any]]:
        """Raw columns to answers (see `Features.apply` and `Features.decode`). Raises DataError."""
        return self.features.decode(self.forward(self.features.apply(columns)))

    def predict_rows(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """JSON rows to answers.

        Raises:
            DataError: A row that the features cannot take, named by row and column.
        """
        return self.predict_columns(self.features.from_json_rows(rows))

    @property
    def golden_inputs(self) -> Array | None:
        """The golden rows as network inputs [B, *signature.shape]; None where there are none."""
        return golden.inputs_of(self.golden)

    def check_golden(self) -> None:
        """Proves that this process computes what the training process computed.

        Raises:
            CheckpointError: The first input or output that differs, named by row and column.
        """
        golden.check(self.golden, self.features, self.forward, self.device)


def write(
    folder: Storage,
    spec: ResolvedSpec,
    features: Features,
    weights: dict[str, torch.Tensor],
    golden_rows: list[dict[str, Any]],
    facts: dict[str, Any],
) -> None:
    """Writes a bundle; the manifest goes last.

    Args:
        folder: Where to; what is there is overwritten.
        spec: The resolved spec.
        features: Fitted features.
        weights: State of the model, as `state_dict()` gives it.
        golden_rows: Held-out raw rows as JSON rows; their outputs are computed here.
        facts: JSON values: run, step, data_hash, metrics, ...

    Raises:
        CheckpointError: The weights do not fit the model of the spec.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    facts = {**facts, "libraries": _libraries()}
    bundle = Bundle(_model(spec, features, weights), features, spec, facts, {}, "")
    files = {
        "model.safetensors": safetensors.torch.save(weights),
        "features.json": _json(features.to_dict()),
        "signature.json": _json(features.signature.to_dict()),
        "spec.yaml": yaml.safe_dump(specs.to_dict(spec), sort_keys=False).encode(),
        "facts.json": _json(facts),
        "golden.json": _json(golden.make(golden_rows, features, bundle.forward)),
        "card.md": card.write(spec, features, bundle.model, facts).encode(),
    }
    artefact.write_artefact(folder, files, {"kind": "bundle", "name": spec.name})


def load(folder: Storage, device: str = "cpu", num_threads: int = NUM_THREADS) -> Bundle:
    """Reads and verifies a bundle. Imports the user's module where the model has a `builder`.

    Args:
        folder: Of a bundle.
        device: `cpu` or `cuda`.
        num_threads: Of a forward pass. Outputs are equal bit for bit for equal numbers of threads only.

    Raises:
        CheckpointError: It is missing, does not verify or does not fit its own spec.
    """
    _, files = artefact.read_artefact(folder)
    try:
        spec = specs.resolve(
            specs.from_dict(yaml.safe_load(files["spec.yaml"]), f"{folder.uri}/spec.yaml")
        )
        features = Features.from_dict(json.loads(files["features.json"]))
        facts, golden_rows = json.loads(files["facts.json"]), json.loads(files["golden.json"])
        weights = safetensors.torch.load(files["model.safetensors"])
    except KeyError as error:
        raise CheckpointError(f"{folder.uri} is no bundle: it has no file {error}") from error
    except (SpecError, DataError, SafetensorError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{folder.uri} cannot be read by raydc {_version()}: {error}"
        ) from error
    model = _model(spec, features, weights).to(device)
    digest = sha256(folder.read_bytes(artefact.MANIFEST))
    return Bundle(model, features, spec, facts, golden_rows, digest, device, num_threads)


def _model(
    spec: ResolvedSpec, features: Features, weights: dict[str, torch.Tensor]
) -> torch.nn.Module:
    section = spec.model.without_weights()  # A download would be overwritten two lines below.
    model = models.build(section, features.signature, spec.seed)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the model of the spec: {str(error).splitlines()[-1].strip()}",
            "A model's builder must not change once it is trained.",
        ) from error
    return model.eval()


@contextlib.contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == num_threads:
        yield
        return
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _libraries() -> dict[str, str]:
    return {
        "raydc": _version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _version() -> str:
    return importlib.metadata.version("raydc")


def _json(value: Any) -> bytes:
    return canonical_json(value, indent=2) + b"\n"
