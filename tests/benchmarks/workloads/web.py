"""`evlog web` in headless Chromium: how soon the page of a large store is there, and a new event on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

import evlog
from evlog import EventStore, NewEvent
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, Target
from tests.benchmarks.peers import PEERS
from tests.benchmarks.processes import Programs
from tests.benchmarks.run import Run

_EVERY_SECONDS: Final = 0.05
# Notes when lines of the log come: in the frame that shows them, by the clock of the machine.
_OBSERVE: Final = """
window.shown = [];
new MutationObserver(() => requestAnimationFrame(() => {
    const first = document.querySelector("#rows a.line");
    if (first && first.dataset.position !== window.shown.at(-1)?.[0]) {
        window.shown.push([first.dataset.position, performance.timeOrigin + performance.now()]);
    }
})).observe(document, {childList: true, subtree: true});
"""
_NEXT_FRAME: Final = "new Promise(requestAnimationFrame)"


def find_browser() -> str | None:
    """Return the path of Chromium; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def run(run: Run) -> Report:
    """Open the page of a filled store some times, then watch it while events are appended."""
    program = find_browser()
    if program is None:
        raise RuntimeError("Chromium is not installed; run apt-get install chromium")
    directory, events = run.fresh_directory("web"), run.sizes.large
    peer = PEERS["evlog"](directory)
    for batch in Dataset(events, max(1, events // 10)).batches():
        peer.append(batch)
    peer.close()
    command = Programs(directory).start_evlog(
        "--store", str(directory / "store"), "web", "--no-browser", stdout=subprocess.PIPE
    )
    assert command.stdout is not None
    try:
        url = json.loads(command.stdout.readline())["url"]
        with evlog.open(directory / "store") as store, _browser(program) as browser:
            paints, lines = zip(*[_open(browser, url) for _ in range(run.sizes.commands)], strict=True)
            delays = sorted(_watch(browser, url, store, run.sizes.live))
    finally:
        command.terminate()
        command.communicate()
    return Report(
        "web",
        f"the page of {events:,} events; {1 / _EVERY_SECONDS:.0f} appends a second, {run.sizes.live} of them",
        [
            Figure("first paint", "ms", {"evlog": list(paints)}, Target(300, at_least=False)),
            Figure("the first hundred events shown", "ms", {"evlog": list(lines)}),
            Figure("append returned → line shown", "ms", {"evlog": delays}, Target(100, at_least=False)),
            Figure("the same, 99th percentile", "ms", {"evlog": [delays[int(len(delays) * 0.99)]]}),
        ],
        settings={"evlog": {"browser": "headless Chromium, 1280 × 800", "sync": "always"}},
    )


@contextmanager
def _browser(program: str) -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


def _page(browser: Browser, url: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.add_init_script(_OBSERVE)
    page.goto(url)
    page.locator("#rows a.line").first.wait_for()
    page.evaluate(_NEXT_FRAME)
    return page


def _open(browser: Browser, url: str) -> tuple[float, float]:
    """Return the milliseconds from the request to the first paint, and to the first lines."""
    page = _page(browser, url)
    paint: float
    line: float
    paint, line = page.evaluate(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime,"
        " window.shown[0][1] - performance.timeOrigin]"
    )
    page.context.close()
    return paint, line


def _watch(browser: Browser, url: str, store: EventStore, appends: int) -> list[float]:
    """Return the milliseconds from each append's return to the frame that shows its line."""
    page = _page(browser, url)
    page.locator("#live[data-state=live]").wait_for()
    returned = {}
    for number in range(appends):
        time.sleep(_EVERY_SECONDS)
        position = store.append("watched", [NewEvent("T", number)]).last_position
        returned[str(position)] = time.time() * 1e3
        page.locator(f"#rows a[data-position='{position}']").wait_for()
        page.evaluate(_NEXT_FRAME)
    shown: dict[str, float] = dict(page.evaluate("window.shown"))
    page.context.close()
    return [max(0.0, shown[position] - at) for position, at in returned.items()]
