"""The access log writes lines, cuts long texts, rotates, and counts what is lost."""

from __future__ import annotations

from pathlib import Path

from request_records import lines, record

from raydc.serve.watch import access_log
from raydc.serve.watch.access_log import AccessLog
from raydc.serve.watch.request_record import TokenCounts


def test_access_log_writes_one_line_for_each_request(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "logs" / "access.jsonl")
    log.write(
        [record(0, status=401, token="", forwarded_for="192.0.2.1", path='/a"\n\u2028b'), record(1)]
    )
    log.close()
    first, second = lines(log.path)
    assert first == {
        "time": "2023-11-14T22:13:20.250Z",
        "request_id": "r0",
        "client": "10.0.0.7",
        "forwarded_for": "192.0.2.1",
        "token": "",
        "method": "POST",
        "path": '/a"\n\u2028b',
        "status": 401,
        "model": "small",
        "version": "1",
        "role": "stable",
        "rows": 2,
        "seconds": 0.004,
        "bytes_in": 100,
        "bytes_out": 50,
    }
    assert (second["time"], second["token"]) == ("2023-11-14T22:13:21.250Z", "ada")
    assert log.path.stat().st_mode & 0o077 == 0


def test_access_log_has_the_tokens_of_a_language_model(tmp_path: Path) -> None:
    counts = TokenCounts(7)
    counts.note(1, 0.51234567)
    counts.note(9, 2.0)
    log = AccessLog(tmp_path / "access.jsonl")
    log.write([record(tokens=counts)])
    log.close()
    (line,) = lines(log.path)
    found = {name: line[name] for name in ("prompt_tokens", "answer_tokens", "first_token_s")}
    assert found == {"prompt_tokens": 7, "answer_tokens": 9, "first_token_s": 0.512346}


def test_access_log_cuts_long_texts_of_clients(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.jsonl")
    log.write([record(request_id="i" * 10_000, path="/" * 10_000, forwarded_for="f" * 10_000)])
    log.close()
    (line,) = lines(log.path)
    assert {len(line[name]) for name in ("request_id", "path", "forwarded_for")} == {200}


def test_access_log_rotates_and_keeps_four_full_files(tmp_path: Path) -> None:
    size = len(AccessLog(tmp_path / "other.jsonl").format_line(record()))
    log = AccessLog(tmp_path / "access.jsonl", max_bytes=3 * size)
    for number in range(30):
        log.write([record(number % 10)])
    log.close()
    files = sorted(tmp_path.glob("access.jsonl*"))
    assert [file.name for file in files] == [
        "access.jsonl",
        *(f"access.jsonl.{n + 1}" for n in range(4)),
    ]
    assert [[line["request_id"] for line in lines(file)] for file in files[:2]] == [
        ["r7", "r8", "r9"],
        ["r4", "r5", "r6"],
    ]
    assert access_log.NUM_KEPT == 4


def test_access_log_appends_after_a_restart(tmp_path: Path) -> None:
    for number in range(2):
        log = AccessLog(tmp_path / "access.jsonl")
        log.write([record(number)])
        log.close()
    assert [line["request_id"] for line in lines(tmp_path / "access.jsonl")] == ["r0", "r1"]


def test_access_log_counts_requests_lost_on_a_full_disk() -> None:
    log = AccessLog(Path("/dev/full"))
    log.write([record(), record()])
    assert log.num_lost == 2


def test_access_log_continues_after_a_failed_rotation(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.jsonl", max_bytes=500)
    log.write([record(1)])
    # The third file must become the fourth, where a folder stands.
    (tmp_path / "access.jsonl.3").touch()
    blocking = tmp_path / "access.jsonl.4"
    blocking.mkdir()
    log.write([record(2), record(3)])
    assert log.num_lost == 2
    blocking.rmdir()
    first_full = tmp_path / "access.jsonl.1"
    log.write([record(4)])
    log.close()
    newest, older = ([one["request_id"] for one in lines(path)] for path in (log.path, first_full))
    assert (newest, older) == (["r4"], ["r1"])
