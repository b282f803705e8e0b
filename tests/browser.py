"""A real browser without a window: Debian's chromium, spoken to by WebDriver's JSON over HTTP."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MISSING = "there is no chromium with its chromedriver here: apt-get install chromium chromium-driver"
_SECONDS = 60


class Browser:
    """A browser that ends with its `with` block. It has no network: its only proxy leads nowhere.

    Args:
        folder: for its profile and the driver's log.
        dark: whether the system prefers dark pages.
    """

    def __init__(self, folder: Path, dark: bool = False) -> None:
        self.folder, self.dark = folder, dark

    def __enter__(self) -> "Browser":
        assert DRIVER is not None
        assert CHROMIUM is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = (self.folder / "driver.log").open("wb")
        self._driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=self._log)
        assert self._driver.stdout is not None
        port = 0
        for line in self._driver.stdout:
            if b"on port " in line and b"successfully" in line:
                port = int(line.split(b"on port ")[1].split(b".")[0])
                break
        self._address = f"http://127.0.0.1:{port}/session"
        args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={self.folder / 'profile'}",
            "--proxy-server=127.0.0.1:9",
            *(["--blink-settings=preferredColorScheme=0"] if self.dark else []),
        ]
        options = {"binary": CHROMIUM, "args": args}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            answer = self._ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self._end()
            raise
        self._address += f"/{answer['sessionId']}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._end()

    def show(self, page: Path, width: int, height: int) -> None:
        """Open a file in a window of a size."""
        self.open(page.as_uri(), width, height)

    def open(self, address: str, width: int, height: int) -> None:
        """Open an address of this machine in a window of a size."""
        self._ask("POST", "/window/rect", {"width": width, "height": height})
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str) -> Any:
        """What a script returns, which runs beside the page's own, whatever the page's policy."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        """Click on an element as a person does: it must be there to be seen."""
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{next(iter(found.values()))}/click", {})

    def console(self) -> list[str]:
        """What the browser had to say since it was last asked: errors, and what a policy has blocked."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self) -> str:
        """What is to be seen, as PNG in base64."""
        return str(self._ask("GET", "/screenshot"))

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_SECONDS) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:500]}") from error

    def _end(self) -> None:
        self._driver.terminate()
        try:
            self._driver.wait(10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        assert self._driver.stdout is not None
        self._driver.stdout.close()
        self._log.close()
