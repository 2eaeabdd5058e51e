"""The pages of `raydc inspect` and of a run in Chromium: they fit, and load nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import reported_runs
import reported_sweeps
from chromium import Browser
from tasks_here import tasks_here

from raydc import spec as specs
from raydc.data import inspection, prepared, suspicions
from raydc.report import comparison_page, inspection_page, run_report
from raydc.report.run_record import RunRecord

WIDTHS = (400, 800, 1600)
# Elements that reach over the right edge, unless they are inside of something that scrolls.
OVERFLOWING = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter(one =>
    !one.closest('.scroll, pre, svg') && one.getBoundingClientRect().right > wide + 1
).map(one => one.outerHTML.slice(0, 80));
"""
# Texts of a chart that leave its drawing, and pairs of them that cover each other.
COVERED = """
const bad = [];
for (const svg of document.querySelectorAll('svg.chart')) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(one => [one, one.getBoundingClientRect()]);
    for (const [one, box] of boxes)
        if (box.left < frame.left - 2 || box.right > frame.right + 2) bad.push(one.textContent);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
        const beside = a.left >= b.right - 1 || b.left >= a.right - 1;
        if (!beside && a.top < b.bottom - 3 && b.top < a.bottom - 3)
            bad.push(one.textContent + ' and ' + other.textContent);
    }));
}
return bad;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reported_runs.write_rows(folder / "rows.csv")
    runs: list[RunRecord] = []
    for name, rate in (("first", 0.01), ("second", 0.05)):
        run_folder, data = reported_runs.finish_run(folder, name, train={"learning_rate": rate})
        runs.append(run_report.write(run_folder, name, lambda data=data: data, 60.0))
    made = {"run": folder / "store/runs/first/report.html"}
    goals = {"objectives": ["parameters"], "constraints": {"parameters": 12_000}}
    swept, _ = reported_sweeps.finish_sweep(folder, scheduler="fifo", **goals)
    run_report.write(swept, "searched", _no_data, 60.0)
    made["sweep"] = swept.local_path / "report.html"
    with tasks_here():
        spec = specs.resolve(specs.load(str(folder / "store/runs/first/spec.yaml")))
        found = inspection.run(spec, lambda line: None)
    for name, text in (
        ("data", inspection_page.render(found, suspicions.find(found), "made by a test")),
        ("comparison", comparison_page.render(runs, "made by a test")),
    ):
        made[name] = folder / f"{name}.html"
        made[name].write_text(text)
    return made


def _no_data() -> prepared.Prepared:
    raise AssertionError("a sweep without a model is not diagnosed")


@pytest.mark.parametrize("name", ["run", "sweep", "data", "comparison"])
def test_page_fits_every_width_and_loads_nothing(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    for width in WIDTHS:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 400}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.driver.get(pages[name].as_uri())
        assert browser.run(OVERFLOWING) == [], width
        assert browser.run(COVERED) == [], width
        loaded = browser.run("return performance.getEntriesByType('resource').map(one => one.name)")
        # A picture that is part of the page may be counted.
        assert [one for one in loaded if not one.startswith("data:")] == []
    assert browser.driver.get_log("browser") == []
    assert browser.run("return document.scripts.length") == 0
    headings = browser.run("return [...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert len(headings) >= 4
    assert reported_runs.HOSTILE in browser.run("return document.body.textContent")


def test_page_follows_light_and_dark_and_paper(browser: Browser, pages: dict[str, Path]) -> None:
    def ground(**media: object) -> str:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.driver.get(pages["run"].as_uri())
        return str(browser.run("return getComputedStyle(document.body).backgroundColor"))

    def scheme(value: str) -> list[dict[str, str]]:
        return [{"name": "prefers-color-scheme", "value": value}]

    try:
        light, dark = (ground(features=scheme(value)) for value in ("light", "dark"))
        assert (light, dark != light) == ("rgb(255, 255, 255)", True)
        assert ground(media="print", features=scheme("dark")) == "rgb(255, 255, 255)"
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
