"""YAML with positions: YAML 1.2 scalars, no duplicate keys, a line and column for every path.

PyYAML's own resolver follows YAML 1.1, in which `1e-3` is a string and `no` is false. ruamel.yaml
reads YAML 1.2 with places too, but would be one more dependency: PyYAML comes with Ray, and its
node tree holds the place of every value. Pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from raydc.errors import Problem, SpecError

Path = tuple[str | int, ...]

# The core schema, YAML 1.2.2 section 10.3.2: one expression for each type.
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_INFINITY = re.compile(r"^([-+]?)\.(?:inf|Inf|INF)$")
# Text that needs no quotes, if it is not a number or boolean in some version of YAML.
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
_YAML_1_1_BOOL = ("y", "n", "yes", "no", "on", "off")
_NAN = re.compile(r"^\.(?:nan|NaN|NAN)$")


@dataclass
class Document:
    """A parsed file.

    Attributes:
        name: How messages name the file.
        value: Plain values: mappings, lists and scalars.
        places: Line and column of each path, both counted from 1.
    """

    name: str
    value: Any
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """Returns `file:line:column` of a path, or of its nearest ancestor in the file."""
        # A missing or an extra field has no place of its own in the file.
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (1, 1))
        return f"{self.name}:{line}:{column}"


def scalar(text: str) -> Any:
    """Converts a plain (unquoted) scalar by the core schema of YAML 1.2."""
    if _NULL.match(text):
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.match(text):
        # Base 0 would refuse a decimal number with leading zeros, which YAML 1.2 allows.
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.match(text):
        return float(text)
    if sign := _INFINITY.match(text):
        return -math.inf if sign[1] == "-" else math.inf
    if _NAN.match(text):
        return math.nan
    return text


def quote(text: str) -> str:
    """Writes text as a scalar that is read as this text, by `parse` and by readers of YAML 1.1."""
    if _PLAIN.fullmatch(text) and scalar(text) == text and text.lower() not in _YAML_1_1_BOOL:
        return text
    # Between single quotes a line break would stay one.
    style = "'" if text.isprintable() else '"'
    quoted: str = yaml.safe_dump(text, default_style=style, allow_unicode=True, width=math.inf)
    return quoted.rstrip("\n")


def parse(text: str, name: str) -> Document:
    """Parses one YAML document.

    Args:
        text: Content of the YAML file.
        name: Name of the file in messages.

    Raises:
        SpecError: Broken syntax, more than one document, duplicate or non-string keys, an unknown
            tag, or a top level that is not a mapping.
    """
    document = Document(name, None)
    problems: list[Problem] = []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise SpecError(
            [Problem(where, "", f"not YAML: {error.problem or error.context}")]
        ) from error
    except yaml.YAMLError as error:
        raise SpecError([Problem(name, "", f"not YAML: {error}")]) from error
    if not isinstance(node, yaml.MappingNode):
        what = "empty" if node is None else "not a mapping of sections (name, data, model, ...)"
        raise SpecError([Problem(f"{name}:1:1", "", f"the file is {what}")])
    document.value = _construct(node, (), document, problems, frozenset())
    if problems:
        raise SpecError(problems)
    return document


def parse_value(text: str, name: str) -> Any:
    """Parses the value after `--set path=`: any YAML value, a plain string included.

    Args:
        text: The text after the equals sign.
        name: Origin of the text in messages, such as `--set train.epochs=x`.

    Raises:
        SpecError: Broken YAML.
    """
    document = Document(name, None)
    problems: list[Problem] = []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SpecError([Problem(name, "", f"{text!r} is not YAML")]) from error
    value = None if node is None else _construct(node, (), document, problems, frozenset())
    if problems:
        raise SpecError([Problem(name, "", problem.message) for problem in problems])
    return value


def _construct(
    node: yaml.Node,
    path: Path,
    document: Document,
    problems: list[Problem],
    open_nodes: frozenset[int],
) -> Any:
    mark = node.start_mark
    # A key has set the place of its value already: messages point at the key.
    document.places.setdefault(path, (mark.line + 1, mark.column + 1))
    # An anchor may contain its own alias, which would recurse without end.
    if id(node) in open_nodes:
        problems.append(Problem(document.where(path), "", "an alias that contains itself"))
        return None
    # A new set for each branch: two aliases of one anchor next to each other are fine.
    open_nodes |= {id(node)}
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(v, (*path, i), document, problems, open_nodes)
            for i, v in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, path, document, problems, open_nodes)
    # Quoted scalars are strings whatever they look like.
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if is_plain and not _has_explicit_tag(node):
        return scalar(node.value)
    if is_plain:
        problems.append(Problem(document.where(path), "", f"tags are not supported: {node.tag}"))
    return node.value


def _has_explicit_tag(node: yaml.Node) -> bool:
    # PyYAML resolves implicit tags by YAML 1.1; it cannot have guessed any other tag.
    guessed = {"null", "bool", "int", "float", "str", "timestamp", "merge", "value"}
    prefix, _, kind = node.tag.rpartition(":")
    return prefix != "tag:yaml.org,2002" or kind not in guessed


def _construct_mapping(
    node: yaml.MappingNode,
    path: Path,
    document: Document,
    problems: list[Problem],
    open_nodes: frozenset[int],
) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
        place = f"{document.name}:{line}:{column}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(
                Problem(place, "", "a key must be a plain word, not a list or a mapping")
            )
            continue
        key = key_node.value
        dotted = ".".join(str(part) for part in (*path, key))
        # PyYAML would silently keep the last one.
        if key in value:
            first = document.where((*path, key))
            problems.append(Problem(place, dotted, f"given twice; the first is at {first}"))
            continue
        # The place of a value is that of its key: what the reader of a message looks for.
        document.places[(*path, key)] = (line, column)
        value[key] = _construct(value_node, (*path, key), document, problems, open_nodes)
    return value
