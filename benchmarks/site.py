"""Every page of the documentation in Chromium, at the width of a desk and of a phone.

    make site && python -m benchmarks.site

It fails where a page logs anything (a script that breaks, what is loaded from elsewhere and refused), asks
for a file that is not there, or is wider than the window. On the page of the game, the game is played.
`--pictures FOLDER` keeps a screenshot of each.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import tyro

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "hide-scrollbars",
    "disable-background-networking", "disable-component-update", "disable-sync", "enable-logging=stderr",
)  # fmt: skip
SECONDS = 300
"""A browser that takes longer for a page hangs."""

HARNESS = """<!doctype html><title>pages</title><body><script>
const pages = %s, widths = %s, told = [];
const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
async function look(page, width) {
  const frame = document.createElement('iframe');
  frame.width = width; frame.height = 900;
  const loaded = new Promise(done => { frame.onload = done; });
  frame.src = '/' + page;
  document.body.append(frame);
  await loaded;
  await wait(1);
  const { document: inner } = frame.contentWindow, root = inner.documentElement;
  inner.querySelector('.md-button--primary')?.click(); // the game begins
  await wait(4);
  const wide = [...inner.querySelectorAll('main *')].filter(e => {
    if (e.getBoundingClientRect().right <= width + 1) return false;
    for (let at = e.parentElement; at; at = at.parentElement)  // it may scroll within
      if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(at).overflowX)) return false;
    return true;
  }).map(e => e.tagName.toLowerCase() + ' ' + e.textContent.trim().slice(0, 60));
  told.push({ page, width, needs: root.scrollWidth, title: inner.title, wide: wide.slice(0, 3) });
  frame.remove();
}
(async () => {
  for (const page of pages) for (const width of widths) await look(page, width);
  document.body.dataset.told = encodeURIComponent(JSON.stringify(told));
})();
</script></body>"""


@dataclass(frozen=True)
class Options:
    """See the module."""

    site: Path = Path("site")
    """The folder that `make site` wrote."""
    widths: tuple[int, ...] = (1280, 390)
    """Of the window, pixels."""
    pictures: Path | None = None
    """Where screenshots are kept, PAGE-WIDTH.png."""
    only: tuple[str, ...] = ()
    """Names of pages, such as `leaderboard`; all of them by default."""


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and one page beside it, without a line for each request."""

    harness = ""
    missing: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path != "/harness.html":
            super().do_GET()
            return
        body = self.harness.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        if self.path != "/favicon.ico":  # every browser asks for it
            self.missing.append(self.path)
        super().send_error(code, message, explain)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def pages_of(site: Path, only: Sequence[str] = ()) -> list[str]:
    """Addresses of the pages of a site, "" the first."""
    found = sorted(path.parent.relative_to(site).as_posix() for path in site.rglob("index.html"))
    addresses = ["" if name == "." else f"{name}/" for name in found]
    if not addresses:
        sys.exit(f"{site} holds no pages: run `make site` first, or give its folder as --site.")
    chosen = [address for address in addresses if not only or address.strip("/") in only]
    if not chosen:
        sys.exit(f"--only {' '.join(only)}: there is no such page; there are {', '.join(found)}.")
    return chosen


def browse(address: str, *more: str) -> tuple[str, str]:
    """What Chromium writes of a page with the flags `more`, and its log."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium is installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [browser, *(f"--{flag}" for flag in FLAGS), f"--user-data-dir={profile}", *more, address]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout, done.stderr


def faults(server: str, handler: type[Quiet], address: str, widths: Sequence[int]) -> list[str]:
    """What is wrong with a page, in sentences."""
    handler.missing.clear()
    handler.harness = HARNESS % (json.dumps([address]), json.dumps(list(widths)))
    document, log = browse(f"{server}/harness.html", "--virtual-time-budget=30000", "--dump-dom")
    told = re.search(r'data-told="([^"]+)"', document)
    if told is None:
        return ["it was not loaded in 30 s of its own time"]
    found = [line.split("] ", 1)[-1] for line in log.splitlines() if "CONSOLE" in line]
    found += [f"{path} is not there" for path in handler.missing]
    for seen in json.loads(unquote(told[1])):
        if not seen["title"]:
            found.append("it has no title")
        if seen["needs"] > seen["width"] + 1:
            found.append(f"at {seen['width']} pixels it needs {seen['needs']}: {'; '.join(seen['wide'])}")
    return list(dict.fromkeys(found))


def main(options: Options) -> int:
    """Look at all pages; the number of those with a fault."""
    pages = pages_of(options.site, options.only)
    handler = type("Handler", (Quiet,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(options.site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place, failed = f"http://127.0.0.1:{server.server_port}", 0
    for address in pages:
        name = address.strip("/") or "index"
        found = faults(place, handler, address, options.widths)
        failed += bool(found)
        print(f"{name}: {'; '.join(found) or 'in order'}", flush=True)
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for width in options.widths:
                file = options.pictures / f"{name.replace('/', '-')}-{width}.png"
                shot = (f"--screenshot={file.absolute()}", f"--window-size={width},1600")
                browse(f"{place}/{address}", "--virtual-time-budget=8000", *shot)
    server.shutdown()
    print(f"{len(pages)} pages at {' and '.join(map(str, options.widths))} pixels, {failed} with faults.")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(tyro.cli(Options)), 1))
