"""A process that gives one command after another: a JSON object a line in, and one out.

    python commander.py ADDRESS STORAGE < {"name": "promote", "arguments": {...}, "after": 7}

It stays connected to Ray, so that two of them can begin a command at the same moment.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from raydc import engine, serve
from raydc import spec as specs
from raydc.errors import RaydcError
from raydc.serve.control import rollout
from raydc.storage import Storage

MODEL, ALIAS = "small", "production"


def change(storage: Storage, name: str, arguments: dict[str, Any], after: int) -> None:
    """Makes one change of the model.

    Args:
        storage: Storage of its registry.
        name: `promote`, `rollback`, `deploy`, or `start` or `end` with a `kind`.
        arguments: Arguments of that function beside storage, model and alias.
        after: Number of the history on which the change is decided.
    """
    if name == "deploy":
        # It takes the number of the moment, like `raydc serve`.
        spec = specs.resolve(specs.from_dict(arguments["spec"]))
        serve.deploy(spec, storage, arguments["version"])
        return
    made = {
        "promote": serve.promote,
        "rollback": serve.rollback,
        "start": rollout.start,
        "end": rollout.end,
    }[name]
    made(storage, MODEL, ALIAS, **arguments, after=after)  # type: ignore[operator]


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(address: str, uri: str) -> None:
    engine.connect(address)
    say("ready")
    for line in sys.stdin:
        code, said = 0, ""
        try:
            change(Storage(uri), **json.loads(line))
        except RaydcError as error:
            code, said = error.exit_code, str(error)
        say([code, said])


if __name__ == "__main__":
    main(*sys.argv[1:])
