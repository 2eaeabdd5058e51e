"""Two traces of the same steps: the first module that gave something else, and why it could."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from raydc.chaos.forward_trace import ForwardTrace, ModuleCall

_BUFFER = (
    "Keep what a forward pass changes in a buffer (register_buffer): buffers are in the checkpoint."
)
_TORCH = (
    "Draw from torch's generator: raydc sets it for each logical shard, from the seed and the step."
)


@dataclass(frozen=True)
class Culprit:
    """Where two runs of the same steps part.

    Attributes:
        call: Index of the forward pass in the first trace.
        module: Name in the network; of a parameter where no module gave something else.
        reason: What may have made the difference.
        remedy: What to do about it.
    """

    call: int
    module: str
    reason: str
    remedy: str


def find(first: ForwardTrace, again: ForwardTrace) -> Culprit | None:
    """The first difference; None where there is none.

    Args:
        first: From the start.
        again: The same steps once more, or only the last of them.
    """
    skipped = len(first.calls) - len(again.calls)
    for index, (one, other) in enumerate(
        zip(first.calls[skipped:], again.calls, strict=True), start=skipped
    ):
        if one.rows != other.rows:
            return Culprit(
                index,
                "the input",
                "the rows of the step differ",
                "This is a fault of raydc: report it.",
            )
        changed = [
            name for name, held in one.parameters.items() if other.parameters.get(name) != held
        ]
        if changed:
            return _of_parameter(index, changed[0], first, begins=index == skipped)
        for (name, given), (_, given_again) in zip(one.given, other.given, strict=False):
            if given != given_again:
                return _of_module(index, name, one, other, first)
    return None


def _of_parameter(index: int, name: str, trace: ForwardTrace, begins: bool) -> Culprit:
    module, _, short = name.rpartition(".")
    if begins and index > 0:
        reason = f"{_describe(trace, module)} has another {short} after its weights were restored"
        return Culprit(
            index,
            module,
            reason,
            "Look at its state_dict and load_state_dict: they must be inverse.",
        )
    if begins:
        reason = f"{_describe(trace, module)} has another first {short} when it is built again with the same seed"
        return Culprit(
            index,
            module,
            reason,
            "Let the builder draw from torch's generator only, which raydc sets.",
        )
    reason = f"the gradient of {name} in {_describe(trace, module)} differs, though every module gave the same"
    return Culprit(
        index, module, reason, "Look for state in a backward pass of your own, or in a hook."
    )


def _of_module(
    index: int, name: str, one: ModuleCall, other: ModuleCall, trace: ForwardTrace
) -> Culprit:
    what = f"{_describe(trace, name)} gives something else"
    drawn = {**other.draws, **one.draws}
    if name in drawn:
        return Culprit(
            index,
            name,
            f"{what}: it draws from {drawn[name]}, whose state no checkpoint holds",
            _TORCH,
        )
    buffers = [key for key, held in one.buffers.items() if other.buffers.get(key) != held]
    own = [key for key in buffers if _belongs(key, name)]
    if own:
        reason = (
            f"{what}: its buffer {own[0]} differs, which is in no checkpoint (persistent=False)"
        )
        return Culprit(index, name, reason, "Register the buffer as persistent.")
    keys = [key for key, held in one.attributes.items() if other.attributes.get(key) != held]
    keys = [key for key in keys if _belongs(key, name)] or keys
    if keys:
        key = keys[0]
        values = (
            f"{one.attributes[key]!r} the first time and {other.attributes.get(key)!r} the second"
        )
        return Culprit(index, name, f"{what}: {key} is {values}", _BUFFER)
    reason = f"{what} for the same input, weights and buffers"
    return Culprit(
        index,
        name,
        reason,
        f"Look for time, files, globals or caches in its forward pass. {_BUFFER}",
    )


def _belongs(key: str, module: str) -> bool:
    return key.rpartition(".")[0] in (module, "" if module == "network" else module)


def _describe(trace: ForwardTrace, name: str) -> str:
    """The module by name, class and place in the code."""
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
