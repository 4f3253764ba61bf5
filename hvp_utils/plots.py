"""Figures. Each function takes results and returns the Axes it drew on.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers, and a method has the
same colour, marker and line style in every figure, so that nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter
from numpy import ndarray
from numpy.typing import ArrayLike

from hvp_utils import _checks
from hvp_utils.circuits import Circuit
from hvp_utils.patched_metric import PatchedMetric, of_metric

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "METHODS",
    "axis_curve",
    "circuit",
    "estimate_vs_truth",
    "scaling",
    "steps",
    "use_style",
]

#: Name, colour, marker and line style of every method.
METHODS = {
    "activation_patching": ("activation patching (true effect)", "#000000", "o", "-"),
    "attribution_patching": ("attribution patching", "#D55E00", "s", "--"),
    "hvp": ("HVP", "#0072B2", "^", "-."),
    "ms_hvp": ("MS-HVP", "#009E73", "D", "-"),
}

_STYLES = {
    "light": {},
    "dark": {
        "figure.facecolor": "#121212",
        "axes.facecolor": "#121212",
        "savefig.facecolor": "#121212",
        **{f"{part}.color": "#e6e6e6" for part in ("text", "xtick", "ytick")},
        "axes.edgecolor": "#e6e6e6",
        "axes.labelcolor": "#e6e6e6",
        "grid.color": "#3a3a3a",
    },
    "print": {"font.size": 8, "figure.figsize": (3.5, 2.6), "savefig.dpi": 300},
}


def use_style(style: Literal["light", "dark", "print"] = "light") -> None:
    """Set matplotlib's defaults for all figures that follow.

    Args:
        style: ``"light"`` (white background; the book shows it on a white card in its dark theme
            and prints it as it is), ``"dark"`` (for slides) or ``"print"`` (one journal column).

    Raises:
        ValueError: There is no such style.
    """
    _checks.one_of("style", style, _STYLES)
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.figsize": (7.0, 4.4),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "svg.hashsalt": "hvp_utils",  # the same figure gives the same file
            **_STYLES[style],
        },
    )


def _check_axes(ax: Axes | None) -> None:
    if ax is not None:
        _checks.instance("ax", ax, Axes, "an Axes of matplotlib, or None")


def _finite(name: str, values: ArrayLike) -> Float[ndarray, " n"]:
    """Finite numbers in one row, at least one."""
    found = _checks.array(name, values).ravel()
    if not len(found) or not np.isfinite(found).all():
        raise ValueError(f"{name} must be one finite number or more, not {_checks.shown(values)}.")
    return found


def _arrays(name: str, values: Mapping[str, ArrayLike]) -> dict[str, Float[ndarray, " n"]]:
    """Some rows of finite numbers by label."""
    _checks.instance(name, values, Mapping, "numbers by label")
    if not values:
        raise ValueError(f"{name} is empty: there is nothing to draw.")
    return {label: _finite(f"{name}[{label!r}]", row) for label, row in values.items()}


def _by_label(name: str, values: Mapping | None, parts: int = 0) -> Mapping:
    """Numbers by label, or tuples of so many; None is as good as nothing."""
    values = {} if values is None else values
    _checks.instance(name, values, Mapping, "numbers by label")
    for label, value in values.items():
        if not parts:
            _checks.number(f"{name}[{label!r}]", value)
            continue
        _checks.instance(f"{name}[{label!r}]", value, Sequence, f"a tuple of {parts}")
        if len(value) != parts:
            raise ValueError(f"{name}[{label!r}] must be a tuple of {parts}, not of {len(value)}.")
        for part in value:
            _checks.array(f"{name}[{label!r}]", part)
    return values


def _enough(name: str, curves: Mapping, looks: Sequence) -> None:
    """Complain of more curves than there are looks that can be told apart."""
    if len(curves) > len(looks):
        raise ValueError(f"{name} has {len(curves)} curves, and {len(looks)} can be told apart.")


def _ink() -> str:
    """Text colour of the current style: what is black on white turns light on dark."""
    return mpl.rcParams["text.color"]


def _look(method: str, n_steps: int | None = None) -> dict[str, Any]:
    label, colour, _, line = METHODS[method]
    label = f"{label}, {n_steps} steps" if n_steps else label
    return {
        "label": label,
        "color": _ink() if method == "activation_patching" else colour,
        "linestyle": line,
    }


@of_metric
def axis_curve(
    M: PatchedMetric, component: str, n_steps: int = 3, title: str = "", ax: Axes | None = None
) -> Axes:
    """The metric along one component's axis, with what each estimator makes of it.

    Draws g(t), its tangent at 0 (attribution patching), its parabola at 0 (HVP) and ``n_steps``
    parabolas end to end (MS-HVP), each with its estimate of the effect at t = 1.

    Args:
        M: The metric.
        component: A label of ``M.labels``.
        n_steps: Steps of MS-HVP.
        title: What the figure says.
        ax: Where to draw; a new figure by default.

    Raises:
        ValueError: There is no such component, or ``M`` keeps prompts apart.
    """
    _checks.steps("n_steps", n_steps)
    _check_axes(ax)
    if isinstance(M.base, torch.Tensor):
        raise ValueError("A curve is that of one metric: give M, the mean, in place of M.each.")
    _checks.instance("component", component, str, "a label of M.labels")
    _checks.instance("title", title, str, "a text")
    c = int(M.index(component))
    ax = ax or plt.subplots()[1]
    t = np.linspace(0, 1, 61)
    g = M.along_axes(torch.tensor(t), order=0, components=torch.full((len(t),), c)).value.cpu()
    nodes = torch.arange(n_steps, dtype=torch.float64) / n_steps
    at_nodes = M.along_axes(nodes, components=torch.full((n_steps,), c))
    slope, curvature = (
        x.cpu().double().numpy() for x in cast("tuple[torch.Tensor, ...]", at_nodes[1:3])
    )
    ax.plot(t, g, **_look("activation_patching"), linewidth=2.5)
    ax.plot(t, M.base + slope[0] * t, **_look("attribution_patching"), linewidth=2)
    parabola = M.base + slope[0] * t + curvature[0] * t**2 / 2
    ax.plot(t, parabola, **_look("hvp"), linewidth=2)

    # Each step starts where the last one ended, as the estimate itself does.
    start, h = M.base, np.linspace(0, 1 / n_steps, 31)
    for k in range(n_steps):
        piece = start + slope[k] * h + curvature[k] * h**2 / 2
        look: dict[str, Any] = (
            _look("ms_hvp", n_steps) if k == 0 else _look("ms_hvp") | {"label": None}
        )
        ax.plot(nodes[k].item() + h, piece, **look, linewidth=2)
        ax.plot(nodes[k].item(), start, "o", color=look["color"], markersize=6, zorder=5)
        start = piece[-1]
    ends = {
        "activation_patching": g[-1].item(),
        "attribution_patching": M.base + slope[0],
        "hvp": parabola[-1],
        "ms_hvp": start,
    }
    _name_ends(ax, ends, M.base)
    ax.axhline(M.base, color="#888888", linewidth=0.8, zorder=0)
    ax.set(
        xlabel="patch strength t   (0: base run, 1: component fully patched)",
        ylabel=f"metric {_metric_name(M)}",
        title=title or f"{component}: the metric as the component is patched",
        xlim=(-0.02, 1.14),
    )
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.legend(loc="best")
    return ax


def _metric_name(M: PatchedMetric) -> str:
    names = {
        "log_prob": "log p(answer)   [nats]",
        "logit_diff": "logit difference   [nats]",
        "prob_diff": "probability difference",
    }
    return names.get(M.pair.metric, "") if isinstance(M.pair.metric, str) else ""


def _name_ends(ax: Axes, ends: Mapping[str, float], base: float) -> None:
    """Write each estimated effect beside its end point, nudged apart where they would overlap."""
    low, high = min(*ends.values(), base), max(*ends.values(), base)
    gap, last = (high - low) * 0.055, -np.inf
    for method, y in sorted(ends.items(), key=lambda item: item[1]):
        look = _look(method)
        ax.plot(1, y, METHODS[method][2], color=look["color"], markersize=7, zorder=6)
        place = max(y, last + gap)
        ax.text(1.025, place, f"{y - base:+.2f}", color=look["color"], va="center", fontsize=10)
        last = place


def estimate_vs_truth(
    truth: ArrayLike,
    estimates: Mapping[str, ArrayLike],
    labels: Sequence[str] | None = None,
    name_worst: int = 3,
    title: str = "",
    unit: str = "nats",
    ax: Axes | None = None,
) -> Axes:
    """Estimated against true effects, one dot per component; on the diagonal they agree.

    Args:
        truth: True effects.
        estimates: Estimates by method name (a key of ``METHODS``).
        labels: Component labels; the ``name_worst`` farthest from the diagonal are named.
        name_worst: How many to name, for the first of the estimates.
        title: What the figure says.
        unit: Unit of the effects.
        ax: Where to draw; a new figure by default.
    """
    _check_axes(ax)
    truth = _finite("truth", truth)
    arrays = _arrays("estimates", estimates)
    for name, estimate in arrays.items():
        _checks.one_of("each key of estimates", name, METHODS)
        if len(estimate) != len(truth):
            raise ValueError(
                f"estimates[{name!r}] has {len(estimate)} numbers and truth {len(truth)}."
            )
    _checks.whole("name_worst", name_worst, 0)
    if labels is not None:
        _checks.instance("labels", labels, Sequence, "a list of labels, or None")
        if len(labels) != len(truth):
            raise ValueError(f"There are {len(labels)} labels and {len(truth)} true effects.")
    ax = ax or plt.subplots(figsize=(5.6, 5.2))[1]
    both = np.concatenate([truth, *arrays.values()])
    pad = 0.06 * np.ptp(both)
    limits = (both.min() - pad, both.max() + pad)
    ax.plot(limits, limits, color="#888888", linewidth=1, zorder=0)
    for name, e in arrays.items():
        label, colour, marker, _ = METHODS[name]
        ax.scatter(truth, e, s=34, marker=marker, color=colour, alpha=0.75, label=label, lw=0)
    if labels is not None and name_worst:
        first = next(iter(arrays.values()))
        for c in np.argsort(-np.abs(first - truth))[:name_worst]:
            ax.annotate(
                labels[cast("int", c)],
                (truth[c], first[c]),
                xytext=(7, -3 if first[c] < truth[c] else 5),
                textcoords="offset points",
                fontsize=10,
            )
    ax.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel=f"true effect of patching   [{unit}]",
        ylabel=f"estimated effect   [{unit}]",
        title=title,
    )
    if len(arrays) > 1:
        ax.legend(loc="upper left")
    return ax


def scaling(
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    slopes: Mapping[str, tuple[float, float]] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Curves on doubly logarithmic axes, with reference lines of known slope.

    Args:
        x: Abscissae, positive.
        curves: Ordinates by label, positive; ``[curves, x]`` entries that are 0 are left out.
        slopes: For some of the labels, the slope of a thin reference line and the x at which it
            touches the curve.
        xlabel: Label with unit.
        ylabel: Label with unit.
        title: What the figure says.
        ax: Where to draw; a new figure by default.
    """
    _check_axes(ax)
    x = _finite("x", x)
    if (x <= 0).any():
        raise ValueError("x must be above 0, for the axis is logarithmic.")
    curves = _arrays("curves", curves)
    for label, y in curves.items():
        if len(y) != len(x):
            raise ValueError(f"curves[{label!r}] has {len(y)} numbers and x {len(x)}.")
    slopes = _by_label("slopes", slopes, 2)
    ax = ax or plt.subplots()[1]
    looks = [(colour, marker) for _, colour, marker, _ in METHODS.values()][1:]
    looks += [("#CC79A7", "v"), ("#E69F00", "P"), (_ink(), "o")]
    _enough("curves", curves, looks)
    for (label, y), (colour, marker) in zip(curves.items(), looks, strict=False):
        shown = y > 0
        ax.plot(x[shown], y[shown], color=colour, marker=marker, markersize=5, label=label)
        if slopes and label in slopes:
            slope, touching = slopes[label]
            at = np.abs(x - touching).argmin()
            guide = y[at] * (x / x[at]) ** slope
            ax.plot(
                x,
                guide,
                color=colour,
                linewidth=0.9,
                linestyle=":",
                zorder=0,
                label=f"slope {slope:g}",
            )
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    ax.legend()
    return ax


