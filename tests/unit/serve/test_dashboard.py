"""The Grafana dashboard queries existing metrics, in queries that Prometheus accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import required
import yaml

from raydc.elastic.run_metrics import RunMetrics
from raydc.serve.watch.endpoint_metrics import EndpointMetrics

METRIC = re.compile(r"\bray_[a-z_]+")


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "cluster/grafana/raydc.json").read_text())
    return loaded


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and PromQL of everything that is shown."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Each metric of raydc as Prometheus names it, with its labels."""
    found: dict[str, set[str]] = {}

    def make(kind: str) -> Any:
        def metric(name: str, text: str, *more: Any) -> None:
            for suffix in ("_bucket", "_sum", "_count") if kind == "Histogram" else ("",):
                found[f"ray_{name}{suffix}"] = {*more[-1], *({"le"} if suffix == "_bucket" else ())}

        return metric

    for kind in ("Counter", "Histogram", "Gauge"):
        monkeypatch.setattr(f"ray.util.metrics.{kind}", make(kind))
    RunMetrics("run")
    EndpointMetrics()
    return found


def test_dashboard_uses_only_exported_metrics_and_labels(
    dashboard: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = exported(monkeypatch)
    used: set[str] = set()
    for title, query in queries(dashboard):
        names = METRIC.findall(query)
        assert names, title
        for name in names:
            assert name in known, f"{title}: {name}"
        labels = [
            label
            for group in re.findall(r"by \(([^)]*)\)", query)
            for label in re.split(r",\s*", group)
        ]
        labels += re.findall(r'(\w+)=~?"', query)
        assert set(labels) <= set.union(*(known[name] for name in names)), title
        used.update(re.sub(r"_(bucket|sum|count)$", "", name) for name in names)
    for variable in dashboard["templating"]["list"]:
        for name, label in re.findall(r"label_values\((\w+), (\w+)\)", json.dumps(variable)):
            assert label in known[name]
    assert used == {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}, (
        "every metric is shown"
    )


def test_dashboard_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_prometheus_accepts_every_query(dashboard: dict[str, Any], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        required.absent("no promtool here: .ci/install-test-packages installs it")
    rules = [
        {
            "record": f"query:{number}",
            "expr": re.sub(r"\$__rate_interval", "5m", query).replace("$", ""),
        }
        for number, (_, query) in enumerate(queries(dashboard))
    ]
    assert rules
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(
        [str(promtool), "check", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
