"""A sweep over models of Fashion-MNIST: rows, search space and spec, for bench/sweep.py.

24 trials over the learning rate, the kind of model, its depth and its width; rungs at 1, 3 and 9
epochs. The rows are the first ones of the original files, so that many sweeps fit into minutes.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import yaml

NUM_TRIALS, EPOCHS, BATCH_SIZE = 24, 9, 128
NUM_TRAIN, NUM_TEST = 12_000, 1_000
_VALIDATION_FRACTION = 0.25
RATES, WIDTHS = (1e-4, 1e-1), {"mlp": (16, 128), "cnn": (4, 16)}
DEPTHS = {"mlp": (1, 2, 3), "cnn": (1, 2)}
_FILES = {"train": NUM_TRAIN, "t10k": NUM_TEST}


def write_rows(source: Path, folder: Path) -> None:
    """Writes the first rows of the four files of Fashion-MNIST.

    Args:
        source: Folder of the original files.
        folder: Takes four files of the same names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in _FILES.items():
        for kind, row_bytes in (("images-idx3", 28 * 28), ("labels-idx1", 1)):
            name = f"{split}-{kind}-ubyte.gz"
            content = gzip.decompress((source / name).read_bytes())
            # Magic number, number of rows, and for images height and width: 4 bytes each.
            start = 16 if row_bytes > 1 else 8
            head = content[:4] + struct.pack(">I", count) + content[8:start]
            body = content[start : start + count * row_bytes]
            (folder / name).write_bytes(gzip.compress(head + body, 1, mtime=0))


def make_spec(folder: Path, name: str, rows: Path, **sweep: Any) -> dict[str, Any]:
    """A spec as plain values.

    Args:
        folder: Has the storage.
        name: Name of the run.
        rows: Folder that `write_rows` has filled.
        **sweep: Fields of the section `sweep` that differ.
    """
    models = [
        {
            "name": name_of,
            "depth": {"choice": list(DEPTHS[name_of])},
            # The upper end of a domain of whole numbers is exclusive.
            "width": {"lograndint": [WIDTHS[name_of][0], WIDTHS[name_of][1] + 1]},
        }
        for name_of in WIDTHS
    ]
    return {
        "name": name,
        "storage": str(folder / "store"),
        "data": {
            "source": str(rows),
            "split": {"validation_fraction": _VALIDATION_FRACTION},
        },
        "model": {"name": "mlp"},
        "train": {"epochs": EPOCHS, "global_batch_size": BATCH_SIZE, "log_every_steps": 50},
        "scaling": {"num_workers": 1},
        "sweep": {
            "num_samples": NUM_TRIALS,
            "search_alg": "tpe",
            "space": {
                "train.learning_rate": {"loguniform": list(RATES)},
                "model": {"choice": models},
            },
            **sweep,
        },
    }


def write_spec(path: Path, spec: dict[str, Any]) -> None:
    """Writes a spec as a file that raydc takes."""
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
