"""IDX files."""

from __future__ import annotations

import numpy as np
import pytest

from raydc.data import image_formats
from raydc.errors import DataError


def test_read_idx_checks_the_header_against_the_content() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = bytes([0, 0, 8, 3]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    np.testing.assert_array_equal(image_formats.read_idx(content, "file", 3), array)
    for broken in (b"", content[:3], content[:9], content[:-1], content + b"x"):
        with pytest.raises(DataError, match=r"^file: "):
            image_formats.read_idx(broken, "file", 3)
