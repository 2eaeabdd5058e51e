"""The edit of HAProxy's configuration: complete on Ray Serve's template, nothing on another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydc.engine import direct_support, haproxy


@pytest.fixture
def template(tmp_path: Path) -> str:
    """What the installed Ray Serve writes for one application."""
    return direct_support.render_template(tmp_path, replica_port=2).read_text()


def test_rewrite_edits_the_installed_template(template: str) -> None:
    edited = haproxy.rewrite(template)
    binds = [line.split()[1] for line in edited.splitlines() if line.strip().startswith("bind ")]
    assert len(binds) == 3
    assert all(bind.startswith("127.0.0.1:") for bind in binds)
    assert " mode 600 level admin" in edited
    assert edited.count("http-error status") == 7
    assert edited.startswith("global\n    no strict-limits\n    maxpipes 64\n")
    # A `default-server` of the section `defaults` would not reach them.
    servers = [line for line in edited.splitlines() if line.strip().startswith("server ")]
    assert servers
    assert all(line.endswith(" tcp-ut 10s") for line in servers)
    assert haproxy.rewrite(edited) == edited
    assert direct_support.template_problem() is None


@pytest.mark.parametrize(
    ("pattern", "changed", "surprise"),
    [
        (r" mode 666 ", " mode 660 ", "mode of the admin socket: 0 instead of 1"),
        (r"frontend prometheus", "frontend metrics", "port of the metrics: 0 instead of 1"),
        (r"bind \*:", "bind 0.0.0.0:", "port of the statistics: 0 instead of 1"),
        (r"errorfile 503 .*", "", "error files: 2 instead of 3"),
        (r"^defaults$", "defaults\ndefaults", "section `defaults`: 2 instead of 1"),
        (r"^frontend http_frontend$", "frontend http", "section `frontend http_frontend`: 0"),
        (r"^ *use_backend .*", "", "rules that select a backend: 0 instead of 1"),
        (r"^backend http-small$", "backend small", "section `backend http-small`: 0 instead of 1"),
        (r"return status 404", "deny status 404", "answer without an application: 0 instead of 1"),
        (r"127\.0\.0\.1:514 local0 info", "stdout local0", "log target: 0 instead of 1"),
        (r"^global$", "global\nglobal", "section `global`: 2 instead of 1"),
        (r"^ *maxconn \d+$", "", "number of connections: 0 instead of 1"),
    ],
)
def test_rewrite_refuses_a_changed_template(
    template: str, pattern: str, changed: str, surprise: str
) -> None:
    other, count = re.subn(pattern, changed, template, flags=re.MULTILINE)
    assert count >= 1, "the change has taken place"
    with pytest.raises(haproxy.TemplateChangedError, match=re.escape(surprise)):
        haproxy.rewrite(other)


@pytest.mark.parametrize(
    ("given", "max_files", "chosen"),
    [
        (2048, 1 << 20, 20_000),
        # Idle connections have one file each, those with a request at a replica two.
        (2048, 20_000, 15_520),
        (2048, 9_000, 4_520),
        (2048, 4096, 1_856),
        # What the user has set counts, as far as there are files.
        (500, 1 << 20, 500),
        (50_000, 1 << 20, 50_000),
        (50_000, 1024, 320),
        (2048, 100, 1),
    ],
)
def test_connections_fit_the_files(given: int, max_files: int, chosen: int, tmp_path: Path) -> None:
    written = direct_support.render_template(tmp_path, replica_port=2, maxconn=given).read_text()
    edited = haproxy.rewrite(written, max_files)
    assert re.findall(r"^ *maxconn (\d+)$", edited, flags=re.MULTILINE) == [str(chosen)]
    limits = [int(number) for number in re.findall(r"fe_conn gt (\d+)", edited)]
    assert limits == [int(chosen * f) for f in (0.99, 0.95, 0.75)], "reject, refuse, close"


def test_changed_template_stays_as_it_is_on_disk(template: str, tmp_path: Path) -> None:
    path = tmp_path / "changed.cfg"
    changed = template.replace("frontend http_frontend", "frontend public")
    path.write_text(changed)
    # `-c` makes HAProxy check the file and exit; here it comes after raydc's edit.
    command = [sys.executable, haproxy.__file__, "-c", "-q", "-f", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "is left as Ray Serve wrote it: Ray Serve's template has changed" in ran.stderr
    assert "section `frontend http_frontend`: 0 instead of 1" in ran.stderr
    assert path.read_text() == changed


def run_main(monkeypatch: pytest.MonkeyPatch, config: Path, script: str) -> None:
    """Runs the program with a shell script as its HAProxy, up to where it becomes HAProxy."""
    binary = config.parent.with_name("haproxy")
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    started: list[tuple[str, list[str]]] = []

    def no_library(_: object) -> None:
        raise OSError("this process must not die with its parent")

    monkeypatch.setattr(haproxy, "_find_binary", lambda: str(binary))
    monkeypatch.setattr(haproxy.ctypes, "CDLL", no_library)
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append((path, arguments)))
    monkeypatch.setattr(sys, "argv", ["haproxy", "-db", "-f", str(config)])
    haproxy.main()
    assert started == [(str(binary), [str(binary), "-db", "-f", str(config)])]
    assert os.listdir(config.parent) == [config.name], "no candidate stays behind"


@pytest.fixture
def config(template: str, tmp_path: Path) -> Path:
    """The template in a folder of its own."""
    folder = tmp_path / "config"
    folder.mkdir()
    path = folder / "haproxy.cfg"
    path.write_text(template)
    return path


@pytest.mark.parametrize(
    ("script", "timeout_s", "reason"),
    [
        ("echo unknown keyword >&2; exit 1", 60.0, "unknown keyword"),
        ("exec sleep 60", 0.2, "timed out after 0.2 seconds"),
    ],
)
def test_edit_that_haproxy_does_not_confirm_changes_nothing(
    template: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    timeout_s: float,
    reason: str,
) -> None:
    monkeypatch.setattr(haproxy, "_CHECK_TIMEOUT_S", timeout_s)
    run_main(monkeypatch, config, script)
    assert config.read_text() == template
    said = capsys.readouterr().err
    assert f"{config} is left as Ray Serve wrote it" in said
    assert reason in said


def test_edit_appears_at_once(template: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with config.open() as open_before:
        run_main(monkeypatch, config, "exit 0")
        assert open_before.read() == template, "who had it open reads all of the old one"
    assert config.read_text() == haproxy.rewrite(template)


def test_template_problem_is_told_for_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    render = direct_support.render_template

    def other(folder: Path, **options: object) -> Path:
        path = render(folder, **options)
        path.write_text(path.read_text().replace("frontend prometheus", "frontend metrics"))
        return path

    monkeypatch.setattr(direct_support, "render_template", other)
    assert "port of the metrics" in (direct_support.template_problem() or "")
    assert "HAProxy keeps Ray Serve's configuration" in direct_support.describe_support()
