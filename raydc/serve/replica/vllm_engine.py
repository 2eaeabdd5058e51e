"""Answers of one version of a language model, computed by vLLM. Runs in the replica.

Around it everything is as for raydc's own engine: versions, admission, limits, texts, counts. A
version is a process of vLLM; versions with adapters of one base share it. The process ends when the
last answer of the last of its versions has ended.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from raydc.bundle import Bundle, golden_prompts
from raydc.bundle.completion import find_prompts
from raydc.bundle.growing_answer import AnswerOptions, GrowingAnswer
from raydc.errors import CheckpointError, RaydcError, ServeError, last_line
from raydc.features import PromptTexts
from raydc.models import text_encoders
from raydc.models.pretrained_decoders import require_positions
from raydc.serve.replica import vllm_folder, vllm_options
from raydc.serve.replica.answer_stream import AnswerStream
from raydc.serve.replica.golden_count import HALF_HINT, GoldenCount
from raydc.serve.replica.vllm_process import VllmProcess, VllmWork
from raydc.serve.settings import Settings
from raydc.spec.sequence_models import HuggingFace

logger = logging.getLogger("ray.serve")

# As many as vLLM gives unless it is told to give more.
_NUM_SCORES = 20
# vLLM knows adapters by number; one that is loaded again gets a new one, so that nothing that was
# cached for another one of the same name is ever used.
_adapter_numbers = itertools.count(1)


class VllmEngine:
    """A `TextEngine` whose answers vLLM computes. See `TextEngine`.

    Args:
        process: The engine of vLLM.
        prompts: Prompts and answers of the version.
        length: Most tokens of a prompt and its answer together.
        adapter: Folder of its adapters; None without any.
        name: Name of the version, for adapters.
        precision: Numbers with which vLLM computes, in the words of the spec.

    Attributes:
        release: Gives the process back before the object goes.

    Raises:
        Exception: vLLM does not take the adapters.
    """

    def __init__(
        self,
        process: VllmProcess,
        prompts: PromptTexts,
        length: int,
        adapter: vllm_folder.VllmFolder | None = None,
        name: str = "",
        precision: str = "fp32",
    ) -> None:
        self.prompts = prompts
        self._process = process
        self._length, self._precision = length, precision
        self._golden = GoldenCount()
        self._ends = sorted(prompts.end_codes)
        # vLLM reads it again when it had to make room for others.
        self._folder = adapter
        self._adapter = _name_adapter(adapter, name)
        self.release = process.hold(self, _forget(self._adapter))
        try:
            if self._adapter is not None:
                process.call(process.add_adapter(self._adapter))
        except BaseException:
            self.release()
            raise

    @property
    def loop(self) -> VllmProcess:
        """The process, which versions of one base share."""
        return self._process

    @property
    def pass_sizes(self) -> deque[int]:
        """Answers that grew in each of the last passes."""
        return self._process.pass_sizes

    @property
    def num_slots(self) -> int:
        """Answers that grow at a time."""
        return self._process.num_slots

    @property
    def max_tokens(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._length

    @property
    def answer(self) -> str:
        """Whether an answer depends on others, and what golden prompts found, in words."""
        answer = "computed by vLLM; its last bits may depend on what is computed with it"
        found = self._golden.describe(self._precision)
        return f"{answer}; {found}" if found else answer

    @property
    def fault(self) -> str | None:
        """Why it cannot answer any more; None while it can."""
        return self._process.fault

    def submit(
        self, prompt: Sequence[int], options: AnswerOptions, is_talk: bool = False
    ) -> AnswerStream:
        """Asks for an answer. See `TextEngine.submit`."""
        stream = AnswerStream(len(prompt))
        document = self.prompts.put_beginning(prompt, is_talk)
        answer = GrowingAnswer(self.prompts, prompt, options)
        self._process.submit(
            VllmWork(self, stream, document, answer, options, self._ends, self._adapter)
        )
        return stream

    def check_golden(self, bundle: Bundle, tolerance: float) -> GoldenCount:
        """Proves that vLLM computes what the training process computed, and counts where it rounds.

        Args:
            bundle: The version, for its golden prompts.
            tolerance: See `golden_prompts.require_likeliest`.

        Returns:
            The tokens that another one precedes within the tolerance, which `answer` tells.

        Raises:
            CheckpointError: A stored token is not the likeliest; the message names the first one.
        """
        count = GoldenCount()
        is_half = self._precision != "fp32"
        hint = HALF_HINT % self._precision if is_half else golden_prompts.HINT
        for number, one in enumerate(bundle.golden.get(golden_prompts.PROMPTS, ())):
            document = self.prompts.put_beginning(one["prompt"])
            # Behind a document that fills all places, or more, there is none for a token.
            most = max(0, self._process.max_tokens - len(document))
            codes = one["answer"][:most]
            scores = self._process.call(self._score(document, codes))
            for position, (code, found) in enumerate(zip(codes, scores, strict=True)):
                best = max(found, key=lambda key: found[key].logprob)
                # One that is not among the greatest is too far below them.
                given = found[code].logprob if code in found else -math.inf
                pairs = (best, found[best].logprob), (code, given)
                margin = golden_prompts.require_likeliest(number, position, *pairs, tolerance, hint)
                count = GoldenCount(
                    count.num_tokens + 1,
                    count.num_others + (best != code),
                    max(count.margin, margin),
                )
        self._golden = count
        return count

    async def _score(self, document: Sequence[int], codes: Sequence[int]) -> list[Any]:
        """The greatest scores in the place of each code, given the document and those before it.

        vLLM also scores the tokens of a prompt, but not beside adapters: with other answers in the
        same pass its process ends.
        """
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0.0, max_tokens=1, logprobs=_NUM_SCORES, ignore_eos=True, detokenize=False
        )

        async def score(number: int) -> Any:
            outputs = self._process.generate([*document, *codes[:number]], sampling, self._adapter)
            async for output in outputs:
                found = output.outputs[0].logprobs[0]
            return found

        return await asyncio.gather(*(score(number) for number in range(len(codes))))


@functools.cache
def _sockets() -> vllm_folder.VllmFolder:
    """One folder for all engines of this process, which goes when it ends."""
    return vllm_folder.VllmFolder()


def load_engine(
    settings: Settings, version: int, bundle: Bundle, shared: VllmProcess | None
) -> tuple[VllmEngine, Bundle]:
    """Starts vLLM with a version, or adds its adapters to one that runs, and checks the result.

    Args:
        settings: Settings of the replica.
        version: Number of the version.
        bundle: The version, verified; its weights are in memory.
        shared: vLLM with the base of its adapters; None starts one.

    Returns:
        The engine, and the bundle without its weights, which only vLLM needs now.

    Raises:
        RaydcError: vLLM is not there, cannot load the model, or computes something else.
    """
    vllm_name, model = vllm_options.require_vllm(), bundle.spec.model
    assert isinstance(model, HuggingFace)
    prompts, column = find_prompts(bundle), bundle.features.token_column
    assert column is not None
    length = settings.length or column.length
    if model.lora is not None and settings.device != "cpu" and settings.precision == "fp32":
        raise ServeError(
            "vLLM computes adapters on GPUs with half precision only",
            "Set serve.generation.precision: bf16, or leave serve.engine out.",
        )
    vllm_options.set_environment(settings, _sockets().path)
    adapter = vllm_folder.write_adapter(bundle)
    process = shared or _start(settings, bundle, model, prompts, length)
    # Networks of adapters of the same base are made of this one; no numbers are needed for that.
    bundle = replace(bundle, model=bundle.model.to("meta"), compute=f"{vllm_name}")
    try:
        name = f"{settings.model}:{version}"
        engine = VllmEngine(process, prompts, length, adapter, name, settings.precision)
    except Exception as error:
        raise _refusal(settings, version, error) from error
    is_exact = settings.device == "cpu" and settings.precision == "fp32"
    try:
        engine.check_golden(bundle, golden_prompts.TOLERANCE["cpu" if is_exact else "cuda"])
    except BaseException:
        # The error refers to the engine, and a process that is refused must not keep its memory.
        engine.release()
        raise
    logger.info("version %s: %s", version, engine.answer)
    return engine, bundle


def _start(
    settings: Settings, bundle: Bundle, model: HuggingFace, prompts: PromptTexts, length: int
) -> VllmProcess:
    config = text_encoders.make_config(model)
    # vLLM counts the token that begins a document, and the last one, which nobody reads.
    total = length + len(prompts.put_beginning(()))
    require_positions(config, total, "serve.generation.length, with the token before a text,")
    dtype = getattr(torch, vllm_options.DTYPES[settings.precision])
    folder = vllm_folder.write_decoder(bundle, dtype)
    arguments = vllm_options.make_arguments(settings, model, config, folder.path, total)
    try:
        return VllmProcess(arguments, settings.num_slots)
    except RaydcError:
        raise
    except Exception as error:
        raise ServeError(
            f"vLLM cannot load {settings.model}: {last_line(error)}",
            "The log of the replica has its messages. Leave serve.engine out: raydc's own engine "
            "serves every decoder that it trains.",
        ) from error
    finally:
        # The weights are in the memory of vLLM.
        folder.remove()


def _refusal(settings: Settings, version: int, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"vLLM does not take the adapters of version {version} of {settings.model}: "
        f"{last_line(error)}",
        "Leave serve.engine out: raydc's own engine has adapters on all linear layers.",
    )


def _name_adapter(folder: vllm_folder.VllmFolder | None, name: str) -> Any:
    """What vLLM calls an adapter; None without one."""
    if folder is None:
        return None
    from vllm.lora.request import LoRARequest

    number = next(_adapter_numbers)
    return LoRARequest(f"{name}#{number}", number, str(folder.path))


def _forget(adapter: Any) -> Any:
    """A function that removes an adapter from an engine of vLLM."""

    async def forget(engine: Any) -> None:
        if adapter is not None:
            await engine.remove_lora(adapter.lora_int_id)

    return forget
