"""Tables as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from hvp_utils import PatchedMetric
from hvp_utils.stats import bootstrap_ci

from ..common import listed, span
from ..corruptions import of_means
from .tables import METHODS, NONTRIVIAL

__all__ = [
    "against_random",
    "cut_by_place",
    "listing",
    "out_of",
    "repaired",
    "share_of_largest",
    "side_by_side",
    "snippet",
    "standing_out",
    "summary",
    "without_largest",
]

#: Characters of a context around the marked token.
_AROUND = 34


def snippet(text: str, around: int = _AROUND) -> str:
    """A piece of text around the token that is marked in it."""
    text = " ".join(text.split())
    start, end = text.find("⟦"), text.find("⟧")
    if start < 0:
        return text[: 2 * around]
    left, right = max(0, start - around), end + 1 + around // 3
    return ("…" if left else "") + text[left:right].strip() + ("…" if right < len(text) else "")


def listing(
    M: PatchedMetric,
    components: Sequence[int],
    truth: Float[Tensor, " n"],
    ap: Float[Tensor, " n"],
    second: Float[Tensor, " n"],
    texts: Mapping[int, Sequence[str]],
) -> pd.DataFrame:
    """Some components of one prompt.

    Args:
        M: The metric.
        components: Their numbers.
        truth: True effects of all.
        ap: Attribution patching.
        second: HVP.
        texts: By feature, where it is most active; see ``dictionaries.contexts``.
    """
    rows = []
    for c in components:
        feature = M.labels[c].partition("F")[2]
        text = texts.get(int(feature), [""])[0] if feature else ""
        known = (f[c].item() for f in (truth, ap, second))
        rows.append((M.labels[c], *known, snippet(text) or "–"))
    return pd.DataFrame(rows, columns=["component", "true", "AP", "HVP", "most active on"])


def summary(compared: pd.DataFrame, agreed: pd.DataFrame) -> pd.DataFrame:
    """Mean error, reduction and correlation, a row for each layer and set, without intervals.

    Args:
        compared: ``corruptions.compare`` of ``errors`` by layer, set and measure.
        agreed: What ``agreement`` returns.
    """
    along = agreed.set_index(["layer", "set", "method"]).pearson
    rows = []
    for row in compared[compared.measure == "mean error"].itertuples():
        of = {f"r, {m}": along[row.layer, row.set, m].estimate for m in METHODS}
        mean = {f"{m}, nats": getattr(row, m).estimate for m in METHODS}
        about = {"layer": row.layer, "effects of": row.set}
        rows.append(about | mean | {"less, %": row.reduction.estimate} | of)
    return pd.DataFrame(rows)


def against_random(
    rows: pd.DataFrame, random: pd.DataFrame, least: float = NONTRIVIAL
) -> pd.DataFrame:
    """Learned directions beside random ones, of equal lengths, on the same prompts; no error.

    Returns:
        Columns layer, directions ("learned", "random"), n (effects a prompt), effect (the median
        size, nats), AP and HVP (median relative errors in percent; each the mean of the prompts'
        medians), and less (of the mean error, what HVP takes away, in percent), with intervals.
    """
    found = []
    for layer in rows.layer.unique():
        for name, table in (("learned", rows), ("random", random)):
            part = table[(table.layer == layer) & ~table.error & (table.truth.abs() >= least)]
            off = {m: (part[m] - part.truth).abs() for m in METHODS}
            by = part.prompt
            row = {"layer": layer, "directions": name, "n": part.groupby(by).size().mean()}
            row["effect"] = part.truth.abs().groupby(by).median().mean()
            for m in METHODS:
                medians = (100 * off[m] / part.truth.abs()).groupby(by).median()
                row[m] = bootstrap_ci(medians.to_numpy())
            mean_off = (off[m].groupby(by).mean().to_numpy() for m in METHODS)
            row["less"] = of_means(_less, *mean_off)
            found.append(row)
    return pd.DataFrame(found)


def side_by_side(both: pd.DataFrame, column: str, spec: str) -> str:
    """Of what ``against_random`` returns, one column as text: "1.2 against 3.4 % (layer 12)"."""
    said = {}
    for layer, part in both.groupby("layer", sort=False):
        one = part.set_index("directions")[column]
        learned, random = (format(one[name].estimate, spec) for name in ("learned", "random"))
        said[f"layer {layer}"] = f"{learned} against {random}"
    return listed(said, "", " %")


def cut_by_place(places: pd.DataFrame) -> dict[str, list[float]]:
    """Of what ``by_rank`` returns: at every place, how much of AP's error HVP takes away, percent.

    A number for each layer.
    """
    found: dict[str, list[float]] = {}
    for row in places.itertuples():
        cut = 100 * (1 - row.HVP.estimate / row.AP.estimate)
        found.setdefault(row.places, []).append(cut)
    return found


def share_of_largest(rows: pd.DataFrame, k: int = 5) -> pd.DataFrame:
    """Of a method's summed error on features, percent on the k largest of each prompt, by layer."""
    part = rows[~rows.error]
    top = part.truth.abs().groupby([part.layer, part.prompt]).rank(ascending=False) <= k
    off = {m: (part[m] - part.truth).abs() for m in METHODS}
    shares = {m: 100 * o[top].groupby(part.layer).sum() / o.groupby(part.layer).sum() for m, o in off.items()}  # fmt: skip
    return pd.DataFrame(shares)


