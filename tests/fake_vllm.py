"""The part of vLLM's public API that raydc uses, for tests: `transformers` computes each token.

It reads the folders that a real vLLM reads, and refuses what raydc must not ask for. Its process is
this one.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from raydc.models.device import fixed_threads

FILES = {"config.json", "generation_config.json", "model.safetensors"}


class RequestOutputKind(Enum):
    """Which tokens an output has."""

    CUMULATIVE = 0
    DELTA = 1


@dataclass
class SamplingParams:
    """What a request asks for."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


@dataclass(frozen=True)
class LoRARequest:
    """An adapter in a folder."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class AsyncEngineArgs:
    """Arguments of an engine."""

    model: str
    skip_tokenizer_init: bool
    trust_remote_code: bool
    load_format: str
    generation_config: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_memory_bytes: int
    tensor_parallel_size: int
    distributed_executor_backend: str | None
    logprobs_mode: str
    worker_extension_cls: str
    disable_log_stats: bool
    enable_log_requests: bool
    seed: int
    enforce_eager: bool
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1


@dataclass
class Score:
    """A raw score."""

    logprob: float


@dataclass
class Found:
    """One answer of an output."""

    token_ids: list[int]
    logprobs: list[dict[int, Score]] | None = None


@dataclass
class RequestOutput:
    """What a pass gave a request."""

    outputs: list[Found]
    finished: bool = False


@dataclass
class FakeVllm:
    """What the engines of a test do.

    Attributes:
        engines: Those that were made.
        gate: Tokens come while it is set.
        holds_scores: Whether the gate is for scores as well.
        spoiled: Added to the score of code 0.
        lead: How far the second token is put before the first in scores that are asked for.
        refuses_adapters: Whether adapters are refused.
    """

    engines: list[AsyncLLMEngine] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    holds_scores: bool = False
    spoiled: float = 0.0
    lead: float = 0.0
    refuses_adapters: bool = False


_state = FakeVllm()


class AsyncLLMEngine:
    """An engine."""

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        from transformers import AutoModelForCausalLM

        folder = Path(arguments.model)
        found = {one.name for one in folder.iterdir()}
        if not found <= FILES:
            raise ValueError(f"unexpected files {found - FILES}")
        self.arguments = arguments
        self.network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, arguments.dtype), local_files_only=True
        ).eval()
        self.state = {k: one.clone() for k, one in self.network.state_dict().items()}
        self.adapters: dict[int, Any] = {}
        self.is_dead = False
        self.is_shut_down = False
        self.running: set[str] = set()
        self.aborted: set[str] = set()
        # Largest number of requests that grew at a time.
        self.most_running = 0
        self._places = asyncio.Semaphore(arguments.max_num_seqs)
        _state.engines.append(self)

    @classmethod
    def from_engine_args(cls, arguments: AsyncEngineArgs) -> AsyncLLMEngine:
        """Loads a model."""
        return cls(arguments)

    @property
    def errored(self) -> bool:
        """Whether its process has ended."""
        return self.is_dead

    def shutdown(self, timeout: float | None = None) -> None:
        """Ends its process."""
        assert timeout is not None
        self.is_shut_down = self.is_dead = True

    async def add_lora(self, adapter: LoRARequest) -> bool:
        """Loads an adapter."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if _state.refuses_adapters:
            raise ValueError("this model does not support LoRA")
        base = AutoModelForCausalLM.from_config(self.network.config)
        base.load_state_dict(self.state)
        path = Path(adapter.lora_path)
        self.adapters[adapter.lora_int_id] = PeftModel.from_pretrained(base, path).eval()
        return True

    async def remove_lora(self, number: int) -> bool:
        """Forgets an adapter."""
        return self.adapters.pop(number, None) is not None

    async def generate(
        self,
        prompt: dict[str, list[int]],
        sampling: SamplingParams,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Continues a prompt, a token a pass."""
        codes = list(prompt["prompt_token_ids"])
        if not 0 < len(codes) < self.arguments.max_model_len:
            raise ValueError(f"{len(codes)} tokens do not fit")
        network = self.adapters[lora_request.lora_int_id] if lora_request else self.network
        has_place = False
        self.running.add(request_id)
        try:
            # vLLM reads no more documents at a time; others wait in their order.
            await self._places.acquire()
            has_place = True
            self.most_running = max(self.most_running, len(self.running))
            generator = torch.Generator()
            if sampling.seed is not None:
                generator.manual_seed(sampling.seed)
            for number in range(1, sampling.max_tokens + 1):
                # Scores that are asked for come in any case.
                is_held = not sampling.logprobs or _state.holds_scores
                while is_held and not _state.gate.is_set() and not self.is_dead:
                    await asyncio.sleep(0.001)
                if self.is_dead:
                    raise RuntimeError("the engine is dead")
                scores = self._scores(network, codes)
                if sampling.logprobs and _state.lead:
                    first, second = scores.topk(2).indices
                    scores = scores.index_fill(0, second, float(scores[first]) + _state.lead)
                code = _choose(scores, sampling, generator)
                found = scores.topk(min(sampling.logprobs or 0, len(scores)))
                logged = {int(k): Score(float(v)) for v, k in zip(*found, strict=True)}
                codes.append(code)
                is_end = code in (sampling.stop_token_ids or ())
                is_full = len(codes) >= self.arguments.max_model_len
                is_last = is_end or is_full or number == sampling.max_tokens
                yield RequestOutput([Found([code], [logged])], is_last)
                await asyncio.sleep(0)
                if is_last:
                    return
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.add(request_id)
            raise
        finally:
            if has_place:
                self._places.release()
            self.running.discard(request_id)

    def _scores(self, network: Any, codes: list[int]) -> Any:
        with torch.inference_mode(), fixed_threads(1):
            scores = network(torch.tensor([codes])).logits[0, -1].float()
            scores[0] += _state.spoiled
            return scores


def _choose(scores: Any, sampling: SamplingParams, generator: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(scores.argmax())
    chances, order = (scores / sampling.temperature).softmax(0).sort(descending=True)
    kept = chances.cumsum(0) - chances < sampling.top_p
    return int(order[torch.multinomial(chances * kept, 1, generator=generator)])


def install(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    """Puts it into the place of the package for a test."""
    global _state
    _state = FakeVllm()
    _state.gate.set()
    contents: dict[str, tuple[Any, ...]] = {
        "vllm": (SamplingParams, AsyncEngineArgs, AsyncLLMEngine),
        "vllm.sampling_params": (RequestOutputKind,),
        "vllm.lora": (),
        "vllm.lora.request": (LoRARequest,),
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        for member in members:
            setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, module)
    return _state
