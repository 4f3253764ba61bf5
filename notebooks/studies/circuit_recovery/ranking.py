"""Rankings of heads by estimated and by true effect, and how far they agree.

A ranking is by magnitude. It can be made prompt by prompt, or from the mean over prompts, which is
what the paper does: signs that change from prompt to prompt then cancel before heads are ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from numpy import ndarray

from hvp_utils.stats import Interval, kendall_tau, ndcg, top_k_overlap

from .. import common
from ..is_it_worth_it import N_PATCHED, ROWS, RULES, patched

TASKS = {"ioi": "IOI", "greater_than_01": "Greater-Than"}
KS = (5, 10, 15, 20, 26)

_IG = "integrated_gradients:5:gausslegendre"


def _screened(data: xr.Dataset) -> ndarray:
    """Attribution patching, with the ten largest by |f_AP| + r patched exactly (chapter 10)."""
    known = {
        "f": data.activation_patching.values.astype(float),
        "f_ap": data.attribution_patching.values.astype(float),
        "r": data["row_norms:2"].values / 2,
    }
    return patched(known, RULES[ROWS].size(known), N_PATCHED)


#: Every method by its short name: what it needs of a sweep, and how its scores are made from it.
METHODS: dict[str, tuple[tuple[str, ...], Callable[[xr.Dataset], ndarray]]] = {
    "AP": (("attribution_patching",), lambda data: data.attribution_patching.values),
    "HVP": (("hvp",), lambda data: data.hvp.values),
    "MS-HVP": (("ms_hvp:5",), lambda data: data["ms_hvp:5"].values),
    "IG": ((_IG,), lambda data: data[_IG].values),
    "GIM": (("gim",), lambda data: data.gim.values),
    "AtP*": (("atp_star",), lambda data: data.atp_star.values),
    "sketched HVP": (("sketched_hvp:32",), lambda data: data["sketched_hvp:32"].values),
    "|AP| + r": (
        ("row_norms:2", "attribution_patching"),
        lambda data: np.abs(data.attribution_patching.values) + data["row_norms:2"].values / 2,
    ),
    "10 patches": (("row_norms:2", "attribution_patching", "activation_patching"), _screened),
}


def needs(methods: Sequence[str] = tuple(METHODS)) -> tuple[str, ...]:
    """What has to be swept for some methods, and the truth."""
    names = ["activation_patching", *(name for m in methods for name in METHODS[m][0])]
    return tuple(dict.fromkeys(names))


#: What has to be swept for all of them.
ESTIMATORS = needs()


class Scores(NamedTuple):
    """Effects of all heads of one model on one task, by method; the truth is ``"truth"``."""

    model: str
    task: str
    labels: tuple[str, ...]
    layers: ndarray
    delta_norm: Float[ndarray, "prompt head"]
    values: dict[str, Float[ndarray, "prompt head"]]

    @property
    def truth(self) -> Float[ndarray, "prompt head"]:
        """Exact effects."""
        return self.values["truth"]

    @property
    def methods(self) -> list[str]:
        """What is compared with them."""
        return [name for name in self.values if name != "truth"]

    def mean(self, method: str) -> Float[ndarray, " head"]:
        """Mean over prompts, which the paper ranks by."""
        return self.values[method].mean(0)


def scores(
    sweeps: Mapping[tuple[str, str], xr.Dataset], methods: Sequence[str] = tuple(METHODS)
) -> list[Scores]:
    """Scores of some methods from sweeps by model and task."""
    return [
        Scores(
            model,
            task,
            tuple(data.label.values.astype(str)),
            data.layer.values,
            data.delta_norm.values.astype(float),
            {
                "truth": data.activation_patching.values.astype(float),
                **{name: METHODS[name][1](data).astype(float) for name in methods},
            },
        )
        for (model, task), data in sweeps.items()
    ]


def top(values: Float[ndarray, "*batch n"], k: int) -> Bool[ndarray, "*batch n"]:
    """Which k are largest in magnitude."""
    chosen = np.argsort(-np.abs(values), axis=-1, kind="stable")[..., :k]
    mask = np.zeros(np.shape(values), dtype=bool)
    np.put_along_axis(mask, chosen, True, axis=-1)
    return mask


def _measures(ks: Sequence[int], n: int) -> dict[tuple[str, int], Callable]:
    ks = [k for k in ks if k <= n]
    return {
        **{("overlap", k): lambda e, f, k=k: top_k_overlap(e, f, k) for k in ks},
        **{("NDCG", k): lambda e, f, k=k: ndcg(e, f, k) for k in ks},
        **{("NDCG, membership", k): lambda e, f, k=k: ndcg(e, f, k, "membership") for k in ks},
        ("Kendall's tau", 0): kendall_tau,
    }


def per_prompt(scored: Sequence[Scores], ks: Sequence[int] = KS) -> pd.DataFrame:
    """How well each method ranks the heads of each prompt.

    Returns:
        Columns model, task, method, measure, k, prompt, value. Of ``"Kendall's tau"`` k is 0.
    """
    rows = []
    for one in scored:
        for method in one.methods:
            for (measure, k), function in _measures(ks, len(one.labels)).items():
                found = function(one.values[method], one.truth)
                rows += [
                    (one.model, one.task, method, measure, k, prompt, value)
                    for prompt, value in enumerate(found)
                ]
    columns = ["model", "task", "method", "measure", "k", "prompt", "value"]
    return pd.DataFrame(rows, columns=columns)


def of_the_mean(
    scored: Sequence[Scores], ks: Sequence[int] = KS, n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How well each method ranks the heads by their mean effect.

    Prompts are resampled; every resample has its own means, true ones too, and its own rankings.
    Kendall's tau takes long, and has 200 resamples at most.

    Returns:
        Columns model, task, method, measure, k and value (an ``Interval``).
    """
    rows = []
    for one in scored:
        n_prompts = len(one.truth)
        drawn = np.random.default_rng(seed).integers(n_prompts, size=(n_resamples, n_prompts))
        weights = np.stack([np.bincount(d, minlength=n_prompts) for d in drawn]) / n_prompts
        truth = weights @ one.truth
        for method in one.methods:
            resampled = weights @ one.values[method]
            for (measure, k), function in _measures(ks, len(one.labels)).items():
                n = min(n_resamples, 200) if k == 0 else n_resamples  # rank correlations take long
                low, high = np.quantile(function(resampled[:n], truth[:n]), [0.025, 0.975])
                value = float(function(one.mean(method), one.mean("truth")))
                interval = Interval(value, float(low), float(high))
                rows.append((one.model, one.task, method, measure, k, interval))
    return pd.DataFrame(rows, columns=["model", "task", "method", "measure", "k", "value"])


