"""Tables of the private names of Ray that raydc uses, with what it expects of them. Data only.

`raydc.engine.internals` reads these tables: to import a name when it is needed, and to say what a
Ray that raydc does not know has changed. Names that only `raydc.serve.direct` and
`raydc.engine.haproxy` are in separate tables: without them an endpoint falls back to
Ray Serve's own path, and everything else works.
"""

from __future__ import annotations

# Parameters by which a function is called or overridden; None for what is not called.
Parameters = tuple[str, ...] | None
Names = dict[str, dict[str, Parameters]]
# `module:Class` -> instance attributes that are read or written.
Attributes = dict[str, tuple[str, ...]]

_TRAIN = "ray.train.v2._internal"

NAMES: Names = {
    "ray._private.auto_init_hook": {"enable_auto_connect": None},
    "ray._private.node": {
        "Node.dead_processes": ("self",),
        "Node.get_session_dir_path": ("self",),
        "Node.is_head": ("self",),
        "Node.kill_all_processes": ("self", "check_alive", "allow_graceful", "wait"),
    },
    "ray._private.worker": {"_global_node": None},
    "ray._private.services": {
        "canonicalize_bootstrap_address_or_die": ("addr", "temp_dir"),
    },
    "ray._private.utils": {"get_num_cpus": (), "set_sigterm_handler": ("sigterm_handler",)},
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
    "ray.actor": {"ActorHandle": None},
    "ray.data": {"Dataset.iter_internal_ref_bundles": ("self",)},
    "ray.serve._private.client": {
        "ServeControllerClient.deploy_apps": ("self", "config", "_blocking"),
    },
    "ray.serve._private.controller": {
        "ServeController.check_alive": ("self",),
        "ServeController.get_app_configs": ("self",),
        "ServeController.get_proxies": ("self",),
    },
    "ray.serve.context": {
        "_get_global_client": ("raise_if_no_controller_running",),
        "_set_global_client": ("client",),
    },
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
    },
    f"{_TRAIN}.callbacks.datasets": {"DatasetsCallback": None},
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

ATTRIBUTES: Attributes = {
    "ray.actor:ActorHandle": ("_ray_actor_creation_function_descriptor",),
    "ray.core.generated.node_manager_pb2_grpc:NodeManagerServiceStub": ("PrestartWorkers",),
    "ray.data._internal.execution.interfaces.ref_bundle:RefBundle": ("block_refs", "num_rows"),
    "ray.serve._private.client:ServeControllerClient": ("_controller", "http_config"),
    f"{_TRAIN}.execution.controller:TrainController": ("_scaling_policy", "_worker_group"),
    f"{_TRAIN}.execution.worker_group:Worker": ("actor", "metadata"),
    f"{_TRAIN}.execution.worker_group.worker:ActorMetadata": ("node_id", "node_ip"),
}

DIRECT_NAMES: Names = {
    "ray._private.worker": {"global_worker": None},
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
        "ReplicaMetricsManager.get_num_ongoing_requests": ("self",),
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
}

DIRECT_ATTRIBUTES: Attributes = {
    "ray._private.worker:Worker": ("actors",),
    "ray.serve._private.http_util:RequestIdMiddleware": ("_app",),
    "ray.serve._private.replica:ReplicaActor": ("_replica_impl",),
    "ray.serve._private.replica:Replica": (
        *("_deployment_id", "_http_options", "_http_port", "_metrics_manager"),
        *("_route_prefix", "_user_callable_wrapper"),
    ),
    "ray.serve._private.replica:ReplicaMetricsManager": (
        *("_cached_ingress_processing_latencies", "_cached_ingress_request_counter"),
        *("_cached_latencies", "_cached_request_counter"),
        *("_max_processing_latency_trackers", "_user_code_time_accumulator"),
    ),
    "ray.serve._private.replica:UserCallableWrapper": ("_run_user_code_in_separate_thread",),
}
