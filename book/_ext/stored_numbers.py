"""The role ``{number}``: a measured number by its name, from notebooks/results/answer.json.

``tools/answer.py`` writes that file, so that no number on a page of prose is typed by hand.
"""

import json
from pathlib import Path

from docutils import nodes

FILE = Path("notebooks/results/answer.json")


def number(name, rawtext, text, lineno, inliner, options=None, content=None):
    """A number as text; an unknown name is an error of the build."""
    env = inliner.document.settings.env
    file = Path(env.srcdir, FILE)
    env.note_dependency(str(file))
    known = json.loads(file.read_text(encoding="utf-8"))
    if text not in known:
        problem = inliner.reporter.error(f"{FILE} has no number {text!r}.", line=lineno)
        return [inliner.problematic(rawtext, rawtext, problem)], [problem]
    return [nodes.inline(rawtext, known[text], classes=["measured"])], []


def setup(app) -> dict:
    """Register the role."""
    app.add_role("number", number)
    return {"parallel_read_safe": True}