def steps(
    n_steps: Sequence[int],
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    references: Mapping[str, float] | None = None,
    title: str = "",
    ylabel: str = "top-5 relative error   [%]",
    ax: Axes | None = None,
) -> Axes:
    """Error against the number of MS-HVP steps, with bootstrap intervals.

    Args:
        n_steps: Values of K.
        curves: Estimate, lower and upper end of its interval, by label.
        references: Level of attribution patching for some of the labels, as a short dashed line.
        title: What the figure says.
        ylabel: Label with unit.
        ax: Where to draw; a new figure by default.
    """
    _check_axes(ax)
    n_steps = _checks.items("n_steps", n_steps, "a list of numbers of steps")
    n_steps = [_checks.whole("each of n_steps", k) for k in n_steps]
    if not n_steps:
        raise ValueError("n_steps is empty: give at least one number of steps.")
    curves, references = _by_label("curves", curves, 3), _by_label("references", references)
    for label, parts in curves.items():
        for part in parts:
            if np.shape(part) != (len(n_steps),):
                raise ValueError(
                    f"curves[{label!r}] must hold three lists of {len(n_steps)} numbers, one for "
                    "each of n_steps."
                )
    ax = ax or plt.subplots()[1]
    looks = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "v")]
    _enough("curves", curves, looks)
    for (label, (middle, low, high)), (colour, marker) in zip(curves.items(), looks, strict=False):
        ax.plot(n_steps, middle, color=colour, marker=marker, markersize=5, label=label)
        ax.fill_between(n_steps, low, high, color=colour, alpha=0.15, linewidth=0)
        if references and label in references:
            # Attribution patching has no steps: it stands to the left of one.
            ax.plot([0.62, 0.86], [references[label]] * 2, color=colour, linestyle="--", lw=2)
    ax.set(xscale="log", yscale="log", xlabel="steps K", ylabel=ylabel, title=title)
    ticks = [k for k in (1, 2, 3, 5, 10, 20) if min(n_steps) <= k <= max(n_steps)]
    ax.set_xticks(
        [0.73, *ticks] if references else ticks,
        # Matplotlib writes numbers too.
        cast("list[str]", [*["AP"] * bool(references), *ticks]),
    )
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.legend()
    return ax


