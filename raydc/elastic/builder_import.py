"""Whether the nodes of a cluster can import a user's builder. Runs in the driver, and in a task of
each node.

Workers find it out too, but only once the data is prepared and the run has begun.
"""

from __future__ import annotations

import os
import sys

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc.errors import SpecError
from raydc.models import user_models
from raydc.models.network_parts import model_problem
from raydc.spec.model import Builder, Model

# A process starts and imports torch. A node that takes longer is not at fault.
_IMPORT_TIMEOUT_S = 60.0
# On a large cluster a sample shows what was forgotten.
_MAX_NODES = 16


def require_on_nodes(model: Model) -> None:
    """Imports the builder of a section `model` on the nodes of the connected Ray.

    Raises:
        SpecError: A node cannot import it; the message names the node.
    """
    if not isinstance(model, Builder):
        return
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    task = ray.remote(num_cpus=0, max_retries=0)(_try_import)
    calls = {
        # The node of a strict strategy may be gone by now, which is no fault of the builder.
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(model.builder, os.getcwd()): node["NodeManagerAddress"]
        for node in nodes[:_MAX_NODES]
    }
    if not calls:
        return
    ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_IMPORT_TIMEOUT_S)
    for call in ready:
        try:
            reason = ray.get(call)
        except RayError:
            continue
        if reason is not None:
            raise model_problem(
                "model.builder",
                f"on node {calls[call]} of this Ray: {reason}. Give the nodes the module: start "
                "the command with `ray job submit --working-dir .`, or set PYTHONPATH where their "
                "Ray is started",
            )


def add_import_folder(folder: str) -> None:
    """Lets this process import from the folder in which the driver was started, if it has it."""
    if folder not in sys.path and os.path.isdir(folder):
        sys.path.insert(0, folder)


def _try_import(builder: str, import_from: str) -> str | None:
    """Imports the builder as a worker does; returns what is wrong, or None."""
    add_import_folder(import_from)
    try:
        user_models.import_builder(builder)
    except SpecError as error:
        return error.problems[0].message
    return None
