"""A second version of every wide figure, for a phone: its panels in one column, its title in lines.

A notebook stores it beside the figure, under a kind of its own that Jupyter and Colab pass over;
the site puts it in place of the figure where the screen is narrow (``book/_ext/figures.py``).
"""

from __future__ import annotations

import base64
import io
import pickle
import textwrap

from matplotlib.figure import Figure

__all__ = ["KIND", "register", "restack"]

#: The kind of output under which a notebook holds the phone's version: a PNG in base64.
KIND = "application/vnd.hvp-book.phone"

WIDTH = 4.3  # inches; with DPI about twice the pixels of a phone's column
DPI = 170
NARROW = 5.5  # a figure up to this wide can be read as it is
LINE = 44  # characters of a title


def restack(fig: Figure) -> Figure | None:
    """A copy of a figure with its panels below each other, or None if there is nothing to gain.

    A figure of one panel, or one whose panels do not form a grid, gets narrower and no more;
    drawings without axes are left as they are.
    """
    if fig.get_figwidth() <= NARROW or any(not ax.axison for ax in fig.axes):
        return None
    try:
        copy: Figure = pickle.loads(pickle.dumps(fig))
    except (pickle.PicklingError, AttributeError, TypeError):  # drawn by a local function
        return None
    panels = [ax for ax in copy.axes if ax.get_subplotspec() is not None]
    panels.sort(
        key=lambda ax: (ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start)
    )
    heights = []
    for ax in panels:
        spec = ax.get_subplotspec()
        row = [a for a in panels if a.get_subplotspec().rowspan.start == spec.rowspan.start]
        column = [a for a in panels if a.get_subplotspec().colspan.start == spec.colspan.start]
        heights.append(ax.get_position().height * fig.get_figheight())
        ax.set_ylabel(ax.get_ylabel() or row[0].get_ylabel())
        ax.set_xlabel(ax.get_xlabel() or column[-1].get_xlabel())
    for common, of_axes in ((copy._supxlabel, "xaxis"), (copy._supylabel, "yaxis")):
        if common is not None and common.get_text():
            for ax in panels:
                getattr(ax, of_axes).set_label_text(common.get_text())
            common.set_text("")
    where = [ax.get_subplotspec() for ax in panels]
    if len({(s.rowspan.start, s.colspan.start) for s in where}) == len(panels) > 1:
        grid = copy.add_gridspec(len(panels), 1, height_ratios=[max(h, 1.9) for h in heights])
        for i, ax in enumerate(panels):
            ax.set_subplotspec(grid[i, 0])
            ax.tick_params(labelleft=ax.yaxis.get_visible(), labelbottom=ax.xaxis.get_visible())
    said = {ax.get_xlabel() for ax in panels} - {""}
    if len(said) == 1:  # once, at the bottom
        for ax in panels:
            ax.set_xlabel(next(iter(said)) if ax is panels[-1] else "")
    titles = 0
    for ax in panels:
        for place in ("left", "center", "right"):
            title = ax.get_title(place)
            ax.set_title(textwrap.fill(title, LINE), loc=place, fontsize=10)
            titles += 0.2 * len(textwrap.wrap(title, LINE))
    headline = copy.get_suptitle()
    if headline:
        copy._suptitle.set(text=textwrap.fill(headline, LINE - 4), fontsize=11)
        titles += 0.22 * len(textwrap.wrap(headline, LINE - 4))
    for legend in list(copy.legends):
        handles, labels = legend.legend_handles, [t.get_text() for t in legend.get_texts()]
        legend.remove()
        columns = 2 if max(map(len, labels)) < 22 else 1
        copy.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
        titles += 0.2 * -(-len(labels) // columns)
    copy.set_size_inches(WIDTH, sum(max(h, 1.9) + 0.75 for h in heights) + titles + 0.2)
    return copy


def _png(fig: Figure) -> str | None:
    phone = restack(fig)
    if phone is None:
        return None
    file = io.BytesIO()
    phone.savefig(file, format="png", dpi=DPI)
    return base64.b64encode(file.getvalue()).decode()


def register() -> None:
    """In a notebook: store the phone's version of each figure that is shown from now on."""
    from IPython import get_ipython
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    class Phone(BaseFormatter):
        format_type = Unicode(KIND)
        print_method = ObjectName("_repr_phone_")
        _return_type = str

        def __call__(self, obj):  # matplotlib's inline backend forgets what is registered by type
            return _png(obj) if isinstance(obj, Figure) else None

    shell = get_ipython()
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    if KIND not in formatters:
        formatters[KIND] = Phone(parent=shell.display_formatter)
