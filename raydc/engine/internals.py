"""Access to the private names of Ray that raydc uses. Runs in every process that imports Ray.

A name is imported when it is needed: `internals.TrainController`. A Ray that has moved one of them
is refused with the name that is missing, instead of failing somewhere in the middle of a run. The
names are in `private_names`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

from raydc.engine import late_workers, private_names
from raydc.engine.direct_support import TESTED_VERSIONS
from raydc.engine.private_names import Attributes, Names
from raydc.errors import ClusterError

_HOME = {
    name: module
    for table in (private_names.NAMES, private_names.DIRECT_NAMES)
    for module, names in table.items()
    for name in names
    if "." not in name
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"raydc uses no {name} of Ray; add it to `private_names`")
    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except (ImportError, AttributeError) as error:
        raise _refusal([f"{_HOME[name]}.{name} is missing"]) from error


def check() -> None:
    """Compares the installed Ray with the tables; takes seconds, because it imports most of Ray.

    Raises:
        ClusterError: Names that are missing or have different parameters. Those that only the
            direct path of an endpoint needs are not among them: see `direct_differences`.
    """
    if found := list(_differences(private_names.NAMES, private_names.ATTRIBUTES)):
        raise _refusal(found)


def check_untested() -> None:
    """Runs `check` if the installed Ray is not a tested version. Raises ClusterError."""
    import ray

    if ".".join(ray.__version__.split(".")[:2]) not in TESTED_VERSIONS["ray"]:
        check()


def direct_differences() -> list[str]:
    """What is missing or different of the names that the direct path of an endpoint needs."""
    return list(_differences(private_names.DIRECT_NAMES, private_names.DIRECT_ATTRIBUTES))


def attributes_of(class_name: str) -> tuple[str, ...]:
    """Instance attributes of a class of Ray Serve that the direct path needs."""
    return next(
        attributes
        for home, attributes in private_names.DIRECT_ATTRIBUTES.items()
        if home.endswith(f":{class_name}")
    )


def _differences(names: Names, attributes: Attributes) -> Iterator[str]:
    for module, parameters_by_name in names.items():
        for name, parameters in parameters_by_name.items():
            yield from _name_differences(module, name, parameters)
    for home, wanted in attributes.items():
        module, _, class_name = home.partition(":")
        yield from _attribute_differences(module, class_name, wanted)


def _find(module: str, path: str) -> Any:
    """The object behind a dotted path in a module. Raises ImportError or AttributeError."""
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _name_differences(
    module: str, name: str, parameters: private_names.Parameters
) -> Iterator[str]:
    try:
        used = _find(module, name)
    except ImportError as error:
        yield f"{module} cannot be imported: {error}"
        return
    except AttributeError:
        yield f"{module}.{name} is missing"
        return
    if parameters is None:
        return
    known = inspect.signature(used).parameters
    missing = [parameter for parameter in parameters if parameter not in known]
    # A new parameter without a default would make every call of raydc an error.
    required = [
        parameter.name
        for parameter in known.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in parameters
    ]
    if missing or required:
        yield f"{module}.{name} takes {tuple(known)}, not {parameters}"


def _attribute_differences(module: str, name: str, attributes: tuple[str, ...]) -> Iterator[str]:
    try:
        used = _find(module, name)
    except (ImportError, AttributeError) as error:
        yield f"{module}.{name} is missing: {error}"
        return
    known = set().union(*(_assigned_attributes(one) for one in used.__mro__))
    for attribute in attributes:
        if not hasattr(used, attribute) and attribute not in known:
            yield f"{module}.{name} has no attribute {attribute}"


def _assigned_attributes(one: type) -> set[str]:
    """Attributes that instances of a class get: its annotated fields, and all that methods assign.

    Most are assigned in a constructor, so only the source shows them without an instance.
    """
    found = set(inspect.get_annotations(one))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    except (OSError, TypeError):  # Built in, or made by a decorator.
        return found
    return found | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _refusal(found: list[str]) -> ClusterError:
    import ray

    versions = TESTED_VERSIONS["ray"]
    return ClusterError(
        f"raydc is built for Ray {' and '.join(versions)}, and Ray {ray.__version__} differs:\n    "
        + "\n    ".join(found),
        f"Install a tested one with `pip install 'ray=={versions[-1]}.*'`.",
    )


def never_start_by_itself() -> None:
    """Makes a call to Ray before `ray.init` an error; by default it would start another Ray."""
    importlib.import_module("ray._private.auto_init_hook").enable_auto_connect = False  # type: ignore[attr-defined]


def end_serve_thread(timeout_s: float) -> bool:
    """Ends the thread that Serve's handles use in this process; it would outlive Ray itself.

    It measures its own delays in native code, and a process that exits meanwhile may crash.
    Handles that exist stop working; later ones get a new thread.

    Args:
        timeout_s: How long to wait for its end.

    Returns:
        False if it has not ended in time.
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
    # The thread belongs to Ray, and no object of it can be joined.
    while loop.is_running() and time.monotonic() < deadline:
        time.sleep(0.005)
    router._asyncio_loop = None
    return not loop.is_running()


