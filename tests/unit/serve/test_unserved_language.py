"""Language models that replicas cannot answer with yet, and say so."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from decoder_folders import decoder_spec, write_decoder

from raydc import bundle, models
from raydc import spec as specs
from raydc.data.tokenizer_file import check_blocks, check_conversations
from raydc.errors import ServeError
from raydc.features import Features, Signature
from raydc.registry import Registry
from raydc.serve.control.application import build_settings
from raydc.serve.replica.loaded_version import load_version
from raydc.serve.settings import Traffic
from raydc.spec.sections import Serve, Spec
from raydc.storage import Storage

TALK = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "a dog"}]


@pytest.mark.parametrize("is_chat", [True, False], ids=["conversations", "texts"])
def test_pretrained_decoder_is_refused_by_a_replica(tmp_path: Path, is_chat: bool) -> None:
    folder = tmp_path / "decoder"
    write_decoder(folder)
    data: dict[str, Any] = (
        {"source": "talks.jsonl", "chat": {}} if is_chat else {"source": "texts", "format": "text"}
    )
    value = {**decoder_spec(folder, data), "storage": str(tmp_path / "store")}
    spec = specs.resolve(Spec(**value))
    column = check_conversations(spec.data) if is_chat else check_blocks(spec.data)
    target = spec.data.target
    signature = Signature(
        "record", (), "", (), (), spec.data.task, fields={target: column.field}, num_values=16
    )
    features = Features(signature, target, {target: column})
    network = models.build(spec.model, signature, 0)
    golden = [{target: json.dumps(TALK) if is_chat else "the cat sees"}]
    made = Storage(str(tmp_path / "bundle"))
    bundle.write(made, spec, features, network.state_dict(), golden, {"run": "words"})
    store = Storage(spec.storage)
    Registry(store).register("words", made, {"run": "words"})
    settings = build_settings("words", Serve(auth="none"), store, Traffic(version=1))
    with pytest.raises(ServeError, match="of a kind that is not served yet"):
        load_version(settings, 1, None, ThreadPoolExecutor(1))
