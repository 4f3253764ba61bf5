"""From what was measured to tidy tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.integrate import trapezoid

from hvp_utils.circuits import Curve, Kept
from hvp_utils.stats import Interval, bootstrap_ci, holm, spearman

from .. import common

__all__ = [
    "NAMES",
    "TASKS",
    "areas",
    "areas_against",
    "curves",
    "error_tests",
    "errors",
    "found",
    "overlaps",
    "prices",
    "scattered",
    "wide_curves",
    "wide_strata",
    "zero_gradients",
]

#: What methods are called.
NAMES = {
    "attribution_patching": "EAP",
    "from_corrupted": "EAP, corrupted run",
    "eap_ig:5": "EAP-IG",
    "eap_ig:20": "EAP-IG, 20 steps",
    "eap_gp:5": "EAP-GP",
    "gim": "GIM",
    "relp": "RelP",
    "sketched_hvp:32": "HVP, sketched",
    "local_curvature": "local",
    "local_sketched_hvp:32": "local + sketch",
    "random": "random",
    "hvp": "HVP, exact",
    "edge_pruning": "edge pruning",
    "hap": "HAP",
}
TASKS = {
    "ioi": "IOI",
    "subject_verb_agreement": "subject-verb agreement",
    "country_capital": "country-capital",
    "greater_than_01": "Greater-Than",
}
#: How edges are ranked, and the area that goes with it.
PROTOCOLS = {"signed": "CPR", "absolute": "CMD"}

Measured = Mapping[tuple[str, str], xr.Dataset]


def _methods(data: xr.Dataset, part: str) -> list[str]:
    """The methods that have some part, in the order of ``NAMES``."""
    return [m for m in NAMES if f"{part}__{m}" in data]


def _kept(data: xr.Dataset, part: str, method: str) -> Kept:
    values = data[f"{part}__{method}"].values
    return Kept(values, data["full"].values, data["empty"].values)


def curves(measured: Measured, **options: float) -> pd.DataFrame:
    """Faithfulness of the circuits of every method: a row for each size.

    ``options`` are those of ``bootstrap_ci``.
    """
    rows = []
    for (model, task), data in measured.items():
        for part, area in PROTOCOLS.items():
            for method in _methods(data, part):
                kept = _kept(data, part, method)
                for i, share in enumerate(data.fraction.values):
                    rows.append(
                        {
                            "model": model,
                            "task": task,
                            "method": NAMES[method],
                            "ranking": part,
                            "area": area,
                            "fraction": float(share),
                            "faithfulness": kept.interval(lambda f, i=i: f[i], **options),
                        }
                    )
    return pd.DataFrame(rows)


def areas(measured: Measured, **options: float) -> pd.DataFrame:
    """CPR and CMD of every method, with intervals over prompts."""
    rows = []
    for (model, task), data in measured.items():
        for method in _methods(data, "signed"):
            row = {"model": model, "task": task, "method": NAMES[method]}
            for part, area in PROTOCOLS.items():
                if f"{part}__{method}" in data:
                    curve = Curve(tuple(data.fraction.values), (), _kept(data, part, method))
                    row[area] = (curve.cpr if area == "CPR" else curve.cmd)(**options)
            rows.append(row)
    return pd.DataFrame(rows)


def areas_against(
    measured: Measured,
    reference: str = "attribution_patching",
    n_resamples: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Differences of CPR and CMD from another method on the same prompts, with Holm's correction.

    The prompts are resampled with all their circuits; the family of tests is the whole table.

    Args:
        measured: What was measured.
        reference: The method that the others are compared with.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.
    """
    rows = []
    for (model, task), data in measured.items():
        fractions, n = data.fraction.values, data.sizes["prompt"]
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_resamples)
        draws = np.concatenate([np.ones((1, n)), draws])  # first the prompts as they are
        for part, area in PROTOCOLS.items():
            base = _kept(data, part, reference)

            def areas_of(kept: Kept, part=part, draws=draws, fractions=fractions) -> np.ndarray:
                full, empty = draws @ kept.full, draws @ kept.empty
                f = (draws @ kept.values - empty[:, None]) / (full - empty)[:, None]
                return trapezoid(f if part == "signed" else abs(1 - f), fractions, axis=1)

            of_base = areas_of(base)
            for method in _methods(data, part):
                if method in (reference, "random"):
                    continue
                kept = _kept(data, part, method)
                exact, *difference = areas_of(kept) - of_base
                difference = np.array(difference)
                low, high = np.quantile(difference, [0.025, 0.975])
                beyond = min((difference <= 0).sum(), (difference >= 0).sum())
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "method": NAMES[method],
                        "area": area,
                        "difference": Interval(float(exact), float(low), float(high)),
                        "p": min(1.0, 2 * (beyond + 1) / (n_resamples + 1)),
                    }
                )
    table = pd.DataFrame(rows)
    table["holm"] = holm(table.p)
    better = np.where(table.area == "CPR", 1, -1) * [d.estimate for d in table.difference]
    table["better"] = better > 0
    return table


