"""Print the whole book as a PDF with bookmarks and tags: _build/pdf/NAME.pdf.

The book is built as one page and printed by headless Chromium. Build the site afterwards, and it
holds the PDF and links to it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import typer
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from one_page import PDF  # noqa: E402

FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--export-tagged-pdf",
    "--generate-pdf-document-outline",
]
# Paper shows no controls, no code that is folded away, and begins a chapter on a new page.
PRINT = """
@page { size: A4; margin: 18mm 16mm; }
html { font-size: 11px !important; }
.headerlink, .bd-header, .bd-sidebar-primary, .bd-sidebar-secondary, .header-article, footer,
.prev-next-footer, .tag_hide-input .cell_input, details.hide, .copybtn, .skip-link, #pst-skip-link,
.bd-header-article, .search-button-field, .tag_hide-cell, dialog { display: none !important }
h1 { break-before: page }
figure, img, pre, .admonition, mjx-container[display=true] { break-inside: avoid }
.bd-main .bd-content .bd-article-container { max-width: 100% !important }
pre { white-space: pre-wrap !important; font-size: 8.5px }
.bd-article table { display: table !important; font-size: 8px; max-width: 100% }
.bd-article td, .bd-article th { overflow-wrap: anywhere }
.bd-article img { max-width: 100% !important; height: auto !important }
"""
FOOTER = (
    "<div style='font-size:8px;width:100%;text-align:center'><span class='pageNumber'></span></div>"
)


def one_page(build: Path) -> Path:
    """Build the book as one page; return the file, ready to be opened."""
    arguments = ["build", ".", "--builder", "singlehtml", "--path-output", str(build), "-q"]
    jb = Path(sys.executable).with_name("jb")
    done = subprocess.run([jb, *arguments], cwd=ROOT, capture_output=True, text=True)
    html = build / "_build" / "singlehtml"
    pages = [page for page in (html / "book" / "index.html", html / "index.html") if page.exists()]
    if not pages:
        raise SystemExit(f"The book could not be built as one page:\n{done.stderr[-3000:]}")
    text = pages[0].read_text(encoding="utf-8")
    if len(pages[0].relative_to(html).parts) > 1:  # its links are relative to the root
        text = re.sub(r'href="book/index\.html#', 'href="#', text)
    page = html / "whole.html"
    page.write_text(text, encoding="utf-8")
    return page


def chromium() -> str | None:
    """The browser that CHROMIUM names, or one that is installed; None if there is none."""
    named = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, (shutil.which(name) for name in named if name)), None)


def print_pdf(page: Path, pdf: Path) -> None:
    """Print a page once its formulas are typeset."""
    if (executable := chromium()) is None:
        raise SystemExit("No Chromium: install the package chromium, or set CHROMIUM to its path.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        tab = browser.new_page(color_scheme="light")
        tab.set_default_timeout(600_000)
        tab.goto(page.as_uri())
        tab.wait_for_function("window.MathJax?.startup?.promise")
        tab.evaluate("MathJax.startup.promise")
        tab.add_style_tag(content=PRINT)
        tab.emulate_media(media="print", color_scheme="light")
        pdf.parent.mkdir(parents=True, exist_ok=True)
        tab.pdf(
            path=pdf,
            format="A4",
            tagged=True,
            outline=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            prefer_css_page_size=True,
        )
        browser.close()


def main() -> None:
    """Build, print, and say where the PDF is."""
    pdf = ROOT / "_build" / "pdf" / PDF
    print_pdf(one_page(ROOT / "_build" / "one_page"), pdf)
    print(f"{pdf}: {pdf.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
