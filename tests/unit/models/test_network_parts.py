"""The input layer."""

from __future__ import annotations

import torch
from signatures import COLOUR, TABLE, make_rows

from raydc import models


def test_input_normalises_images_per_channel() -> None:
    x = make_rows(COLOUR)
    first = models.Input(COLOUR, channels_last=True)
    mean, scale = (
        torch.tensor(COLOUR.mean).view(-1, 1, 1),
        torch.tensor(COLOUR.scale).view(-1, 1, 1),
    )
    torch.testing.assert_close(first(x), (x.float() - mean) / scale)
    assert first(x).is_contiguous(memory_format=torch.channels_last)
    vector = make_rows(TABLE)
    assert torch.equal(models.Input(TABLE)(vector), vector)
