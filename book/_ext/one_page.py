"""The whole book as one page, which is printed as a PDF, and the link to that PDF.

``tools/make_pdf.py`` builds the page and prints it. A site built afterwards holds the PDF; the role
``{book-pdf}`` links to it, or says how to make it.
"""

import shutil
from pathlib import Path

from docutils import nodes

PDF = "when-can-you-trust-attribution-patching.pdf"


def made(app) -> Path:
    """Where the PDF is, if it has been made: beside the site."""
    return Path(app.outdir).parent / "pdf" / PDF


def complete(app) -> None:
    """Give the one-page builder what extensions registered for separate pages only."""
    handlers = app.registry.translation_handlers
    for name in ("singlehtml", "dirhtml"):
        if name in handlers:
            handlers[name] = {**handlers.get("html", {}), **handlers[name]}


def book_pdf(name, rawtext, text, lineno, inliner, options=None, content=None):
    """The role: its text as a link to the PDF, or how to make one."""
    env = inliner.document.settings.env
    if made(env.app).exists():
        up = "../" * env.docname.count("/")
        link = f'<a href="{up}{PDF}">{text}</a>'
        return [nodes.raw("", link, format="html")], []
    return [
        nodes.inline("", f"{text} (made by "),
        nodes.literal("", "make pdf"),
        nodes.Text(")"),
    ], []


def copy(app, exception: Exception | None) -> None:
    """Put the PDF into the site."""
    if exception is None and app.builder.name == "html" and made(app).exists():
        shutil.copyfile(made(app), Path(app.outdir, PDF))


def setup(app) -> dict:
    """Register the role and what comes before and after a build."""
    app.add_role("book-pdf", book_pdf)
    app.connect("builder-inited", complete)
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True}
