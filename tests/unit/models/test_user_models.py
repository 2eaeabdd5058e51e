"""Networks of a user's own builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from signatures import TABLE, make_rows
from training import training_spec

from raydc import models
from raydc.errors import SpecError
from raydc.models import user_models
from raydc.spec.model import Builder
from raydc.storage import sha256

USERS = """
from torch import nn
def good(signature, width=4):
    first = nn.Linear(signature.shape[0], width)
    return nn.Sequential(nn.Flatten(), first, nn.Linear(width, signature.num_outputs))
def wrong_shape(signature):
    return nn.Linear(5, 7)
def wrong_input(signature):
    return nn.Linear(6, 2)
def no_module(signature):
    return 3
"""


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        ("users_models:god", {}, "no function god; did you mean good?"),
        ("users_model:good", {}, "cannot import users_model"),
        ("users_models:good", {"widht": 3}, "widht"),
        ("users_models:no_module", {}, "returned a int, not a torch.nn.Module"),
        ("users_models:wrong_shape", {}, r"gives \(1, 7\) for 1 row, expected \(1, 2\)"),
        ("users_models:wrong_input", {}, r"fails on float32 inputs of \(1, 5\)"),
    ],
)
def test_builder_is_imported_called_and_checked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    builder: str,
    arguments: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "users_models.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    network = models.build(Builder(builder="users_models:good", arguments={"width": 9}), TABLE, 0)
    assert network(make_rows(TABLE)).shape == (3, 2)
    assert network.training
    with pytest.raises(SpecError, match=message):
        models.build(Builder(builder=builder, arguments=arguments), TABLE, 0)


def test_functions_of_a_spec_are_listed_and_their_files_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_models.py").write_text(USERS)
    (tmp_path / "users_changes.py").write_text("def dim(image, generator):\n    return image\n")
    monkeypatch.chdir(tmp_path)
    steps = ["RandAugment", "users_changes:dim"]
    spec = training_spec(
        "store",
        model={"builder": "users_models:good"},
        data={"augment": {"transforms": steps}},
    )
    assert user_models.named_functions(spec) == [
        ("model.builder", "users_models:good"),
        ("data.augment.transforms", "users_changes:dim"),
    ]
    files = {"builder": "users_models.py", "users_changes:dim": "users_changes.py"}
    assert user_models.hash_functions(spec) == {
        f"{name}_sha256": sha256((tmp_path / file).read_bytes()) for name, file in files.items()
    }
    plain = training_spec("store")
    assert user_models.named_functions(plain) == []
    assert user_models.hash_functions(plain) == {}
