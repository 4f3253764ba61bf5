"""From stored measurements to tables: errors, agreement, sizes, thresholds, which features matter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils.stats import Interval, bootstrap_ci, spearman, top_k_overlap, top_k_relative_error

from ..corruptions import of_means

__all__ = [
    "BINS",
    "METHODS",
    "NONTRIVIAL",
    "RANKS",
    "THRESHOLDS",
    "WITH_ERROR",
    "agreement",
    "by_rank",
    "by_size",
    "errors",
    "most_used",
    "positions",
    "rows_of",
    "thresholds",
]

#: An effect of at least so many nats is not trivial. (The paper's number is lost in the text.)
NONTRIVIAL = 1e-4
#: Others, to see what hangs on it.
THRESHOLDS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
#: Sizes of effects, in nats.
BINS = (1e-4, 1e-3, 1e-2, 1e-1, np.inf)
METHODS = ("AP", "HVP")
#: What a table calls all components, the error with them.
WITH_ERROR = "features and error component"
#: Places of a prompt's features by the size of their true effects, up to each of these.
RANKS = (1, 5, 10, 20, 50, 10**9)
#: How many are "the largest" in the overlap, and in the top-5 relative error of chapter 1.
OVERLAP, K = 10, 5


def rows_of(stored: Mapping[object, xr.Dataset], column: str = "layer") -> pd.DataFrame:
    """A row for each prompt and component; ``column`` says of which file, ``error`` what is none."""
    parts = []
    for key, data in stored.items():
        names = [name for name in data.data_vars if data[name].dims == ("row",)]
        part = pd.DataFrame({name: data[name].values for name in names})
        parts.append(part.assign(**{column: key}, error=part.feature == -1))
    rows = pd.concat(parts, ignore_index=True)
    return rows.astype({n: float for n in rows.columns if rows[n].dtype == np.float32})


def errors(rows: pd.DataFrame, least: float = NONTRIVIAL, column: str = "layer") -> pd.DataFrame:
    """Errors on every prompt, with and without the error component.

    Args:
        rows: What ``rows_of`` returns.
        least: Effects below are left out of "mean error" and "median error".
        column: What is compared by.

    Returns:
        Columns ``column``, set ("features", or ``WITH_ERROR``), measure, prompt, method ("AP" or
        "HVP") and error. Measures: "mean error" in nats; "median error" in percent of the effect;
        "top 5", the relative error of chapter 1 in percent.
    """
    found = []
    for (key, prompt), part in rows.groupby([column, "prompt"], sort=False):
        for name, chosen in (("features", part[~part.error]), (WITH_ERROR, part)):
            large = chosen[chosen.truth.abs() >= least]
            for method in METHODS:
                off = (large[method] - large.truth).abs()
                for measure, value in (
                    ("mean error", off.mean()),
                    ("median error", 100 * (off / large.truth.abs()).median()),
                    ("top 5", top_k_relative_error(chosen[method], chosen.truth, K)),
                ):
                    found.append((key, name, measure, prompt, method, value))
    return pd.DataFrame(found, columns=[column, "set", "measure", "prompt", "method", "error"])


def _correlation(n, x, y, xx, yy, xy):
    """Pearson's correlation from means of counts and sums over prompts."""
    covariance = xy / n - x / n * y / n
    return covariance / np.sqrt((xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2))


