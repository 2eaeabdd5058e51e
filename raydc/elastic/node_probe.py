"""Probes the nodes of a cluster: what is free now, and which raylets respond.

Runs in the controller actor. Ray's own list of living nodes may be ten seconds old.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from raydc.elastic import group_size
from raydc.engine import internals

# Less than the second between two probes of a running group, so that a dead node delays none.
_PROBE_TIMEOUT_S = 0.7
_NUM_PROBES = 16


def responds(node: Mapping[str, Any]) -> bool:
    """Whether the raylet of a node, an entry of `ray.nodes()`, accepts a connection."""
    try:
        address = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(address, _PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def probe_nodes(only: Collection[str] | None = None) -> list[group_size.Node]:
    """Probes the nodes that Ray believes alive.

    Args:
        only: Ids of the nodes to probe. Default: all.
    """
    nodes = [
        node for node in ray.nodes() if node["Alive"] and (only is None or node["NodeID"] in only)
    ]
    free, draining = internals.available_resources_per_node(), internals.draining_nodes()
    # In parallel, because each node that is gone costs the whole timeout.
    with ThreadPoolExecutor(_NUM_PROBES) as pool:
        responding = list(pool.map(responds, nodes))
    drains_at_s = {node_id: deadline_ms / 1000 for node_id, deadline_ms in draining.items()}
    return [
        group_size.Node(
            node["NodeID"],
            free.get(node["NodeID"], {}),
            is_responding,
            drains_at_s.get(node["NodeID"]),
            f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}",
        )
        for node, is_responding in zip(nodes, responding, strict=True)
    ]
