"""Photograph every page of the built book: light and dark, wide and as narrow as a phone.

``make screenshots``, or ``python -m tools.screenshots linear`` for the pages with that in their
name. Long pages come in slices.
"""

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from tqdm import tqdm

HTML = Path("_build/html")
SCREENSHOTS = Path("_build/screenshots")
WIDTHS = {"wide": 1280, "phone": 390}
SLICE = 1600  # pixels


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder at a free local port; gives the address."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed Chromium, without a window; it also starts inside a container."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


def book_pages() -> list[str]:
    """The addresses of the book's pages below its root."""
    return [path.relative_to(HTML).as_posix() for path in sorted(HTML.glob("book/**/*.html"))]


def open_page(page: Page, address: str) -> None:
    """Open a page and wait until its mathematics is typeset."""
    page.goto(address, wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")


def main() -> None:
    """Photograph the pages named on the command line, or all."""
    wanted = sys.argv[1:] or [""]
    if not (pages := book_pages()):
        sys.exit("There is no book yet: make book")
    addresses = [page for page in pages if any(name in page for name in wanted)]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serve(HTML) as root, chromium() as browser:
        for address in tqdm(addresses, unit="page"):
            for scheme in ("light", "dark"):
                for name, width in WIDTHS.items():
                    context = browser.new_context(
                        viewport={"width": width, "height": 900}, color_scheme=scheme
                    )
                    page = context.new_page()
                    open_page(page, f"{root}/{address}")
                    stem = f"{Path(address).stem}-{scheme}-{name}"
                    for old in SCREENSHOTS.glob(f"{stem}-*.png"):
                        old.unlink()
                    height = page.evaluate("() => document.documentElement.scrollHeight")
                    for number, top in enumerate(range(0, height, SLICE), start=1):
                        box = {"x": 0, "y": top, "width": width, "height": min(SLICE, height - top)}
                        target = SCREENSHOTS / f"{stem}-{number:02}.png"
                        page.screenshot(path=target, full_page=True, clip=box)
                    context.close()


if __name__ == "__main__":
    main()
