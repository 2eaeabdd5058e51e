"""What the nodes of a cluster have free now, and whether they answer: Ray's own list may be ten seconds late."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from raydc.elastic import capacity
from raydc.engine import internals

_PROBE_TIMEOUT_S = 0.7
_NUM_PROBES = 16


def answers(node: Mapping[str, Any]) -> bool:
    """Whether the raylet of a node takes a connection."""
    try:
        address = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(address, _PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def probe_nodes(only: Collection[str] | None = None) -> list[capacity.Node]:
    """The living nodes of the cluster as they are now, or some of them by their ids."""
    nodes = [
        node for node in ray.nodes() if node["Alive"] and (only is None or node["NodeID"] in only)
    ]
    free, draining = internals.available_resources_per_node(), internals.draining_nodes()
    with ThreadPoolExecutor(_NUM_PROBES) as pool:
        answering = list(pool.map(answers, nodes))
    drains_at_s = {node_id: deadline_ms / 1000 for node_id, deadline_ms in draining.items()}
    return [
        capacity.Node(
            node["NodeID"],
            free.get(node["NodeID"], {}),
            answer,
            drains_at_s.get(node["NodeID"]),
            f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}",
        )
        for node, answer in zip(nodes, answering, strict=True)
    ]
