"""From a YAML file and `--set` overrides to a `Spec`, or to all of its problems at once."""

from __future__ import annotations

import copy
import os
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from raydc.errors import Problem, SpecError, UsageError, close_names, did_you_mean
from raydc.spec import document as yaml_document
from raydc.spec import relations, resolved, sections
from raydc.spec.document import Document, Path
from raydc.spec.resolved import ResolvedSpec
from raydc.spec.sections import IdxFiles, Sources, Spec

AnySpec = TypeVar("AnySpec", bound=Spec)


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Spec:
    """Reads a spec file.

    Args:
        path: The YAML file.
        overrides: `path=value` each, as `--set` takes them; the value is YAML.

    Raises:
        UsageError: The file cannot be read, or an override has no `=`.
        SpecError: Everything that is wrong with the content, each with its place.
    """
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error.reason}"
        raise UsageError(
            f"spec file {os.fspath(path)}: {reason}", "Give the path of a YAML file."
        ) from error
    return loads(text, os.fspath(path), overrides)


def loads(text: str, name: str = "spec.yaml", overrides: Sequence[str] = ()) -> Spec:
    """Like `load`, from text. `name` is how messages call the file."""
    document = yaml_document.parse(text, name)
    sources = _apply_overrides(document, overrides)
    return validate(document, sources, Spec)


def from_dict(value: dict[str, Any], name: str = "spec") -> Spec:
    """A spec from plain values, such as a resolved spec that was stored.

    Raises:
        SpecError: As `load`.
    """
    return validate(Document(name, value), {}, Spec)


def with_values(spec: AnySpec, values: dict[str, Any]) -> AnySpec:
    """Copies a spec with some dotted paths set and validates it again, as a sweep does for a trial.

    Args:
        spec: A spec, resolved or not; the copy is of the same class.
        values: New values by dotted path, such as `train.learning_rate`.

    Raises:
        SpecError: A value that the spec does not allow, named by its path.
    """
    document = Document("trial", copy.deepcopy(to_dict(spec)))
    for path, value in values.items():
        _set(document.value, path.split("."), value)
    return validate(document, {}, type(spec))


def to_dict(spec: Spec) -> dict[str, Any]:
    """Plain values, without the fields that were left at None."""
    return spec.model_dump(mode="json", exclude_none=True)


def validate(document: Document, override_places: dict[Path, str], kind: type[AnySpec]) -> AnySpec:
    """Checks a parsed document against the sections and their relations.

    Args:
        document: The parsed file or values.
        override_places: How messages name the paths that `--set` gave.
        kind: `Spec` or `ResolvedSpec`.

    Raises:
        SpecError: All problems, in the order of the file.
    """

    def where(path: Path) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in override_places:
                return override_places[path[:length]]
        return document.where(path) if document.places else document.name

    try:
        spec = kind.model_validate(document.value)
    except ValidationError as error:
        problems = [_problem(item, document, where) for item in error.errors()]
        problems += _space_path_problems(document.value, where)
        raise SpecError(_in_order(problems, document)) from error
    problems = [*relations.problems(spec, where), *_space_problems(spec, where)]
    if problems:
        raise SpecError(_in_order(problems, document))
    return spec


def _in_order(problems: list[Problem], document: Document) -> list[Problem]:
    def key(problem: Problem) -> tuple[int, ...]:
        numbers = problem.where.removeprefix(document.name).strip(":").split(":")
        return tuple(int(n) for n in numbers if n.isdigit())

    return sorted(dict.fromkeys(problems), key=key)


def _apply_overrides(document: Document, overrides: Sequence[str]) -> dict[Path, str]:
    places: dict[Path, str] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise UsageError(
                f"--set {override}: not of the form path=value", "Example: --set train.epochs=3"
            )
        value = yaml_document.parse_value(text, f"--set {override}")
        parts = dotted.strip().split(".")
        _set(document.value, parts, value)
        places[tuple(parts)] = f"--set {override}"
    return places


def _set(value: dict[str, Any], parts: list[str], new: Any) -> None:
    for part in parts[:-1]:
        inner = value.get(part)
        if isinstance(inner, str) and part in ("optimizer", "lr_scheduler", "scheduler"):
            inner = {"name": inner}
        if not isinstance(inner, dict):
            inner = {}
        value[part] = inner
        value = inner
    value[parts[-1]] = new


# Problems of single fields ---------------------------------------------------------------------------


def _problem(item: Any, document: Document, where: Any) -> Problem:
    path = _document_path(item["loc"], document.value)
    if item["type"] == "missing":
        missing = ".".join(str(part) for part in (*path, item["loc"][-1]))
        return Problem(where(path), missing, "required, but not given")
    dotted = ".".join(str(part) for part in path)
    if item["type"] == "extra_forbidden":
        key = str(path[-1])
        known = known_keys(path[:-1], document.value)
        known_text = f"known here: {', '.join(known)}" if known else "no fields are known here"
        advice = did_you_mean(key, known) or known_text
        return Problem(where(path), dotted, f"unknown field; {advice}")
    return Problem(where(path), dotted, _message(item))


