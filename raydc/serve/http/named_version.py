"""The version that a request in OpenAI's format names in its body. Runs in the replica."""

from __future__ import annotations

from raydc.errors import RaydcError
from raydc.serve.http.authentication import require_right
from raydc.serve.http.request import JSON, OPENAI, Request
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.replica.service import Service

# What a model of rows answers, if it is an encoder of texts.
_OF_ENCODERS = ("models", "embeddings")


async def find_adapter(
    service: Service, request: Request, loaded: LoadedVersion, name: str
) -> LoadedVersion:
    """The version that a name means, as `find_named` does; adapters are loaded if need be.

    Args:
        service: Holds the versions.
        request: Request that names it; notes it if it is another one.
        loaded: Version that was chosen for the request.
        name: What the body says.

    Raises:
        RequestError: 404 if it does not answer or cannot be loaded; 403 without the right to a
            version beside the stable one.
    """
    model, _, version = name.partition(":")
    if model == loaded.settings.model and version:
        try:
            await service.find_adapter(version)
        except RaydcError as error:
            raise RequestError(404, error.message, param="model", code="model_not_found") from error
    return find_named(service, request, loaded, name)


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
    if model != loaded.settings.model or found is None or found.kind != loaded.kind:
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
        or any(found is one for one in service.adapters.loaded)
    )
    if not is_public and request.access is not None:
        require_right(request.access, "promote")
    if found is not loaded:
        request.answered_by = found
    return found


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
