"""The Ray Serve application of a model, as the driver declares it: code, address, limits."""

from __future__ import annotations

from typing import Any

from raydc import engine
from raydc.engine import serve_client, serve_environment
from raydc.errors import ServeError
from raydc.serve.app import DEPLOYMENT
from raydc.serve.settings import Settings, Traffic
from raydc.spec.sections import Serve
from raydc.storage import Storage

_LOOPBACK = {"127.0.0.1", "localhost"}
IMPORT_PATH = "raydc.serve.app:build"
_SETUP_HOOK = "raydc.serve.idle_imports.begin"
# Serve counts its health checks as ongoing requests, and requests on their way to a replica as
# queued; these allowances keep both from using up the limits of clients.
_SPARE_REQUESTS = 16
_BURST_REQUESTS = 256
# A stream ends itself at its limit; its replica lives a little longer.
_STREAM_MARGIN_S = 10.0

Application = dict[str, Any]


def build_settings(model: str, section: Serve, storage: Storage, traffic: Traffic) -> Settings:
    """Builds the settings of the replicas.

    Args:
        model: Name of the model in the registry.
        section: Section `serve` of the spec, for its limits, device and threads.
        storage: Storage that holds the registry.
        traffic: Versions that answer.
    """
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
        num_threads=section.num_threads,
        optimize=section.optimize,
        engine=section.engine,
        precision=section.generation.precision,
        num_gpus=options.get("num_gpus", 0),
        num_slots=section.generation.slots,
        max_tokens=section.generation.max_tokens,
        length=section.generation.length,
        num_adapters=section.generation.adapters,
        stream_timeout_s=section.generation.timeout_s,
    )


def build_application(
    section: Serve, settings: Settings, route_prefix: str, has_streams: bool = False
) -> Application:
    """Builds the application in Serve's schema.

    A replica refuses requests over its limits itself, as JSON. Serve's own limits, whose answers
    are plain text, are higher and take effect only if a replica is not quick enough.

    Args:
        section: Section `serve` of the spec, for the number of replicas and resources.
        settings: What each replica gets as its `user_config`.
        route_prefix: Path of the endpoint, such as `/`.
        has_streams: Whether it is a language model: a replica that ends waits for its streams.
    """
    limited = section.max_queued_requests >= 0
    capacity = (
        section.max_ongoing_requests
        + (section.max_queued_requests if limited else 0)
        + _SPARE_REQUESTS
    )
    waiting_s = settings.stream_timeout_s + _STREAM_MARGIN_S
    waits = {"graceful_shutdown_timeout_s": waiting_s} if has_streams else {}
    return {
        "name": settings.model,
        "route_prefix": route_prefix,
        "import_path": IMPORT_PATH,
        "args": {"direct": section.direct},
        "runtime_env": engine.runtime_environment(_SETUP_HOOK),
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
                # If a change needs a new process, it starts before the old one ends.
                "max_surge_percent": 100,
                "health_check_period_s": 2.0,
                # Serve would format a line for each request even if no handler writes it.
                "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
                **waits,
            }
        ],
    }


def _autoscaling(section: Serve) -> dict[str, Any]:
    """Builds the autoscaling part, with metrics that arrive at least twice in a look-back period.

    Serve's default interval of 10 s may be longer than the whole period.
    """
    config = section.autoscaling_config
    return {**config.model_dump(), "metrics_interval_s": min(1.0, config.look_back_period_s / 2)}


def find_in(applications: list[Application], name: str) -> Application | None:
    """Finds the application of a model in a list; None if there is none.

    Raises:
        ServeError: Another application, not of raydc, has that name.
    """
    for application in applications:
        if application["name"] == name:
            # Replacing it would take down what somebody else serves.
            if application["import_path"] != IMPORT_PATH:
                raise ServeError(
                    f"Ray Serve runs an application {name!r} that is not raydc's",
                    "Choose another `name` in the spec.",
                )
            return application
    return None


def find_application(model: str) -> Application | None:
    """Finds the application of a model on the connected Ray; None if there is none.

    Raises:
        ServeError: Another application, not of raydc, has that name.
    """
    return find_in(serve_client.applications(), model)


def read_settings(application: Application) -> Settings:
    """Reads the settings of an application's replicas."""
    return Settings.model_validate(application["deployments"][0]["user_config"])


def replace_settings(application: Application, settings: Settings) -> Application:
    """Returns the same application with other settings for its replicas."""
    deployment = {**application["deployments"][0], "user_config": settings.model_dump(mode="json")}
    return {**application, "deployments": [deployment]}


def choose_route_prefix(applications: list[Application], name: str) -> str:
    """Chooses the path of a new endpoint: `/` for the first model, then `/<name>`."""
    return f"/{name}" if any(one.get("route_prefix", "/") == "/" for one in applications) else "/"


def remove(model: str | None = None) -> None:
    """Takes down the endpoint of a model, or with None every endpoint of raydc.

    Serve itself is shut down if no application is left.
    """
    from ray import serve

    applications = serve_client.applications()
    kept = [
        one
        for one in applications
        if one["import_path"] != IMPORT_PATH or model not in (None, one["name"])
    ]
    # Serve removes the applications that a declaration leaves out.
    if kept:
        serve_client.apply(kept)
    elif applications:
        serve.shutdown()


def listen(section: Serve) -> tuple[str, int]:
    """Starts Serve, or checks that a running one listens where the spec says.

    Args:
        section: Section `serve` of the spec, for the host and the port.

    Returns:
        Host and port.

    Raises:
        ServeError: The port is taken, or Serve listens elsewhere already.
    """
    host, port = serve_client.start(
        section.host,
        section.port or serve_environment.free_port(section.host),
        edits_haproxy=section.direct == "auto",
    )
    # All names of the loopback mean the same place.
    same_host = section.host == host or {section.host, host} <= _LOOPBACK
    if section.port not in (0, port) or not same_host:
        names = [one["name"] for one in serve_client.applications()]
        # Serve itself ends with its last application.
        end = (
            f"take down what it serves ({', '.join(names)}) with `raydc stop SPEC` or "
            "`raydc stop --all`"
            if names
            else "end that Serve with `serve shutdown`"
        )
        raise ServeError(
            f"Ray Serve listens on {host}:{port} already, and it cannot change; the spec says "
            f"{section.host}:{section.port}",
            f"Set serve.host to {host} and serve.port to {port} or 0, and both models share that "
            f"address; or {end}.",
        )
    return host, port


def application_url(application: Application) -> str:
    """Returns the address of a running application. Raises ServeError if Serve is not running."""
    return endpoint_url(*serve_client.address(), application["route_prefix"])


def endpoint_url(host: str, port: int, route_prefix: str) -> str:
    """Builds the address that clients use.

    Args:
        host: Host that Serve listens on; a wildcard address becomes that of the head.
        port: Port that Serve listens on.
        route_prefix: Path of the endpoint, such as `/`.
    """
    # Clients cannot connect to the wildcard address; other hosts reach the address of the head.
    shown = engine.head_address() if host in ("0.0.0.0", "::") else host
    # An IPv6 address needs brackets in a URL.
    netloc = f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
    return f"http://{netloc}{route_prefix.rstrip('/')}"
