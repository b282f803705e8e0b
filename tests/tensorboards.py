"""TensorBoard in a real browser: what its tabs show, and the image of it in the documentation.

python -m tests.tensorboards LOGDIR IMAGE.png
"""

import base64
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import Browser

_ELEMENTS = """
function all(selector, root = document) {
  const found = [...root.querySelectorAll(selector)];
  for (const each of root.querySelectorAll('*')) if (each.shadowRoot) found.push(...all(selector, each.shadowRoot));
  return found;
}
"""
WIDTH, HEIGHT = 1400, 1000
SECONDS = 60


@contextmanager
def served(logdir: Path) -> Iterator[str]:
    """The address at which a TensorBoard shows a folder until the end of the block."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", "--port=0", "--host=127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if " at http://" in line:
                    yield line.split(" at ")[1].split()[0]
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.terminate()


class Tabs:
    """A browser that shows one of TensorBoard's tabs."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self._address = browser, address

    def open(self, tab: str, script: str, is_there: Callable[[Any], bool]) -> Any:
        """What a script finds in a tab, as soon as that is what is waited for; `all(selector)` sees shadow roots."""
        self._browser.open("about:blank", WIDTH, HEIGHT)  # a change after # alone would load nothing
        self._browser.open(f"{self._address}{tab}", WIDTH, HEIGHT)
        return self.wait(script, is_there)

    def wait(self, script: str, is_there: Callable[[Any], bool]) -> Any:
        """What a script finds in the tab that is open, as soon as that is what is waited for."""
        deadline, found = time.monotonic() + SECONDS, None
        while time.monotonic() < deadline:
            found = self._browser.run(_ELEMENTS + script)
            if is_there(found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"never: {script} gives {found}")

    def image(self) -> bytes:
        """What is to be seen, as PNG."""
        return base64.b64decode(self._browser.screenshot())


LEGENDS = """
return all('scalar-card').map(card => [
  card.querySelector('.tag').title,
  [...card.querySelectorAll('tb-data-table-content-row')].map(row => [
    row.querySelectorAll('.cell')[1].innerText.trim(),
    row.querySelector('.row-circle span').style.backgroundColor])])
"""
"""The charts that Time Series shows: each one's tag, and for each of its lines the run and the color."""


def main(logdir: str, image: str) -> None:
    """Write the image of the first charts."""
    with tempfile.TemporaryDirectory() as folder, served(Path(logdir)) as address, Browser(Path(folder)) as browser:
        tabs = Tabs(browser, address)
        tabs.open("", LEGENDS, lambda charts: charts and all(lines for _, lines in charts[:2]))
        time.sleep(2)  # for animations
        Path(image).write_bytes(tabs.image())


if __name__ == "__main__":
    main(*sys.argv[1:])