def without_largest(
    rows: pd.DataFrame,
    random: pd.DataFrame,
    layer: int | None = None,
    least: float = NONTRIVIAL,
) -> dict[str, float]:
    """The feature with the largest effects of a layer, and what HVP does without it.

    Args:
        rows: Those of learned directions.
        random: Those of random ones: the same features, as long.
        layer: By default the last.
        least: As for ``against_random``.

    Returns:
        layer and feature; length (of its patch) and effect (mean sizes), of a random direction
        random_length and random_effect; of all effects and of all of AP's error its share, effects
        and errors, in percent; and what HVP takes away of the mean error in percent: less, of
        the others alone less_without, of random directions less_random.
    """
    layer = rows.layer.max() if layer is None else layer
    part, wild = (table[(table.layer == layer) & ~table.error] for table in (rows, random))
    size, off = part.truth.abs(), (part.AP - part.truth).abs()
    feature = size.groupby(part.feature).sum().idxmax()
    own, same = part[part.feature == feature], wild[wild.feature == feature]

    def less(some: pd.DataFrame) -> float:
        some = some[some.truth.abs() >= least]
        ap, hvp = ((some[m] - some.truth).abs().groupby(some.prompt).mean().mean() for m in METHODS)
        return _less(ap, hvp)

    return {
        "layer": layer,
        "feature": feature,
        "length": own.length.mean(),
        "effect": own.truth.abs().mean(),
        "random_length": same.length.mean(),
        "random_effect": same.truth.abs().mean(),
        "effects": 100 * size[own.index].sum() / size.sum(),
        "errors": 100 * off[own.index].sum() / off.sum(),
        "less": less(part),
        "less_without": less(part[part.feature != feature]),
        "less_random": less(wild),
    }


def standing_out(rows: pd.DataFrame, random: pd.DataFrame, layer: int | None = None) -> str:
    """Sentences on what ``without_largest`` finds; both tables are of the same prompts."""
    one = without_largest(rows, random, layer)
    closed = (one["less_without"] - one["less"]) / (one["less_random"] - one["less"])
    return (
        f"In layer {one['layer']} one feature, L{one['layer']}F{one['feature']}, has "
        f"{one['effects']:.0f} % of all effects and {one['errors']:.0f} % of AP's error: "
        f"{one['effect']:.2f} nats, at a length of {one['length']:.1f}. The random direction has "
        f"{one['random_effect']:.2f}, at {one['random_length']:.1f}. Without the feature HVP takes "
        f"away {one['less_without']:.0f} %: it is {100 * closed:.0f} % of the difference."
    )


def repaired(listing: pd.DataFrame) -> str:
    """Sentences on where HVP repairs AP, of what ``listing`` returns with the error last."""
    off = {m: (listing[m] - listing.true).abs() for m in METHODS}
    worse = listing[off["HVP"] > off["AP"]]
    said = f"HVP is closer to the truth on {len(listing) - len(worse)} of the {len(listing)}."
    for row in worse.itertuples():
        too_far = (row.HVP - row.true) * (row.AP - row.true) < 0
        said += (
            f" On {row.component} it {'overshoots' if too_far else 'errs on'} and is worse than AP."
        )
    error, largest = abs(listing.true.iloc[-1]), listing.true.iloc[:-1].abs().max()
    than = "exceeds every feature's" if error > largest else "is below the largest feature's"
    return f"{said} The error component's effect {than}."


def out_of(k: str, found: Sequence[float], whole: float) -> str:
    """How many of the largest are found, as text: all of them ("all ten"), or the averages."""
    if min(found) >= whole:
        return f"all {k}"
    return f"{span(found, 1)} on average"


def _less(ap: np.ndarray, hvp: np.ndarray) -> np.ndarray:
    return 100 * (1 - hvp / ap)
