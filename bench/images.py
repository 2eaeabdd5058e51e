"""Preparation and reading of a folder of JPEG files, beside MosaicML Streaming (MDS).

    python -m bench.images [--files 5000] [--rounds 3]

The pictures are smoothed noise of 256x256 pixels in ten folders, one for each class. `prepare`
makes a data set that holds the files as they are: raydc with `image_storage: encoded`, MDS with a
column of bytes. `epoch` reads all training rows once in a new order, decodes them and makes batches
of 64: raydc with the feed of a worker, MDS with torch's DataLoader and a process for each CPU.
Each contender is a command of its own, in turn; CPU counts all of its processes (Linux). Prints one
table, writes bench/results/images.json.

Needs `pip install mosaicml-streaming`; without it MDS is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measured import run_for_json

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64
SIDE = 256
NUM_CLASSES = 10
SPEC = """
name: images
storage: {store}
data:
  source: {source}
  format: image_folder
  image_storage: encoded
  split: {{validation_fraction: 0.0, test_fraction: 0.01}}
model: {{name: cnn, channels: [4]}}
train: {{max_steps: 2, global_batch_size: 64}}
scaling: {{num_workers: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, work = options.one
        CONTENDERS[contender](Path(work))
        return
    has_mds = importlib.util.find_spec("streaming") is not None
    if not has_mds:
        print("MDS is left out: pip install mosaicml-streaming")
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as folder:
        show(measure(Path(folder), options.files, options.rounds, has_mds))


def measure(work: Path, num_files: int, rounds: int, has_mds: bool) -> list[dict[str, Any]]:
    """Measures all contenders, in turn; a line for each of their commands."""
    file_bytes = write_pictures(work / "pictures", num_files)
    spec = work / "spec.yaml"
    spec.write_text(SPEC.format(store=work / "store", source=work / "pictures"))
    raydc = [sys.executable, "-c", "from raydc.cli import main; main()"]
    commands = {
        ("prepare", "raydc"): [*raydc, "prepare", str(spec)],
        ("prepare", "MDS"): one("mds-prepare", work),
        ("epoch", "raydc"): one("raydc-epoch", work),
        ("epoch", "MDS"): one("mds-epoch", work),
    }
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        remove(work / "store")
        remove(work / "mds")
        for key, command in commands.items():
            if has_mds or key[1] == "raydc":
                measured = [sys.executable, "-m", "bench.measured", *command]
                found.setdefault(key, []).append(run_for_json(measured))
                print(f"{key}: {found[key][-1]}", file=sys.stderr)
    sizes = {"raydc": size_of(work / "store"), "MDS": size_of(work / "mds")}
    return [
        {
            "files": num_files,
            "stage": stage,
            "contender": contender,
            **{key: statistics.median(one[key] for one in runs) for key in runs[0]},
            "bytes_of_files": sizes[contender] / file_bytes,
        }
        for (stage, contender), runs in found.items()
    ]


def write_pictures(folder: Path, num_files: int) -> int:
    """Writes pictures with the detail of photographs; returns their bytes."""
    import numpy as np
    from PIL import Image, ImageFilter

    choose = np.random.default_rng(0)
    for number in range(num_files):
        pixels = choose.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))
        path = folder / f"class{number % NUM_CLASSES}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "JPEG", quality=90)
    return size_of(folder)


def mds_prepare(work: Path) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "y": "int"}
    with MDSWriter(out=str(work / "mds"), columns=columns, compression=None) as writer:
        for path in sorted((work / "pictures").rglob("*.jpg")):
            writer.write({"image": path.read_bytes(), "y": int(path.parent.name[5:])})


def raydc_epoch(work: Path) -> None:
    import torch

    from raydc.data.shards import open_rows
    from raydc.loop.feed import Feed
    from raydc.loop.group import World
    from raydc.storage import Storage

    (folder,) = (work / "store" / "data").glob("images-*")
    rows = open_rows(Storage(str(folder)), "train")
    feed = Feed(rows, 0, BATCH, 1, World(0, 1, torch.device("cpu")))
    for batch in feed.batches(0, 0, feed.steps_per_epoch):
        assert len(batch.x) == len(batch.y_B)


def mds_epoch(work: Path) -> None:
    import io

    import numpy as np
    import torch
    from PIL import Image
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Pictures(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
            row = super().__getitem__(at)
            pixels = np.array(Image.open(io.BytesIO(row["image"])))
            return torch.from_numpy(pixels).permute(2, 0, 1), row["y"]

    rows = Pictures(local=str(work / "mds"), shuffle=True, batch_size=BATCH)
    loader = DataLoader(rows, batch_size=BATCH, num_workers=os.cpu_count() or 1)
    for pictures, y in loader:
        assert len(pictures) == len(y)


CONTENDERS = {"mds-prepare": mds_prepare, "raydc-epoch": raydc_epoch, "mds-epoch": mds_epoch}


def one(contender: str, work: Path) -> list[str]:
    return [sys.executable, "-m", "bench.images", "--one", contender, str(work)]


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':10}{'':10}{'CPU s':>8}{'wall s':>8}{'MB':>8}{'of the files':>14}")
    for row in rows:
        print(
            f"{row['stage']:10}{row['contender']:10}{row['cpu_s']:8.1f}{row['wall_s']:8.1f}"
            f"{row['peak_bytes'] / 1e6:8.0f}{row['bytes_of_files']:14.3f}"
        )
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / "images.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
