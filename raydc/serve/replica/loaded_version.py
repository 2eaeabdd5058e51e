"""One version of a model in a replica: loaded, verified and warmed up.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raydc import bundle as bundles
from raydc.bundle import Bundle
from raydc.bundle.completion import find_prompts
from raydc.bundle.embedding import Embedder, make_embedder
from raydc.bundle.optimize import optimize
from raydc.bundle.shared_base import BASE
from raydc.engine.haproxy_rules import TIMEOUT_HEADER
from raydc.errors import CheckpointError, RaydcError, ServeError
from raydc.features import Inputs
from raydc.models.decoder_slots import find_adapter, has_slots, make_slots
from raydc.registry import Registry
from raydc.serve.protocol.interface import Interface
from raydc.serve.replica import batch_size
from raydc.serve.replica.batching import Batcher
from raydc.serve.replica.generation_engine import GenerationEngine
from raydc.serve.replica.text_engine import TextEngine
from raydc.serve.replica.vllm_engine import load_engine
from raydc.serve.settings import Settings
from raydc.spec.language import LANGUAGE
from raydc.storage import Storage

logger = logging.getLogger("ray.serve")

Array = npt.NDArray[Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class LoadedVersion:
    """A verified version, with the settings that hold for its requests.

    Attributes:
        number: Its number in the registry.
        settings: Settings of the endpoint, with the limits of requests.
        bundle: The model, as trained or compiled.
        source: Where the version comes from, as the registry notes it.
        interface: Its inputs and outputs in the terms of the protocols.
        batcher: Joins its requests into forward passes; no request of a language model gets there.
        engine: Continues texts; None of a model that predicts rows.
        embedder: Makes embeddings; None of a model that is no encoder of texts.
        embedding_batcher: Joins requests for embeddings into forward passes.
    """

    number: int
    settings: Settings
    bundle: Bundle
    source: dict[str, Any]
    interface: Interface
    batcher: Batcher
    engine: TextEngine | None = None
    embedder: Embedder | None = None
    embedding_batcher: Batcher | None = None

    @property
    def kind(self) -> str:
        """Which paths of OpenAI's format it has."""
        if self.engine is not None:
            return "decoder"
        return "rows" if self.embedder is None else "encoder"

    @cached_property
    def version(self) -> str:
        """The number as text, as answers and paths have it."""
        return str(self.number)

    @property
    def answer(self) -> str:
        """Whether an answer depends on what is computed with it, in words."""
        return str(self.bundle.padding) if self.engine is None else self.engine.answer

    @cached_property
    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of each answer, with names in lower case."""
        return [
            (b"x-raydc-model", self.settings.model.encode()),
            (b"x-raydc-model-version", self.version.encode()),
            # For HAProxy, which ends a request without an answer a little later; it keeps this one.
            (TIMEOUT_HEADER.encode(), b"%d" % self.settings.request_timeout_ms),
        ]


def load_version(
    settings: Settings,
    version: int,
    known: LoadedVersion | None,
    executor: Executor,
    others: Sequence[LoadedVersion] = (),
) -> LoadedVersion:
    """Loads, verifies and warms up a version; takes seconds, so it is called in a thread.

    Args:
        settings: Settings of the replica; name the model, the device and the batch limits.
        version: Number of the version in the registry.
        known: The same version under earlier settings, which is reused if it can be; or None.
        executor: Runs forward passes that are too long for the event loop.
        others: Other versions, whose base and slots are shared by adapters of the same base.

    Raises:
        RaydcError: The version does not exist, does not verify or does not work.
    """
    embedder = None
    is_same = known is not None and known.settings.identity == settings.identity
    if known is not None and is_same and known.settings.batching == settings.batching:
        return replace(known, settings=settings)
    # With vLLM the weights are in its process only.
    if known is not None and is_same and settings.engine == "raydc":
        bundle, source, embedder = known.bundle, known.source, known.embedder
        if bundle.max_rows != settings.max_batch_size:
            bundle = replace(bundle, max_rows=settings.max_batch_size)
            embedder = embedder and embedder.with_rows(settings.max_batch_size)
    else:
        trained, source = _raise_raydc_errors_only(
            settings, version, lambda: load_bundle(settings, version, others)
        )
        embedder = make_embedder(trained)
        # After the golden rows, which prove the network as it was trained; `optimize` compares the
        # compiled one with that.
        bundle = _raise_raydc_errors_only(
            settings, version, lambda: optimize(trained) if settings.optimize == "auto" else trained
        )
    if bundle.features.signature.task == LANGUAGE:
        return _raise_raydc_errors_only(
            settings, version, lambda: _with_engine(settings, version, bundle, source, others)
        )
    _raise_raydc_errors_only(settings, version, bundle.find_sizes)
    # Also warms up the model: the first forward pass allocates buffers.
    plan = _raise_raydc_errors_only(
        settings, version, lambda: batch_size.measure(bundle, bundle.padding.max_rows)
    )
    batcher = Batcher(
        partial(compute_values, bundle),
        plan.batch_size,
        settings.batch_wait_timeout_s,
        None if plan.runs_inline else executor,
    )
    embedding_batcher = None
    if embedder is not None:
        _raise_raydc_errors_only(settings, version, embedder.bundle.find_sizes)
        embedding_batcher = Batcher(
            embedder.forward,  # type: ignore[arg-type]
            plan.batch_size,
            settings.batch_wait_timeout_s,
            executor,
        )
    interface = Interface(bundle.features)
    parts = settings, bundle, source, interface, batcher, None, embedder, embedding_batcher
    return LoadedVersion(version, *parts)


def _with_engine(
    settings: Settings,
    version: int,
    bundle: Bundle,
    source: dict[str, Any],
    others: Sequence[LoadedVersion],
) -> LoadedVersion:
    """A language model with an engine, whose slots have been tried."""
    if not has_slots(bundle.model):
        raise ServeError(
            f"version {version} of {settings.model} is a language model of a kind that is not "
            "served yet",
            "raydc evaluate gives its perplexity.",
        )
    shared = _find_shared(settings, bundle, others)
    prompts = find_prompts(bundle)
    # The first use of a chat template takes a second, which no request should wait for.
    logger.info("answers of version %s end with the codes %s", version, sorted(prompts.end_codes))
    engine: TextEngine
    if settings.engine == "vllm":
        if shared is None and any(one.is_meta for one in bundle.model.parameters()):
            # Its base is in the vLLM of another version only, which has other limits.
            bundle, _ = load_bundle(settings, version)
        engine, bundle = load_engine(settings, version, bundle, shared)
    else:
        slots = shared or make_slots(
            bundle.model, settings.num_slots, bundle.num_threads, settings.length
        )
        engine = GenerationEngine(slots, prompts, find_adapter(bundle.model))
    batcher = Batcher(partial(compute_values, bundle), settings.max_batch_size)
    interface = Interface(bundle.features)
    return LoadedVersion(version, settings, bundle, source, interface, batcher, engine)


def _find_shared(settings: Settings, bundle: Bundle, others: Sequence[LoadedVersion]) -> Any:
    """What computes another version with adapters of the same base; None if there is none."""
    base, column = bundle.facts.get(BASE), bundle.features.token_column
    for one in others:
        is_same = (one.settings.identity, one.settings.batching, one.bundle.facts.get(BASE)) == (
            settings.identity,
            settings.batching,
            base,
        )
        length = settings.length or (column.length if column is not None else 0)
        if base and is_same and one.engine is not None and one.engine.max_tokens == length:
            return one.engine.loop
    return None


def load_bundle(
    settings: Settings, version: int, others: Sequence[LoadedVersion] = ()
) -> tuple[Bundle, dict[str, Any]]:
    """Reads a version's bundle from the registry and checks it with its golden rows.

    Args:
        settings: Storage, model, device, threads and optimization.
        version: Number of the version in the registry.
        others: Other versions, whose base is shared.

    Returns:
        The bundle, and where the version comes from.

    Raises:
        RaydcError: The version does not exist or does not verify. A builder of the user, a
            filesystem or a compiler may raise anything else.

    What runs is checked: for vLLM that is what it has loaded, see `vllm_engine`.
    """
    registry = Registry(Storage(settings.storage))
    is_own = settings.engine == "raydc"
    loaded = bundles.load(
        registry.folder(settings.model, version),
        # vLLM gets the weights from there, and needs the memory of the GPU itself.
        settings.device if is_own else "cpu",
        settings.num_threads,
        [one.bundle for one in others if one.settings.identity == settings.identity],
    )
    bundle = replace(loaded, max_rows=settings.max_batch_size)
    if is_own:
        bundle.check_golden()
    return bundle, registry.source(settings.model, version)


def compute_values(bundle: Bundle, x: Inputs) -> Array:
    """Runs a forward pass for all requests of a batch.

    Args:
        bundle: The model, as trained or compiled.
        x: Inputs [B, *shape].

    Returns:
        `Features.values` of the outputs, [B, K]; NaN in rows where the model gave no finite number.
    """
    outputs_BK = bundle.forward(x)
    values_BK = bundle.features.values(outputs_BK)
    is_finite_BK = np.isfinite(outputs_BK)
    # A probability can be finite although its output is not: softmax of inf, for example.
    if not is_finite_BK.all():
        values_BK[~is_finite_BK.all(axis=1)] = np.nan
    return values_BK


def _raise_raydc_errors_only(
    settings: Settings, version: int, work: Callable[[], Result]
) -> Result:
    """Turns any error into a RaydcError: anything else would make Serve stop the replica."""
    try:
        return work()
    except RaydcError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"version {version} of {settings.model} does not work: {error!r}"
        ) from error
