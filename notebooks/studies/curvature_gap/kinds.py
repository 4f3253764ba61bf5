"""The quadratic terms of heads, taken apart by the kind of operation that bends the metric.

A kind's part is what the quadratic term loses when that kind of operation is linearised everywhere.
The parts add up to the whole. A table of heads has one row for each model, task, prompt and head;
parts are NaN for heads that were not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils.backward_rules import NONLINEARITIES
from hvp_utils.stats import Interval, bootstrap_ci, bootstrap_share, top_k_relative_error

from .. import common
from .neurons import SETTING, Difference, grids

KINDS = {kind: kind.replace("_", " ").replace("mlp", "MLP") for kind in NONLINEARITIES}

#: What belongs to each kind.
OPERATIONS = {
    "norms": "every LayerNorm or RMSNorm",
    "attention_pattern": "query times key, softmax",
    "attention_mixing": "pattern times values",
    "mlp_activation": "the activation function",
    "mlp_gating": "product of a gated MLP's two branches",
    "output": "log-softmax and the metric",
}

#: What has to be swept.
ESTIMATORS = (
    *("activation_patching", "attribution_patching", "hvp"),
    *(f"quadratic_without:{kind}" for kind in NONLINEARITIES),
    "gauss_newton",
)

#: How many heads of each prompt are followed: those with the largest true effects.
N_FOLLOWED = 20

METHODS = ("attribution patching", "Gauss–Newton", "HVP")


def heads(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """The table that all else is made from.

    Returns:
        Columns model, task, prompt, component, layer; truth, ap, gauss_newton, q, and a part for
        each kind, in nats; followed, whether there are parts.
    """
    table = common.tidy(sweeps, ESTIMATORS)
    ap = table.attribution_patching.astype(float)
    q = table.hvp.astype(float) - ap
    parts = {kind: q - table[f"quadratic_without:{kind}"].astype(float) for kind in KINDS}
    return table[[*SETTING, "prompt", "component", "layer"]].assign(
        truth=table.activation_patching.astype(float),
        ap=ap,
        gauss_newton=table.gauss_newton.astype(float),
        q=q,
        **parts,
        followed=q.notna(),
    )


def checks(table: pd.DataFrame) -> pd.DataFrame:
    """Do the parts add up, and is Gauss–Newton the output's part? A row for each model and task."""
    rows = []
    for (model, task), part in table.groupby(SETTING, sort=False):
        one = part[part.followed]
        n_prompts = part.prompt.nunique()
        rows.append(
            {
                "model": model,
                "task": task,
                "prompts": n_prompts,
                "followed": len(one) // n_prompts,
                "heads": len(part) // n_prompts,
                "largest |q|": one.q.abs().max(),
                "gap of the sum": (one[[*KINDS]].sum(axis=1) - one.q).abs().max(),
                "gap of Gauss–Newton": (one.gauss_newton - one.ap - one.output).abs().max(),
            }
        )
    return pd.DataFrame(rows)


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """How the quadratic terms are divided among the kinds, pooled over prompts, in percent.

    Returns:
        Columns model, task, kind; signed: a part counts as negative where it works against its q,
        so that all add up to 100; sizes: without signs. Both are ``Interval``.
    """
    one = table[table.followed]
    toward = one[[*KINDS]].mul(np.sign(one.q), axis=0)
    sizes = one[[*KINDS]].abs()
    keys = [one.model, one.task, one.prompt]
    toward, sizes, total = (x.groupby(keys, sort=False).sum() for x in (toward, sizes, one.q.abs()))
    rows = []
    for model, task in dict.fromkeys(key[:2] for key in total.index):
        of = (model, task)
        for kind in KINDS:
            signed = bootstrap_share(toward.loc[of][kind], total.loc[of])
            size = bootstrap_share(sizes.loc[of][kind], sizes.loc[of].sum(axis=1))
            rows.append((model, task, kind, signed, size))
    return pd.DataFrame(rows, columns=[*SETTING, "kind", "signed", "sizes"])


def of_kind(shared: pd.DataFrame, kind: str, value: str = "sizes") -> dict[str, Interval]:
    """A kind's share in each model."""
    part = shared[shared.kind == kind]
    return dict(zip(part.model, part[value], strict=True))


def leading(shared: pd.DataFrame) -> dict[str, tuple[str, Interval]]:
    """The kind with the largest share of sizes, by model, and that share."""
    best = {}
    for model, part in shared.groupby("model", sort=False):
        kind, share = max(zip(part.kind, part.sizes, strict=True), key=lambda x: x[1].estimate)
        best[model] = kind, share
    return best


def apart(shared: pd.DataFrame) -> list[str]:
    """Kinds for whose sizes the intervals of two models do not touch."""
    found = []
    for kind in KINDS:
        intervals = sorted(of_kind(shared, kind).values(), key=lambda i: i.low)
        if any(a.high < b.low for a, b in pairwise(intervals)):
            found.append(kind)
    return found


