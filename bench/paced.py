"""A network that takes the time its input asks for, and records in a file what it has computed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from raydc import bundle, checksummed_folder, models, spec
from raydc.features import Features, Numeric, Signature
from raydc.registry import Registry
from raydc.spec.sections import Spec
from raydc.storage import Storage

NAME = "paced"
FEATURES = Features(
    Signature("vector", (1,), "float32", (), (), "regression"),
    "took",
    {"seconds": Numeric(0.0, 0.0, 1.0)},
)


class Paced(torch.nn.Module):
    """Sleeps for the largest of its inputs, in seconds, and adds the inputs to a file, one a line.

    Args:
        file: Where the inputs of each forward pass go.
        least_s: Shortest time of a forward pass. From a millisecond on, a replica keeps it off
            its event loop.
    """

    def __init__(self, file: str, least_s: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.file = file
        self.least_s = least_s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(max(self.least_s, float(x.max())))
        lines = "".join(f"{value:.4f}\n" for value in x[:, 0].tolist())
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, lines.encode())
        os.close(descriptor)
        return x * self.gain


def network(_signature: Signature, file: str, least_s: float) -> torch.nn.Module:
    """The builder that the spec names."""
    return Paced(file, least_s)


def spec_of(storage: Storage, file: Path, least_s: float = 0.0, **serve: Any) -> Spec:
    """A resolved spec; `serve` are fields of its section."""
    arguments = {"file": str(file), "least_s": least_s}
    value = {
        "name": NAME,
        "storage": storage.uri,
        "data": {"source": "rows.csv", "target": "took"},
        "model": {"builder": "bench.paced:network", "arguments": arguments},
        "serve": {"port": 0, "auth": "none", "ray_actor_options": {"num_cpus": 0.1}, **serve},
    }
    return spec.resolve(spec.from_dict(value))


def register(storage: Storage, given: Spec, golden_is_wrong: bool = False) -> int:
    """A version of the network; all do the same."""
    weights = models.build(given.model, FEATURES.signature, 0).state_dict()
    number = len(Registry(storage).versions(NAME)) + 1
    made = storage / f"made-{number}"
    bundle.write(made, given, FEATURES, weights, [{"seconds": 0.0}], {"run": f"{NAME}-{number}"})
    if golden_is_wrong:
        meta, files = checksummed_folder.read_checksummed(made)
        golden = json.loads(files["golden.json"])
        golden["outputs"][0][0] += 1.0
        checksummed_folder.write_checksummed(
            made, {**files, "golden.json": json.dumps(golden).encode()}, meta
        )
    return Registry(storage).register(NAME, made, {})


def computed(file: Path) -> list[float]:
    """The inputs that have been computed so far."""
    return [float(line) for line in file.read_text().split()] if file.exists() else []
