"""Fetches the data of an example into examples/NAME/data:

    python examples/download.py digits|mnist|fashion_mnist|adult|caltech101_10 [--mirror URL]

`digits` ships inside scikit-learn and needs no network. The others are fetched from their public
homes, or from `--mirror`: a URL (`file://` too) of a folder with the same files. Every download is
compared with a known hash, and the folder appears only when it is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 60.0
ADULT_URL = "https://archive.ics.uci.edu/static/public/2/"
ADULT_COLUMNS = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,relationship,race,sex,"
    "capital_gain,capital_loss,hours_per_week,native_country,income"
)
ADULT_SHA256 = {
    "adult_train.csv": "98fbe372dd00d6afcdec811b8bb79925ff35cf6ca47fc83193913554531e8bc9",
    "adult_test.csv": "870b80a0b6988151df9d69368e1e5146584a44cb47a77d1463595b8f169eb6c6",
}
CALTECH_URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/"
CALTECH_MD5 = "3138e1922a9193bfa496528edbbc45d0"
CALTECH_IMAGES = "101_ObjectCategories"


class DownloadError(Exception):
    """A file that could not be fetched, or that is not the one expected."""


def fetch(urls: list[str]) -> bytes:
    """Returns the content of the first URL that answers.

    Raises:
        DownloadError: None of them does; the message has a line for each.
    """
    reasons = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                return bytes(response.read())
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"{url}: {error}")
    raise DownloadError("\n".join(["could not be fetched:", *reasons]))


def check(name: str, content: bytes, algorithm: str, expected: str) -> bytes:
    """Returns the content if its hash is the expected one.

    Args:
        name: Name of the file, for the message.
        content: Bytes of the file.
        algorithm: Name of the hash in hashlib.
        expected: Hexadecimal digest.

    Raises:
        DownloadError: The hash is another.
    """
    found = hashlib.new(algorithm, content).hexdigest()
    if found != expected:
        raise DownloadError(f"{name}: {algorithm} {found}, expected {expected}")
    return content


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    """Returns an array as an IDX file: magic number, dimensions in big-endian, bytes."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    return header + values.tobytes()


def digits(folder: Path, _mirror: str | None) -> None:
    """Writes 1,797 handwritten digits of 8x8, stretched from 0..16 to 0..255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    (folder / "images-idx3-ubyte").write_bytes(idx(images))
    (folder / "labels-idx1-ubyte").write_bytes(idx(data.target.astype(np.uint8)))


def mnist(folder: Path, mirror: str | None, name: str = "MNIST") -> None:
    """Fetches the four gzipped IDX files as published; torchvision knows their URLs and MD5.

    Args:
        folder: Where the files go.
        mirror: URL of a folder with the same files; None means their public homes.
        name: Class of torchvision.datasets.
    """
    from torchvision import datasets

    dataset = getattr(datasets, name)
    for file, md5 in dataset.resources:
        urls = [
            urllib.parse.urljoin(base, file) for base in ([mirror] if mirror else dataset.mirrors)
        ]
        (folder / file).write_bytes(check(file, fetch(urls), "md5", md5))


def fashion_mnist(folder: Path, mirror: str | None) -> None:
    """Fetches the four files of Fashion-MNIST."""
    mnist(folder, mirror, "FashionMNIST")


def adult(folder: Path, mirror: str | None) -> None:
    """Fetches the census data; adds a header, and one spelling of labels and missing values."""
    archive = zipfile.ZipFile(
        io.BytesIO(fetch([urllib.parse.urljoin(mirror or ADULT_URL, "adult.zip")]))
    )
    for name, member in (("adult_train.csv", "adult.data"), ("adult_test.csv", "adult.test")):
        content = clean_adult(archive.read(member).decode("ascii")).encode()
        (folder / name).write_bytes(check(name, content, "sha256", ADULT_SHA256[name]))


def clean_adult(text: str) -> str:
    """Returns `adult.data` or `adult.test` as CSV."""
    rows = [ADULT_COLUMNS]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        # The test file begins with a remark, and both files end with blank lines.
        if len(cells) == ADULT_COLUMNS.count(",") + 1:
            rows.append(",".join("" if cell == "?" else cell.rstrip(".") for cell in cells))
    return "\n".join(rows) + "\n"


def caltech101_10(folder: Path, mirror: str | None) -> None:
    """Fetches 700 photographs of ten classes of Caltech-101, chosen and split by images.json."""
    url = urllib.parse.urljoin(mirror or CALTECH_URL, "caltech-101.zip")
    content = fetch([url])
    if mirror is None:
        check("caltech-101.zip", content, "md5", CALTECH_MD5)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inner = archive.read(f"caltech-101/{CALTECH_IMAGES}.tar.gz")
    chosen = json.loads((HERE / "caltech101_10" / "images.json").read_text())
    with tarfile.open(fileobj=io.BytesIO(inner)) as images:
        for part, classes in chosen.items():
            for label, numbers in classes.items():
                (folder / part / label).mkdir(parents=True)
                for number in numbers:
                    name = f"image_{number:04d}.jpg"
                    image = images.extractfile(f"{CALTECH_IMAGES}/{label}/{name}")
                    if image is None:
                        raise DownloadError(f"{url}: {label}/{name} is not a file")
                    (folder / part / label / name).write_bytes(image.read())


EXAMPLES: dict[str, Callable[[Path, str | None], None]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "adult": adult,
    "caltech101_10": caltech101_10,
}


def download(name: str, folder: Path, mirror: str | None = None) -> bool:
    """Makes the data folder of an example.

    Args:
        name: Name of the example.
        folder: Folder that is made, complete or not at all.
        mirror: URL of a folder with the same files; None means their public homes.

    Returns:
        False if the folder was there already.
    """
    if folder.exists():
        return False
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        EXAMPLES[name](partial, mirror)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def main() -> int:
    """Parses the arguments, fetches, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Fetches the data of an example into examples/NAME/data."
    )
    parser.add_argument("name", choices=sorted(EXAMPLES))
    parser.add_argument("--mirror", help="URL of a folder with the same files, ending in /")
    arguments = parser.parse_args()
    folder = HERE / arguments.name / "data"
    try:
        made = download(arguments.name, folder, arguments.mirror)
    except DownloadError as error:
        print(f"{arguments.name}: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.name}: {folder} " + ("is complete" if made else "is there already"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
