"""Previous and next by part: each link at the foot of a page says which part it leads to.

Lessons lead to lessons and evidence pages to evidence pages: after the last lesson comes no
appendix, and a lesson links to its evidence where it matters.
"""

import posixpath
from collections.abc import Iterator
from pathlib import Path

import yaml


def parts_of(toc: dict) -> dict[str, str]:
    """The caption of the part that each page belongs to."""

    def files(pages: list[dict]) -> Iterator[str]:
        for page in pages:
            yield page["file"]
            yield from files(page.get("sections", []))

    return {file: part["caption"] for part in toc["parts"] for file in files(part["chapters"])}


#: Parts that no other part leads into, nor out of.
APART = ("Evidence", "Reference")


def say_parts(app, pagename, templatename, context, doctree) -> None:
    """Name the part in the links to its pages, where it is another than this page's."""
    parts = app.config.book_parts
    here = parts.get(pagename, "")
    for way in ("prev", "next"):
        link = context.get(way)
        if not link:
            continue
        target = link["link"].partition("#")[0].removesuffix(".html")
        page = posixpath.normpath(posixpath.join(posixpath.dirname(pagename), target))
        there = parts.get(page, "")
        if here != there and (here in APART or there in APART):
            context[way] = None
        elif here != there and there:
            context[way] = link | {"title": f"{there}: {link['title']}"}


def setup(app) -> dict:
    """Read the table of contents once, change pages as they are written."""
    toc = yaml.safe_load(Path(app.confdir, "_toc.yml").read_text(encoding="utf-8"))
    app.add_config_value("book_parts", parts_of(toc), "html", dict)
    app.connect("html-page-context", say_parts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