def _message(item: Any) -> str:
    text = str(item["msg"]).removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    given = item["input"]
    if isinstance(given, dict | list | BaseModel) or item["type"] == "value_error":
        return text
    return f"{text}, not {given!r}"


def _document_path(location: tuple[Any, ...], value: Any) -> Path:
    """The part of an error's location that stands in the file: names of union members are left out."""
    path: list[str | int] = []
    for part in location:
        in_mapping = isinstance(value, dict) and part in value
        if in_mapping or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            path.append(part)
    return tuple(path)


def known_keys(path: Path, value: Any = None) -> list[str]:
    """Fields that may stand at a path of a spec."""
    models: list[type[BaseModel]] = [Spec]
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
        fields = [
            m.model_fields[str(part)].annotation for m in models if str(part) in m.model_fields
        ]
        if str(part) == "model" and isinstance(value, dict):
            models = [_model_class(value)]
        else:
            models = [model for annotation in fields for model in _models_of(annotation)]
    return sorted({name for model in models for name in model.model_fields})


def _model_class(value: dict[str, Any]) -> type[BaseModel]:
    kinds: dict[str, type[BaseModel]] = {
        "linear": sections.Linear,
        "mlp": sections.Mlp,
        "cnn": sections.Cnn,
        "torchvision": sections.Torchvision,
        "builder": sections.Builder,
    }
    return kinds[sections.model_kind(value)]


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, dict):
        for argument in typing.get_args(annotation):
            yield from _models_of(argument)


# Problems of a search --------------------------------------------------------------------------------


_NOT_SEARCHABLE = ("name", "storage", "sweep", "serve", "scaling", "fault_tolerance", "checkpoint")


def _space_path_problems(value: Any, where: Any) -> Iterator[Problem]:
    """Unknown paths of the space, which do not need a valid spec to be seen."""
    space = value.get("sweep", {}) if isinstance(value, dict) else {}
    space = space.get("space", {}) if isinstance(space, dict) else {}
    for dotted in space if isinstance(space, dict) else ():
        if message := _path_fault(dotted, value):
            yield Problem(where(("sweep", "space", dotted)), f"sweep.space.{dotted}", message)


def _path_fault(dotted: str, value: Any) -> str | None:
    parts = dotted.split(".")
    if parts[0] in _NOT_SEARCHABLE:
        return f"{parts[0]} does not change the model, so it cannot be searched"
    if parts[0] == "data" and parts[1:2] != ["augment"]:
        return "the data set is prepared once for all trials, so it cannot be searched"
    if dotted in ("train.logical_shards", "train.metric", "train.mode"):
        return "it is the same for all trials, so that they can be compared"
    if parts[0] == "model" and len(parts) > 2 and parts[1] == "arguments":
        return None
    known = known_keys(tuple(parts[:-1]), value)
    if parts[-1] in known:
        return None
    close = close_names(parts[-1], known)
    advice = (
        f"did you mean {'.'.join([*parts[:-1], close[0]])}?"
        if close
        else f"known here: {', '.join(known)}"
    )
    return f"no such path in a spec; {advice}"


def _space_problems(spec: Spec, where: Any) -> Iterator[Problem]:
    if spec.sweep is None:
        return
    yield from (found := list(_space_path_problems(to_dict(spec), where)))
    if found:
        return
    for dotted, domain in spec.sweep.space.items():
        place = where(("sweep", "space", dotted))
        for example in domain.examples():
            try:
                with_values(spec.model_copy(update={"sweep": None}), {dotted: example})
            except SpecError as error:
                reason = error.problems[0].message
                yield Problem(
                    place, f"sweep.space.{dotted}", f"{example!r} is not allowed there: {reason}"
                )


# Places on disk --------------------------------------------------------------------------------------


def resolve(spec: Spec) -> ResolvedSpec:
    """Makes local paths absolute and fills in the defaults that depend on other fields.

    Raises:
        SpecError: A default does not fit what was given.
    """
    value = to_dict(spec)
    value["storage"] = absolute(spec.storage)
    value["data"]["source"] = _absolute_source(spec.data.source)
    resolved.fill_in(spec, value)
    return validate(Document("spec", value), {}, ResolvedSpec)


def absolute(path: str) -> str:
    """An absolute path; a URI stays as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _absolute_source(source: str | IdxFiles | Sources) -> Any:
    if isinstance(source, str):
        return absolute(source)
    parts = {name: getattr(source, name) for name in type(source).model_fields}
    return {name: _absolute_source(part) for name, part in parts.items()}
