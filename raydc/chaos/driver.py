"""The driver of a disturbed run, in a process of its own, so that its death is real.

    python -m raydc.chaos.driver RUN_FOLDER DATA_FOLDER ADDRESS NUM_WORKERS

An empty NUM_WORKERS means the number in the spec. The process ends when its standard input does:
`raydc chaos` holds the other end.
"""

from __future__ import annotations

import os
import sys
import threading

from raydc import engine, train
from raydc import spec as specs
from raydc.data import prepared
from raydc.errors import RaydcError
from raydc.storage import Storage


def main(arguments: list[str]) -> int:
    """Trains or resumes, with the arguments of the command line; returns the exit code."""
    try:
        _train(*arguments)
    except RaydcError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _train(run_uri: str, data_uri: str, address: str, workers: str) -> None:
    folder = Storage(run_uri)
    spec = specs.resolve(specs.from_dict(folder.read_json("resolved.json"), "resolved.json"))
    if workers:
        spec = specs.with_values(spec, {"scaling.num_workers": int(workers)})
    # Without workers the run needs no Ray.
    if spec.scaling.max_workers:
        engine.connect(address)
    data = prepared.load(Storage(data_uri))
    train.run(spec, data, folder, lambda line: print(line, flush=True), resume=True)  # noqa: T201


def _end_with_stdin() -> None:
    """Starts a thread that ends this process, wherever it is, when its standard input ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="raydc-parent", daemon=True).start()


if __name__ == "__main__":
    _end_with_stdin()
    sys.exit(main(sys.argv[1:]))
