"""Runs a raydc command on the cluster of a cluster file, through Ray's launcher. Runs on the head.

    ray submit cluster/onprem.yaml examples/submit.py run examples/digits/spec.yaml
    ray submit cluster/onprem.yaml examples/submit.py -- run SPEC --set storage=/shared/raydc

Ray copies this one file to the head and runs it there. It starts raydc, attached to the running
cluster, in the folder where the cluster file puts the project. Put `--` first if options follow.
An argument with spaces needs quotes within quotes ("'...'"), because Ray joins the arguments with
spaces. Ray turns every exit code into 0 or 1, so the last line prints raydc's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Runs the command and returns its exit code."""
    project = Path(os.environ.get("RAYDC_PROJECT", "~/project")).expanduser()
    environment = {"RAY_ADDRESS": "auto", "PYTHONUNBUFFERED": "1", **os.environ}
    raydc = Path(sys.executable).with_name("raydc")
    code = subprocess.run(
        [raydc, *sys.argv[1:]],
        cwd=project if project.is_dir() else None,
        env=environment,
        check=False,
    ).returncode
    print(f"raydc {' '.join(sys.argv[1:])}: exit code {code}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
