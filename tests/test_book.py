"""Open every page of the built site in headless Chromium and look for what a reader would miss.

Every page is opened twice: from a local server, and as a file. Nothing here builds the site.
"""

import functools
import http.server
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import make_pdf
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from hvp_utils import model_sizes, plan
from studies import curves, scoreboard

RESULTS = Path(__file__).resolve().parents[1] / "notebooks" / "results"
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
    if (/`[^`]+`|\$[^$\s][^$]*\$/.test(data))
      faults.push(`raw Markdown: ${data.trim().slice(0, 80)}`);
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
    executable = make_pdf.chromium()
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


# --- the page "Explore" --------------------------------------------------------------------------

ROWS = """() => Object.fromEntries([...document.querySelectorAll('.explore tr[data-rule]')].map(
  row => [row.dataset.rule, [...row.cells].slice(1).map(cell => Number(
    cell.textContent.replace('−', '-').replace('+', '')))]))"""


@pytest.fixture
def explore(open_page):
    page = open_page("book/explore.html", base=HTML.as_uri())
    page.wait_for_selector('.explore[data-kind="paths"]:not([hidden])')
    return page


def expected(model, prompt, head, t):
    data = curves.stored(model, RESULTS / "curves").isel(prompt=prompt)
    return {name: float(v[head]) for name, v in curves.predictions(data, t).items()}


def agrees(page, model, prompt, head, t):
    rows, truth = page.evaluate(ROWS), expected(model, prompt, head, t)
    assert set(rows) == set(truth)
    for name, (says, error, runs) in rows.items():
        assert says == pytest.approx(truth[name], abs=2e-3 + 2e-3 * abs(truth[name])), name
        assert error == pytest.approx(truth[name] - truth["truth"], abs=5e-3) or name == "truth"
        assert runs > 0


def test_explore_gives_the_numbers_of_python(explore):
    data = curves.stored("smollm2-135m", RESULTS / "curves")
    largest = int(abs(data.g.values[0, :, -1]).argmax())
    agrees(explore, "smollm2-135m", 0, largest, 0.0)
    pressed = explore.locator('.explore-map button[aria-pressed="true"]')
    assert pressed.get_attribute("aria-label").startswith(str(data.label.values[largest]))
    explore.get_by_label("Model").first.select_option("gemma-3-270m")
    explore.locator('[data-part="prompt"]').select_option("2")
    data = curves.stored("gemma-3-270m", RESULTS / "curves")
    largest = int(abs(data.g.values[2, :, -1]).argmax())
    agrees(explore, "gemma-3-270m", 2, largest, 0.0)
    assert "probability" in explore.locator('svg[data-part="plot"]').text_content()


def test_explore_by_dragging(explore):
    data = curves.stored("smollm2-135m", RESULTS / "curves")
    head = int(abs(data.g.values[0, :, -1]).argmax())
    plot = explore.locator('svg[data-part="plot"]')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    explore.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    explore.mouse.down()
    for share in (0.2, 0.4, 0.55):
        explore.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
    explore.mouse.up()
    t = float(explore.locator('[data-part="strength"]').input_value())
    assert 0.4 < t < 0.6
    agrees(explore, "smollm2-135m", 0, head, t)


def test_explore_by_keyboard(explore):
    labels = curves.stored("smollm2-135m", RESULTS / "curves").label.values.tolist()
    explore.locator('.explore-map button[aria-pressed="true"]').focus()
    before = explore.evaluate("document.activeElement.getAttribute('aria-label').split(',')[0]")
    explore.keyboard.press("ArrowUp")
    after = explore.evaluate("document.activeElement.getAttribute('aria-label').split(',')[0]")
    assert labels.index(after) == labels.index(before) - 1
    slider = explore.locator('[data-part="strength"]')
    slider.focus()
    for _ in range(30):
        explore.keyboard.press("ArrowRight")
    t = float(slider.input_value())
    assert t == pytest.approx(0.3)
    agrees(explore, "smollm2-135m", 0, labels.index(after), t)
    assert f"{after}, standing at 0.30" in slider.get_attribute("aria-valuetext")
    explore.get_by_label("Squares show").select_option("R")
    assert ", R " in explore.locator('.explore-map button[aria-pressed="true"]').get_attribute(
        "aria-label"
    )


def test_calculator_gives_the_numbers_of_plan(explore):
    box = explore.locator('.explore[data-kind="calculator"]')
    box.get_by_label("Model").select_option("llama-3.1-8b")
    box.get_by_label("Components").select_option("neurons")
    box.get_by_label("Prompts").fill("7")
    sizes = model_sizes("llama-3.1-8b")
    methods = ("activation_patching", "attribution_patching", "row_norms:2", "hvp")
    every, gradient, rows, hvp = plan(sizes, "neurons_pre", methods, 20, 10, 1, 1.0, batch_size=32)
    shown = box.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    runs = [float(row[1].replace(",", "")) for row in shown]
    wanted = [p.forward_equivalents for p in (every, rows, gradient, hvp)]
    wanted[1] += 15  # three candidates for each of the five
    assert runs == pytest.approx(wanted, rel=0.02)
    assert "top_effects" in shown[1][0]
    box.get_by_label("Budget in minutes").fill("0")
    assert "Nothing fits" in box.locator(".explore-best").text_content()
    box.get_by_label("Budget in minutes").fill("1e9")
    assert "Patch everything" in box.locator(".explore-best").text_content()


def test_explore_prints_a_picture_instead(explore):
    shown = "e => getComputedStyle(e).display"
    figure = explore.locator("figure.explore-instead")
    assert figure.evaluate(shown) == "none"
    explore.emulate_media(media="print")
    assert figure.evaluate(shown) != "none"
    assert explore.locator(".explore").first.evaluate(shown) == "none"


def test_page_of_data_is_small():
    assert (HTML / "_static" / "explore_data.js").stat().st_size <= 1.5e6


# --- figures, tables and the scoreboard -----------------------------------------------------------


def test_a_figure_opens_larger(open_page):
    page = open_page("notebooks/04_curvature_gap.html")
    page.locator("a.figure-link").first.click()
    dialog = page.locator("dialog.figure-dialog")
    assert dialog.evaluate("d => d.open")
    assert dialog.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") > 300
    page.keyboard.press("Escape")
    assert not dialog.evaluate("d => d.open")


def test_small_multiples_have_a_version_for_a_phone(open_page):
    chosen = "i => i.decode().then(() => i.currentSrc.includes('-phone'))"
    for width, phone in ((390, True), (1400, False)):
        page = open_page("notebooks/10_is_it_worth_it.html", width=width)
        images = page.locator("picture img")
        assert images.count() >= 2
        images.first.scroll_into_view_if_needed()
        assert images.first.evaluate(chosen) == phone


def test_scoreboard_can_be_filtered(open_page):
    page = open_page("notebooks/evidence/16_scoreboard.html")
    cards = page.locator(".scoreboard article")
    board, n = page.locator(".scoreboard"), cards.count()
    claims = scoreboard.collect(RESULTS / "claims")
    assert n == len(claims)
    for label, value, wanted in (
        ("Verdict", "holds", claims.verdict == "holds"),
        ("Source", "tutorial", claims.origin == "tutorial"),
        ("Table or figure", "Table 15", claims["items"].map(lambda i: "Table 15" in i)),
        ("Chapter", "10", claims.number == 10),
    ):
        board.get_by_label(label).select_option(value)
        assert page.locator(".scoreboard article:visible").count() == wanted.sum() > 0
        assert board.locator("output").text_content() == f"{wanted.sum()} of {n} claims"
        board.get_by_label(label).select_option("")
    board.get_by_label("Words").fill("gauss newton")
    assert 0 < page.locator(".scoreboard article:visible").count() < n
