"""A small network for pictures, and pictures that are legal and small and take long to decode."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from raydc import bundle, models, spec
from raydc.features import Features, Image, Signature
from raydc.features.images import encode_png
from raydc.registry import Registry
from raydc.spec.sections import Spec
from raydc.storage import Storage

NAME = "pictures"
SIDE = 8
FEATURES = Features(
    Signature("image", (1, SIDE, SIDE), "uint8", (100.0,), (60.0,), "classification", ("a", "b")),
    "label",
    {"image": Image(SIDE, SIDE, 1)},
)
# Below the 8 MB that a request may have.
_LARGE_BYTES = 8_000_000
_LARGE_SIDE = 8192
# As many as count once; see `raydc.features.image_work`.
_ALLOWED_SCANS = 16


class Mean(torch.nn.Module):
    """Classes by the mean of a picture: next to nothing to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3)).unsqueeze(1) * self.gain


def network(_signature: Signature) -> torch.nn.Module:
    """The builder that the spec names."""
    return Mean()


def spec_of(storage: Storage, **serve: object) -> Spec:
    """A resolved spec; `serve` are fields of its section."""
    value = {
        "name": NAME,
        "storage": storage.uri,
        "data": {"source": "rows.csv", "target": "label"},
        "model": {"builder": "bench.pictures:network"},
        "serve": {"port": 0, "auth": "none", "ray_actor_options": {"num_cpus": 0.1}, **serve},
    }
    return spec.resolve(spec.from_dict(value))


def register(storage: Storage, given: Spec) -> int:
    """A version of the network."""
    weights = models.build(given.model, FEATURES.signature, 0).state_dict()
    made = storage / "made"
    golden = [{"image": encode_png(np.zeros((SIDE, SIDE, 1), np.uint8))}]
    bundle.write(made, given, FEATURES, weights, golden, {"run": NAME})
    return Registry(storage).register(NAME, made, {})


# Pictures -----------------------------------------------------------------------------------------


def write_ordinary(folder: Path) -> Path:
    """A PNG of 100 x 100 pixels of noise, which a replica decodes in a thread."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 1), dtype=np.uint8)
    path = folder / "ordinary.png"
    path.write_bytes(base64.b64decode(encode_png(pixels)))
    return path


def write_hostile(folder: Path) -> list[Path]:
    """Four pictures, each within the default limits of bytes or of pixels.

    - thousands of scans: a progressive JPEG whose last scan is repeated up to 8 MB;
    - one tile: a TIFF of 8 x 8 pixels in a tile of 2 GB of zeros;
    - as many scans as count once, and the most pixels that a request may have;
    - noise of 8 MB as an ordinary JPEG of the most pixels.
    """
    pictures = {
        "scans.jpg": _repeated_scans(_LARGE_SIDE, _LARGE_BYTES),
        "tile.tif": _large_tile(32_768, 65_520),
        "allowed.jpg": _repeated_scans(_LARGE_SIDE, _LARGE_BYTES, _ALLOWED_SCANS),
        "noise.jpg": _noise(_LARGE_SIDE, _LARGE_BYTES),
    }
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in pictures]


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _repeated_scans(side: int, max_bytes: int, max_scans: int = 1_000_000) -> bytes:
    """A grey progressive JPEG; each scan goes over all blocks and has a few bytes."""
    num_blocks = (side // 8) ** 2
    head = b"\xff\xd8" + _segment(0xDB, b"\0" + bytes([1] * 64))
    head += _segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    # One code each: a difference of zero, and an end of the band for 2^14 blocks at once.
    head += _segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    head += _segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
    first = _segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bytes(num_blocks // 8 + 1)
    # A code of one bit and 14 bits of length, for each 2^14 blocks.
    bits = num_blocks // 2**14 * 15
    other = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + bytes(bits // 8 + 1)
    fit = (max_bytes - len(head) - len(first) - 2) // len(other)
    return head + first + other * min(fit, max_scans - 1) + b"\xff\xd9"


def _large_tile(width: int, height: int) -> bytes:
    """A TIFF of 8 x 8 pixels in one tile of zeros."""
    # The compressed bytes of one row for each row: compressing 2 GB would take a while.
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    row = packer.compress(bytes(width)) + packer.flush(zlib.Z_FULL_FLUSH)
    # Of zeros, one sum of Adler's is one and the other one the number of bytes.
    checksum = struct.pack(">HH", width * height % 65_521, 1)
    content = b"\x78\x9c" + row * height + b"\x03\x00" + checksum
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, width), (323, height), (324, 8 + 2 + 12 * 10 + 4), (325, len(content))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


def _noise(side: int, max_bytes: int) -> bytes:
    """The best quality of noise that fits."""
    pixels = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4), dtype=np.uint8)
    picture = PILImage.fromarray(pixels).resize((side, side))
    found = b""
    for quality in (10, 30, 50, 70, 90):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if buffer.tell() > max_bytes:
            break
        found = buffer.getvalue()
    return found