def _pearson(part: pd.DataFrame, method: str) -> Interval:
    """Correlation over all features of all prompts, prompts resampled."""
    x, y = part[method], part.truth
    sums = pd.DataFrame({"n": 1.0, "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y})
    return of_means(_correlation, *sums.groupby(part.prompt).sum().to_numpy().T)


def agreement(rows: pd.DataFrame, least: float = NONTRIVIAL, column: str = "layer") -> pd.DataFrame:
    """How well estimates and true effects go together.

    Returns:
        Columns ``column``, set, method, and with intervals: pearson (over all effects of all
        prompts, as in the paper), spearman (of the sizes; a prompt each, their mean) and overlap
        (share of the ten largest true effects that are among the ten largest estimates, percent).
    """
    found = []
    for key, part in rows.groupby(column, sort=False):
        for name, chosen in (("features", part[~part.error]), (WITH_ERROR, part)):
            large = chosen[chosen.truth.abs() >= least]
            for method in METHODS:
                each = [
                    (
                        spearman(p[method], p.truth),
                        100 * top_k_overlap(p[method], p.truth, OVERLAP),
                    )
                    for _, p in large.groupby("prompt")
                ]
                ranks, overlap = (bootstrap_ci(values) for values in zip(*each, strict=True))
                found.append((key, name, method, _pearson(large, method), ranks, overlap))
    return pd.DataFrame(found, columns=[column, "set", "method", "pearson", "spearman", "overlap"])


def by_size(rows: pd.DataFrame, bins: Sequence[float] = BINS) -> pd.DataFrame:
    """The errors of both methods as percent of the effects, by the size of these; features only.

    Returns:
        Columns layer, low, high (of the bin, in nats), size (their mean), n (effects), and AP and
        HVP: sum of |error| over sum of |effect|, in percent, prompts resampled.
    """
    found = []
    for layer, part in rows[~rows.error].groupby("layer", sort=False):
        prompts = np.sort(part.prompt.unique())
        for low, high in itertools.pairwise(bins):
            chosen = part[(part.truth.abs() >= low) & (part.truth.abs() < high)]
            if chosen.empty:
                continue

            def total(values, of=chosen, prompts=prompts):
                return values.abs().groupby(of.prompt).sum().reindex(prompts, fill_value=0.0)

            size = total(chosen.truth)
            off = {m: of_means(_percent_of, total(chosen[m] - chosen.truth), size) for m in METHODS}
            about = {"layer": layer, "low": low, "high": high, "size": chosen.truth.abs().mean()}
            found.append(about | {"n": len(chosen)} | off)
    return pd.DataFrame(found)


def by_rank(rows: pd.DataFrame, ranks: Sequence[int] = RANKS) -> pd.DataFrame:
    """The errors of both methods by the place of a feature in its prompt; features only.

    Returns:
        Columns layer, places ("1", "2 to 5", ..., "51 on"), n (effects), length (of the patch, the
        mean), effect (the mean size, nats), AP and HVP: sum of |error| over sum of |effect|, in
        percent, and "AP median" and "HVP median": of nontrivial effects, the median of the error in
        percent of the effect, all prompts together. Prompts are resampled.
    """
    found = []
    for layer, part in rows[~rows.error].groupby("layer", sort=False):
        place = part.truth.abs().groupby(part.prompt).rank(ascending=False, method="first")
        for low, high in itertools.pairwise((0, *ranks)):
            chosen = part[(place > low) & (place <= high)]
            if chosen.empty:
                continue
            size = chosen.truth.abs().groupby(chosen.prompt).sum()
            off = {
                m: of_means(
                    _percent_of, (chosen[m] - chosen.truth).abs().groupby(chosen.prompt).sum(), size
                )
                for m in METHODS
            }
            last = f"{low + 1} on" if high == ranks[-1] else f"{low + 1} to {high}"
            name = str(high) if high == low + 1 else last
            about = {"layer": layer, "places": name, "n": len(chosen)}
            about |= {"length": chosen.length.mean(), "effect": chosen.truth.abs().mean()}
            medians = {f"{m} median": _typical(chosen, m) for m in METHODS}
            found.append(about | off | medians)
    return pd.DataFrame(found)


def _typical(rows: pd.DataFrame, method: str) -> Interval:
    """Median of |error| / |effect| of nontrivial effects in percent, prompts resampled."""
    large = rows[rows.truth.abs() >= NONTRIVIAL]
    relative = 100 * (large[method] - large.truth).abs() / large.truth.abs()
    parts = [part.to_numpy() for _, part in relative.groupby(large.prompt)]
    return bootstrap_ci(
        np.arange(len(parts)),
        lambda drawn: np.median(np.concatenate([parts[int(i)] for i in drawn])),
    )


def _percent_of(part, whole):
    with np.errstate(invalid="ignore"):  # a resample without any such effect
        return np.nan_to_num(100 * part / whole)


def thresholds(rows: pd.DataFrame, least: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """What hangs on which effects count; features only, all prompts together.

    Returns:
        Columns layer, threshold, n, AP and HVP (mean error in nats), reduction (percent), and
        pearson AP and pearson HVP.
    """
    found = []
    for layer, part in rows[~rows.error].groupby("layer", sort=False):
        for limit in least:
            chosen = part[part.truth.abs() >= limit]
            off = {m: (chosen[m] - chosen.truth).abs().mean() for m in METHODS}
            along = {f"pearson {m}": np.corrcoef(chosen[m], chosen.truth)[0, 1] for m in METHODS}
            cut = {"reduction": 100 * (1 - off["HVP"] / off["AP"])}
            found.append({"layer": layer, "threshold": limit, "n": len(chosen)} | off | cut | along)
    return pd.DataFrame(found)


def most_used(
    rows: pd.DataFrame, contexts: Mapping[int, Sequence[Mapping[int, Sequence[str]]]], k: int = 8
) -> pd.DataFrame:
    """The features with the largest effects over all prompts, a few for each layer.

    Args:
        rows: What ``rows_of`` returns.
        contexts: By layer, what ``dictionaries.contexts`` returns.
        k: How many of each layer.

    Returns:
        Columns layer, feature, prompts (on which it is active), effect (the mean over all prompts
        of |effect|, nats), signed (of the effect), AP error (percent: sum of |error| over sum of
        |effect|) and text (where it is most active).
    """
    found = []
    for layer, part in rows[~rows.error].groupby("layer", sort=False):
        n = part.prompt.nunique()
        part = part.assign(size=part.truth.abs(), off=(part.AP - part.truth).abs())
        sums = part.groupby("feature").agg(
            prompts=("prompt", "nunique"),
            effect=("size", "sum"),
            signed=("truth", "sum"),
            off=("off", "sum"),
        )
        sums["AP error"] = 100 * sums.off / sums.effect
        sums[["effect", "signed"]] /= n
        top = sums.nlargest(k, "effect").reset_index()
        texts = contexts.get(layer, {})
        top["text"] = [(texts.get(f) or [""])[0] for f in top.feature]
        found.append(top.drop(columns="off").assign(layer=layer))
    columns = ["layer", "feature", "prompts", "effect", "signed", "AP error", "text"]
    return pd.concat(found, ignore_index=True)[columns]


def positions(together: pd.DataFrame, apart: pd.DataFrame) -> pd.DataFrame:
    """Does it matter that positions are patched together? Prompt by prompt.

    Args:
        together: Rows of one layer, a component for each feature.
        apart: The same prompts, a component for each feature and position.

    Returns:
        Columns prompt, n (components that are apart), AP and HVP (sum of |error| over sum of
        |effect| in percent, of these), together (the same of AP, positions together), sums (the
        correlation of a feature's effect with the sum over its positions) and overlap (of the ten
        largest features with the ten that have the largest effect at one position, percent).
    """
    found = []
    for prompt, part in apart[~apart.error].groupby("prompt"):
        whole = together[(together.prompt == prompt) & ~together.error].set_index("feature")
        size, f = part.truth.abs(), part.groupby("feature").truth
        off = {m: 100 * (part[m] - part.truth).abs().sum() / size.sum() for m in METHODS}
        alone = size.groupby(part.feature).max().reindex(whole.index)
        summed = f.sum().reindex(whole.index)
        together_off = 100 * (whole.AP - whole.truth).abs().sum() / whole.truth.abs().sum()
        overlap = 100 * top_k_overlap(alone, whole.truth, min(OVERLAP, len(whole)))
        found.append(
            {"prompt": prompt, "n": len(part), **off, "together": together_off}
            | {"sums": np.corrcoef(summed, whole.truth)[0, 1], "overlap": overlap}
        )
    return pd.DataFrame(found)
