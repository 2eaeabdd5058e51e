"""The version that a request in OpenAI's format names in its body. Runs in the replica."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from raydc.bundle.shared_base import BASE
from raydc.errors import RaydcError
from raydc.serve.http.authentication import require_right
from raydc.serve.http.request import JSON, OPENAI, Request
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.adapter_lookup import Aside
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.replica.service import Service

logger = logging.getLogger("ray.serve")

# What a model of rows answers, if it is an encoder of texts.
_OF_ENCODERS = ("models", "embeddings")


async def find_adapter(
    service: Service,
    request: Request,
    loaded: LoadedVersion,
    name: str,
    aside: Aside = nullcontext,
) -> LoadedVersion:
    """The version that a name means, as `find_named` does; adapters are loaded if need be.

    Args:
        service: Holds the versions.
        request: Request that names it; notes it if it is another one.
        loaded: Version that was chosen for the request.
        name: What the body says.
        aside: Makes a context for the wait; see `LoadedAdapters.load`.

    Raises:
        RequestError: 404 if it does not answer or cannot be loaded; 403 without the right to a
            version beside the stable one; 503 if the storage does not answer.
    """
    model, _, version = name.partition(":")
    if model != loaded.settings.model or not version:
        return find_named(service, request, loaded, name)
    with _as_answers(model, version):
        found = await service.find_adapter(version, aside)
    return _require_allowed(service, request, loaded, name, found)


async def require_named(
    service: Service, request: Request, loaded: LoadedVersion, name: str
) -> None:
    """Refuses a name that no request may give; loads nothing.

    Args:
        service: Holds the versions.
        request: Request that asks for the name.
        loaded: Version that was chosen for the request.
        name: A model, or `model:version`.

    Raises:
        RequestError: As `find_adapter`.
    """
    model, _, version = name.partition(":")
    is_version = model == loaded.settings.model and version.isdecimal() and len(version) <= 18
    if is_version and service.find(version) is None:
        with _as_answers(model, version):
            if await service.adapters.is_loadable(int(version)):
                return
    find_named(service, request, loaded, name)


@contextmanager
def _as_answers(model: str, version: str) -> Iterator[None]:
    """Turns errors of a version that cannot be loaded into those of a request."""
    try:
        yield
    except RaydcError as error:
        raise RequestError(404, error.message, param="model", code="model_not_found") from error
    except OSError as error:
        logger.error("version %s of %s cannot be read: %s", version, model, error)
        message = f"version {version} cannot be loaded: the storage does not answer; try again"
        raise RequestError(503, message, {"retry-after": "5"}) from error


def find_named(
    service: Service, request: Request, loaded: LoadedVersion, name: str
) -> LoadedVersion:
    """The version that a name means: the chosen one, or `model:version`.

    Args:
        service: Holds the versions.
        request: Request that names it; notes it if it is another one.
        loaded: Version that was chosen for the request.
        name: What the body says.

    Raises:
        RequestError: 404 if it does not answer; 403 without the right to a version beside the
            stable one.
    """
    model, _, version = name.partition(":")
    found = loaded if name == loaded.settings.model else service.find(version)
    return _require_allowed(
        service, request, loaded, name, found if model == loaded.settings.model else None
    )


def _require_allowed(
    service: Service,
    request: Request,
    loaded: LoadedVersion,
    name: str,
    found: LoadedVersion | None,
) -> LoadedVersion:
    if found is None or found.kind != loaded.kind:
        raise RequestError(
            404,
            f"no model {name[:200]!r}; this endpoint serves {loaded.settings.model!r}",
            param="model",
            code="model_not_found",
        )
    stable = service.current
    is_public = (
        found is loaded
        or (stable is not None and found.number == stable.number)
        or _is_adapter(service, found)
    )
    if not is_public and request.access is not None:
        require_right(request.access, "promote")
    if found is not loaded:
        request.answered_by = found
    return found


def _is_adapter(service: Service, loaded: LoadedVersion) -> bool:
    """Whether any request may name a version, because it has the base of the stable one."""
    settings, stable = service.settings, service.current
    base = loaded.bundle.facts.get(BASE)
    if settings is None or stable is None or not settings.num_adapters or base is None:
        return False
    return bool(base == stable.bundle.facts.get(BASE))


def require_path(loaded: LoadedVersion, rest: list[str]) -> None:
    """Refuses paths that a model of rows does not have.

    Args:
        loaded: Version that was chosen, a model of rows.
        rest: Segments of the path behind `v1`.

    Raises:
        RequestError: 404.
    """
    if loaded.embedder is None:
        raise RequestError(
            404,
            f"{loaded.settings.model!r} predicts rows and continues no texts; it answers at "
            "/predict",
        )
    if not rest or rest[0] not in _OF_ENCODERS:
        raise RequestError(
            404,
            f"{loaded.settings.model!r} is an encoder of texts; it answers at /predict and "
            f"/{OPENAI}/embeddings",
        )


def require_json(request: Request) -> None:
    """Raises RequestError 415 for a body that is not JSON."""
    content_type = request.header(b"content-type").partition(";")[0].strip().lower()
    if content_type != JSON.decode():
        raise RequestError(415, f"content-type is {content_type[:80]!r}; send application/json")
