"""The curvature of all features at once: how good a sketch is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils.plans import ModelSizes
from hvp_utils.stats import bootstrap_ci

from .. import prices
from ..corruptions import of_means
from .measuring import PRODUCTS

__all__ = ["price_table", "screened", "sketched", "wide_table"]

#: Named as for ``sweep``.
PRICED = ("attribution_patching", "row_norms:2", "sketched_hvp:16", "sketched_hvp:32")
PRICED += ("sketched_hvp:64", "hvp", "ms_hvp:5", "integrated_gradients:5:gausslegendre")


def _share(part, whole):
    return 100 * part / whole


def sketched(rows: pd.DataFrame, products: Sequence[int] = PRODUCTS) -> pd.DataFrame:
    """How far sketched quadratic terms are off, features only.

    Returns:
        Columns layer, n (features a prompt, the mean), products, off (sum of |sketched - exact| over sum of |exact| in percent), and
        left: of AP's mean error on the effects, how much is left with the sketch, in percent, as
        0 products for none and "exact" for the exact term.
    """
    found = []
    chosen = rows[~rows.error & rows[f"sketch_{products[0]}"].notna()]
    for layer, part in chosen.groupby("layer", sort=False):
        q = part.HVP - part.AP

        def total(values, of=part):
            return values.abs().groupby(of.prompt).sum()

        ap, n = total(part.AP - part.truth), part.groupby("prompt").size().mean()
        for k in products:
            own = part[f"sketch_{k}"]
            off = of_means(_share, total(own - q), total(q))
            left = of_means(_share, total(part.AP + own - part.truth), ap)
            found.append((layer, n, str(k), off, left))
        left = of_means(_share, total(part.HVP - part.truth), ap)
        found.append((layer, n, "exact", np.nan, left))
    return pd.DataFrame(found, columns=["layer", "n", "products", "off", "left"])


def screened(rows: pd.DataFrame, k: int = 10, patched: int = 20) -> pd.DataFrame:
    """Of the k largest features of a prompt, how many are among those that would be patched.

    Returns:
        Columns layer, rule ("|AP|", or "|AP| + r", the order of ``top_effects``) and found, the mean
        over prompts out of k. The error component is never counted.
    """
    found = []
    chosen = rows[~rows.error & rows.screen.notna()]
    for layer, part in chosen.groupby("layer", sort=False):
        for rule, extra in (("|AP|", 0.0), ("|AP| + r", 1.0)):
            hits = []
            for _, p in part.groupby("prompt"):
                size = p.AP.abs() + extra * p.screen
                taken = set(size.nlargest(patched).index)
                hits.append(len(taken & set(p.truth.abs().nlargest(k).index)))
            found.append((layer, rule, bootstrap_ci(hits)))
    return pd.DataFrame(found, columns=["layer", "rule", "found"])


def price_table(
    sizes: ModelSizes, stored: Mapping[int, xr.Dataset], methods: Sequence[str] = PRICED
) -> pd.DataFrame:
    """Operations for all components of a prompt, in runs: one run is one exact patch of one.

    Returns:
        Columns layer, method, n (components, mean over prompts), runs (mean), percent (of patching
        every component).
    """
    found = []
    for layer, data in stored.items():
        cases = zip(data.n.values, data.n_tokens.values, data.n_run.values, strict=True)
        parts = [
            prices.counted(sizes, methods, int(tokens), int(run), np.full(int(n), layer))
            for n, tokens, run in cases
        ]
        table = pd.concat(parts).groupby("method", sort=False)[["n", "runs", "percent"]].mean()
        found.append(table.reset_index().assign(layer=layer))
    return pd.concat(found, ignore_index=True)[["layer", "method", "n", "runs", "percent"]]


def wide_table(data: xr.Dataset, sizes: ModelSizes, layer: int) -> pd.DataFrame:
    """Tens of thousands of random directions: error and price of a sketch by number of products.

    Returns:
        Columns features, active (of them), products, off (sum of |sketched - exact| over sum of |exact| of the
        directions drawn at random, percent), off_largest (of the largest by AP), AP and HVP and
        with_sketch (the error left on effects in percent of these, of the largest), runs (the
        sketch's price) and runs_hvp (that of a product for each).
    """
    found = []
    for i, n in enumerate(data.dictionary.values):
        one = data.isel(dictionary=i)
        large = one.largest.values.astype(bool)
        q, truth, ap = (one[name].values.astype(float) for name in ("curvature", "truth", "AP"))
        layers = np.full(int(one.n), layer)
        for j, k in enumerate(data.products.values):
            sketch = one.sketch.values[j].astype(float)
            names = [f"sketched_hvp:{k}", "hvp"]
            cost = prices.counted(sizes, names, data.attrs["n_tokens"], data.attrs["n_run"], layers)

            def off(values, of, where):
                return 100 * np.abs(values[where]).sum() / np.abs(of[where]).sum()

            found.append(
                {
                    "features": int(n),
                    "active": int(one.n) - 1,  # the last component is the error
                    "products": int(k),
                    "off": off(sketch - q, q, ~large),
                    "off_largest": off(sketch - q, q, large),
                    "AP": off(ap - truth, truth, large),
                    "HVP": off(ap + q - truth, truth, large),
                    "with_sketch": off(ap + sketch - truth, truth, large),
                    "runs": cost.runs[0],
                    "runs_hvp": cost.runs[1],
                }
            )
    return pd.DataFrame(found)
