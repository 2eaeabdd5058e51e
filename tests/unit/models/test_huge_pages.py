"""Tensors in huge pages: which pages, what the kernel says about them, and that values stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydc.models import huge_pages
from raydc.models.huge_pages import use_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MB = 1 << 20


def flags_at(address: int) -> list[str]:
    """Flags of the part of memory that an address is in, as the kernel names them."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if "-" in head:
            first, end = (int(part, 16) for part in head.split("-"))
            is_inside = first <= address < end
        elif is_inside and head == "VmFlags:":
            return rest
    return []


@pytest.mark.skipif(not SETTING.exists(), reason="this kernel has no transparent huge pages")
def test_tensors_have_huge_pages_and_keep_their_values() -> None:
    tensors = [torch.arange(4 << 20, dtype=torch.float32), torch.arange(3.0)]
    before, address = [one.clone() for one in tensors], tensors[0].data_ptr()
    use_huge_pages(tensors)
    assert tensors[0].data_ptr() == address
    assert all(torch.equal(one, kept) for one, kept in zip(tensors, before, strict=True))
    # Whether pages move at once depends on the memory that is free; the kernel has been asked.
    assert ("hg" in flags_at(address + 4 * MB)) == ("[never]" not in SETTING.read_text())


def test_what_the_kernel_moves_at_once_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.zeros(20 * MB, dtype=torch.uint8)
    first = -(-tensor.data_ptr() // (2 * MB))
    calls: list[tuple[int, int]] = []

    def madvise(address: int, size: int, advice: int) -> int:
        assert size == 2 * MB
        calls.append((address // size, advice))
        # It has no memory for the second one.
        return -(advice == 25 and sum(kind == 25 for _, kind in calls) == 2)

    monkeypatch.setattr(huge_pages, "_find_madvise", lambda: madvise)
    size_file = tmp_path / "hpage_pmd_size"
    size_file.write_text(f"{2 * MB}\n")
    monkeypatch.setattr(huge_pages, "_PAGE_SIZE_FILE", size_file)
    monkeypatch.setattr(huge_pages, "_MAX_TRIED_BYTES", 6 * MB)
    assert use_huge_pages([tensor]) == 4 * MB
    pages = [page for page, advice in calls if advice == 14]
    assert set(range(first, first + 9)) <= set(pages)
    # Beyond the limit it is only asked.
    assert [advice for _, advice in calls[6:]] == [14] * (len(pages) - 3)
    assert [advice for _, advice in calls[:6]] == [14, 25, 14, 25, 14, 25]
    monkeypatch.setattr(huge_pages, "_find_madvise", lambda: lambda *_: -1)
    assert use_huge_pages([tensor]) == 0


def test_kernel_without_memory_is_not_asked_for_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(20 * MB, dtype=torch.uint8)
    advised: list[int] = []

    def madvise(address: int, size: int, advice: int) -> int:
        advised.append(advice)
        return -(advice == 25)

    monkeypatch.setattr(huge_pages, "_find_madvise", lambda: madvise)
    monkeypatch.setattr(huge_pages, "_MAX_TRIED_BYTES", 4 * MB)
    assert use_huge_pages([tensor]) == 0
    assert (advised.count(25), advised.count(14) >= 9) == (2, True)


@pytest.mark.parametrize(
    ("setting", "size"), [("always madvise [never]", 2 * MB), ("always [madvise] never", 512 * MB)]
)
def test_no_page_moves_against_the_setting_or_if_it_is_larger_than_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, size: int
) -> None:
    (tmp_path / "enabled").write_text(f"{setting}\n")
    (tmp_path / "size").write_text(f"{size}\n")
    monkeypatch.setattr(huge_pages, "_SETTING_FILE", tmp_path / "enabled")
    monkeypatch.setattr(huge_pages, "_PAGE_SIZE_FILE", tmp_path / "size")
    monkeypatch.setattr(huge_pages, "_anonymous_mappings", lambda: [(0, 1 << 48)])
    monkeypatch.setattr(huge_pages, "_find_madvise", lambda: lambda *_: pytest.fail("moved"))
    assert use_huge_pages([torch.zeros(4 << 20)]) == 0


def test_pages_are_those_of_tensors_inside_one_mapping() -> None:
    tensor = torch.zeros(10_000, dtype=torch.uint8)
    start = tensor.data_ptr()
    size = 4096
    first, last = start // size, (start + 9_999) // size
    whole = [(first * size, (last + 1) * size)]
    assert sorted(huge_pages._pages_of([tensor, tensor[5:]], whole, size)) == [
        *range(first, last + 1)
    ]
    # A page that goes beyond the mapping also holds what belongs to others.
    cut = [(first * size + 16, (last + 1) * size - 16)]
    assert sorted(huge_pages._pages_of([tensor], cut, size)) == [*range(first + 1, last)]
    assert list(huge_pages._pages_of([tensor], [], size)) == []
    others = [torch.empty(0), torch.empty(5_000, device="meta")]
    others.append(torch.eye(3).to_sparse())  # It has no storage to ask for.
    assert list(huge_pages._pages_of(others, [(0, 1 << 48)], size)) == []


def test_only_own_memory_without_a_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "1000-2000 rw-p 00000000 00:00 0 ",
        "2000-3000 rw-p 00000000 00:00 0 ",
        "4000-6000 rw-p 00000000 00:00 0                  [heap]",
        "7000-8000 rw-p 00000000 00:00 0                  [stack]",
        "9000-a000 r--p 00000000 fd:00 4711               /usr/lib/some name.so",
        "b000-c000 rw-p 00000000 fd:00 4711               /usr/lib/some name.so",
        "d000-e000 rw-s 00000000 00:00 0 ",
    ]
    path = tmp_path / "maps"
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(huge_pages, "_MAPPINGS_FILE", path)
    assert list(huge_pages._anonymous_mappings()) == [(0x1000, 0x3000), (0x4000, 0x6000)]


@pytest.mark.parametrize("name", ["_PAGE_SIZE_FILE", "_SETTING_FILE", "_MAPPINGS_FILE"])
def test_other_systems_move_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(huge_pages, name, tmp_path / "missing")
    assert use_huge_pages([torch.zeros(4 << 20)]) == 0
