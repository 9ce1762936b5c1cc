"""The rendered pages: text for every image, no broken link, and nothing from another host."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page, expect

from tools import screenshots
from tools.screenshots import HTML, open_page

BOOK_PAGES = screenshots.book_pages()
PAGES = [*BOOK_PAGES, *(path.name for path in sorted(HTML.glob("*.html")))]
on_every_page = pytest.mark.parametrize("page", PAGES)
on_book_pages = pytest.mark.parametrize("page", BOOK_PAGES)


@cache
def parse(path: Path) -> BeautifulSoup:
    """A page's HTML."""
    return BeautifulSoup(path.read_text(), "html.parser")


def addresses(page: str, selector: str, attribute: str) -> list[str]:
    """An attribute's value in all elements that have it."""
    return [str(tag[attribute]) for tag in parse(HTML / page).select(f"{selector}[{attribute}]")]


def test_there_is_a_book() -> None:
    assert "index.html" in PAGES, "nothing is built: make book"
    assert BOOK_PAGES


# --- as text -------------------------------------------------------------------------------------


@on_book_pages
def test_images_have_alternative_text(page: str) -> None:
    images = parse(HTML / page).find_all("img")
    bare = [
        image["src"]
        for image in images
        if not re.search(r"[^\W\d_]{2}.* ", image.get("alt", "")) or "_images" in image["alt"]
    ]

    assert bare == []


@on_every_page
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for address in addresses(page, "a", "href"):
        parts = urlsplit(address)
        if parts.scheme:
            continue
        path = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
        fragment = unquote(parts.fragment)
        if not path.is_file() or (fragment and parse(path).find(id=fragment) is None):
            broken.append(address)

    assert broken == []


@on_every_page
def test_page_needs_no_other_host(page: str) -> None:
    loaded = [
        *addresses(page, "script", "src"),
        *addresses(page, "img", "src"),
        *addresses(page, "link", "href"),
        *addresses(page, "iframe", "src"),
    ]
    local = [address for address in loaded if not urlsplit(address).netloc]

    assert loaded == local
    assert [address for address in local if not is_file(page, address)] == []


def is_file(page: str, address: str) -> bool:
    """Whether a local address names a file of the book, or carries its content itself."""
    parts = urlsplit(address)
    path = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
    return parts.scheme == "data" or path.is_file()


# --- in Chromium ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; without it these tests are skipped, or fail where it is required."""
    if screenshots.find_chromium() is None:
        reason = "no Chromium is installed"
        if os.environ.get("AECORE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with screenshots.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    """The address of the book."""
    with screenshots.serve(HTML) as address:
        yield address


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    """An empty page, as wide as a phone."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


@pytest.mark.browser
@on_book_pages
def test_page_works_on_a_phone(phone: Page, root: str, page: str) -> None:
    requests: list[str] = []
    errors: list[str] = []
    phone.on("request", lambda request: requests.append(request.url))
    phone.on("pageerror", lambda error: errors.append(str(error)))
    phone.on(
        "console",
        lambda message: (
            errors.append(f"{message.text} {message.location['url']}")
            if message.type == "error" and not message.location["url"].endswith("/favicon.ico")
            else None
        ),
    )

    open_page(phone, f"{root}/{page}")

    assert [url for url in requests if not url.startswith((root, "data:"))] == []
    assert errors == []
    formulas = phone.locator(".math").count()
    assert phone.locator("mjx-container").count() >= formulas
    assert phone.locator("mjx-merror, merror, [data-mjx-error]").count() == 0
    assert "??" not in phone.locator("article").inner_text()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_search_works(phone: Page, root: str) -> None:
    phone.goto(f"{root}/search.html?q=autoencoder")
    phone.wait_for_selector("#search-results li", timeout=20_000)

    results = phone.locator("#search-results")
    expect(results).to_contain_text("Undercomplete autoencoders", timeout=20_000)
    expect(results).to_contain_text("Variational autoencoders")