def paired_tests(
    found: pd.DataFrame,
    against: str = "AP",
    measure: str = "overlap",
    ks: Sequence[int] = (5, 10, 20),
    n_resamples: int = 9999,
) -> pd.DataFrame:
    """Is a method's ranking better than that of another, on the same prompts?

    The family, of which one false alarm in all is to have a chance of at most p, is every row that
    is returned: all methods, sizes, models and tasks.

    Args:
        found: What ``per_prompt`` returns.
        against: The method that the others are compared with.
        measure: Which measure.
        ks: Which sizes.
        n_resamples: Resamples of the paired bootstrap; see ``common.paired``.

    Returns:
        Columns model, task, method, k, difference (an ``Interval``), p, and holm, the p-value
        adjusted for the family.
    """
    chosen = found[(found.measure == measure) & found.k.isin(ks)]
    by = ["model", "task", "k"]
    tests = common.paired(chosen, by, "value", against, n_resamples=n_resamples)
    return tests[["model", "task", "method", "k", "difference", "p", "holm"]]


def moves(scored: Sequence[Scores], k: int, against: str = "AP") -> pd.DataFrame:
    """Which heads a method moves over the boundary of the top k, compared with another's ranking.

    A head that enters does so rightly if it is among the k largest true effects; one that leaves,
    if it is not. Means over prompts are ranked.

    Returns:
        Columns model, task, method, k; entered_rightly, entered_wrongly, left_rightly and
        left_wrongly with the heads' labels; rightly and wrongly, how many moves were which; and
        net, how many more of the k are right.
    """
    rows = []
    for one in scored:
        labels = np.array(one.labels)
        belongs, before = top(one.mean("truth"), k), top(one.mean(against), k)
        for method in one.methods:
            if method == against:
                continue
            after = top(one.mean(method), k)
            entered, left = after & ~before, before & ~after
            sets = [entered & belongs, entered & ~belongs, left & ~belongs, left & belongs]
            net = int((after & belongs).sum() - (before & belongs).sum())
            names = [", ".join(labels[chosen]) for chosen in sets]
            rightly = int(sets[0].sum() + sets[2].sum())
            wrongly = int(sets[1].sum() + sets[3].sum())
            rows.append((one.model, one.task, method, k, *names, rightly, wrongly, net))
    columns = ["entered_rightly", "entered_wrongly", "left_rightly", "left_wrongly"]
    columns += ["rightly", "wrongly", "net"]
    return pd.DataFrame(rows, columns=["model", "task", "method", "k", *columns])


def split_half(
    scored: Sequence[Scores], ks: Sequence[int] = KS, n_splits: int = 200, seed: int = 0
) -> pd.DataFrame:
    """How far the true top k of one half of the prompts is that of the other half.

    Returns:
        Columns model, task, k, and overlap (0 to 1), the mean over random splits.
    """
    rng, rows = np.random.default_rng(seed), []
    for one in scored:
        n = len(one.truth)
        orders = [rng.permutation(n) for _ in range(n_splits)]
        first = np.stack([one.truth[order[: n // 2]].mean(0) for order in orders])
        second = np.stack([one.truth[order[n // 2 :]].mean(0) for order in orders])
        rows += [(one.model, one.task, k, top_k_overlap(first, second, k).mean()) for k in ks]
    return pd.DataFrame(rows, columns=["model", "task", "k", "overlap"])


def wide_table(table: pd.DataFrame, value: str = "value", columns: str = "k") -> pd.DataFrame:
    """One row a model, task and method; a column for each k, as a page shows it."""
    index = [name for name in ("model", "task", "method") if name in table]
    order = table[index].drop_duplicates()
    wide = table.pivot(index=index, columns=columns, values=value).reset_index()
    wide = order.merge(wide, on=index)
    wide.columns = [f"{columns} = {c}" if isinstance(c, (int, np.integer)) else c for c in wide]
    return wide.replace({"task": TASKS})