def cancellation(table: pd.DataFrame) -> dict[str, Interval]:
    """By model: how many times the quadratic terms the sizes of all parts are."""
    found = {}
    for model, part in table[table.followed].groupby("model", sort=False):
        sizes = part[[*KINDS]].abs().sum(axis=1).groupby(part.prompt).sum()
        share = bootstrap_share(sizes, part.q.abs().groupby(part.prompt).sum())
        found[model] = Interval(*(value / 100 for value in share))
    return found


def misled(table: pd.DataFrame) -> pd.DataFrame:
    """Heads whose estimate gets worse when only the largest part is added, or all of them.

    Returns:
        Columns model, task, prompt, method ("largest part" or "all parts"), and worse and followed,
        numbers of heads; percent, the one of the other.
    """
    one = table[table.followed]
    parts = one[[*KINDS]].to_numpy()
    largest = np.take_along_axis(parts, np.abs(parts).argmax(1)[:, None], 1)[:, 0]
    error = one.truth - one.ap
    rows = []
    for method, term in (("largest part", largest), ("all parts", one.q)):
        worse = (error - term).abs() > error.abs()
        by_prompt = worse.groupby([one.model, one.task, one.prompt], sort=False)
        count = by_prompt.agg(worse="sum", followed="size").reset_index()
        rows.append(count.assign(method=method))
    found = pd.concat(rows, ignore_index=True)
    return found.assign(percent=100 * found.worse / found.followed)


def misled_table(worse: pd.DataFrame) -> pd.DataFrame:
    """Pooled over prompts: columns model, largest part, all parts (percent), difference, p and Holm.

    The difference is paired over prompts, in points, from 1,000 resamples.
    """
    pooled = {
        key: bootstrap_share(part.worse, part.followed)
        for key, part in worse.groupby(["model", "method"], sort=False)
    }
    tests = common.paired(worse, SETTING, "percent", "all parts", n_resamples=1000)
    rows = [
        {
            "model": row.model,
            "largest part": pooled[row.model, "largest part"],
            "all parts": pooled[row.model, "all parts"],
            "difference": row.difference,
            "p": common.p_value(row.p, 1000),
            "p, Holm": row.holm,
        }
        for row in tests.itertuples()
    ]
    return pd.DataFrame(rows)


def largest_heads(table: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """Heads followed on at least half of the prompts that have the largest quadratic terms there.

    Returns:
        Columns model, component, prompts; truth, ap, q (an ``Interval``) and the parts: means over
        the prompts on which a head is followed, in nats.
    """
    rows = []
    for model, part in table.groupby("model", sort=False):
        one = part[part.followed]
        prompts = one.groupby("component").prompt.transform("size")
        often = one[prompts >= part.prompt.nunique() / 2]
        sizes = often.q.abs().groupby(often.component).mean()
        for component in sizes.sort_values(ascending=False).index[:n]:
            head = often[often.component == component]
            means = head[["truth", "ap", *KINDS]].mean().to_dict()
            row = {"model": model, "component": component, "prompts": len(head)}
            rows.append(row | {"q": bootstrap_ci(head.q)} | means)
    return pd.DataFrame(rows)


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Top-5 relative errors of attribution patching, Gauss–Newton and HVP.

    Returns:
        Columns model, task, prompt, method, top5 (in percent).
    """
    parts = []
    for (model, task), part in table.assign(hvp=table.ap + table.q).groupby(SETTING, sort=False):
        truth, *estimates = grids(part, "truth", "ap", "gauss_newton", "hvp")
        for method, estimate in zip(METHODS, estimates, strict=True):
            keys = {"model": model, "task": task, "prompt": range(len(truth)), "method": method}
            parts.append(pd.DataFrame(keys | {"top5": top_k_relative_error(estimate, truth)}))
    return pd.concat(parts, ignore_index=True)


def clearly_better(found: pd.DataFrame, method: str = "Gauss–Newton") -> list[str]:
    """Models in which a method's error is clearly below that of attribution patching."""
    better = []
    for model, part in found.groupby("model", sort=False):
        one = part.pivot(index="prompt", columns="method", values="top5")
        if Difference(one[method], one["attribution patching"]).clear:
            better.append(model)
    return better


def errors_table(found: pd.DataFrame) -> pd.DataFrame:
    """Means of ``errors``, and their differences from attribution patching, paired over prompts.

    Returns:
        Columns model, method, top5 and difference (``Interval``), p from 1,000 resamples, and Holm's
        of all rows.
    """
    means = common.intervals(found, ["model", "method"], "top5")
    tests = common.paired(found, SETTING, "top5", METHODS[0], n_resamples=1000)
    tests = tests.drop(columns="task").rename(columns={"holm": "p, Holm"})
    tests["p"] = [common.p_value(p, 1000) for p in tests.p]
    table = means.merge(tests, how="left", on=["model", "method"])
    return table.astype({"difference": object}).fillna({"difference": "", "p": ""})
