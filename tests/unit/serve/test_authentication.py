"""A replica checks tokens by a list that it reads from the storage."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raydc.serve.http import authentication as module
from raydc.serve.http.authentication import Authenticator, require_right
from raydc.serve.protocol.interface import RequestError
from raydc.tokens import Token, TokenStore


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


def test_check_accepts_exactly_the_known_tokens(tokens: TokenStore, tmp_path: Path) -> None:
    ada, bob = tokens.create("ada"), tokens.create("bob", ("read", "promote"))

    async def scenario(access: Authenticator) -> None:
        assert access.check(f"Bearer {ada}").name == "ada"
        assert access.check(f"bearer  {bob} ").name == "bob"
        # Ids and secrets of different tokens, changed ends, hashes, other schemes, nothing.
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


def test_demand_names_the_missing_right(tokens: TokenStore, tmp_path: Path) -> None:
    text = tokens.create("ada")

    async def scenario(access: Authenticator) -> None:
        ada = access.check(f"Bearer {text}")
        require_right(ada, "read")
        with pytest.raises(RequestError, match="token 'ada' has no right to promote") as error:
            require_right(ada, "promote")
        assert error.value.status == 403
        assert 'scope="promote"' in error.value.headers["www-authenticate"]

    run(tmp_path, scenario)


def test_new_and_revoked_tokens_take_effect_without_restart(
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


def test_refresh_reads_each_file_once(
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


def test_check_refuses_an_expired_token(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens.create("ada", lifetime_s=3600.0)

    async def scenario(access: Authenticator) -> None:
        access.check(f"Bearer {text}")
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + 3601.0)
        assert "'ada' has expired" in refusal(access, f"Bearer {text}").message

    run(tmp_path, scenario)


def test_known_tokens_hold_for_a_while_without_storage(
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


def test_hanging_storage_is_read_once_and_blocks_nothing(
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


def test_check_answers_503_before_the_first_list(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens.create("ada")

    def broken(self: TokenStore) -> list[str]:
        raise OSError("the network is gone")

    monkeypatch.setattr(TokenStore, "list_files", broken)

    async def scenario(access: Authenticator) -> None:
        assert refusal(access, f"Bearer {text}").status == 503

    run(tmp_path, scenario)


def test_auth_none_admits_everybody_until_auth_token(tokens: TokenStore, tmp_path: Path) -> None:
    async def scenario(access: Authenticator) -> None:
        assert access.check(None).rights == ("read", "promote")
        await access.configure(str(tmp_path / "store"), "small", "token")
        assert refusal(access, None).status == 401

    run(tmp_path, scenario, auth="none")
