"""The error component: how much of a change it carries, and how wrong attribution patching is on it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils.stats import bootstrap_ci

from ..corruptions import of_means
from .tables import rows_of

__all__ = ["by_prompt", "of_error", "on_path"]


def by_prompt(stored: Mapping[int, xr.Dataset]) -> pd.DataFrame:
    """Where a prompt's change comes from; a row for each layer and prompt, all in nats.

    Returns:
        Columns layer, prompt, total (metric of the other run less that of the base run), error (the
        effect of the error component), features (of all features together, without it), largest
        (|effect| of the largest feature), sum_features (of |effect|), sum_effects (of all effects,
        the error's too), and AP and HVP, what they say of the error component.
    """
    found = []
    for layer, data in stored.items():
        rows = rows_of({layer: data})
        for prompt, part in rows.groupby("prompt"):
            at = data.isel(prompts=int(prompt))
            error, features = part[part.error].iloc[0], part[~part.error].truth
            found.append(
                {
                    "layer": layer,
                    "prompt": prompt,
                    "total": float(at.other - at.base),
                    "error": error.truth,
                    "features": float(at.explained),
                    "largest": features.abs().max(),
                    "sum_features": features.abs().sum(),
                    "sum_effects": part.truth.sum(),
                    "AP": error.AP,
                    "HVP": error.HVP,
                }
            )
    return pd.DataFrame(found)


def of_error(shares: pd.DataFrame) -> pd.DataFrame:
    """The same over all prompts, a row for each layer.

    Returns:
        With intervals, in percent of the total change: error alone, features alone, sum of effects
        (100 if effects added up); ``larger``, |effect| of the error over that of the largest
        feature; and AP and HVP, the mean of |their error| on it over its mean |effect|, percent.
    """
    found = []
    for layer, part in shares.groupby("layer", sort=False):
        row = {"layer": layer, "total": part.total.mean()}
        for name in ("error", "features", "sum_effects"):
            row[name] = of_means(_percent, part[name], part.total)
        row["larger"] = bootstrap_ci((part.error.abs() / part.largest).to_numpy(), np.median)
        for method in ("AP", "HVP"):
            row[method] = of_means(_percent, (part[method] - part.error).abs(), part.error.abs())
        found.append(row)
    return pd.DataFrame(found)


def on_path(rows: pd.DataFrame, column: str = "layer") -> pd.DataFrame:
    """More points on the path, on the largest features and on the error, all prompts together.

    Returns:
        Columns ``column``, set ("largest features" or "error"), method, and off: mean of |error|
        over mean of |effect|, in percent.
    """
    chosen = rows[rows["MS-HVP"].notna()]
    found = []
    for key, part in chosen.groupby(column, sort=False):
        for name, some in (("largest features", part[~part.error]), ("error", part[part.error])):
            for method in ("AP", "HVP", "MS-HVP", "slopes"):
                sums = (
                    values.abs().groupby(some.prompt).sum()
                    for values in (some[method] - some.truth, some.truth)
                )
                found.append((key, name, method, of_means(_percent, *sums)))
    return pd.DataFrame(found, columns=[column, "set", "method", "off"])


def _percent(part, whole):
    return 100 * part / whole
