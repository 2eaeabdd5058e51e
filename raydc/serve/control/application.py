"""The application as Ray Serve is told: what runs, where it listens, which limits hold."""

from __future__ import annotations

from typing import Any

from raydc import engine
from raydc.engine import serve_client, serve_environment
from raydc.errors import ServeError
from raydc.serve.app import DEPLOYMENT
from raydc.serve.settings import Settings, Traffic
from raydc.spec.sections import Serve
from raydc.storage import Storage

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
IMPORT_PATH = "raydc.serve.app:build"
# Serve counts health checks among the ongoing requests, and requests that it is just handing out as queued.
_SPARE_REQUESTS = 16
_BURST_REQUESTS = 256

Application = dict[str, Any]


def build_settings(model: str, section: Serve, storage: Storage, traffic: Traffic) -> Settings:
    """What the replicas are told."""
    options = section.ray_actor_options
    return Settings(
        storage=storage.uri,
        model=model,
        alias=section.alias,
        traffic=traffic,
        max_ongoing_requests=section.max_ongoing_requests,
        max_queued_requests=section.max_queued_requests,
        max_batch_size=section.max_batch_size,
        batch_wait_timeout_s=section.batch_wait_timeout_s,
        request_timeout_s=section.request_timeout_s,
        max_request_bytes=section.max_request_bytes,
        max_request_rows=section.max_request_rows,
        max_request_pixels=section.max_request_pixels,
        auth=section.auth,
        access_log=section.access_log,
        device="cuda" if options.get("num_gpus", 0) > 0 else "cpu",
        num_threads=max(1, int(options.get("num_cpus", 1))),
        optimize=section.optimize,
    )


def build_application(section: Serve, settings: Settings, route_prefix: str) -> Application:
    """The application as Serve's schema wants it.

    A replica refuses what is over its limits itself, as JSON; Serve's own limits, whose answers are plain text,
    stand behind those.
    """
    limited = section.max_queued_requests >= 0
    capacity = (
        section.max_ongoing_requests
        + (section.max_queued_requests if limited else 0)
        + _SPARE_REQUESTS
    )
    return {
        "name": settings.model,
        "route_prefix": route_prefix,
        "import_path": IMPORT_PATH,
        "runtime_env": engine.runtime_environment(),
        "deployments": [
            {
                "name": DEPLOYMENT,
                "user_config": settings.model_dump(mode="json"),
                "autoscaling_config": _autoscaling(section),
                "max_ongoing_requests": capacity,
                "max_queued_requests": max(section.max_queued_requests, _BURST_REQUESTS)
                if limited
                else -1,
                "backpressure_config": {"status_code": 429, "retry_after_s": 1},
                "ray_actor_options": section.ray_actor_options,
                # A change that needs a new process starts it before the old one ends.
                "max_surge_percent": 100,
                "health_check_period_s": 2.0,
                # Serve would put a line for each request together, to throw it away.
                "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
            }
        ],
    }


def _autoscaling(section: Serve) -> dict[str, Any]:
    """Serve averages over the look-back period what it is told every 10 s by default, which would be too rarely."""
    config = section.autoscaling_config
    return {**config.model_dump(), "metrics_interval_s": min(1.0, config.look_back_period_s / 2)}


def find(applications: list[Application], name: str) -> Application | None:
    """The application of a model. Raises ServeError where something else has that name."""
    for application in applications:
        if application["name"] == name:
            if application["import_path"] != IMPORT_PATH:
                raise ServeError(
                    f"Ray Serve runs an application {name!r} that is not raydc's",
                    "Choose another `name` in the spec.",
                )
            return application
    return None


def find_application(model: str) -> Application | None:
    """The application of a model on the connected Ray; raises as `find`."""
    return find(serve_client.applications(), model)


def read_settings(application: Application) -> Settings:
    """What the replicas of an application are told."""
    return Settings.model_validate(application["deployments"][0]["user_config"])


def replace_settings(application: Application, settings: Settings) -> Application:
    """The same application whose replicas are told something else."""
    deployment = {**application["deployments"][0], "user_config": settings.model_dump(mode="json")}
    return {**application, "deployments": [deployment]}


def choose_route_prefix(applications: list[Application], name: str) -> str:
    """The first model answers at `/`, each further one of the same Serve below its name."""
    return f"/{name}" if any(one.get("route_prefix", "/") == "/" for one in applications) else "/"


def apply(application: Application) -> None:
    """Declares an application beside the others that Serve runs."""
    others = [one for one in serve_client.applications() if one["name"] != application["name"]]
    serve_client.apply([*others, application])


def remove(model: str | None = None) -> None:
    """Takes down the endpoint of a model, or every endpoint of raydc; Serve itself when nothing else runs on it."""
    from ray import serve

    applications = serve_client.applications()
    kept = [
        one
        for one in applications
        if one["import_path"] != IMPORT_PATH or model not in (None, one["name"])
    ]
    if kept:
        serve_client.apply(kept)
    elif applications:
        serve.shutdown()


def listen(section: Serve) -> tuple[str, int]:
    """Starts Serve, or checks that the one that runs listens where the spec says.

    Raises:
        ServeError: The port is taken, or Serve listens elsewhere already.
    """
    host, port = serve_client.start(
        section.host, section.port or serve_environment.free_port(section.host)
    )
    same_host = section.host == host or {section.host, host} <= _LOOPBACK
    if section.port not in (0, port) or not same_host:
        raise ServeError(
            f"Ray Serve listens on {host}:{port} already, and it cannot change; the spec says "
            f"{section.host}:{section.port}",
            f"Set serve.host to {host} and serve.port to {port} or 0, or end that Serve first (`serve shutdown`).",
        )
    return host, port


def application_url(application: Application) -> str:
    """The address of an application that runs. Raises ServeError without Serve."""
    return endpoint_url(*serve_client.address(), application["route_prefix"])


def endpoint_url(host: str, port: int, route_prefix: str) -> str:
    """The address that clients use."""
    shown = engine.head_address() if host in ("0.0.0.0", "::") else host
    netloc = f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
    return f"http://{netloc}{route_prefix.rstrip('/')}"
