"""A user's builder is imported on the nodes of a cluster before anything else is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from training import training_spec

from raydc import pipeline
from raydc.engine import Engine
from raydc.errors import SpecError
from raydc.run_context import RunContext


def test_builder_that_the_nodes_do_not_have_is_refused_by_node(
    ray_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "node_networks.py").write_text("def make(signature):\n    pass\n")
    cluster = Engine(False, ray_engine.address, 1, ray_engine.resources)
    model = {"builder": "node_networks:make"}
    spec = training_spec(str(tmp_path), model=model)
    context = RunContext(spec, lambda: cluster, lambda line: None)
    context.connect()
    # Only this process has the module: what it looks through is not what the nodes look through.
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.chdir(elsewhere)
    with pytest.raises(SpecError, match=r"on node [\d.]+ of this Ray: cannot import node_networks"):
        pipeline.require_builder(context)
    steps = [{"node_networks:make": {}}]
    spec = training_spec(str(tmp_path), data={"augment": {"transforms": steps}})
    transforming = replace(context, spec=spec)
    transforming.connect()
    with pytest.raises(SpecError, match=r"data\.augment\.transforms: on node [\d.]+ of this Ray"):
        pipeline.require_builder(transforming)
    # A folder that every node has under the same path is enough.
    monkeypatch.chdir(here)
    pipeline.require_builder(context)
