"""A trained decoder as a bundle: what it computes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared_here import prepare_here
from training import step_records, training_spec

from raydc import bundle, evaluate, models, train
from raydc.cli.show import _report_network
from raydc.data import inspection
from raydc.data.prepared import Prepared
from raydc.data.shards import open_rows
from raydc.errors import CheckpointError, UsageError
from raydc.export import exported_folder
from raydc.models import description
from raydc.models.losses import plain_losses
from raydc.report import diagnosis
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

LENGTH = 24
MODEL: dict[str, Any] = {"name": "decoder", "width": 16, "depth": 1, "heads": 2}


class Trained:
    """A run of one epoch, and what it was trained on."""

    def __init__(self, folder: Path) -> None:
        words = ["the cat", "sees", "a dog", "and then", "goes home", "again"]
        texts = [
            " ".join(words[row * step % len(words)] for step in range(1, 3 + row % 9))
            for row in range(80)
        ]
        source = folder / "texts.txt"
        source.write_text("\n".join(texts))
        self.section = {
            "source": str(source),
            "task": "language_modelling",
            "blocks": {"length": LENGTH, "documents": "line"},
            "features": {"text": {"vocabulary": 270}},
            "split": {"validation_fraction": 0.2, "test_fraction": 0.2},
        }
        self.data: Prepared = prepare_here(folder, self.section)[0]
        self.spec, self.run = self.train(folder, MODEL)
        self.folder = self.run / "model"

    def train(self, folder: Path, model: dict[str, Any]) -> tuple[ResolvedSpec, Storage]:
        """Trains a run of one epoch; returns its spec and folder."""
        spec = training_spec("x", train={"epochs": 1}, model=model, data=self.section)
        run = Storage(str(folder / "run"))
        train.run(spec, self.data, run, lambda _: None)
        return spec, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_an_exported_program_scores_the_next_tokens_of_any_number_of_rows(
    trained: Trained, tmp_path: Path, norm: str
) -> None:
    loaded = bundle.load(trained.folder)
    if norm == "layer":
        section = {**MODEL, "norm": norm, "activation": "swiglu", "tied": False}
        spec = training_spec("x", model=section, data=trained.section)
        other = models.build(spec.model, loaded.features.signature, 0).eval()
        loaded = replace(loaded, model=other, spec=spec)
    exported_folder.write(loaded, "torch_export", tmp_path / "out")
    program: Any = torch.export.load(tmp_path / "out" / "model.pt2").module()
    column = loaded.features.token_column
    assert column is not None
    for count, length in ((1, 1), (2, LENGTH), (7, 3), (40, LENGTH)):
        tokens_BL = torch.randint(column.num_codes, (count, length))
        with torch.no_grad():
            expected = loaded.model.body.decoder(tokens_BL)  # type: ignore[operator, union-attr]
            found = program({"tokens": tokens_BL})
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert expected.shape == (count, length, column.num_codes)


def test_an_evaluation_has_the_losses_of_all_tokens(trained: Trained) -> None:
    loaded = bundle.load(trained.folder)
    loaded.check_golden()
    rows = open_rows(trained.data.folder, "test")
    x, counts = rows.gather(np.arange(len(rows)))
    losses = plain_losses(
        "language_modelling", torch.from_numpy(loaded.forward(x)), torch.from_numpy(counts)
    )
    found = evaluate.run(trained.folder, trained.data.folder, "test", lambda _: None)
    assert found["num_rows"] == len(rows) > 2
    assert found["loss"] == pytest.approx(float(losses.sum()) / counts.sum())
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    assert not found.keys() & {"per_class", "support", "undefined"}


def test_golden_texts_guard_the_tokens(trained: Trained) -> None:
    loaded = bundle.load(trained.folder)
    assert len(loaded.golden["rows"]) == 4
    loaded.golden["rows"][1]["text"] += "!"
    with pytest.raises(CheckpointError, match=r"golden rows\[1\]"):
        loaded.check_golden()


def test_what_is_about_rows_of_a_table_is_refused(trained: Trained) -> None:
    with pytest.raises(UsageError, match="raydc inspect is for rows of a table"):
        inspection.run(trained.spec, lambda _: None)


def test_a_report_has_no_diagnosis(trained: Trained) -> None:
    found = diagnosis.diagnose(trained.folder, trained.data, 60.0)
    assert any("language model" in line for line in found["left_out"])


def test_parameters_are_counted_before_and_with_the_data(trained: Trained) -> None:
    # The table of tokens, a layer and the norms; 270 codes are the most that are learnt.
    of_layers = 12 * 16 * 16 + 3 * 16
    (line,) = description.describe_early(trained.spec.model, trained.spec.data)
    assert f"{270 * 16 + of_layers:,} parameters with 270 codes" in line
    loaded = bundle.load(trained.folder)
    num_codes = loaded.features.signature.fields["text"].num_codes
    lines = description.describe(trained.spec.model, loaded.model, trained.spec.data)  # type: ignore[arg-type]
    assert lines == [f"decoder of {num_codes * 16 + of_layers:,} parameters"]


def test_a_plan_counts_the_parameters(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    _report_network(trained.spec)
    assert "parameters with 270 codes" in capsys.readouterr().out


def test_a_run_goes_on_from_a_version(trained: Trained, tmp_path: Path) -> None:
    weights = {**MODEL, "weights": str(trained.folder.local_path)}
    _, run = trained.train(tmp_path, weights)
    first, second = (step_records(folder)[0]["loss"] for folder in (trained.run, run))
    assert second < first
