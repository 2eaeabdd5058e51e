"""Tokens are stored as hashes, unique by name, temporary if wanted, and revoked by deletion."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raydc.cli import main
from raydc.errors import RegistryError, UsageError
from raydc.storage import Storage
from raydc.tokens import TokenStore, hash_token


def test_create_stores_only_the_hash(tokens: TokenStore, tmp_path: Path) -> None:
    text = tokens.create("ada", ("promote", "read"), who="grace")
    (kept,) = tokens.read_all()
    assert (kept.name, kept.rights, kept.expires_s, kept.who) == (
        "ada",
        ("read", "promote"),
        None,
        "grace",
    )
    secret = text.split("_", 2)[2]
    assert len(secret) == 43, "256 bits"
    for file in tmp_path.rglob("*"):
        assert secret not in file.name
        assert file.is_dir() or secret not in file.read_text()


def test_name_is_unique_until_its_token_is_revoked(tokens: TokenStore) -> None:
    first = tokens.create("ada")
    with pytest.raises(UsageError, match="has a token 'ada' already"):
        tokens.create("ada")
    tokens.create("bob")
    tokens.revoke("ada")
    with pytest.raises(RegistryError, match="no token 'ada'") as error:
        tokens.revoke("ada")
    assert "There are: bob." in str(error.value)
    assert tokens.create("ada") != first
    assert [one.name for one in tokens.read_all()] == ["ada", "bob"]


def test_temporary_token_ends_with_its_context(tokens: TokenStore) -> None:
    with contextlib.suppress(RuntimeError), tokens.temporary("ada") as text:
        (kept,) = tokens.read_all()
        assert (kept.sha256, kept.rights, kept.is_internal) == (hash_token(text), ("read",), True)
        assert kept.expires_s == kept.created_s + 300.0
        raise RuntimeError
    assert tokens.read_all() == []


@pytest.mark.parametrize(
    "given",
    [
        {"name": "a/b"},
        {"name": ""},
        {"rights": ()},
        {"rights": ("write",)},
        {"lifetime_s": 0.0},
        {"lifetime_s": -1.0},
    ],
)
def test_create_refuses_bad_arguments(tokens: TokenStore, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tokens.create(**{"name": "ada", **given})
    assert tokens.read_all() == []


@pytest.mark.parametrize(
    "change",
    [
        {"rights": ["everything"]},
        {"rights": "read"},
        {"sha256": None},
        {"expires_s": "never"},
        {"more": 1},
    ],
)
def test_malformed_token_file_gives_no_right(
    tokens: TokenStore, tmp_path: Path, change: dict[str, Any]
) -> None:
    tokens.create("ada")
    (file,) = (tmp_path / "store/models/small/tokens").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert tokens.read_all() == []
    file.write_text("{")
    assert tokens.read_all() == []


def test_token_commands_create_list_and_revoke(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"name: small\nstorage: {tmp_path / 'store'}\n"
        "data: {source: a.csv}\nmodel: {name: mlp}\n"
    )

    def raydc(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["token", arguments[0], str(path), *arguments[1:]])
        assert result.exit_code == 0, result.output
        return result.stdout

    text = raydc("create", "--name", "ada", "--rights", "read,promote", "--days", "1").strip()
    (kept,) = TokenStore(Storage(str(tmp_path / "store")), "small").read_all()
    assert (kept.sha256, kept.rights) == (hash_token(text), ("read", "promote"))
    assert kept.expires_s == pytest.approx(kept.created_s + 86400.0)
    shown = raydc("list")
    assert "ada" in shown
    assert "read+promote" in shown
    assert text not in shown
    assert "revoked" in raydc("revoke", "--name", "ada")
    assert "no tokens" in raydc("list")
