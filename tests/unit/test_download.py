"""The data of the examples: fetched from mirrors on this disk, complete or not at all."""

from __future__ import annotations

import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def download(root: Path) -> ModuleType:
    location = importlib.util.spec_from_file_location("download", root / "examples" / "download.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_digits_are_made_without_network(tmp_path: Path, download: ModuleType) -> None:
    from sklearn.datasets import load_digits

    from raydc.data.image_formats import read_idx

    assert download.download("digits", tmp_path / "data")
    images = read_idx((tmp_path / "data" / "images-idx3-ubyte").read_bytes(), "images", 3)
    labels = read_idx((tmp_path / "data" / "labels-idx1-ubyte").read_bytes(), "labels", 1)
    np.testing.assert_array_equal(np.rint(images / (255 / 16)), load_digits().images)
    np.testing.assert_array_equal(labels, load_digits().target)
    assert not download.download("digits", tmp_path / "data")


def test_mnist_files_are_kept_as_published(
    tmp_path: Path, download: ModuleType, shared_data: Path
) -> None:
    for name in ("mnist", "fashion_mnist"):
        assert download.download(name, tmp_path / name, f"file://{shared_data}/{name}/")
        for path in (tmp_path / name).iterdir():
            assert path.read_bytes() == (shared_data / name / path.name).read_bytes()
        assert len(list((tmp_path / name).iterdir())) == 4


def test_download_with_wrong_hash_is_refused_and_leaves_nothing(
    tmp_path: Path, download: ModuleType, shared_data: Path
) -> None:
    with pytest.raises(
        download.DownloadError, match=r"train-images-idx3-ubyte\.gz: md5 \w+, expected f68b3c2d"
    ):
        download.download("mnist", tmp_path / "data", f"file://{shared_data}/fashion_mnist/")
    assert list(tmp_path.iterdir()) == []


def test_download_from_mirror_without_file_names_the_url(
    tmp_path: Path, download: ModuleType
) -> None:
    with pytest.raises(
        download.DownloadError, match=rf"could not be fetched:\nfile://{tmp_path}/adult\.zip: "
    ):
        download.download("adult", tmp_path / "data", f"file://{tmp_path}/")
    assert list(tmp_path.iterdir()) == []


def test_adult_is_cleaned_to_the_known_files(
    tmp_path: Path, download: ModuleType, shared_data: Path
) -> None:
    def published(name: str, stop: str, first: str) -> str:
        rows = (shared_data / "adult" / name).read_text().splitlines()[1:]
        cells = [", ".join(cell or "?" for cell in row.split(",")) for row in rows]
        return first + "".join(f"{row}{stop}\n" for row in cells) + "\n"

    with zipfile.ZipFile(tmp_path / "adult.zip", "w") as archive:
        archive.writestr("adult.data", published("adult_train.csv", "", ""))
        archive.writestr("adult.test", published("adult_test.csv", ".", "|1x3 Cross validator\n"))
    assert download.download("adult", tmp_path / "data", f"file://{tmp_path}/")
    for part in ("train", "test"):
        name = f"adult_{part}.csv"
        assert (tmp_path / "data" / name).read_bytes() == (
            shared_data / "adult" / name
        ).read_bytes()


def test_photographs_are_chosen_from_the_archive(
    tmp_path: Path, download: ModuleType, shared_data: Path
) -> None:
    inner = io.BytesIO()
    with (
        tarfile.open(shared_data / "caltech101_10" / "caltech101_10.tar") as chosen,
        tarfile.open(fileobj=inner, mode="w:gz") as images,
    ):
        for member in chosen.getmembers():
            if (content := chosen.extractfile(member)) is not None:
                label, name = member.name.split("/")[-2:]
                found = tarfile.TarInfo(f"101_ObjectCategories/{label}/{name}")
                found.size = member.size
                images.addfile(found, content)
    with zipfile.ZipFile(tmp_path / "caltech-101.zip", "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", inner.getvalue())

    assert download.download("caltech101_10", tmp_path / "data", f"file://{tmp_path}/")

    with tarfile.open(shared_data / "caltech101_10" / "caltech101_10.tar") as chosen:
        files = {
            m.name.removeprefix("caltech101_10/"): m for m in chosen.getmembers() if m.isfile()
        }
        made = {
            str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*.jpg")
        }
        assert made == set(files)
        sample = chosen.extractfile(
            files["test/watch/" + Path(next(n for n in made if "test/watch" in n)).name]
        )
        assert sample is not None
