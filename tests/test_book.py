"""Open every page of the built site in headless Chromium and look for what a reader would miss.

Every page is opened twice: from a local server, and as a file. Nothing here builds the site.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
PAGES = sorted(
    page.relative_to(HTML).as_posix()
    for page in HTML.rglob("*.html")
    if page.relative_to(HTML).parts[0] not in ("_static", "_sources", "index.html")
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = pytest.mark.browser
each_page = pytest.mark.parametrize("path", PAGES)

# Formulas and fonts are there, and scripts that start a little late have had their turn.
SETTLED = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  await new Promise(done => setTimeout(done, 200));
}"""

# What is wrong with the content of a page, found in the page itself.
FIND_FAULTS = r"""async () => {
  const faults = [];
  const content = document.querySelector('main') ?? document.body;
  for (const img of content.querySelectorAll('img')) {
    await img.decode().catch(() => null);
    const name = img.getAttribute('src').slice(0, 80), alt = (img.alt ?? '').trim();
    if (img.naturalWidth === 0) faults.push(`missing image ${name}`);
    if (alt === '' || /\.(png|svg|jpe?g|gif)$/i.test(alt)) faults.push(`no alt text: ${name}`);
  }
  for (const figure of content.querySelectorAll('figure, .cell_output svg:not(button svg)'))
    if (!figure.querySelector('img, table, pre') && !figure.getAttribute('aria-label'))
      faults.push(`figure without an image or aria-label: ${figure.outerHTML.slice(0, 80)}`);
  for (const math of content.querySelectorAll('.math:not(:has(mjx-container))'))
    faults.push(`not typeset: ${math.textContent.slice(0, 80)}`);
  for (const error of document.querySelectorAll('mjx-merror, [data-mjx-error]'))
    faults.push(`TeX error: ${error.getAttribute('data-mjx-error') ?? error.textContent}`);
  const walker = document.createTreeWalker(content, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const {parentElement, data} = walker.currentNode;
    if (parentElement.closest('pre, code, script, style, textarea, mjx-container')) continue;
    const raw = data.match(/\\[(\[]|\$\$|\\begin\{|\$[^$]*\\[a-zA-Z]+[^$]*\$/);
    if (raw) faults.push(`raw TeX: ${data.trim().slice(0, 80)}`);
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def server():
    """Serve the site on a free port; yields its address."""
    if not PAGES:
        pytest.fail("there is no site in _build/html: run `make site` first")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # a browser opens many connections at once

    handler = functools.partial(Quiet, directory=HTML)
    with Server(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(scope="module")
def browser():
    candidates = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, (shutil.which(name) for name in candidates if name)), None)
    if executable is None:
        pytest.fail("no Chromium: install the package `chromium`, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Return a function that opens a page; anything that goes wrong meanwhile fails the test."""
    faults = []
    contexts = []

    def local(url):
        parts = urlsplit(url)
        return parts.scheme in ("file", "data", "blob", "about") or url.startswith(server)

    def cut_network(route):
        if local(route.request.url):
            return route.continue_()
        faults.append(f"request to another host: {route.request.url}")
        return route.abort()

    def answered(response):
        if response.status >= 400:
            faults.append(f"status {response.status}: {response.url}")

    def opened(path, base=server, width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.route("**/*", cut_network)
        page.on("console", lambda m: m.type == "error" and faults.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("requestfailed", lambda r: faults.append(f"failed: {r.url} ({r.failure})"))
        page.on("response", answered)
        page.goto(f"{base}/{path}", wait_until="load")
        page.evaluate(SETTLED)
        return page

    yield opened
    seen = list(faults)  # closing cuts off what is still loading, which is no fault
    for context in contexts:
        context.close()
    assert seen == []


@pytest.mark.parametrize("scheme", ["served", "file"])
def test_front_page_leads_to_the_book(browser, server, scheme):
    with browser.new_page() as page:
        page.goto(f"{server if scheme == 'served' else HTML.as_uri()}/index.html")
        page.wait_for_url("**/book/index.html")


@each_page
def test_page_as_file(open_page, path):
    assert open_page(path, base=HTML.as_uri()).evaluate(FIND_FAULTS) == []


@functools.cache
def anchors(file):
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', file.read_text(encoding="utf-8")))


@each_page
def test_served_page(open_page, server, path):
    page = open_page(path)
    assert page.evaluate(FIND_FAULTS) == []
    if page.locator(".bd-article").count():
        assert too_faint(page) == []
    broken = []
    for href in page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)"):
        if not href.startswith(server):
            continue
        parts = urlsplit(href)
        target = HTML / unquote(parts.path).lstrip("/")
        target = target / "index.html" if target.is_dir() else target
        anchor = unquote(parts.fragment)
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(href.removeprefix(server))
    assert broken == []


# Tables that a reader would have to push sideways, and anything else that sticks out of its column.
TOO_WIDE = """() => [...document.querySelectorAll('.bd-article table, .bd-article svg')]
  .filter(one => one.scrollWidth > one.clientWidth + 1 || one.getBoundingClientRect().right >
    one.closest('.bd-article').getBoundingClientRect().right + 1)
  .map(one => `${one.scrollWidth} in ${one.clientWidth}: ${one.textContent.trim().slice(0, 60)}`)"""


@each_page
@pytest.mark.parametrize("width", [390, 1400])
def test_fits_its_column(open_page, path, width):
    page = open_page(path, width=width)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width + 1
    assert page.evaluate(TOO_WIDE) == []


CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}


def too_faint(page):
    """Texts whose contrast is below what WCAG calls AA, as axe-core finds them."""
    found = Axe().run(page, context={"include": [[".bd-article"]]}, options=CONTRAST)
    return [
        node["html"][:90] + " " + node["any"][0]["message"][:110]
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


@each_page
def test_dark_theme_and_print(open_page, path):
    page = open_page(path)

    def colour(selector, name):
        return page.eval_on_selector_all(
            selector, f"found => found.map(one => getComputedStyle(one).{name})"
        )

    for _ in range(3):  # the button goes round light, dark and automatic
        if page.get_attribute("html", "data-theme") == "dark":
            break
        page.locator(".theme-switch-button:visible").first.click()
    assert page.get_attribute("html", "data-theme") == "dark"
    dark = colour("body", "backgroundColor")[0]
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 80
    figures = "main .bd-article img"
    assert set(colour(figures, "backgroundColor")) <= {"rgb(255, 255, 255)"}
    assert set(colour(figures, "filter")) <= {"none"}
    if page.locator(".bd-article").count():
        assert too_faint(page) == []

    page.emulate_media(media="print")
    assert colour("body", "backgroundColor") == ["rgb(255, 255, 255)"]
    assert set(colour(".bd-sidebar-primary", "display")) <= {"none"}


def results(page):
    page.wait_for_selector("#search-results li a", timeout=20_000)
    return page.locator("#search-results li").count()


def test_search(open_page):
    assert results(open_page("search.html?q=patching")) >= 2


def test_search_as_file(browser, server):
    # A browser lets no file read another, so the results come without their excerpts.
    with browser.new_page() as page:
        page.goto(f"{HTML.as_uri()}/search.html?q=patching")
        assert results(page) >= 2
