"""Compares two traces of the same steps: the first module that differs, and why. Pure."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from raydc.chaos.forward_trace import ForwardPass, ForwardTrace

_USE_BUFFER = (
    "Keep what a forward pass changes in a buffer (register_buffer): buffers are in the checkpoint."
)
_USE_TORCH = (
    "Draw from torch's generator: raydc sets it for each logical shard, from the seed and the step."
)


@dataclass(frozen=True)
class Culprit:
    """The first difference between two runs of the same steps.

    Attributes:
        pass_index: Index of the forward pass in the first trace.
        module: Name of the module in the network, or of a parameter if no output differs.
        reason: What probably made the difference.
        remedy: What the user can do about it.
    """

    pass_index: int
    module: str
    reason: str
    remedy: str


def find(first: ForwardTrace, again: ForwardTrace) -> Culprit | None:
    """Finds the first difference of two traces, or None.

    Args:
        first: Trace of a run from the start.
        again: Trace of the same steps again, or of only the last of them after a resume.
    """
    skipped = len(first.passes) - len(again.passes)
    for index, (one, other) in enumerate(
        zip(first.passes[skipped:], again.passes, strict=True), start=skipped
    ):
        # In the order of cause and effect: rows, then weights, then outputs.
        if one.rows != other.rows:
            return Culprit(
                index,
                "the input",
                "the rows of the step differ",
                "This is a bug of raydc; please report it.",
            )
        changed = [
            name for name, held in one.parameters.items() if other.parameters.get(name) != held
        ]
        if changed:
            return _blame_parameter(index, changed[0], first, is_first=index == skipped)
        for (name, output), (_, repeated) in zip(one.outputs, other.outputs, strict=False):
            if output != repeated:
                return _blame_module(index, name, one, other, first)
    return None


def _blame_parameter(index: int, name: str, trace: ForwardTrace, is_first: bool) -> Culprit:
    """Explains a parameter that differs before any module has run."""
    module, _, short = name.rpartition(".")
    # The first pass after a resume, or of a new run: nothing but restoring or building came before.
    if is_first and index > 0:
        reason = (
            f"{_describe(trace, module)} has a different {short} after its weights were restored"
        )
        return Culprit(
            index,
            module,
            reason,
            "Look at its state_dict and load_state_dict: they must be inverse.",
        )
    if is_first:
        place = _describe(trace, module)
        reason = f"{place} starts with a different {short} when built again with the same seed"
        return Culprit(
            index,
            module,
            reason,
            "Let the builder draw from torch's generator only, which raydc sets.",
        )
    # Later passes: all outputs before were equal, so the update of the weights was not.
    place = _describe(trace, module)
    reason = f"the gradient of {name} in {place} differs although every module's output is equal"
    return Culprit(
        index, module, reason, "Look for state in a backward pass of your own, or in a hook."
    )


def _blame_module(
    index: int, name: str, one: ForwardPass, other: ForwardPass, trace: ForwardTrace
) -> Culprit:
    """Explains a module whose output differs; the most probable reasons come first."""
    what = f"{_describe(trace, name)} has a different output"
    drawn = {**other.draws, **one.draws}
    if name in drawn:
        return Culprit(
            index,
            name,
            f"{what}: it draws from {drawn[name]}, whose state no checkpoint holds",
            _USE_TORCH,
        )
    buffers = [key for key, held in one.buffers.items() if other.buffers.get(key) != held]
    own = [key for key in buffers if _belongs(key, name)]
    if own:
        reason = (
            f"{what}: its buffer {own[0]} differs, which is in no checkpoint (persistent=False)"
        )
        return Culprit(index, name, reason, "Register the buffer as persistent.")
    keys = [key for key, held in one.attributes.items() if other.attributes.get(key) != held]
    # Preferably its own attributes; a module may also read another one's.
    keys = [key for key in keys if _belongs(key, name)] or keys
    if keys:
        key = keys[0]
        values = (
            f"{one.attributes[key]!r} the first time and {other.attributes.get(key)!r} the second"
        )
        return Culprit(index, name, f"{what}: {key} is {values}", _USE_BUFFER)
    reason = f"{what} for the same input, weights and buffers"
    return Culprit(
        index,
        name,
        reason,
        f"Look for time, files, globals or caches in its forward pass. {_USE_BUFFER}",
    )


def _belongs(key: str, module: str) -> bool:
    # Buffers of the network itself have no prefix, its attributes have "network".
    return key.rpartition(".")[0] in (module, "" if module == "network" else module)


def _describe(trace: ForwardTrace, name: str) -> str:
    """A module's name, class, and place in the code if there is a source file."""
    modules = dict(trace.network.named_modules()) if trace.network is not None else {}
    module = modules.get("" if name == "network" else name)
    if module is None:
        return name
    kind = type(module)
    try:
        place = (
            f", {Path(inspect.getsourcefile(kind) or '').name}:{inspect.getsourcelines(kind)[1]}"
        )
    except (OSError, TypeError):
        place = ""
    return f"{name} ({kind.__name__}{place})"
