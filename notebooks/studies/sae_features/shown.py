"""Tables as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from hvp_utils import PatchedMetric, bootstrap_ci

from ..corruptions import of_means
from .tables import METHODS, NONTRIVIAL

__all__ = [
    "against_random",
    "cut_by_place",
    "listing",
    "share_of_largest",
    "snippet",
    "standing_out",
    "summary",
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


def standing_out(rows: pd.DataFrame, layer: int | None = None) -> str:
    """A sentence on the feature with the largest effects of a layer, by default of the last."""
    layer = rows.layer.max() if layer is None else layer
    part = rows[(rows.layer == layer) & ~rows.error]
    size, off = part.truth.abs(), (part.AP - part.truth).abs()
    feature = size.groupby(part.feature).sum().idxmax()
    own = part.feature == feature
    return (
        f"In layer {layer} one feature, L{layer}F{feature}, has {100 * size[own].sum() / size.sum():.0f} % "
        f"of all effects (in size) and {100 * off[own].sum() / off.sum():.0f} % of all of AP's error."
    )


def _less(ap: np.ndarray, hvp: np.ndarray) -> np.ndarray:
    return 100 * (1 - hvp / ap)
