"""Tokens: made once, kept as hashes, checked in the replica, gone within seconds when they are revoked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raydc.cli import main
from raydc.errors import RegistryError, UsageError
from raydc.serve.http import authentication as module
from raydc.serve.http.authentication import Authenticator, require_right
from raydc.serve.protocol.interface import RequestError
from raydc.storage import Storage
from raydc.tokens import Token, TokenStore, hash_token


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    return TokenStore(Storage(str(tmp_path / "store")), "small")


def test_only_the_hash_is_kept(tokens: TokenStore, tmp_path: Path) -> None:
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


def test_names_are_taken_once_and_free_again_after_a_revocation(tokens: TokenStore) -> None:
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


def test_a_token_of_raydc_itself_lasts_no_longer_than_its_context(tokens: TokenStore) -> None:
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
def test_what_cannot_be_meant_is_refused(tokens: TokenStore, given: dict[str, Any]) -> None:
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
def test_a_file_that_is_not_exactly_a_token_gives_no_right(
    tokens: TokenStore, tmp_path: Path, change: dict[str, Any]
) -> None:
    tokens.create("ada")
    (file,) = (tmp_path / "store/models/small/tokens").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert tokens.read_all() == []
    file.write_text("{")
    assert tokens.read_all() == []


# In the replica ---------------------------------------------------------------------------------------------


def run(
    tmp_path: Path, scenario: Callable[[Authenticator], Awaitable[None]], auth: str = "token"
) -> None:
    async def main() -> None:
        access = Authenticator()
        await access.configure(str(tmp_path / "store"), "small", auth)
        try:
            await scenario(access)
        finally:
            access.close()

    asyncio.run(main())


def refusal(access: Authenticator, authorization: str | None) -> RequestError:
    with pytest.raises(RequestError) as error:
        access.check(authorization)
    return error.value


def test_a_good_token_is_told_apart_from_all_others(tokens: TokenStore, tmp_path: Path) -> None:
    ada, bob = tokens.create("ada"), tokens.create("bob", ("read", "promote"))

    async def scenario(access: Authenticator) -> None:
        assert access.check(f"Bearer {ada}").name == "ada"
        assert access.check(f"bearer  {bob} ").name == "bob"
        # The id of one token with the secret of another, a changed end, a hash as the token, other schemes, nothing.
        mixed = "_".join([*ada.split("_", 2)[:2], bob.split("_", 2)[2]])
        (kept, _) = tokens.read_all()
        wrong = [
            mixed,
            ada[:-1],
            ada + "x",
            kept.sha256,
            f"raydc_{kept.id}_",
            f"raydc_{kept.id}_{kept.sha256}",
            "\xff",
        ]
        for header in [f"Bearer {text}" for text in wrong] + [
            f"Basic {ada}",
            ada,
            "Bearer",
            "Bearer ",
        ]:
            error = refusal(access, header)
            assert error.status == 401
            assert (
                error.headers["www-authenticate"] == 'Bearer realm="raydc", error="invalid_token"'
            )
        for nothing in (None, ""):
            error = refusal(access, nothing)
            assert (error.status, error.headers) == (
                401,
                {"www-authenticate": 'Bearer realm="raydc"'},
            )

    run(tmp_path, scenario)


def test_a_right_that_is_missing_is_named(tokens: TokenStore, tmp_path: Path) -> None:
    text = tokens.create("ada")

    async def scenario(access: Authenticator) -> None:
        ada = access.check(f"Bearer {text}")
        require_right(ada, "read")
        with pytest.raises(RequestError, match="token 'ada' has no right to promote") as error:
            require_right(ada, "promote")
        assert error.value.status == 403
        assert 'scope="promote"' in error.value.headers["www-authenticate"]

    run(tmp_path, scenario)


def test_created_and_revoked_tokens_count_without_a_restart(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_INTERVAL_S", 0.01)
    ada = tokens.create("ada")

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def scenario(access: Authenticator) -> None:
        access.check(f"Bearer {ada}")
        bob = tokens.create("bob")
        await until(lambda: _lets_in(access, bob))
        tokens.revoke("ada")
        await until(lambda: not _lets_in(access, ada))
        assert _lets_in(access, bob)

    run(tmp_path, scenario)


def _lets_in(access: Authenticator, text: str) -> bool:
    try:
        return bool(access.check(f"Bearer {text}").name)
    except RequestError:
        return False


def test_a_file_is_read_once(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.create("ada")
    read: list[str] = []
    original = TokenStore.read

    def counting(self: TokenStore, file: str) -> Token | None:
        read.append(file)
        return original(self, file)

    monkeypatch.setattr(TokenStore, "read", counting)

    async def scenario(access: Authenticator) -> None:
        tokens.create("bob")
        read.clear()
        await access.refresh()
        await access.refresh()
        assert [file.partition(".")[0] for file in read] == ["bob"]

    run(tmp_path, scenario)


def test_an_expired_token_is_refused(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens.create("ada", lifetime_s=3600.0)

    async def scenario(access: Authenticator) -> None:
        access.check(f"Bearer {text}")
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + 3601.0)
        assert "'ada' has expired" in refusal(access, f"Bearer {text}").message

    run(tmp_path, scenario)


def test_without_a_storage_known_tokens_hold_for_a_while_and_then_none_does(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens.create("ada")

    def broken(self: TokenStore) -> list[str]:
        raise OSError("the network is gone")

    async def scenario(access: Authenticator) -> None:
        monkeypatch.setattr(TokenStore, "list_files", broken)
        await access.refresh()
        access.check(f"Bearer {text}")
        now_s = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now_s + module.MAX_STALE_S + 1.0)
        assert refusal(access, f"Bearer {text}").status == 503

    run(tmp_path, scenario)


def test_a_storage_that_does_not_answer_is_asked_once_and_holds_up_nobody(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens.create("ada")
    may_answer, asked = threading.Event(), []
    files = TokenStore.list_files

    def slow(self: TokenStore) -> list[str]:
        asked.append(self)
        assert may_answer.wait(timeout=20.0)
        return files(self)

    monkeypatch.setattr(TokenStore, "list_files", slow)
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.05)

    async def scenario(access: Authenticator) -> None:
        assert refusal(access, f"Bearer {text}").status == 503
        await access.refresh()
        assert len(asked) == 1
        answered_s = time.monotonic()
        may_answer.set()
        while access._by_id == {}:
            await access.refresh()
        assert access._read_at_s is not None
        assert access._read_at_s < answered_s, "what a storage says is as old as the question"
        access.check(f"Bearer {text}")

    run(tmp_path, scenario)


def test_a_list_that_was_never_read_lets_nobody_in(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens.create("ada")

    def broken(self: TokenStore) -> list[str]:
        raise OSError("the network is gone")

    monkeypatch.setattr(TokenStore, "list_files", broken)

    async def scenario(access: Authenticator) -> None:
        assert refusal(access, f"Bearer {text}").status == 503

    run(tmp_path, scenario)


def test_none_lets_everybody_in_and_token_closes_again(tokens: TokenStore, tmp_path: Path) -> None:
    async def scenario(access: Authenticator) -> None:
        assert access.check(None).rights == ("read", "promote")
        await access.configure(str(tmp_path / "store"), "small", "token")
        assert refusal(access, None).status == 401

    run(tmp_path, scenario, auth="none")


# The command line -------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"name: small\nstorage: {tmp_path / 'store'}\ndata: {{source: a.csv}}\nmodel: {{name: mlp}}\n"
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
