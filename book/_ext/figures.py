"""Figures of executed pages: a version for a phone, and a larger one on a click.

A notebook holds the phone's version of a figure beside it (``notebooks/studies/phone.py``). A page
shows that one where the screen is narrow. Every figure is a link to its picture, which a script
opens over the page.
"""

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path

KIND = "application/vnd.hvp-book.phone"
NARROW = "(max-width: 600px)"
IMAGE = re.compile(
    r"(?P<linked><a\b[^>]*\bimage-reference\b[^>]*>\s*)?"
    r'(?P<image><img\b[^>]*\bsrc="(?P<src>[^"]*_images/(?P<name>[^"/]+)\.(?:png|svg))"[^>]*>)'
)


def pictures(notebook: dict) -> dict[str, str]:
    """Figures of a notebook by file name: the phone's version in base64, or "" for none."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                png, phone = ("".join(data.get(kind, "")) for kind in ("image/png", KIND))
                found[hashlib.sha256(base64.b64decode(png)).hexdigest()] = phone
    return found


def number_of(pagename: str) -> str:
    """How the figures of a page are numbered: "10." in a lesson, "E10." on its evidence page."""
    match = re.search(r"(evidence/)?(\d+)_[^/]*$", pagename)
    return f"{'E' if match[1] else ''}{int(match[2])}." if match else ""


def with_links(body: str, phones: dict[str, str], number: str = "") -> str:
    """A page whose figures are links, and have a caption, and a phone's version where there is one.

    Args:
        body: The page.
        phones: What ``pictures`` gives: figures that the page has computed.
        number: How their numbers begin. Their descriptions become captions, which everyone reads.
    """
    count = itertools.count(1)

    def link(match: re.Match) -> str:
        image, src, name = match["image"], match["src"], match["name"]
        caption = ""
        if name in phones and (alt := re.search(r'\balt="([^"]*)"', image)):
            title = f"Figure {number}{next(count)}"
            image = image.replace(alt.group(), f'alt="{title}, described in its caption"')
            caption = f"<figcaption><strong>{title}.</strong> {alt[1]}</figcaption>"
        if phones.get(name):
            source = f'<source media="{NARROW}" srcset="{src.replace(name, name + "-phone")}">'
            image = f"<picture>{source}{image}</picture>"
        if match["linked"]:
            return match["linked"] + image
        shown = f'<a class="figure-link" href="{src}" title="Open the figure larger">{image}</a>'
        return f'<figure class="computed">{shown}{caption}</figure>' if caption else shown

    return IMAGE.sub(link, body)


def show_figures(app, pagename, templatename, context, doctree) -> None:
    """Write the phone's versions of a page's figures and put them into the page."""
    if "body" not in context:
        return
    source, phones = Path(app.srcdir, f"{pagename}.ipynb"), {}
    if pagename.startswith("notebooks/") and source.exists():
        phones = pictures(json.loads(source.read_text(encoding="utf-8")))
    for name in filter(phones.get, phones):
        picture = Path(app.outdir, "_images", f"{name}-phone.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(base64.b64decode(phones[name]))
    context["body"] = with_links(context["body"], phones, number_of(pagename))


def setup(app) -> dict:
    """Change pages as they are written."""
    app.connect("html-page-context", show_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