def scattered(measured: Measured) -> pd.DataFrame:
    """True and estimated effects of the edges that were patched: a row for each prompt and edge."""
    parts = []
    for (model, task), data in measured.items():
        n, m = data["truth"].shape
        same = {
            "model": model,
            "task": task,
            "prompt": np.repeat(np.arange(n), m),
            "edge": np.tile(data["label"].values.astype(str), n),
            "stratum": np.tile(data["stratum"].values.astype(str), n),
            "truth": data["truth"].values.ravel(),
        }
        for method in NAMES:
            name = "hvp" if method == "hvp" else f"some__{method}"
            if name in data and method != "random":
                values = data[name].values.ravel()
                parts.append(pd.DataFrame(same | {"method": NAMES[method], "estimate": values}))
    return pd.concat(parts, ignore_index=True)


def _error(part: pd.DataFrame) -> float:
    return 100 * abs(part.estimate - part.truth).sum() / abs(part.truth).sum()


def errors(measured: Measured, strata: Sequence[str] | None = None) -> pd.DataFrame:
    """How far scores are from exact effects, over the sampled edges of each prompt.

    The error is the sum of absolute errors in percent of the sum of absolute effects. The rank
    correlation is Spearman's, of magnitudes. Both are means over prompts, with intervals.

    Args:
        measured: What was measured.
        strata: Only edges of these strata; of all by default.
    """
    table = scattered(measured)
    if strata is not None:
        table = table[table.stratum.isin(strata)]
    rows = []
    for (model, task, method), part in table.groupby(["model", "task", "method"], sort=False):
        by_prompt = [group for _, group in part.groupby("prompt")]
        error = [_error(g) for g in by_prompt]
        rank = [float(spearman(g.estimate, g.truth)) for g in by_prompt]
        sign = [100 * float((g.estimate * g.truth > 0).mean()) for g in by_prompt]
        rows.append(
            {
                "model": model,
                "task": task,
                "method": method,
                "error": bootstrap_ci(error),
                "rank correlation": bootstrap_ci(rank),
                "right sign": bootstrap_ci(sign),
            }
        )
    return pd.DataFrame(rows)


def error_tests(measured: Measured, reference: str = "EAP") -> pd.DataFrame:
    """Errors against those of EAP on the same prompts, with Holm's correction over the table."""
    by = ["model", "task", "method", "prompt"]
    each = scattered(measured).groupby(by, sort=False)
    table = pd.DataFrame([(*key, _error(part)) for key, part in each], columns=[*by, "error"])
    return common.paired(table, ["model", "task"], "error", reference)


def overlaps(measured: Measured, share: float = 0.01) -> pd.DataFrame:
    """Pairs of methods: how much their circuits of one size share, and how they differ in effect.

    Args:
        measured: What was measured.
        share: Size of the circuits, one of the fractions; they are ranked by sign.
    """
    rows = []
    for (model, task), data in measured.items():
        i = int(np.abs(data.fraction.values - share).argmin())
        size = int(data.fraction.values[i] * data.sizes["edge"])
        tops, faithful = {}, {}
        for method in _methods(data, "signed"):
            if method == "random":
                continue
            # Effects of the noising direction: what is most negative supports the behaviour most.
            order = np.argsort(data[f"score__{method}"].values, kind="stable")
            tops[method] = set(order[:size].tolist())
            faithful[method] = float(_kept(data, "signed", method).faithfulness()[i])
        for a, b in combinations(tops, 2):
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "first": NAMES[a],
                    "second": NAMES[b],
                    "shared": len(tops[a] & tops[b]) / max(1, size),
                    "faithfulness of first": faithful[a],
                    "faithfulness of second": faithful[b],
                    "apart": abs(faithful[a] - faithful[b]),
                }
            )
    return pd.DataFrame(rows)


