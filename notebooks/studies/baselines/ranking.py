"""What the changed gradients were made for: the order of all components, and none missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils import PatchedMetric, atp_star
from hvp_utils.stats import kendall_tau, top_k_overlap
from hvp_utils.tasks import ResolvedPair

from .. import common
from .errors import Cell, compared
from .methods import AP, OTHER_GRADIENTS, TASKS, label

__all__ = [
    "KINDS",
    "KS",
    "RANKERS",
    "SCORES",
    "by_multiple",
    "missed",
    "overlap_changes",
    "queries_and_keys",
    "query_key_table",
    "rank_scores",
    "rank_table",
    "scores_of",
    "softmax_alone",
    "summary",
    "tau_counts",
    "typical_error",
]

KS = (5, 10, 20)
#: Methods that rank all heads.
RANKERS = (AP, *OTHER_GRADIENTS, "hvp")
KINDS = ("queries", "keys")
#: Scores of a ranking, for the reader.
SCORES = {
    "tau": "Kendall's tau",
    "@5": "top 5 found, %",
    "@20": "top 20 found, %",
    "missed": "top 10 missed, %",
}


def missed(estimate: np.ndarray, truth: np.ndarray, k: int = 10) -> np.ndarray:
    """Share of the k largest true effects that are not even among the 2k largest estimates."""
    top = np.argsort(-np.abs(truth), axis=1)[:, :k]
    rank = np.argsort(np.argsort(-np.abs(estimate), axis=1), axis=1)
    return (np.take_along_axis(rank, top, 1) >= 2 * k).mean(1)


def typical_error(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Median relative error over components, signs left aside; those without an effect do not count."""
    effect = np.where(truth == 0, np.nan, np.abs(truth))
    return np.nanmedian(np.abs(np.abs(estimate) - effect) / effect, axis=1)


