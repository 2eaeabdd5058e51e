"""Checks of a spec that need no data and no Ray: they come before both. Runs in the driver."""

from __future__ import annotations

import os

from raydc.errors import UsageError
from raydc.spec import ResolvedSpec
from raydc.spec.language import LANGUAGE
from raydc.spec.sequence_models import HuggingFace


def check_early(spec: ResolvedSpec) -> None:
    """Refuses what no run of this spec can get past.

    A run would come to it only after Ray has started and the data is prepared.

    Args:
        spec: Resolved spec whose model, transforms, tokenizer and source are checked.

    Raises:
        SpecError: The network, its weights, its builder or a transform does not exist, or refuses
            its options.
        DataError: The source is not there, or lacks a column of the spec; or its tokenizer cannot
            be used.
    """
    # Imported late: `raydc --help` loads neither torch nor pyarrow.
    from raydc.data.source_check import check_source

    # First, because the others import torch, which takes seconds.
    check_source(spec.data)
    from raydc.models.section_check import check_section

    check_section(spec.model)
    if spec.data.augment and spec.data.augment.transforms:
        from raydc.loop.augment import check_names

        check_names(spec.data)
    if spec.data.features.text.tokenizer is not None:
        from raydc.data.tokenizer_file import check_blocks, check_conversations, check_tokenizer

        if spec.data.task == LANGUAGE:
            check = check_blocks if spec.data.chat is None else check_conversations
            num_codes, length = check(spec.data).num_codes, spec.data.blocks.length
        else:
            num_codes, length = check_tokenizer(spec.data.features.text).num_codes, None
        if isinstance(spec.model, HuggingFace):
            from raydc.models.encoder_weights import check_folder

            served = None if spec.serve is None else spec.serve.generation.length
            check_folder(spec.model, num_codes, length, served)


def check_run(spec: ResolvedSpec, resume: bool, new: bool) -> None:
    """Refuses what `check_early` finds, and a name of a run that is taken or, to resume, free.

    Args:
        spec: Resolved spec, whose name and storage give the run folder.
        resume: Whether an existing run is continued.
        new: Whether an existing run is renamed.

    Raises:
        RunError: A run of this name exists, or there is none to resume.
    """
    from raydc.checkpoint import run_name
    from raydc.storage import Storage

    check_early(spec)
    run_name.refuse_taken_name(Storage(spec.storage) / "runs", spec.name, resume, new)


def check_points(spec: ResolvedSpec, resume: bool) -> None:
    """Refuses a sweep whose networks cannot be built, or whose earlier results cannot be read.

    Args:
        spec: Resolved spec, with or without a sweep.
        resume: Whether an existing run is continued. Then such a point is a trial that has failed,
            and the others go on.

    Raises:
        SpecError: The networks that cannot be built, by the values of their points.
        UsageError: Results of `sweep.warm_start` cannot be read.
    """
    if spec.sweep is not None and not resume:
        if spec.name in spec.sweep.warm_start:
            raise UsageError(
                f"sweep.warm_start: {spec.name} is this run itself, and a new one sets it aside",
                "Give this run another name, or add samples to the old one: --resume with a larger "
                "sweep.num_samples.",
            )
        from raydc.elastic.trial_draws import read_results
        from raydc.elastic.trial_sizes import describe_points

        describe_points(spec, read_results(spec, lambda _: None))


def check_endpoint(spec: ResolvedSpec, address: str | None) -> None:
    """Refuses an endpoint that cannot start on this machine, if its Ray is going to.

    On a Ray that runs already, the port may be that of an endpoint of the same Serve, and vLLM on
    other nodes only.

    Args:
        spec: The resolved spec; its section `serve` names port and engine.
        address: Ray cluster; None takes RAY_ADDRESS, else a local Ray is going to start.

    Raises:
        ServeError: Something listens at the port, or vLLM is wanted and not there.
    """
    from raydc.engine import serve_client
    from raydc.serve.replica import vllm_options

    is_own_ray = not (address or os.environ.get("RAY_ADDRESS"))
    if spec.serve is None or not is_own_ray:
        return
    if spec.serve.port:
        serve_client.require_free_port(spec.serve.host, spec.serve.port)
    if spec.serve.engine == "vllm":
        vllm_options.require_vllm()


def require_serve(spec: ResolvedSpec, path: str) -> None:
    """Raises UsageError for a spec file, at `path`, that has no section for an endpoint."""
    # A spec without the section may be for training only, so the defaults are not assumed.
    if spec.serve is None:
        raise UsageError(f"{path} has no section `serve`", "Add `serve: {}` for the defaults.")
