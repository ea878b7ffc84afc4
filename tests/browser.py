"""Debian's chromium without a window, driven by selenium: what a page does in front of a reader."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "needs Debian's packages chromium and chromium-driver"
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Browser:
    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1400, dark: bool = False, media: str = "screen") -> None:
        """Show a page in a window of that width, as a phone where it is narrow."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
        self.driver.get(page.resolve().as_uri())

    def ask(self, script: str, *words: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script, *words)

    def press(self, css: str, number: int = 0) -> None:
        from selenium.webdriver.common.by import By

        self.driver.find_elements(By.CSS_SELECTOR, css)[number].click()

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def touch(self, x: float, y: float) -> None:
        """Touch a place in the window and let go."""
        for kind, fingers in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    def complaints(self) -> list[str]:
        """What the console has said since asked last, warnings included."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since asked last."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [found["params"] for found in messages if found["method"] == "Network.requestWillBeSent"]
        return [found["request"]["url"] for found in sent]


@contextmanager
def browser() -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for word in _QUIET:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
