"""How rows that do not fit into memory are read, and how much memory there is."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from raydc.data import cold_rows
from raydc.data.cold_rows import PLAIN, available_bytes, choose
from raydc.errors import UsageError

GB = 10**9


def test_rows_that_fit_are_read_in_the_plain_way() -> None:
    assert choose(10**7, GB, True, 2 * GB) is PLAIN
    assert PLAIN.reason is None


def test_small_rows_are_collected_in_a_part_of_the_memory() -> None:
    # 100 bytes a row, and 8 for its place.
    found = choose(10**7, GB, True, GB // 4)
    assert found.kept_rows == int(0.6 * GB / 4) // 108
    assert found.advice == mmap.MADV_SEQUENTIAL
    assert "memory holds 1,388,888 of them" in (found.reason or "")


def test_large_rows_are_read_one_by_one() -> None:
    found = choose(10**4, 100 * 10**4 * 1024, True, GB // 4)
    assert (found.advice, found.kept_rows) == (mmap.MADV_RANDOM, 0)
    assert "1.1 times its bytes" in (found.reason or "")


def test_rows_that_grow_in_memory_are_read_one_by_one() -> None:
    assert choose(10**7, GB, False, GB // 4).kept_rows == 0


def test_window_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cold_rows.WINDOW_VARIABLE, "100")
    assert choose(10**7, GB, True, GB // 4).kept_rows == 10**8 // 108
    # Less than a row is none.
    monkeypatch.setenv(cold_rows.WINDOW_VARIABLE, "0")
    assert choose(10**7, GB, True, GB // 4).kept_rows == 0


@pytest.mark.parametrize("given", ["much", "-1", "nan", "inf", ""])
def test_window_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(cold_rows.WINDOW_VARIABLE, given)
    with pytest.raises(UsageError, match=f"RAYDC_WINDOW_MB is '{given}'") as caught:
        choose(10**7, GB, True, GB // 4)
    assert "such as 4000" in str(caught.value)


def machine(folder: Path, own: str, groups: dict[str, dict[str, str]]) -> tuple[Path, Path, Path]:
    """Files of a machine with 8 GB free, of which this process is in some cgroups."""
    (folder / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
    (folder / "own").write_text(own)
    for group, files in groups.items():
        (folder / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / group / name).write_text(text)
    return folder, folder / "own", folder / "meminfo"


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("0::/\n", {}, 8_192_000_000),
        (
            "0::/job\n",
            {
                "job": {
                    "memory.max": "3000000000\n",
                    "memory.current": "2500000000\n",
                    # Pages of files are dropped if memory is wanted.
                    "memory.stat": "anon 5\ninactive_file 1900000000\nactive_file 100000000\n",
                }
            },
            2_500_000_000,
        ),
        (
            "0::/job/worker\n",
            {
                "job": {"memory.max": "1000", "memory.current": "400", "memory.stat": ""},
                "job/worker": {"memory.max": "max", "memory.current": "100", "memory.stat": ""},
            },
            600,
        ),
        (
            "4:memory:/job\n3:cpu:/\n",
            {
                "memory/job": {
                    "memory.limit_in_bytes": "1000",
                    "memory.usage_in_bytes": "700",
                    "memory.stat": "total_inactive_file 50\ntotal_active_file 20\n",
                },
                "memory": {
                    "memory.limit_in_bytes": "9223372036854771712",
                    "memory.usage_in_bytes": "700",
                    "memory.stat": "",
                },
            },
            370,
        ),
    ],
)
def test_available_memory_is_what_machine_and_cgroups_have_left(
    tmp_path: Path, own: str, groups: dict[str, dict[str, str]], expected: int
) -> None:
    assert available_bytes(*machine(tmp_path, own, groups)) == expected


def test_workers_of_a_machine_share_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_bytes(*machine(tmp_path, "0::/\n", {})) == 2_048_000_000
