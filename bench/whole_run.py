"""`raydc run` of the digits from Enter to the prompt, beside an earlier raydc and Ray's own parts.

    python -m bench.whole_run [--rounds 5] [--beside FOLDER]

FOLDER is another checkout of raydc, which runs with the Python of this one. What the smallest
programs with the same parts of Ray need is measured as commands of their own: starting Ray;
training a function of one line with TorchTrainer on one worker; serving a class that imports torch
behind HAProxy, to the first answer. They are also added up, without the start of Ray that each has.
Each contender is a command, in turn; CPU counts all of its processes (Linux). Prints one table,
writes bench/results/whole_run.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_START = """
import ray
ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
"""
_TRAIN = """
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
def train():
    import torch
    torch.zeros(1)
if __name__ == "__main__":
    TorchTrainer(train, scaling_config=ScalingConfig(num_workers=1)).fit()
"""
_SERVE = """
import urllib.request
from ray import serve
@serve.deployment
class Answer:
    def __init__(self):
        import torch
        self.answer = torch.zeros(1).tolist()
    async def __call__(self, request):
        return self.answer
serve.run(Answer.bind(), route_prefix="/")
print(urllib.request.urlopen("http://127.0.0.1:8000/", timeout=60).read())
serve.shutdown()
"""
# As raydc has them. Without the last one, Ray Serve waits for half a minute when it ends.
_HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
}
_END = "ray.shutdown()\n"
_RAY, _SUM = "Ray: start and end", "Ray's parts, one after the other"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="another checkout of raydc")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as folder:
        rows = run_rounds(Path(folder), options.rounds, options.beside)
    show(rows)


def run_rounds(work: Path, num_rounds: int, beside: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Figures of each contender, round by round."""
    programs = {
        _RAY: _START,
        "Ray Train: one worker": _START + _TRAIN,
        "Ray Serve: one replica": _START + _SERVE,
    }
    for number, text in enumerate(programs.values()):
        (work / f"{number}.py").write_text(text + _END)
    checkouts = {"raydc": ROOT, **({f"raydc at {beside.name}": beside} if beside else {})}
    for number, checkout in enumerate(checkouts.values()):
        shutil.copytree(checkout / "examples", work / f"checkout-{number}" / "examples")
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(num_rounds):
        for place, (name, checkout) in enumerate(checkouts.items()):
            found.setdefault(name, []).append(run_digits(work / f"checkout-{place}", checkout))
            tell(number, name, found[name][-1])
        for place, name in enumerate(programs):
            command = [sys.executable, str(work / f"{place}.py")]
            found.setdefault(name, []).append(run(command, work, _HAPROXY))
            tell(number, name, found[name][-1])
        start, *parts = (found[name][-1] for name in programs)
        found.setdefault(_SUM, []).append(
            {
                key: start[key] + sum(part[key] - start[key] for part in parts)
                for key in ("wall_s", "cpu_s")
            }
        )
    return found


def run_digits(work: Path, checkout: Path) -> dict[str, Any]:
    """Runs the demo of a checkout in a folder without a store."""
    shutil.rmtree(work / "store", ignore_errors=True)
    prepare = [sys.executable, "examples/download.py", "digits"]
    paths = {"PYTHONPATH": str(checkout)}
    subprocess.run(prepare, cwd=work, env={**os.environ, **paths}, check=True, capture_output=True)
    call = "import sys; from raydc.cli import main; sys.exit(main())"
    arguments = ["run", "examples/digits/spec.yaml", "--new", "--once"]
    return run([sys.executable, "-c", call, *arguments], work, paths)


def run(command: list[str], folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Measures a command in a folder, with environment variables."""
    measured = [sys.executable, "-c", _MEASURE, str(ROOT), *command]
    done = subprocess.run(
        measured,
        cwd=folder,
        env={"RAY_AUTH_MODE": "token", **os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


# The measured command may use another checkout, so only this process reads the present one.
_MEASURE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bench.measured import measure
print(json.dumps(measure(sys.argv[2:])))
"""


def tell(number: int, name: str, one: dict[str, Any]) -> None:
    text = f"{one['wall_s']:.1f} s, {one['cpu_s']:.1f} CPU s"
    print(f"round {number + 1}: {name}: {text}", file=sys.stderr)


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in ("wall_s", "cpu_s")}
        for name, runs in found.items()
    }
    print(f"\n{'':36}{'wall s':>8}{'of raydc':>10}{'CPU s':>8}   by round, of raydc")
    for name, one in medians.items():
        ratios = [
            mine["wall_s"] / other["wall_s"]
            for mine, other in zip(found[name], found["raydc"], strict=True)
        ]
        by_round = "" if name == "raydc" else " ".join(f"{ratio:.2f}" for ratio in ratios)
        share = statistics.median(ratios)
        print(f"{name:36}{one['wall_s']:8.1f}{share:10.2f}{one['cpu_s']:8.1f}   {by_round}")
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / "whole_run.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
