"""Everything of Ray that raydc uses and that is not public API, and what raydc expects of it.

A name is imported when it is asked for: `rayinternals.TrainController`. A Ray that has moved one of them is refused
with the name that is missing, instead of failing somewhere in the middle of a run.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import time
from collections.abc import Iterator
from typing import Any

from raydc.errors import ClusterError

RAY_VERSION = "2.60"

# Module -> what is used of it -> parameters by which it is called or overridden (None: it is not called).
_TRAIN = "ray.train.v2._internal"
_USED: dict[str, dict[str, tuple[str, ...] | None]] = {
    "ray._private.auto_init_hook": {"enable_auto_connect": None},
    "ray._private.node": {"Node.is_head": ("self",)},
    "ray._private.worker": {"_global_node": None},
    "ray._private.utils": {"get_num_cpus": ()},
    "ray._private.state": {
        "available_resources_per_node": (),
        "state": None,
        "state.get_draining_nodes": (),
    },
    "ray._private.grpc_utils": {"init_grpc_channel": ("address", "options")},
    "ray._private.ray_constants": {"WORKER_PROCESS_SETUP_HOOK_ENV_VAR": None},
    "ray._raylet": {"AuthenticationTokenLoader": None, "Config": None, "RAY_NODE_ID_KEY": None},
    "ray.core.generated.node_manager_pb2": {"PrestartWorkersRequest": None},
    "ray.core.generated.node_manager_pb2_grpc": {"NodeManagerServiceStub": None},
    "ray.serve._private.logging_utils": {"get_serve_logs_dir": ()},
    "ray.serve.context": {
        "_get_global_client": ("raise_if_no_controller_running",),
        "_set_global_client": ("client",),
    },
    "ray.serve._private.haproxy": {
        "HAProxyApi": ("cfg", "backend_configs", "config_file_path"),
        "HAProxyApi._generate_config_file_internal": ("self",),
        "HAProxyConfig": None,
        "BackendConfig": None,
        "ServerConfig": ("name", "host", "port", "replica_id"),
    },
    "ray.serve._private.common": {
        "RequestMetadata": (
            "request_id",
            "internal_request_id",
            "is_direct_ingress",
            "_request_protocol",
        ),
        "RequestProtocol": None,
    },
    "ray.serve._private.http_util": {"RequestIdMiddleware": ("app",)},
    "ray.serve._private.replica": {
        "Replica": None,
        "ReplicaMetricsManager": None,
        "Replica._direct_ingress_asgi": ("self", "scope", "receive", "send"),
        "ReplicaMetricsManager.inc_num_ongoing_requests": ("self", "request_metadata"),
        "ReplicaMetricsManager.dec_num_ongoing_requests": ("self", "request_metadata"),
        "ReplicaMetricsManager._should_emit_request_ingress_metrics": ("self", "protocol"),
        "ReplicaMetricsManager.record_request_metrics": (
            "self",
            "route",
            "latency_ms",
            "is_error",
            "exception_type",
        ),
        "ReplicaMetricsManager.record_ingress_request_metrics": (
            *("self", "protocol", "method", "route", "app_name", "deployment_name"),
            *("latency_ms", "is_error", "status_code"),
        ),
    },
    "ray.serve._private.tracing_utils": {"is_tracing_enabled": ()},
    "ray.serve._private.router": {
        "SingletonThreadRouter._asyncio_loop": None,
        "SingletonThreadRouter": None,
    },
    "ray.tune.search.variant_generator": {"generate_variants": ("unresolved_spec", "random_state")},
    "ray.train.v2.api.preemption": {"PreemptionInfo": ("deadline_ms", "preempted_node_to_ranks")},
    "ray.train.v2.api.exceptions": {
        "ControllerError": ("controller_failure",),
        "PreemptionError": ("preemption_info", "drain_timed_out"),
        "WorkerGroupError": ("error_message", "worker_failures"),
    },
    "ray.train.v2.api.data_parallel_trainer": {
        "DataParallelTrainer._create_default_callbacks": ("self",),
        "DataParallelTrainer._get_train_func": ("self",),
        "DataParallelTrainer._initialize_and_run_controller": ("self",),
        "DataParallelTrainer._register_sigint_handler": ("self", "controller"),
    },
    f"{_TRAIN}.callbacks.placement_group_callback": {"PlacementGroupCleanerCallback": None},
    f"{_TRAIN}.constants": {"get_env_vars_to_propagate": ()},
    f"{_TRAIN}.exceptions": {
        "WorkerGroupStartupFailedError": None,
        "WorkerGroupStartupTimeoutError": ("num_workers",),
    },
    f"{_TRAIN}.util": {"ObjectRefWrapper": ("obj",)},
    f"{_TRAIN}.execution.controller": {
        "TrainController": (
            *("train_fn_ref", "train_run_context", "scaling_policy"),
            *("failure_policy", "callbacks", "validation_config"),
        ),
        "TrainController._step": ("self",),
        "TrainController._start_worker_group": ("self", "num_workers", "resources_per_worker"),
        "TrainController._shutdown_worker_group": ("self",),
        "TrainController.get_state": ("self",),
        "TrainController.worker_group_cls": None,
    },
    f"{_TRAIN}.execution.controller.state": {
        "InitializingState": None,
        "ReschedulingState": None,
        "RestartingState": None,
    },
    f"{_TRAIN}.execution.failure_handling": {
        "DefaultFailurePolicy": ("failure_config",),
        "DefaultFailurePolicy.make_decision": ("self", "training_failed_error"),
        "FailureDecision": None,
    },
    f"{_TRAIN}.execution.scaling_policy": {
        "NoopDecision": (),
        "ResizeDecision": ("num_workers", "resources_per_worker"),
        "ElasticScalingPolicy": ("scaling_config",),
        "ElasticScalingPolicy._get_num_workers_for_resource_request": ("self",),
        "ElasticScalingPolicy.after_controller_start": ("self", "train_run_context"),
        "ElasticScalingPolicy.before_controller_shutdown": ("self",),
        "ElasticScalingPolicy._maybe_send_resource_request": ("self",),
        "ElasticScalingPolicy.make_decision_for_non_running_worker_group": ("self",),
        "ElasticScalingPolicy.make_decision_for_running_worker_group": (
            *("self", "worker_group_state", "worker_group_status"),
        ),
        "ElasticScalingPolicy.on_controller_start_worker_group": (
            "self",
            "scaling_config",
            "num_workers",
        ),
    },
    f"{_TRAIN}.execution.worker_group": {
        "WorkerGroup._start": ("self",),
        "WorkerGroup.get_workers": ("self",),
        "WorkerGroup.has_started": ("self",),
        "WorkerGroup.shutdown": ("self",),
        "Worker.execute_async": ("self", "fn", "fn_args", "fn_kwargs"),
        "WorkerGroup": None,
    },
}
_HOME = {name: module for module, names in _USED.items() for name in names if "." not in name}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"raydc uses no {name} of Ray; add it to the table of {__name__}")
    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except (ImportError, AttributeError) as error:
        raise _refusal([f"{_HOME[name]}.{name} is missing"]) from error


def check() -> None:
    """Imports all of it.

    Raises:
        ClusterError: The installed Ray is another than the one that raydc is built for: all that is different.
    """
    if found := list(_differences()):
        raise _refusal(found)


def _differences() -> Iterator[str]:
    for module_name, names in _USED.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            yield f"{module_name} cannot be imported: {error}"
            continue
        for name, parameters in names.items():
            try:
                used: Any = module
                for part in name.split("."):
                    used = getattr(used, part)
            except AttributeError:
                yield f"{module_name}.{name} is missing"
                continue
            if parameters is not None:
                known = inspect.signature(used).parameters
                missing = [parameter for parameter in parameters if parameter not in known]
                required = [
                    parameter.name
                    for parameter in known.values()
                    if parameter.default is parameter.empty
                    and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                    and parameter.name not in parameters
                ]
                if missing or required:
                    yield f"{module_name}.{name} takes {tuple(known)}, not {parameters}"


def _refusal(found: list[str]) -> ClusterError:
    import ray

    return ClusterError(
        f"raydc is built for Ray {RAY_VERSION}, and Ray {ray.__version__} differs:\n    "
        + "\n    ".join(found),
        f"Install it with `pip install 'ray=={RAY_VERSION}.*'`.",
    )


def never_start_by_itself() -> None:
    """A call to Ray before `ray.init` is an error, instead of starting another Ray."""
    importlib.import_module("ray._private.auto_init_hook").enable_auto_connect = False  # type: ignore[attr-defined]


def end_serve_thread(timeout_s: float) -> bool:
    """Ends the thread that handles of Serve use in this process, which would go on after Ray itself has ended.

    It counts its own delays, in native code: a process that ends meanwhile may crash. Handles that exist are of no
    use any more; later ones get a thread of their own.

    Returns:
        False when it has not ended in time.
    """
    if "ray.serve._private.router" not in sys.modules:
        return True
    router = __getattr__("SingletonThreadRouter")
    loop = router._asyncio_loop
    if loop is None or not loop.is_running():
        return True

    def end() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_soon(loop.stop)

    loop.call_soon_threadsafe(end)
    deadline = time.monotonic() + timeout_s
    while loop.is_running() and time.monotonic() < deadline:
        time.sleep(0.005)
    router._asyncio_loop = None
    return not loop.is_running()


def draining_nodes() -> dict[str, int]:
    """Nodes that are about to go: node id to the deadline in ms since the epoch, 0 without one."""
    return dict(__getattr__("state").get_draining_nodes() or {})


def is_own_ray() -> bool:
    """Whether this process has started the Ray that it uses."""
    node = __getattr__("_global_node")
    return node is not None and bool(node.is_head())


def class_name(actor: Any) -> str:
    """Name of the class of an actor, from its handle."""
    return str(actor._ray_actor_creation_function_descriptor.class_name)
