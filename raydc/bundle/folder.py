"""The folder of a bundle: how it is written, read and verified. No code is read from it.

    model.safetensors   weights and buffers
    adapter.safetensors adapters of a decoder again, alone; see `shared_base`
    features.json       fitted features: raw columns to inputs, outputs to predictions
    signature.json      shapes and meaning of the network's inputs and outputs
    spec.yaml           the resolved spec of the training
    facts.json          its origin: run, step, data hash, metrics, versions of the libraries
    golden.json         held-out rows with their expected inputs and outputs
    card.md             a summary for people
    MANIFEST.json       name, bytes and sha256 of each file, written last

Evaluation, batch prediction and the endpoint call `Bundle.forward`, which calls `Bundle.run`, as
the check of the golden rows does: what is checked is what runs. Runs in the driver, in tasks of an
evaluation and in replicas.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError

from raydc import checksummed_folder, models
from raydc import spec as specs
from raydc.bundle import card, golden, golden_prompts, shared_base
from raydc.bundle.libraries import describe_libraries, raydc_version
from raydc.bundle.padded_passes import PaddingByLengths, run_by_lengths, run_padded
from raydc.bundle.padding import Padding, measure, store_by_input
from raydc.errors import CheckpointError, DataError, FormatError, SpecError, last_line
from raydc.features import Features, Inputs
from raydc.features.record import bucket_length, buckets_up_to, contiguous, expanded
from raydc.models.device import fixed_threads
from raydc.models.row_tensors import RowTensors, move, to_tensors
from raydc.spec import ResolvedSpec
from raydc.spec.language import LANGUAGE, rows_per_pass
from raydc.spec.sections import Serve
from raydc.storage import Storage, canonical_json, sha256

Array = npt.NDArray[Any]

NUM_THREADS = 1
_WEIGHTS = "model.safetensors"
_REMEDY = (
    "Put back an intact copy of the file. If its run is still there, `raydc run SPEC --resume` "
    "writes the model again and repairs the copy in the registry."
)


@dataclass(frozen=True)
class Bundle:
    """A loaded model.

    Attributes:
        model: The network, in evaluation mode.
        features: Features fitted on the training rows, which the model was trained with.
        spec: The resolved spec of the training.
        facts: Origin of the model, as JSON values.
        golden: Content of `golden.json`.
        digest: sha256 of the manifest, and so of every byte of the folder.
        device: `cpu` or `cuda`.
        num_threads: Threads of a forward pass.
        compute: Form of the network that runs, see `raydc.bundle.optimize`.
        max_rows: Maximum number of rows in a forward pass.
    """

    model: torch.nn.Module
    features: Features
    spec: ResolvedSpec
    facts: dict[str, Any]
    golden: dict[str, Any]
    digest: str
    device: str = "cpu"
    num_threads: int = NUM_THREADS
    compute: str = "as trained"
    max_rows: int = 1

    @cached_property
    def padding(self) -> Padding:
        """Sizes at which no row depends on others, for the longest lists; found at first use."""
        lists = [one for one in self.features.signature.fields.values() if one.form == "list"]
        return self._padding_by_lengths[tuple(bucket_length(one.max_length) for one in lists)]

    @cached_property
    def _padding_by_lengths(self) -> PaddingByLengths:
        return PaddingByLengths(partial(measure, self))

    def forward(self, x: Inputs) -> npt.NDArray[np.float32]:
        """Runs the network in the sizes of `padding`.

        Args:
            x: Inputs [B, *signature.shape] of signature.dtype; or a record of the signature's
                fields, or of columns as they are stored.

        Returns:
            Raw outputs, float32 [B, K].

        Raises:
            CheckpointError: The network gives outputs of a different shape.
        """
        x = expanded(x)
        if not self.features.signature.has_lists:
            return run_padded(self.run, x, self.padding)
        return run_by_lengths(self.run, x, self._padding_by_lengths)

    def find_sizes(self) -> None:
        """Finds the sizes of forward passes for lists of every length, before there are requests.

        Combinations of several lists are too many, and found as they come.
        """
        lists = [one for one in self.features.signature.fields.values() if one.form == "list"]
        if len(lists) == 1:
            self._padding_by_lengths.find(buckets_up_to(lists[0].max_length))

    def run(self, x: Inputs) -> npt.NDArray[np.float32]:
        """Does what `forward` does, in one pass of exactly these rows.

        The number of threads is fixed: the way a sum is split among threads changes its last bits.
        """
        # torch warns of memory that it must not write, such as that of a request.
        inputs = to_tensors(contiguous(x))
        # A context manager costs as much as a small layer, and the number is right as a rule.
        if torch.get_num_threads() == self.num_threads:
            outputs_BK = self._run_tensor(inputs)
        else:
            with fixed_threads(self.num_threads):
                outputs_BK = self._run_tensor(inputs)
        expected = (len(x), self.features.signature.num_outputs)
        if outputs_BK.shape != expected:
            raise CheckpointError(
                f"the network gives {outputs_BK.shape} for {len(x)} rows, expected {expected}",
                "Its outputs must keep the axis of the rows: `squeeze()` drops it for one row.",
            )
        return outputs_BK

    def _run_tensor(self, inputs: RowTensors) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            if self.device != "cpu":
                inputs = move(inputs, torch.device(self.device))
            given = inputs if isinstance(inputs, torch.Tensor) else inputs.network_inputs()
            outputs_BK: npt.NDArray[np.float32] = self.model(given).float().cpu().numpy()
        return outputs_BK

    def predict_columns(self, columns: dict[str, Any]) -> list[dict[str, Any]]:
        """Predicts raw columns.

        Args:
            columns: Arrays by column, see `Features.apply`.

        Returns:
            A prediction for each row, see `Features.decode`.

        Raises:
            DataError: The features cannot take a value, named by row and column.
        """
        return self.features.decode(self.forward(self.features.apply_given(columns)))

    def predict_rows(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predicts JSON rows.

        Args:
            rows: Values by column.

        Returns:
            A prediction for each row, see `Features.decode`.

        Raises:
            DataError: The features cannot take a value, named by row and column.
        """
        return self.predict_columns(self.features.from_json_rows(rows))

    @property
    def golden_inputs(self) -> Inputs | None:
        """Inputs of the golden rows; None without golden rows."""
        return golden.read_inputs(self.golden)

    def check_golden(self) -> None:
        """Proves that this process computes what the training process computed.

        Raises:
            CheckpointError: An input, an output or a token differs; the message names the first.
        """
        golden.check(self.golden, self.features, self.run, self.device)
        golden_prompts.check(self.golden, self.features, self.model, self.device, self.num_threads)