def scores_of(estimate: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """What is asked of a ranking, one number a prompt; shares and errors in percent."""
    return {
        "tau": kendall_tau(estimate, truth),
        **{f"@{k}": 100 * top_k_overlap(estimate, truth, k) for k in KS},
        "missed": 100 * missed(estimate, truth),
        "relative": 100 * typical_error(estimate, truth),
    }


def _scored(
    sweeps: Mapping[tuple[str, str], xr.Dataset], methods: Sequence[str]
) -> list[pd.DataFrame]:
    parts = []
    for (model, task), data in sweeps.items():
        for method in methods:
            scores = scores_of(data[method].values, data.activation_patching.values)
            row = {"model": model, "task": task, "method": method}
            parts.append(pd.DataFrame(row | {"prompt": range(data.sizes["prompt"])} | scores))
    return parts


def rank_scores(rankings: Sequence[Mapping[tuple[str, str], xr.Dataset]]) -> pd.DataFrame:
    """Scores of every ranking of all heads: columns model, task, method, prompt and the scores.

    Args:
        rankings: What ``errors.ranked`` returns: sweeps of many prompts, and those with AtP*.
    """
    many, few = rankings
    parts = _scored(many, [m for m in RANKERS if m != "atp_star"]) + _scored(few, ["atp_star"])
    return pd.concat(parts, ignore_index=True)


def rank_table(scores: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score of every ranking: a row for each task and method, a column a model; arrows against AP."""
    means = common.intervals(scores, ["model", "task", "method"], score)
    means = means.set_index(["model", "task", "method"])[score]
    signs = compared(scores, score).set_index(["model", "task", "method"])["sign"]
    rows = []
    for task in scores.task.unique():
        for method in RANKERS:
            row = {"task": TASKS.get(task, task), "method": "AP" if method == AP else label(method)}
            for model in scores.model.unique():
                key = (model, task, method)
                row[model] = Cell.of(means[key], int(signs.get(key, 0)))
            rows.append(row)
    return pd.DataFrame(rows)


def overlap_changes(scores: pd.DataFrame, n_resamples: int = 1000) -> pd.DataFrame:
    """Change of the overlap against AP, in percentage points: what ``compared`` returns, and k."""
    parts = [compared(scores, f"@{k}", n_resamples=n_resamples).assign(k=k) for k in KS]
    return pd.concat(parts, ignore_index=True)


def tau_counts(scores: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """On how many models and tasks each method's order is significantly better, and worse."""
    signs = compared(scores, "tau").groupby("method", sort=False)["sign"]
    return {m: (int((s == 1).sum()), int((s == -1).sum())) for m, s in signs}


def by_multiple(scores: pd.DataFrame) -> pd.DataFrame:
    """The typical head's error over that of AP on the same prompts: model, task, method, multiple."""
    rows = []
    for (model, task), part in scores.groupby(["model", "task"], sort=False):
        wide = part.pivot(index="prompt", columns="method", values="relative")
        for method in RANKERS[1:]:
            both = wide[[method, AP]].dropna()
            rows.append((model, task, method, both[method].mean() / both[AP].mean()))
    return pd.DataFrame(rows, columns=["model", "task", "method", "multiple"])


# --- queries and keys ----------------------------------------------------------------------------


def queries_and_keys(
    models: Sequence[str],
    n_prompts: int,
    device: str | None = None,
    store: str = "results",
) -> dict[tuple[str, str], xr.Dataset]:
    """Sweeps of single queries and keys on prompts of one template, by (model, kind)."""
    names = ("activation_patching", AP, "atp_star")
    return {
        (model, kind): data
        for model in models
        for kind in KINDS
        for data in common.load(
            [model],
            ["ioi_one_template"],
            names,
            n_prompts,
            store,
            components=kind,
            device=device,
        ).values()
    }


def query_key_table(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """Rankings of queries and keys by AP and AtP*: a row each, arrows against AP."""
    rows = []
    for (model, kind), data in sweeps.items():
        scored = pd.concat(_scored({(model, kind): data}, (AP, "atp_star")))
        for method in (AP, "atp_star"):
            row = {
                "model": model,
                "components": f"{kind} ({data.sizes['component']})",
                "method": "AP" if method == AP else label(method),
            }
            for score, name in SCORES.items():
                part = scored[scored.method == method]
                (cell,) = common.intervals(part, ["method"], score)[score]
                tests = compared(scored, score)
                row[name] = Cell.of(cell, int(tests["sign"].iloc[0]) if method != AP else 0)
            rows.append(row)
    return pd.DataFrame(rows)


def softmax_alone(
    model, pairs: Sequence[ResolvedPair], sweeps: Mapping[str, xr.Dataset]
) -> pd.DataFrame:
    """Which part of AtP* is at work: rankings of AP, of the exact softmax alone, and of both.

    Args:
        model: A loaded model.
        pairs: The first prompts of the sweeps.
        sweeps: Sweeps with attribution patching, AtP* and the truth, by kind.

    Returns:
        Columns components, method, and the mean of each of ``SCORES``.
    """
    rows = []
    for kind, data in sweeps.items():
        data = data.isel(prompt=slice(len(pairs)))
        alone = [atp_star(PatchedMetric(model, p, kind), grad_drop=False) for p in pairs]
        estimates = {
            "AP": data[AP].values,
            "exact softmax alone": np.stack([one.cpu().numpy() for one in alone]),
            "AtP*: exact softmax and GradDrop": data.atp_star.values,
        }
        for name, estimate in estimates.items():
            scores = scores_of(estimate, data.activation_patching.values)
            means = {shown: float(scores[s].mean()) for s, shown in SCORES.items()}
            rows.append({"components": kind, "method": name} | means)
    return pd.DataFrame(rows)


def summary(errors: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Attribution patching, the other gradients and HVP over all models, tasks and prompts.

    Args:
        errors: What ``errors.errors`` returns.
        scores: What ``rank_scores`` returns.

    Returns:
        Columns method, top-5 error, tau, @5 and missed, with intervals.
    """
    own = errors[errors.method.isin(RANKERS)]
    parts = [common.intervals(own, ["method"], "error")]
    parts += [common.intervals(scores, ["method"], score) for score in ("tau", "@5", "missed")]
    table = pd.concat([part.set_index("method") for part in parts], axis=1).loc[list(RANKERS)]
    return table.rename(index=label).reset_index()
