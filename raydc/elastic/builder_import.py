"""Whether the nodes of a cluster can import a user's functions. Runs in the driver, and in a task
of each node.

Workers find it out too, but only once the data is prepared and the run has begun.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc.errors import SpecError
from raydc.models import user_models
from raydc.models.network_parts import model_problem
from raydc.spec import ResolvedSpec

# A process starts and imports torch. A node that takes longer is not at fault.
_IMPORT_TIMEOUT_S = 60.0
# On a large cluster a sample shows what was forgotten.
_MAX_NODES = 16


def require_on_nodes(spec: ResolvedSpec) -> None:
    """Imports the builder and the own transforms of a spec on the nodes of the connected Ray.

    Raises:
        SpecError: A node cannot import one; the message names the node.
    """
    functions = user_models.named_functions(spec)
    if not functions:
        return
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    task = ray.remote(num_cpus=0, max_retries=0)(_try_import)
    calls = {
        # A node may have gone since, and its strict strategy fails: no fault of the module.
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(functions, os.getcwd()): node["NodeManagerAddress"]
        for node in nodes[:_MAX_NODES]
    }
    if not calls:
        return
    ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_IMPORT_TIMEOUT_S)
    for call in ready:
        try:
            found = ray.get(call)
        except RayError:
            continue
        if found is not None:
            field, reason = found
            raise model_problem(
                field,
                f"on node {calls[call]} of this Ray: {reason}. Give the nodes the module: start "
                "the command with `ray job submit --working-dir .`, or set PYTHONPATH where their "
                "Ray is started",
            )


def add_import_folder(folder: str) -> None:
    """Lets this process import from the folder in which the driver was started, if it has it."""
    if folder not in sys.path and os.path.isdir(folder):
        sys.path.insert(0, folder)


def _try_import(functions: Sequence[tuple[str, str]], import_from: str) -> tuple[str, str] | None:
    """Imports functions as a worker does; returns the field and what is wrong, or None."""
    add_import_folder(import_from)
    for field, function in functions:
        try:
            user_models.import_function(function, field)
        except SpecError as error:
            return field, error.problems[0].message
    return None