def write(
    folder: Storage,
    spec: ResolvedSpec,
    features: Features,
    weights: dict[str, torch.Tensor],
    golden_rows: list[dict[str, Any]],
    facts: dict[str, Any],
) -> None:
    """Writes a bundle. A folder without a manifest, which is written last, is not a bundle.

    Args:
        folder: Destination; files in it are overwritten.
        spec: The spec of the run; stored as `spec.yaml`, from which `load` builds the model.
        features: Features fitted on the training rows, which the model was trained with.
        weights: The `state_dict()` of the model.
        golden_rows: Held-out JSON rows; their expected inputs and outputs are computed here.
        facts: JSON values: run, step, data_hash, metrics, ...

    Raises:
        CheckpointError: The weights do not fit the model of the spec.
    """
    # safetensors stores contiguous tensors only.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    facts = {**facts, "libraries": describe_libraries(spec)}
    model = _model(spec, features, weights)
    split = shared_base.split_adapter(spec, model, weights)
    facts |= {} if split is None else {shared_base.BASE: split[0]}
    bundle = Bundle(model, features, spec, facts, {}, "", max_rows=_max_rows(spec, features))
    expected = golden.compute(golden_rows, features, bundle.run)
    if prompts := golden_prompts.compute(golden_rows, features, bundle.model):
        expected[golden_prompts.PROMPTS] = prompts
    bundle = replace(bundle, golden=expected)
    files = {
        _WEIGHTS: safetensors.torch.save(weights),
        "features.json": _json(features.to_dict()),
        "signature.json": _json(features.signature.to_dict()),
        "spec.yaml": yaml.safe_dump(specs.to_dict(spec), sort_keys=False).encode(),
        "facts.json": _json(facts),
        "golden.json": _json(expected),
        "card.md": card.render(
            spec, features, bundle.model, {**facts, "answer": str(bundle.padding)}
        ).encode(),
        **({} if split is None else {shared_base.FILE: split[1]}),
    }
    checksummed_folder.write_checksummed(folder, files, {"kind": "bundle", "name": spec.name})


def load(
    folder: Storage,
    device: str = "cpu",
    num_threads: int = NUM_THREADS,
    beside: Sequence[Bundle] = (),
) -> Bundle:
    """Reads and verifies a bundle. A model with a `builder` imports the user's module.

    Args:
        folder: Folder that `write` has filled.
        device: `cpu` or `cuda`.
        num_threads: Threads of a forward pass. Outputs are bitwise equal for equal numbers only.
        beside: Loaded bundles, whose base is shared if they have adapters of the same one.

    Raises:
        CheckpointError: The bundle is missing, does not verify or does not fit its own spec.
    """
    try:
        base = shared_base.find_base(folder, beside, device, num_threads)
        _, files = checksummed_folder.read_checksummed(folder, () if base is None else (_WEIGHTS,))
    except FormatError:
        raise
    except CheckpointError as error:
        raise CheckpointError(error.message, _REMEDY) from error
    try:
        spec = specs.resolve(
            specs.from_dict(yaml.safe_load(files["spec.yaml"]), f"{folder.uri}/spec.yaml")
        )
        features = Features.from_dict(json.loads(files["features.json"]))
        facts, golden_rows = json.loads(files["facts.json"]), json.loads(files["golden.json"])
        weights = safetensors.torch.load(files[_WEIGHTS]) if base is None else {}
    except KeyError as error:
        raise CheckpointError(f"{folder.uri} is not a bundle: it has no file {error}") from error
    except (SpecError, DataError, SafetensorError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{folder.uri} cannot be read by raydc {raydc_version()}: {error}"
        ) from error
    model = (
        _model(spec, features, weights).to(device)
        if base is None
        else shared_base.share_base(base, files[shared_base.FILE], features.signature)
    )
    digest = sha256(folder.read_bytes(checksummed_folder.MANIFEST))
    origin = (facts, golden_rows, digest)
    return Bundle(
        model, features, spec, *origin, device, num_threads, max_rows=_max_rows(spec, features)
    )


def _max_rows(spec: ResolvedSpec, features: Features) -> int:
    if spec.data.task == LANGUAGE:
        (field,) = features.signature.fields.values()
        return rows_per_pass(spec.data.blocks.length, field.num_codes)
    return (spec.serve or Serve()).max_batch_size


def _model(
    spec: ResolvedSpec, features: Features, weights: dict[str, torch.Tensor]
) -> torch.nn.Module:
    # `load_state_dict` would overwrite downloaded weights.
    section = spec.model.without_weights()
    model = models.build(section, features.signature, spec.seed)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the model of the spec: {last_line(error)}",
            "A model's builder must not change once it is trained.",
        ) from error
    store_by_input(model)
    return model.eval()


def _json(value: Any) -> bytes:
    return canonical_json(value, indent=2) + b"\n"
