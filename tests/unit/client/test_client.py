"""Both clients: the same methods, tokens, errors, and a light import."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import documentation
import pytest
from scripted_endpoint import Asking, Clock, Scripted, ask_waiting, binary_answer, error

from raydc.client import AsyncClient, Client
from raydc.errors import RaydcError, RefusedError, UsageError


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://a:port"])
def test_client_refuses_malformed_addresses(url: str, ask: Asking) -> None:
    with pytest.raises(UsageError, match=r"is not (an|the) address"):
        ask(url)


def test_token_is_sent_and_never_shown(
    endpoint: Scripted, ask: Asking, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    ask(endpoint.url, token="secret-1", key="ada")
    monkeypatch.setenv("RAYDC_TOKEN", "secret-2\n")
    ask(endpoint.url)
    first, second = (headers for _, _, headers, _ in endpoint.requests)
    assert (first["authorization"], first["x-raydc-key"]) == ("Bearer secret-1", "ada")
    assert second["authorization"] == "Bearer secret-2"
    endpoint.answers = [error(401, "no token that is known")]
    with pytest.raises(RefusedError, match="RAYDC_TOKEN") as refused:
        ask(endpoint.url)
    assert "secret" not in str(refused.value) + repr(Client(endpoint.url))
    with pytest.raises(UsageError, match="token holds characters") as odd:
        ask(endpoint.url, token="secret\n3")
    assert "secret" not in str(odd.value)


def test_ready_makes_one_attempt(endpoint: Scripted, ask: Asking, clock: Clock) -> None:
    assert ask(endpoint.url, method="ready", given=()) is True
    endpoint.answers = [error(503, "no model is ready yet")]
    assert ask(endpoint.url, method="ready", given=()) is False
    assert len(endpoint.requests) == 2


def test_both_clients_have_the_same_methods() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        methods = {
            n: v for n, v in vars(kind).items() if not n.startswith("_") and inspect.isfunction(v)
        }
        return {
            name: list(inspect.signature(method).parameters) for name, method in methods.items()
        }

    assert offered(AsyncClient) == {**offered(Client), "model": ["self"]}, (
        "a property where nothing is awaited"
    )
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def test_tasks_share_one_async_client(endpoint: Scripted) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(endpoint.url) as one:
            return await asyncio.gather(*(one.predict([{}]) for _ in range(20)))

    assert len({answer.request_id for answer in asyncio.run(run())}) == 20


def test_errors_survive_pickling(endpoint: Scripted, clock: Clock) -> None:
    endpoint.answers = [error(422, "bad")]
    with pytest.raises(RaydcError) as refused:
        ask_waiting(endpoint.url)
    copy = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - exceptions cross processes pickled
    assert (copy.status, copy.request_id, str(copy)) == (
        422,
        refused.value.request_id,
        str(refused.value),
    )


def test_import_loads_no_heavy_package() -> None:
    code = (
        "import sys, raydc.client; "
        "print([m for m in ('ray', 'torch', 'httpx', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_program_of_the_documentation_runs(
    endpoint: Scripted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (program,) = documentation.blocks("python", "docs/howto/serve-version.md")
    monkeypatch.chdir(tmp_path)
    Path("digit.png").write_bytes(b"\x89PNG")
    said = {
        "predictions": [{"label": "7", "score": 1.0, "scores": {"7": 1.0}}],
        "model": "digits",
        "version": "3",
    }
    scores = {"name": "scores", "datatype": "FP32", "shape": [32, 10]}
    endpoint.answers = [
        (200, {}, json.dumps(said).encode()),
        (200, {"x-raydc-model": "digits"}, b"{}"),
        binary_answer([(scores, bytes(4 * 320))]),
    ]
    code = program.text.replace("http://localhost:8000", endpoint.url)
    exec(compile(code, program.page, "exec"), {})
    assert capsys.readouterr().out == "7 3\n(32, 10)\n"
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_methods_have_the_documentation_of_their_base(kind: type) -> None:
    for name in ("predict", "infer", "metadata", "ready", "run"):
        documentation = inspect.getdoc(getattr(kind, name)) or ""
        parameters = inspect.signature(getattr(kind, name)).parameters
        assert all(f"{one}:" in documentation for one in parameters if one != "self"), name
