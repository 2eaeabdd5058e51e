"""What commands refuse before Ray starts and before data is prepared."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from raydc.cli import main
from raydc.storage import Storage


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec of a table in the current folder, with a builder beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "rows.csv").write_text("age,plan,label\n1,x,a\n2,y,b\n")
    (tmp_path / "early_networks.py").write_text("def make(signature, width):\n    pass\n")
    torch.save({"body.2.weight": torch.zeros(2), "body.1.bias": torch.zeros(2)}, "old.pt")
    path = tmp_path / "good.yaml"
    path.write_text("name: good\nstorage: store\ndata: {source: rows.csv}\nmodel: {name: mlp}\n")
    return path


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test whose command gets as far as Ray."""

    def connect(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raydc.engine.connect", connect)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


REFUSED = [
    (["model.name=vit_tiny"], 2, "model.name: no model 'vit_tiny'; did you mean "),
    (["model={name: resnet18, weights: BEST}"], 2, "no weights 'BEST'; there are"),
    (["model={name: mlp, weights: /x/y.pth}"], 2, "model.weights: /x/y.pth: No such file"),
    (
        ["model={name: linear, weights: old.pt}"],
        2,
        "missing: body.1.weight; unexpected: body.2.weight",
    ),
    (["model={builder: 'nope:make'}"], 2, "model.builder: cannot import nope"),
    (["model={builder: 'early_networks:mak'}"], 2, "no function mak; did you mean make?"),
    (["model={builder: 'early_networks:make'}"], 2, "missing a required argument: 'width'"),
    (
        ["model={builder: 'early_networks:make', arguments: {width: 1, depth: 2}}"],
        2,
        "unexpected keyword argument 'depth'",
    ),
    (["data.source=nope.csv"], 3, "nope.csv does not exist"),
    (["data.source={train: rows.csv, test: nope.csv}"], 3, "nope.csv does not exist"),
    (["data.target=lable"], 3, "data.target: there is no column 'lable' in"),
    (["data.features.exclude=[ago]"], 3, "data.features.exclude: there is no column 'ago'"),
    (["data.features.columns={pln: categorical}"], 3, "Did you mean plan? There are age, plan,"),
]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("command", ["validate", "plan", "train", "run"])
@pytest.mark.parametrize(("overrides", "code", "message"), REFUSED)
def test_what_needs_no_data_is_refused_before_ray_starts(
    spec: Path, command: str, overrides: list[str], code: int, message: str
) -> None:
    sets = [part for override in overrides for part in ("--set", override)]
    found, output = invoke(command, str(spec), *sets)
    assert (found, message in " ".join(output.split())) == (code, True), output


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("command", ["validate", "plan", "train"])
def test_a_problem_that_is_found_after_loading_has_its_place(spec: Path, command: str) -> None:
    spec.write_text(spec.read_text().replace("{name: mlp}", "\n  name: vit_tiny"))
    assert f"error: {spec}:5:3: model.name: no model 'vit_tiny'" in invoke(command, str(spec))[1]
    given = "model.name=vit_small"
    output = invoke(command, str(spec), "--set", given)[1]
    assert f"error: --set {given}: model.name: no model 'vit_small'" in output


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("command", ["validate", "plan"])
def test_what_trains_and_where_weights_come_from_is_said(spec: Path, command: str) -> None:
    section = "model={name: mlp, hidden: [6], freeze: body, weights: new.pt}"
    names = {"1": (6, 2), "3": (2, 6)}
    weights = {f"body.{name}.weight": torch.zeros(shape) for name, shape in names.items()}
    biases = {f"body.{name}.bias": torch.zeros(shape[0]) for name, shape in names.items()}
    torch.save({**weights, **biases}, "new.pt")
    code, output = invoke(command, str(spec), "--set", section)
    assert code == 0, output
    assert f"model     starts with the weights of {spec.parent}/new.pt" in output
    assert "model     trains body.3.weight, body.3.bias; the others are frozen" in output
    code, output = invoke(command, str(spec), "--set", "model={name: mlp, freeze: [bod, 1]}")
    assert code == 2
    assert "model.freeze: 'bod' names no weight of this network" in output


def test_a_header_of_parquet_and_of_folders_has_the_columns(spec: Path) -> None:
    folder = spec.parent / "parts" / "region=north"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2]}), folder / "part-0.parquet")
    base = ["--set", "data.source=parts", "--set"]
    assert invoke("validate", str(spec), *base, "data.target=region")[0] == 0
    assert invoke("validate", str(spec), *base, "data.target=x")[0] == 0
    assert invoke("validate", str(spec), *base, "data.target=y")[0] == 3
    ignore = ["--set", "data.partitioning=ignore"]
    assert invoke("validate", str(spec), *base, "data.target=region", *ignore)[0] == 3


def test_a_source_of_an_object_store_is_left_to_the_preparation(spec: Path) -> None:
    assert invoke("validate", str(spec), "--set", "data.source=s3://bucket/rows.csv")[0] == 0


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("command", ["train", "run"])
def test_a_taken_name_of_a_run_is_refused_before_ray_starts(spec: Path, command: str) -> None:
    code, output = invoke(command, str(spec), "--resume")
    assert (code, "there is no run 'good'" in output) == (5, True), output
    Storage(str(spec.parent / "store")).write_bytes("runs/good/resolved.yaml", b"name: good\n")
    code, output = invoke(command, str(spec))
    assert (code, "run 'good' exists already" in output) == (5, True), output
    assert Storage(str(spec.parent / "store")).names("runs") == ["good"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("command", ["serve", "run"])
def test_a_taken_port_is_refused_before_ray_starts(
    spec: Path, command: str, taken_port: int
) -> None:
    code, output = invoke(command, str(spec), "--set", f"serve.port={taken_port}")
    assert (code, f"no endpoint at 127.0.0.1:{taken_port}" in output) == (8, True), output


@pytest.mark.usefixtures("no_ray")
def test_a_serve_or_sweep_that_cannot_be_is_refused_before_ray_starts(spec: Path) -> None:
    assert "has no section `serve`" in invoke("serve", str(spec))[1]
    code, output = invoke("serve", str(spec), "--set", "serve={port: 0}")
    assert (code, "good" in output) == (7, True), output
    assert "has no section `sweep`" in invoke("sweep", str(spec))[1]
