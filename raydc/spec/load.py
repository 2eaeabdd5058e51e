"""Loads a spec: from a YAML file and `--set` overrides to a `Spec`, or to all its problems at once.

Runs in the driver for a user's file, and in any process for a spec that was stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from raydc.errors import Problem, RaydcError, SpecError, UsageError, did_you_mean
from raydc.spec import document as yaml_document
from raydc.spec import relations, resolved, search_space, weights_path, written_checks
from raydc.spec.document import Document, Path
from raydc.spec.known_fields import known_keys
from raydc.spec.resolved import ResolvedSpec
from raydc.spec.row_sources import (
    HuggingFaceRows,
    RowFunction,
    RowSource,
    SqlQuery,
    TorchvisionRows,
)
from raydc.spec.sections import IdxFiles, Sources, Spec, model_kind

AnySpec = TypeVar("AnySpec", bound=Spec)


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Spec:
    """Reads a spec file.

    Args:
        path: Path of the YAML file.
        overrides: `path=value` each, as `--set` takes them; each value is YAML.

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
    """Reads a spec from text.

    Args:
        text: The spec as YAML.
        name: Name of the origin in messages, such as a file name.
        overrides: `path=value` each, as `--set` takes them.

    Raises:
        UsageError: An override has no `=`.
        SpecError: Everything that is wrong with the content, each with its place.
    """
    document = yaml_document.parse(text, name)
    sources = _apply_overrides(document, overrides)
    return validate(document, sources, Spec, is_written=True)


