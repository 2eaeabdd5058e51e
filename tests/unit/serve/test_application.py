"""Names, paths and addresses of applications on Ray Serve."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.engine import serve_client
from raydc.errors import ServeError
from raydc.serve.control import application
from raydc.serve.settings import Traffic
from raydc.spec.language import Generation
from raydc.spec.sections import Serve
from raydc.storage import Storage

OURS: dict[str, Any] = {"name": "small", "import_path": application.IMPORT_PATH}


def test_a_language_model_gets_its_limits_and_time_for_its_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(application.engine, "runtime_environment", lambda _: {})
    generation = Generation(slots=3, max_tokens=77, timeout_s=90.0)
    section = Serve(generation=generation)
    made = application.build_settings("texts", section, Storage("store"), Traffic(version=1))
    assert (made.num_slots, made.max_tokens, made.stream_timeout_s) == (3, 77, 90.0)
    (deployment,) = application.build_application(section, made, "/", True)["deployments"]
    assert deployment["graceful_shutdown_timeout_s"] > 90
    (other,) = application.build_application(section, made, "/")["deployments"]
    assert "graceful_shutdown_timeout_s" not in other


def test_the_engine_and_its_gpus_reach_the_replicas() -> None:
    section = Serve(
        engine="vllm", generation=Generation(precision="bf16"), ray_actor_options={"num_gpus": 2}
    )
    made = application.build_settings("texts", section, Storage("store"), Traffic(version=1))
    assert (made.engine, made.precision, made.num_gpus) == ("vllm", "bf16", 2)
    other = application.build_settings("texts", Serve(), Storage("store"), Traffic(version=1))
    # Another engine loads a version again.
    assert other.engine == "raydc"
    assert other.identity != made.identity


def test_find_in_returns_the_application_of_the_model() -> None:
    assert application.find_in([{**OURS, "name": "large"}, OURS], "small") == OURS
    assert application.find_in([], "small") is None


def test_find_in_refuses_an_application_of_somebody_else() -> None:
    theirs = {"name": "small", "import_path": "theirs:app"}
    with pytest.raises(ServeError, match="an application 'small' that is not raydc's"):
        application.find_in([theirs], "small")


@pytest.mark.parametrize(
    ("applications", "expected"),
    [
        ([], "/"),
        ([{"name": "large"}], "/small"),  # Serve leaves its default, the root, out.
        ([{"name": "large", "route_prefix": "/"}], "/small"),
        ([{"name": "large", "route_prefix": "/large"}], "/"),
    ],
)
def test_only_the_first_model_gets_the_root(
    applications: list[dict[str, Any]], expected: str
) -> None:
    assert application.choose_route_prefix(applications, "small") == expected


@pytest.mark.parametrize(
    ("host", "prefix", "expected"),
    [
        ("127.0.0.1", "/", "http://127.0.0.1:8000"),
        ("127.0.0.1", "/small", "http://127.0.0.1:8000/small"),
        ("::1", "/small/", "http://[::1]:8000/small"),
    ],
)
def test_endpoint_url_is_what_clients_use(host: str, prefix: str, expected: str) -> None:
    assert application.endpoint_url(host, 8000, prefix) == expected


def test_second_model_on_another_port_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve_client, "start", lambda *_, **__: ("127.0.0.1", 8000))
    monkeypatch.setattr(serve_client, "applications", lambda: [OURS])
    assert application.listen(Serve(host="localhost", port=8000)) == ("127.0.0.1", 8000)
    for section in (Serve(port=8001), Serve(host="0.0.0.0", port=8000)):
        with pytest.raises(ServeError, match=r"listens on 127\.0\.0\.1:8000 already") as refused:
            application.listen(section)
        assert "`raydc stop SPEC`" in str(refused.value)
        assert "(small)" in str(refused.value)
    monkeypatch.setattr(serve_client, "applications", list)
    with pytest.raises(ServeError, match="`serve shutdown`"):
        application.listen(Serve(port=8001))
