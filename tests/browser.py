"""A headless Chromium that opens pages from files, and tells what went wrong in them."""

import base64
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"


def start_browser():
    """Start Chromium with an empty profile and no network. Skips the test without Chromium; under CI=true that fails."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        missing = "no chromium or no chromedriver: apt-get install chromium chromium-driver"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *FLAGS,
        NO_NETWORK,
        f"--user-data-dir={tempfile.mkdtemp(prefix='chromium-')}",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=ChromeService(driver))


class Browser:
    """Chromium on one page at a time.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver):
        self.driver = driver

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False):
        """Open a file; its earlier errors and requests are forgotten. Returns Selenium's driver."""
        self.driver.get("about:blank")
        self.errors(), self.requests()
        self.driver.set_window_size(width, height)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # windows have a least width
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get(path.resolve().as_uri())
        return self.driver

    def errors(self) -> list[str]:
        """Return the console's warnings and errors since the last call, those of the content policy among them."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Return the addresses requested since the last call, but for the page's file and what is inside it."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("file:", "data:", "blob:", "chrome:"))]

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))