def add_places(
    error: SpecError, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> SpecError:
    """Gives problems that were found after loading the places of their fields.

    A model that does not fit the data, for example, is known by its field only.

    Args:
        error: The error; problems that have a place keep it.
        path: Path of the YAML file.
        overrides: `path=value` each, as `--set` takes them.

    Returns:
        A copy with places; the error itself if the file cannot be read any more.
    """
    try:
        document = yaml_document.parse(FilePath(path).read_text(encoding="utf-8"), os.fspath(path))
        sources = _apply_overrides(document, overrides)
    except (OSError, UnicodeDecodeError, RaydcError):
        return error
    return SpecError(
        [
            replace(one, where=_find_place((*one.path.split("."),), document, sources))
            if one.path and not one.where
            else one
            for one in error.problems
        ]
    )


def _find_place(path: Path, document: Document, override_places: dict[Path, str]) -> str:
    # The longest override wins: `--set train={...}` places every field below it.
    for length in range(len(path), 0, -1):
        if path[:length] in override_places:
            return override_places[path[:length]]
    return document.where(path) if document.places else document.name


def from_dict(value: dict[str, Any], name: str = "spec") -> Spec:
    """Makes a spec from plain values, such as a resolved spec that was stored.

    Args:
        value: Sections by name, as nested mappings.
        name: Name of the origin of the values in messages.

    Raises:
        SpecError: Everything that is wrong with the values.
    """
    return validate(Document(name, value), {}, Spec)


def with_defaults(before: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved spec that was stored, with the defaults of fields that are newer than it.

    A new field's default is what raydc did before the field, so it does not change the run. A spec
    that this raydc cannot read stays as it is: then a comparison names what it does not know.
    """
    try:
        return to_dict(resolve(from_dict(dict(before))))
    except SpecError:
        return dict(before)


def with_values(spec: AnySpec, values: dict[str, Any]) -> AnySpec:
    """Copies a spec with some dotted paths set and validates it again, as a sweep does for a trial.

    Args:
        spec: A spec, resolved or not; the copy is of the same class.
        values: New values by dotted path, such as `train.learning_rate`.

    Raises:
        SpecError: A value that the spec does not allow, named by its path.
    """
    document = Document("trial", to_dict(spec))
    # Validated like a file: a trial is checked as strictly as what a user writes.
    for path, value in values.items():
        _set(document.value, path.split("."), value)
    return validate(document, {}, type(spec))


def to_dict(spec: Spec) -> dict[str, Any]:
    """Converts a spec to plain values, without the fields that are None."""
    # Without None, a new optional field leaves the hash of an old spec as it was.
    return spec.model_dump(mode="json", exclude_none=True)


def validate(
    document: Document,
    override_places: dict[Path, str],
    kind: type[AnySpec],
    is_written: bool = False,
) -> AnySpec:
    """Checks a parsed document against the sections and their relations.

    Args:
        document: The parsed file or values, with the place of each field.
        override_places: Name of the origin in messages for each path that `--set` gave.
        kind: Class to validate as: `Spec`, or `ResolvedSpec`, in which no default may be missing.
        is_written: Whether a user wrote it, so that options which nothing reads are refused.

    Raises:
        SpecError: All problems, in the order of the file.
    """

    def where(path: Path) -> str:
        return _find_place(path, document, override_places)

    try:
        spec = kind.model_validate(document.value)
    except ValidationError as error:
        problems = [_problem(item, document, where) for item in error.errors()]
        problems += search_space.path_problems(document.value, where)
        raise SpecError(_in_order(problems, document)) from error
    problems = [*relations.problems(spec, where)]
    if is_written:
        problems += written_checks.written_problems(spec, where)
    # A path that does not exist would fail again, less clearly, as soon as a trial sets it.
    problems += list(search_space.path_problems(document.value, where)) or list(
        search_space.domain_problems(spec, where, with_values)
    )
    if problems:
        raise SpecError(_in_order(problems, document))
    return spec


def _in_order(problems: list[Problem], document: Document) -> list[Problem]:
    # By line and column of the file; problems of `--set` have no numbers and come first.
    def key(problem: Problem) -> tuple[int, ...]:
        numbers = problem.where.removeprefix(document.name).strip(":").split(":")
        return tuple(int(n) for n in numbers if n.isdigit())

    # Without the names of union members, errors of two members may be the same problem.
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
    # Missing sections are created, so that `--set` can add an optional one.
    for part in parts[:-1]:
        inner = value.get(part)
        # These sections have a short form that is only a name.
        if isinstance(inner, str) and part in ("optimizer", "lr_scheduler", "scheduler"):
            inner = {"name": inner}
        if not isinstance(inner, dict):
            inner = {}
        value[part] = inner
        value = inner
    value[parts[-1]] = new


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
    # The message follows a path and a colon, so it starts with a small letter.
    text = text[:1].lower() + text[1:]
    given = item["input"]
    # A whole section would drown the message; validators of our own name their values.
    if isinstance(given, dict | list | BaseModel) or item["type"] == "value_error":
        return text
    return f"{text}, not {given!r}"


def _document_path(location: tuple[Any, ...], value: Any) -> Path:
    """Returns the part of an error's location that is in the file, without union member names."""
    path: list[str | int] = []
    model = value.get("model") if isinstance(value, dict) else None
    # The name of a kind of model may be that of a field as well, such as `builder`.
    if location[:2] == ("model", model_kind(model)):
        location = (*location[:1], *location[2:])
    for part in location:
        # The names of union members are not keys of the file, so they fall out here.
        in_mapping = isinstance(value, dict) and part in value
        if in_mapping or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            path.append(part)
    return tuple(path)


def resolve(spec: Spec) -> ResolvedSpec:
    """Makes local paths absolute and fills in the defaults that depend on other fields.

    Raises:
        SpecError: A default does not fit what was given.
    """
    # Other nodes and later commands start in other directories.
    value = to_dict(spec)
    value["storage"] = absolute(spec.storage)
    value["data"]["source"] = _absolute_source(spec.data.source)
    for join in value["data"].get("joins", ()):
        join["path"] = absolute(join["path"])
    given = spec.model.weights_file
    weights_path.fill_in(value["model"], None if given is None else absolute(given))
    if spec.data.features.text.tokenizer is not None:
        value["data"]["features"]["text"]["tokenizer"] = absolute(spec.data.features.text.tokenizer)
    resolved.fill_in(spec, value)
    return validate(Document("spec", value), {}, ResolvedSpec)


def absolute(path: str) -> str:
    """Makes a local path absolute; a URI stays as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _absolute_source(source: str | IdxFiles | Sources | RowSource) -> Any:
    if isinstance(source, str):
        return absolute(source)
    if isinstance(source, SqlQuery) and source.connection.startswith("sqlite:///"):
        path = absolute(source.connection.removeprefix("sqlite:///"))
        return {**source.model_dump(), "connection": f"sqlite:///{path}"}
    if isinstance(source, TorchvisionRows):
        return {**source.model_dump(), "folder": absolute(source.folder)}
    if isinstance(source, HuggingFaceRows):
        # A name on the hub looks like a path, too.
        path = absolute(source.huggingface)
        named = {"huggingface": path} if os.path.isdir(path) else {}
        return {**source.model_dump(), **named}
    if isinstance(source, SqlQuery | RowFunction):
        return source.model_dump()
    parts = {name: getattr(source, name) for name in type(source).model_fields}
    return {name: _absolute_source(part) for name, part in parts.items()}
