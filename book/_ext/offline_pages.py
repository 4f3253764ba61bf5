"""Let the built pages open without a server.

The theme asks the browser to fetch its icon fonts early. A browser refuses such early requests on a
page that was opened as a file, and reports an error, though the fonts then load well. Without the
requests nothing is lost but a few milliseconds.
"""

import re
from pathlib import Path

PRELOADED_FONT = re.compile(r'\s*<link rel="preload" as="font"[^>]*>')


def drop_font_preloads(app, exception: Exception | None) -> None:
    """Remove the early requests for fonts from every page."""
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            page.write_text(PRELOADED_FONT.sub("", text), encoding="utf-8")


def setup(app) -> dict:
    """Run it when the pages are written."""
    app.connect("build-finished", drop_font_preloads)
    return {"parallel_read_safe": True}