#: Colour and line of an edge by the input that it leads into.
_INPUTS = {
    "query": ("#0072B2", "-"),
    "key": ("#E69F00", "--"),
    "value": ("#009E73", "-."),
    "MLP": ("#CC79A7", ":"),
    "logits": (None, "-"),
}


def circuit(
    found: Circuit,
    effects: ArrayLike | None = None,
    most: int = 60,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A circuit as a graph: the embedding at the bottom, the logits at the top, a row a layer.

    Args:
        found: The circuit. Edges that are on no path are left out, as ``Circuit.pruned`` does.
        effects: One number per edge of the graph; the larger, the wider the edge.
        most: With more edges than these nobody could read it. Give effects, and the largest are
            drawn; without effects it is refused.
        title: What the figure says; how many edges are left out is added.
        ax: Where to draw; a new figure by default.

    Raises:
        ValueError: No edge is on a path, or there are too many and no effects to choose by.
    """
    _check_axes(ax)
    _checks.instance("found", found, Circuit, "a Circuit")
    _checks.whole("most", most)
    if effects is not None:
        effects = _finite("effects", effects)
        if len(effects) != found.graph.n_edges:
            raise ValueError(
                f"effects must be one number for each of the {found.graph.n_edges} edges, not "
                f"{len(effects)}."
            )
    whole = found.pruned()
    if not len(whole):
        raise ValueError("No edge of this circuit lies on a path from the embedding to the logits.")
    numbers = sorted(whole.numbers)
    size = np.ones(whole.graph.n_edges) if effects is None else np.abs(effects)
    if len(numbers) > most:
        if effects is None:
            raise ValueError(
                f"Nobody can read {len(numbers)} edges. Give effects, so that the {most} largest "
                "can be drawn, or draw a smaller circuit."
            )
        kept = sorted(numbers, key=lambda i: -size[i])[:most]
        numbers = sorted(Circuit(whole.graph, frozenset(kept)).pruned().numbers) or sorted(kept)
    ends = [whole.graph.nodes_of_edges[i] for i in numbers]
    places = _places(ends, (*whole.graph.writer_labels, "logits"))
    rows = sorted({y for _, y in places.values()})
    width = max(x for x, _ in places.values()) - min(x for x, _ in places.values())
    ax = ax or plt.subplots(figsize=(max(5.0, 1.1 * width + 2), 0.62 * len(rows) + 1.2))[1]
    largest = max(size[i] for i in numbers)
    article = {"MLP": "an", "logits": "the"}
    used = {}
    for i, (writer, reader) in zip(numbers, ends, strict=True):
        part = whole.graph.labels[i].rpartition(".")[2]
        kind = {"q": "query", "k": "key", "v": "value", "mlp": "MLP"}.get(part, "logits")
        colour, line = _INPUTS[kind]
        used[kind] = {"color": colour or _ink(), "linestyle": line}
        ax.annotate(
            "",
            xy=places[reader],
            xytext=places[writer],
            arrowprops={
                "arrowstyle": "-|>",
                "mutation_scale": 9,
                "shrinkA": 9,
                "shrinkB": 9,
                "linewidth": 0.8 + 2.6 * (size[i] / largest if largest else 0.0),
                "connectionstyle": f"arc3,rad={0.16 if places[writer][0] <= 0 else -0.16}",
                **used[kind],
            },
        )
    for node, (x, y) in places.items():
        ax.text(
            x,
            y,
            node,
            ha="center",
            va="center",
            fontsize=9,
            bbox={
                "boxstyle": "round,pad=0.25" if "H" in node else "square,pad=0.25",
                "facecolor": mpl.rcParams["axes.facecolor"],
                "edgecolor": _ink(),
                "linewidth": 0.8,
            },
        )
    for kind, look in used.items():
        ax.plot([], [], label=f"into {article.get(kind, 'a')} {kind}", **look)
    xs = [x for x, _ in places.values()]
    ax.set(xlim=(min(xs) - 0.8, max(xs) + 0.8), ylim=(rows[0] - 0.6, rows[-1] + 0.6))
    ax.set_axis_off()
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    left_out = len(whole) - len(numbers)
    note = f"   ({len(numbers)} of {len(whole)} edges drawn)" if left_out else ""
    ax.set_title(f"{title}{note}")
    return ax


def _places(
    ends: Sequence[tuple[str, str]], order: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Where each node stands: rows in the order of the network, each node near those it hears."""
    rank = {node: i for i, node in enumerate(order)}
    nodes = sorted(
        {node for pair in ends for node in pair}, key=cast("Callable[[str], int]", rank.get)
    )
    rows: dict[str, list[str]] = {}
    for node in nodes:
        rows.setdefault(node.partition("H")[0], []).append(node)
    places: dict[str, tuple[float, float]] = {}
    for y, row in enumerate(rows.values()):
        heard = {
            node: [places[writer][0] for writer, reader in ends if reader == node] for node in row
        }
        row = sorted(row, key=lambda node: (np.mean(heard[node]) if heard[node] else 0, rank[node]))
        # Odd rows stand a little aside, so that edges do not run through the nodes between.
        aside = 0.0 if len(row) > 1 or y in (0, len(rows) - 1) else (0.55 if y % 2 else -0.55)
        for x, node in enumerate(row):
            places[node] = (1.15 * (x - (len(row) - 1) / 2) + aside, float(y))
    return places