def draining_nodes() -> dict[str, int]:
    """Nodes that are draining: node id to the deadline in ms since the epoch, 0 without one."""
    return dict(__getattr__("state").get_draining_nodes() or {})


def is_own_ray() -> bool:
    """Whether this process started the Ray that it uses."""
    node = __getattr__("_global_node")
    return node is not None and bool(node.is_head())


def dead_processes() -> list[str]:
    """Processes without which the Ray of this process is lost, and which have ended."""
    node = __getattr__("_global_node")
    if node is None:
        return []
    return [
        f"{kind} (exit code {process.returncode})"
        for kind, process in node.dead_processes()
        if kind in ("raylet", "gcs_server")
    ]


@contextlib.contextmanager
def keeping_sigterm_handler() -> Iterator[None]:
    """Keeps Ray from replacing the handler of SIGTERM in the block.

    Its start does so twice, and its handlers end the process as a model's `sys.exit` would.
    """
    utils = importlib.import_module("ray._private.utils")
    replace = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda sigterm_handler: None  # type: ignore[attr-defined]  # noqa: ARG005
    try:
        yield
    finally:
        utils.set_sigterm_handler = replace  # type: ignore[attr-defined]


def end_own_ray_at_once() -> None:
    """Lets the Ray of this process end without a wait of a second for each of its processes.

    They were started with SIGTERM blocked, by which Ray would ask them first.
    """
    node = __getattr__("_global_node")
    kill, session = node.kill_all_processes, os.path.basename(session_folder())

    def kill_all_processes(**_given: Any) -> None:
        workers = late_workers.find_workers()
        kill(check_alive=False, allow_graceful=False)
        # The raylet is gone, so no further one starts.
        late_workers.end_late_workers(session, workers)

    node.kill_all_processes = kill_all_processes


def session_folder() -> str:
    """Folder of this Ray's session on this node. Only the user of that Ray writes there."""
    return str(__getattr__("_global_node").get_session_dir_path())


def class_name(actor: Any) -> str:
    """Name of an actor's class, from its handle."""
    return str(actor._ray_actor_creation_function_descriptor.class_name)


def serve_client() -> Any:
    """The client of the Serve controller that this process knows or finds, or None."""
    return __getattr__("_get_global_client")(raise_if_no_controller_running=False)


def forget_serve_client() -> None:
    """Makes the next `serve_client` look for a controller again."""
    __getattr__("_set_global_client")(None)


def ask_serve_controller(client: Any, method: str) -> Any:
    """Calls a method of the Serve controller.

    Args:
        client: What `serve_client` returned.
        method: Name of a method of the controller, which is called without arguments.

    Returns:
        A reference to the result.
    """
    return getattr(client._controller, method).remote()
