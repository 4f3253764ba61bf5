"""Tables of what was measured: bounds, the truth beside them, and what both cost, in runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import binomtest

from hvp_utils import model_sizes
from hvp_utils.plans import ModelSizes, pass_flops
from hvp_utils.stats import Interval

from .measuring import CONTROLS, KINDS, coverage, left_out, measure

__all__ = [
    "NAMES",
    "bounds",
    "held",
    "left_out_table",
    "load",
    "load_coverage",
    "most_subsets",
    "overview",
    "runs",
    "shrinkage",
    "summary",
]

NAMES = {"neurons_pre": "neurons", "edges": "edges", "heads": "heads"}

Measured = Mapping[tuple[str, str], xr.Dataset]


def load(
    models: Sequence[str], kinds: Sequence[str] = KINDS, **options
) -> dict[tuple[str, str], xr.Dataset]:
    """What ``measure`` returns, by model and kind of components; ``options`` are its own."""
    return {(model, kind): measure(model, kind, **options) for model in models for kind in kinds}


def load_coverage(models: Sequence[str], **options) -> dict[str, xr.Dataset]:
    """What ``coverage`` returns, by model; ``options`` are its own."""
    return {model: coverage(model, **options) for model in models}


def runs(data: xr.Dataset, n_subsets: int, sizes: ModelSizes | None = None) -> dict[str, float]:
    """What was spent, in runs: a run is one exact patch, on average over the components.

    A subset is a run from the first layer on, whose operations are counted as half of those of
    one more gradient, which are a few too many.

    Args:
        data: What ``measure`` returns.
        n_subsets: Subsets that were run.
        sizes: The model's; by default those of the model that the data names.

    Returns:
        screen (three gradients, attribution patching among them), patches, subsets, total, and
        percent of patching every component.
    """
    sizes = model_sizes(data.attrs["model"]) if sizes is None else sizes
    one = pass_flops(
        sizes,
        data.attrs["components"],
        int(data.attrs["n_tokens"]),
        int(data.attrs["n_run"]),
        int(data.attrs["batch_size"]),
    )
    found = {
        "screen": (one["gradient"] + 2 * one["gradient_row"]) / one["forward"],
        "patches": float(data.sizes["shown"]),
        "subsets": n_subsets * one["gradient_row"] / 2 / one["forward"],
    }
    total = sum(found.values())
    return found | {"total": total, "percent": 100 * total / int(data.attrs["n"])}


def bounds(measured: Measured, sizes: Mapping[str, ModelSizes] | None = None) -> pd.DataFrame:
    """All bounds, one row for each model, kind, control and number of subsets.

    Returns:
        Columns model, components, n, control, n_subsets, inclusions (the fewest), error (median
        standard error), bound, missed (the largest effect known among what was not shown), ratio,
        holds, covered (of the effects known, the percentage below their own bounds), patched (how
        many are known), every (whether all are), shown (the largest effect shown), runs, percent.
    """
    rows = []
    for (model, kind), data in measured.items():
        number, effect = data.number.values, np.abs(data.effect.values)
        shown = np.isin(number, data.shown.values)
        missed = float(effect[~shown].max())
        for control in CONTROLS:
            for m in data.n_subsets.values.tolist():
                one = data.sel(control=control, n_subsets=m)
                spent = runs(data, m, None if sizes is None else sizes[model])
                bound = float(one.bound)
                rows.append(
                    {
                        "model": model,
                        "components": NAMES[kind],
                        "n": int(data.attrs["n"]),
                        "control": control,
                        "n_subsets": m,
                        "inclusions": int(one.inclusions),
                        "error": float(one.error),
                        "bound": bound,
                        "missed": missed,
                        "ratio": bound / missed,
                        "holds": bound >= missed,
                        "covered": 100 * float(one.covered),
                        "patched": len(number),
                        "every": len(number) == int(data.attrs["n"]),
                        "shown": float(effect[shown].max()),
                        "runs": spent["total"],
                        "percent": spent["percent"],
                    }
                )
    return pd.DataFrame(rows)


def overview(table: pd.DataFrame, n_subsets: int | None = None) -> pd.DataFrame:
    """A row for each model and kind: both bounds at one number of subsets, beside the truth.

    Args:
        table: What ``bounds`` returns.
        n_subsets: The most, by default.
    """
    some = table[table.n_subsets == (n_subsets or table.n_subsets.max())]
    keys = ["model", "components", "n", "shown", "missed", "every", "runs", "percent"]
    wide = some.pivot(index=keys, columns="control", values="bound")[list(CONTROLS)]
    order = some[["model", "components"]].drop_duplicates()
    return order.merge(wide.reset_index().rename_axis(columns=None), on=["model", "components"])


def summary(table: pd.DataFrame, n_subsets: int | None = None) -> pd.DataFrame:
    """``overview`` for a lesson, a row for each model and kind.

    Returns:
        Columns model, components, shown and missed (the largest effects of each, in units of the
        metric; of edges the largest missed of those that were checked), subsets alone and with AP
        (the bounds), and price, % (of patching every component).
    """
    wide = overview(table, n_subsets)
    counted = [f"{n:,} {kind}" for n, kind in zip(wide.n, wide.components, strict=True)]
    return pd.DataFrame(
        {
            "model": wide.model,
            "components": counted,
            "shown": wide.shown,
            "missed": wide.missed,
            "subsets alone": wide[CONTROLS[0]],
            "with AP": wide[CONTROLS[1]],
            "price, %": wide.percent,
        }
    )


def held(covered: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """How often the bound held on heads, over prompts and draws.

    Returns:
        Columns model, control, n_subsets, draws, held and own (percentages with exact binomial
        intervals: of draws in which the bound, and the bound of the component in question alone,
        was no less than the largest missed effect), ratio (median of bound over that effect).
    """
    rows = []
    for model, data in covered.items():
        for control in CONTROLS:
            for m in data.n_subsets.values.tolist():
                one = data.sel(control=control, n_subsets=m)
                shares = {
                    name: _share((one[name] >= data.missed).values) for name in ("bound", "own")
                }
                rows.append(
                    {
                        "model": model,
                        "control": control,
                        "n_subsets": m,
                        "draws": one.bound.size,
                        "held": shares["bound"],
                        "own": shares["own"],
                        "ratio": float((one.bound / data.missed).median()),
                    }
                )
    return pd.DataFrame(rows)


def most_subsets(heads: pd.DataFrame, model: str) -> pd.Series:
    """How often the bound held with the most subsets, in percent, by control.

    Args:
        heads: What ``held`` returns.
        model: Of which model.
    """
    own = heads[heads.model == model]
    own = own[own.n_subsets == own.n_subsets.max()].set_index("control")
    return own.held.map(lambda share: share.estimate)


def left_out_table(models: Sequence[str], **options) -> pd.DataFrame:
    """What ``left_out`` returns, of several models; ``options`` are its own.

    Returns:
        Columns model, subsets, missed, and one for each control: the bounds.
    """
    parts = []
    for model in models:
        data = left_out(model, **options)
        part = data.bound.to_pandas().reset_index().rename_axis(columns=None)
        parts.append(part.assign(model=model, missed=float(data.missed)))
    return pd.concat(parts, ignore_index=True)[["model", "subsets", "missed", *CONTROLS]]


def shrinkage(table: pd.DataFrame) -> pd.Series:
    """The controlled bound over the plain one, by model, components and number of subsets."""
    wide = table.pivot(
        index=["model", "components", "n_subsets"], columns="control", values="bound"
    )
    return wide[CONTROLS[1]] / wide[CONTROLS[0]]


def _share(yes: np.ndarray) -> Interval:
    test = binomtest(int(yes.sum()), yes.size)
    ends = test.proportion_ci(0.95, "exact")
    return Interval(*(100 * float(x) for x in (test.statistic, ends.low, ends.high)))
