"""Drives the page in Debian's Chromium as a person would."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

from strokes import Stroke

WAIT_S = 30.0
PHONE_WIDTH, DESKTOP_WIDTH = 375, 1100

Result = TypeVar("Result")


def find_obstacle() -> str | None:
    """Returns why no browser can be started here; None if one can."""
    if importlib.util.find_spec("selenium") is None:
        return "the browser tests need selenium: pip install -e '.[dev]'"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return (
        f"the browser tests need {', '.join(missing)}: .ci/install-test-packages"
        if missing
        else None
    )


class Browser:
    """A headless Chromium."""

    def __init__(self) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in (
            "headless=new",
            "no-sandbox",
            "disable-dev-shm-usage",
            "disable-gpu",
            "disable-extensions",
        ):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)

    def quit(self) -> None:
        self.driver.quit()

    # Reading the page ----------------------------------------------------------------------------

    def wait(self, condition: Callable[[], Result], what: str) -> Result:
        """Waits for a condition and returns its first true value; `what` names it in an error."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, WAIT_S, 0.02, [StaleElementReferenceException])
        found: Result = waiting.until(lambda _: condition(), what)
        return found

    def all(self, selector: str) -> list[Any]:
        """Visible elements of a CSS selector."""
        return [
            one for one in self.driver.find_elements("css selector", selector) if one.is_displayed()
        ]

    def one(self, selector: str) -> Any:
        """Waits for a visible element and returns it."""
        return self.wait(lambda: self.all(selector), selector)[0]

    def text(self, selector: str) -> str:
        """Waits until an element has text and returns it."""
        return str(self.wait(lambda: self.one(selector).text, f"text of {selector}"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def answer(self) -> str:
        """Returns the label or number that answers the last request."""
        self.wait(lambda: self.all("#label") and not self.all(".stale"), "an answer")
        return self.text("#label")

    # Using the page ------------------------------------------------------------------------------

    def open(self, url: str, width: int = DESKTOP_WIDTH) -> None:
        """Opens the page as in a new tab; waits for its model or the form for a token."""
        metrics = {
            "width": width,
            "height": 800,
            "deviceScaleFactor": 1,
            "mobile": width == PHONE_WIDTH,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(url)
        self.run("sessionStorage.clear()")
        self.driver.get_log("browser")
        self.driver.get(url)
        self.wait(lambda: self.all("#main") or self.all("#token-form"), "the page")

    def draw(
        self, strokes: list[Stroke], x: float = 0.1, y: float = 0.1, size: float = 0.8
    ) -> None:
        """Draws on the pad.

        Args:
            strokes: Points in a unit square.
            x: Left edge of that square on the pad, 0 to 1.
            y: Top edge.
            size: Side of the square; 1 is the whole pad.
        """
        box = self.run("return document.querySelector('#pad').getBoundingClientRect().toJSON()")

        def point(kind: str, at: tuple[float, float]) -> None:
            place = {
                "x": box["left"] + (x + size * at[0]) * box["width"],
                "y": box["top"] + (y + size * at[1]) * box["height"],
            }
            pressed = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
            self.driver.execute_cdp_cmd(
                "Input.dispatchMouseEvent", {"type": kind, **place, **pressed}
            )

        for stroke in strokes:
            point("mousePressed", stroke[0])
            for at in stroke[1:]:
                point("mouseMoved", at)
            point("mouseReleased", stroke[-1])

    def clear(self) -> None:
        self.one("#clear").click()
        self.wait(lambda: not self.all("#label"), "no answer")

    def fill(self, name: str, text: str) -> None:
        field = self.one(f"[name='{name}']")
        field.clear()
        field.send_keys(text)