def found(measured: Measured, **options: float) -> pd.DataFrame:
    """What searches found, beside circuits of the same size cut from scores."""
    rows = []
    for (model, task), data in measured.items():
        searches = [m for m in NAMES if f"found__{m}" in data]
        if not searches:
            continue
        size = data.sizes[f"of_{searches[0]}"]
        i = int(np.abs(data.fraction.values * data.sizes["edge"] - size).argmin())
        for method in searches:
            values = data[f"found__{method}"].values[:, None]
            kept = Kept(values, data["full"].values, data["empty"].values)
            rows.append(_row_of_found(model, task, method, kept, 0, data, options))
        for method in ("attribution_patching", "eap_ig:5"):
            for part in PROTOCOLS:
                row = _row_of_found(
                    model, task, method, _kept(data, part, method), i, data, options
                )
                rows.append(row | {"method": f"{NAMES[method]}, {part}"})
    return pd.DataFrame(rows)


def _row_of_found(model, task, method, kept, i, data, options) -> dict:
    return {
        "model": model,
        "task": task,
        "method": NAMES[method],
        "faithfulness": kept.interval(lambda f: f[i], **options),
        "seconds": float(data[f"seconds__{method}"]),
    }


def prices(measured: Measured) -> pd.DataFrame:
    """Processor time of the scores of all edges, in multiples of EAP's."""
    rows = []
    for (model, task), data in measured.items():
        base = float(data["seconds__attribution_patching"])
        for method in _methods(data, "seconds"):
            if method not in ("random", "edge_pruning", "hap"):
                seconds = float(data[f"seconds__{method}"])
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "method": NAMES[method],
                        "seconds a prompt": seconds / data.sizes["scored"],
                        "times EAP": seconds / base,
                    }
                )
    return pd.DataFrame(rows)


def zero_gradients(measured: Measured) -> pd.DataFrame:
    """Edges that EAP calls unimportant though they are not, and what other methods say of them.

    Unimportant: in the lower half of the sampled edges of a prompt. Important: in the true top
    tenth. Shares in percent, pooled over prompts.
    """
    table = scattered(measured)
    rows = []
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        by = ["prompt"]
        part = part.assign(
            size=part.groupby(["method", *by]).estimate.transform(lambda x: x.abs().rank(pct=True)),
            true=part.groupby(["method", *by]).truth.transform(lambda x: x.abs().rank(pct=True)),
        )
        important = part[part.true > 0.9]
        for method, group in important.groupby("method", sort=False):
            missed = (group["size"] <= 0.5).groupby(group.prompt).mean()
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "method": method,
                    "missed": bootstrap_ci(100 * missed),
                }
            )
    return pd.DataFrame(rows)


def wide_curves(table: pd.DataFrame, ranking: str, shares: Sequence[float]) -> pd.DataFrame:
    """A row for each model, task and method, and a column for each of some sizes."""
    part = table[(table.ranking == ranking) & table.fraction.isin(shares)]
    part = part.assign(column=[f"{100 * share:g} %" for share in part.fraction])
    part = part.replace({"task": TASKS})
    return _wide(part, "column", "faithfulness")


def wide_strata(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each model, task and method, and a column for the error in each stratum."""
    return _wide(table, "stratum", "error")


def _wide(table: pd.DataFrame, columns: str, values: str) -> pd.DataFrame:
    keys = ["model", "task", "method"]
    order = list(dict.fromkeys(table[columns]))
    rows = list(dict.fromkeys(table[keys].itertuples(index=False, name=None)))
    wide = table.set_index([*keys, columns])[values].unstack(columns)[order]
    return wide.loc[rows].reset_index()
