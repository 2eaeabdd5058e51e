"""Writes docs/spec.md, the reference of the spec, from the classes that check it.

python docs/generate.py            write the file
python docs/generate.py --check    exit with 1 where the file is not what would be written
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raydc.spec.sections import Spec

TARGET = Path(__file__).with_name("spec.md")
HEAD = """\
# The spec

Generated from `raydc/spec` by `make docs`; do not edit. `raydc schema` prints the same as JSON Schema, for editors.
Unknown keys are errors. `--set path=value` overrides any field. Scalars are those of YAML 1.2.
"""


def main() -> int:
    text = render()
    if "--check" in sys.argv:
        return int(TARGET.read_text() != text)
    TARGET.write_text(text)
    return 0


def render() -> str:
    schema = Spec.model_json_schema()
    definitions = schema["$defs"]
    parts = [HEAD, section("The file", schema, definitions)]
    parts += [
        section(name, definitions[name], definitions) for name in in_order(schema, definitions)
    ]
    return "\n".join(parts)


def in_order(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Definitions in the order in which a reader meets them."""
    found: list[str] = []

    def visit(value: dict[str, Any]) -> None:
        for name in references(value.get("properties", {})):
            if name not in found:
                found.append(name)
                visit(definitions[name])

    visit(schema)
    return found


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"].rpartition("/")[2]] if "$ref" in value else []
        return own + [
            name
            for key, inner in value.items()
            if key != "discriminator"
            for name in references(inner)
        ]
    if isinstance(value, list):
        return [name for inner in value for name in references(inner)]
    return []


def section(title: str, definition: dict[str, Any], definitions: dict[str, Any]) -> str:
    lines = [
        f"## {title}",
        "",
        definition.get("description", ""),
        "",
        "| field | type | default | meaning |",
    ]
    lines.append("|---|---|---|---|")
    required = definition.get("required", [])
    for name, field in definition.get("properties", {}).items():
        default = "required" if name in required else shown_default(field)
        meaning = field.get("description") or meaning_of_reference(field, definitions)
        cells = (f"`{name}`", type_of(field), default, meaning)
        lines.append(
            "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
        )
    return "\n".join([*lines, ""])


def meaning_of_reference(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    names = references(field)
    return definitions[names[0]].get("description", "") if len(names) == 1 else ""


def shown_default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if isinstance(default, dict):
        return "its defaults"
    return "" if default is None else f"`{json.dumps(default)}`"


def type_of(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(
                type_of(option) for option in field[key] if option.get("type") != "null"
            )
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if field.get("type") == "array":
        return f"list of {type_of(field.get('items', {}))}"
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return f"mapping to {type_of(values)}" if isinstance(values, dict) and values else "mapping"
    return limits(field)


def limits(field: dict[str, Any]) -> str:
    name = {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(
        field.get("type", ""), field.get("type", "anything")
    )
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return " ".join([name, ", ".join(bounds)]).strip()


if __name__ == "__main__":
    sys.exit(main())
