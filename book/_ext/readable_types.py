"""Types of tensors as a reader says them: "Tensor [prompt, n]", not ``Float[Tensor, ...]``."""

import re

from sphinx.ext import autodoc

SHAPED = re.compile(
    r"""(?:~?[\w.]*\.)?(?P<kind>Float|Int|Bool|Shaped)\[
    (?:~?[\w.]*\.)?(?P<array>Tensor|ndarray),\s*['"](?P<shape>[^'"]*)['"]\]""",
    re.VERBOSE,
)
KINDS = {"Float": "", "Int": "integer ", "Bool": "bool ", "Shaped": ""}


def readable(annotation: str) -> str:
    """An annotation with each type of tensor in words."""

    def say(match: re.Match) -> str:
        shape = ", ".join(match["shape"].replace("*", "...").split())
        return f"{KINDS[match['kind']]}{match['array']} [{shape or 'one number'}]"

    return SHAPED.sub(say, annotation)


def rewrite(app, objtype, name, obj, options, args, retann) -> None:
    """Change what autodoc has just recorded of a signature."""
    recorded = app.env.temp_data.get("annotations", {}).get(name, {})
    for parameter, annotation in recorded.items():
        recorded[parameter] = readable(annotation)


def setup(app) -> dict:
    """Run after autodoc's own listener, and where it writes the types of properties."""
    original = autodoc.stringify_annotation
    autodoc.stringify_annotation = lambda *given, **named: readable(original(*given, **named))
    app.connect("autodoc-process-signature", rewrite, priority=900)
    return {"parallel_read_safe": True}
