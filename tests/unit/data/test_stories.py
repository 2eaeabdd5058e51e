"""The stories of examples/stories: the same everywhere, and the spec run small on them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from prepared_here import prepare_here

from raydc import spec as specs
from raydc.loop import worker
from raydc.spec import from_dict, resolve
from raydc.storage import Storage, sha256
from raydc.tracking import events

PLACE = Path(__file__).parents[3] / "examples" / "stories"


def load_writer() -> Any:
    location = importlib.util.spec_from_file_location("write_stories", PLACE / "write.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_the_stories_are_the_same_everywhere(tmp_path: Path) -> None:
    writer = load_writer()
    nats = writer.write(tmp_path, 100)
    content = (tmp_path / "stories.txt").read_bytes()
    assert sha256(content).startswith("74c4e38becafd842")
    assert content.count(b"\n\n") == 99
    # Hero, animal, colour, friend, place, thing, how often they look, count and two moods; where.
    fixed = 8 * 6 * 4 * 7 * 5 * 7 * 3 * 5 * 4 * 4
    assert math.log(fixed) < nats < math.log(fixed) + 2 * math.log(5)


def test_the_spec_learns_stories(tmp_path: Path) -> None:
    load_writer().write(tmp_path, 150)
    given = specs.to_dict(resolve(specs.load(PLACE / "spec.yaml")))
    given["data"]["source"] = str(tmp_path / "stories.txt")
    given["model"].update({"width": 16, "depth": 1, "heads": 2})
    given["train"].update({"epochs": 2, "lr_scheduler": {"name": "constant"}})
    given["scaling"]["num_workers"] = 0
    prepared, _ = prepare_here(tmp_path, given["data"])
    run = Storage(str(tmp_path / "run"))
    worker.fit(resolve(from_dict(given)), run, prepared.folder)
    epochs = [one for one in events.read(run, "metrics") if one["kind"] == "epoch"]
    num_codes = prepared.features.signature.fields["text"].num_codes
    assert epochs[-1]["perplexity"] < epochs[0]["perplexity"] < num_codes
