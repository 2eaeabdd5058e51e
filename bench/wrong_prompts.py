"""A bundle of a language model whose golden prompts do not match: a version that is refused."""

from __future__ import annotations

import json

from raydc import checksummed_folder
from raydc.bundle.golden_prompts import PROMPTS
from raydc.storage import Storage


def spoil_prompts(folder: Storage) -> None:
    """Changes the first token that the model put behind its first golden prompt.

    Args:
        folder: A bundle, which is written again.
    """
    meta, files = checksummed_folder.read_checksummed(folder)
    expected = json.loads(files["golden.json"])
    expected[PROMPTS][0]["answer"][0] ^= 1
    folder.delete()
    changed = {**files, "golden.json": json.dumps(expected).encode()}
    checksummed_folder.write_checksummed(folder, changed, meta)
