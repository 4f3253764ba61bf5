"""How far along a patch the correction helps, and what more steps do at its end.

The true effect at strength t is g(t) - g(0); attribution patching says t f_AP there, and HVP
t f_AP + t^2 q. For small t the ratio of their errors is proportional to t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    hvp,
    make_prompts,
    ms_hvp,
)
from hvp_utils.patched_metric import AxisDerivatives
from hvp_utils.stats import Interval, top_k_relative_error

from ..circuit_recovery import head_curve
from .errors import CORRUPTIONS, ESTIMATORS, SAME_PROMPTS, K, Sweeps, direction_of, of_means

#: Name swaps patched in the direction of zero ablation: nothing of them is stored.
CONTROL = "ioi, noising"
#: The ways to corrupt IOI, for the reader.
WAYS = {task: CORRUPTIONS[task][1] for task in SAME_PROMPTS["IOI"]}
WAYS[CONTROL] = "name swap, noising"
STRENGTHS = (0.1, 0.18, 0.32, 0.5, 0.71, 1.0)


def metric_of(model, way: str, n_prompts: int | None = None) -> PatchedMetric:
    """The first prompt of a way to corrupt, or each of several."""
    task, direction = ("ioi", "noising") if way == CONTROL else (way, direction_of(way))
    pairs = make_prompts(task, model, n_prompts or 1)
    if n_prompts is None:
        return PatchedMetric(model, pairs[0], direction=direction)
    return PatchedMetric(model, pairs, direction=direction).each


def _largest(M: PatchedMetric, stored) -> tuple[torch.Tensor, ...]:
    """Truth of all heads, and of the largest: places, AP and the quadratic term; by prompt."""
    if stored is None:
        truth = activation_patching(M).double().cpu()
        top = truth.abs().topk(K).indices
        ap = attribution_patching(M, components=top).double().cpu()
        return truth, top, ap, hvp(M, components=top).double().cpu() - ap
    if not np.allclose(M.base.cpu(), stored.base, atol=1e-2):
        raise ValueError("The prompts are not those of the stored sweep.")
    truth, ap, second = (torch.tensor(stored[m].values).double() for m in ESTIMATORS)
    top = truth.abs().topk(K).indices
    return truth, top, ap.gather(1, top), (second - ap).gather(1, top)


def on_the_way(
    model, name: str, sweeps: Sweeps, n_prompts: int, ways: Sequence[str] = tuple(WAYS)
) -> pd.DataFrame:
    """The largest heads of some prompts, patched by degrees.

    Args:
        model: The loaded model.
        name: Its name in ``sweeps``.
        sweeps: What is stored of the ways to corrupt, the control aside.
        n_prompts: The first prompts of each.
        ways: Keys of ``WAYS``.

    Returns:
        Columns model, way, prompt, component (its place), strength, truth, AP and HVP (effects at
        that strength) and span (the range of the true effects of all heads).
    """
    parts = []
    for way in ways:
        M = metric_of(model, way, n_prompts)
        stored = None
        if way != CONTROL:
            stored = sweeps[name, way].isel(prompt=slice(n_prompts))
        truth, top, ap, q = _largest(M, stored)
        t = torch.tensor(STRENGTHS, dtype=torch.float64).repeat_interleave(K).expand(n_prompts, -1)
        heads, ap, q = (x.repeat(1, len(STRENGTHS)) for x in (top, ap, q))
        g = M.along_axes(t, order=0, components=heads).value.double().cpu()
        columns = {
            "component": heads,
            "strength": t,
            "truth": g - M.base.double().cpu()[:, None],
            "AP": t * ap,
            "HVP": t * ap + t**2 * q,
            "span": (truth.amax(1) - truth.amin(1))[:, None].expand_as(t),
            "prompt": torch.arange(n_prompts)[:, None].expand_as(t),
        }
        flat = {column: values.flatten().numpy() for column, values in columns.items()}
        parts.append(pd.DataFrame({"model": name, "way": way, **flat}))
    return pd.concat(parts, ignore_index=True)


def by_prompt(found: pd.DataFrame) -> pd.DataFrame:
    """Mean errors over the largest heads of a prompt, of what ``on_the_way`` returns.

    Returns:
        Columns model, way, strength, prompt, AP and HVP (units of the metric) and span.
    """
    off = found.assign(
        AP=(found.AP - found.truth).abs(), HVP=(found.HVP - found.truth).abs()
    ).groupby(["model", "way", "strength", "prompt"], sort=False)
    return off[["AP", "HVP", "span"]].mean().reset_index()


def ratios(found: pd.DataFrame) -> pd.DataFrame:
    """Error of HVP over that of AP at every strength, pooled over prompts.

    Returns:
        Columns model, way, strength and ratio (an ``Interval``).
    """
    rows = [
        (*key, of_means(lambda h, a: h / a, part.HVP, part.AP))
        for key, part in by_prompt(found).groupby(["model", "way", "strength"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["model", "way", "strength", "ratio"])


def crossing(strength: Sequence[float], ratio: Sequence[float]) -> float:
    """The strength at which a ratio first reaches 1, by interpolation of logarithms; NaN if never."""
    strength, ratio = np.asarray(strength, float), np.asarray(ratio, float)
    above = np.flatnonzero(ratio >= 1)
    if not len(above):
        return np.nan
    k = above[0]
    if k == 0:
        return float(strength[0])
    a, b = np.log(ratio[k - 1 : k + 1])
    x, y = np.log(strength[k - 1 : k + 1])
    return float(np.exp(x + (y - x) * a / (a - b)))


def crossings(found: pd.DataFrame) -> pd.DataFrame:
    """Where HVP becomes the worse one, and the top-5 relative errors when fully patched.

    Returns:
        Columns model, way, crossing (a strength; NaN: none up to 1), AP and HVP (``Interval`` over
        prompts, percent).
    """
    rows = []
    ends = by_prompt(found).query("strength == 1")
    for key, part in ratios(found).groupby(["model", "way"], sort=False):
        end = ends[(ends.model == key[0]) & (ends.way == key[1])]
        errors = [of_means(lambda e: e, 100 * end[m] / end.span) for m in ("AP", "HVP")]
        at = crossing(part.strength, [r.estimate for r in part.ratio])
        rows.append((*key, at, *errors))
    return pd.DataFrame(rows, columns=["model", "way", "crossing", "AP", "HVP"])


def more_steps(
    model,
    name: str,
    sweeps: Sweeps,
    n_prompts: int,
    steps: Sequence[int] = (2, 5),
    way: str = "ioi_zero",
) -> pd.DataFrame:
    """Top-5 relative errors of AP, HVP and multi-step HVP, on the first prompts.

    Returns:
        Columns model, prompt, method ("AP", "K = 1", "K = 2", ...) and error, in percent.
    """
    M = metric_of(model, way, n_prompts)
    truth, top, ap, q = _largest(M, sweeps[name, way].isel(prompt=slice(n_prompts)))
    # g' and g'' at 0 are stored; what is run are the points beyond.
    start = AxisDerivatives(M.base, ap.to(M.base), 2 * q.to(M.base))
    found = {"AP": ap, "K = 1": ap + q}
    for k in steps:
        found[f"K = {k}"] = ms_hvp(M, k, components=top, at_base=start).double().cpu()
    parts = []
    for method, estimate in found.items():
        whole = truth.clone().scatter_(1, top, estimate)
        error = top_k_relative_error(whole, truth, K)
        about = {"model": name, "prompt": np.arange(n_prompts), "method": method, "error": error}
        parts.append(pd.DataFrame(about))
    return pd.concat(parts, ignore_index=True)


def steps_table(steps: pd.DataFrame) -> pd.DataFrame:
    """A row a model: the mean error of every method (``Interval``), and how often the last wins.

    Returns:
        Columns model, the methods, and ``last below AP``: on how many prompts, as text.
    """
    rows = []
    for model, part in steps.groupby("model", sort=False):
        wide = part.pivot(index="prompt", columns="method", values="error")
        methods = list(part.method.unique())
        means: dict[str, Interval | str] = {m: of_means(lambda e: e, wide[m]) for m in methods}
        wins = int((wide[methods[-1]] < wide.AP).sum())
        rows.append({"model": model, **means, "last below AP": f"{wins} of {len(wide)}"})
    return pd.DataFrame(rows)


def largest_curves(model, name: str, sweeps: Sweeps, ways: Sequence[str]) -> pd.DataFrame:
    """On the first prompt, the head with the largest effect under each corruption, by degrees.

    Returns:
        Columns way, component, strength, truth, AP and HVP, in units of the metric.
    """
    parts = []
    for way in ways:
        first = sweeps[name, way].isel(prompt=0)
        head = str(first.label.values[np.abs(first[ESTIMATORS[0]].values).argmax()])
        curve = head_curve(metric_of(model, way), head, n_points=21)
        parts.append(curve.assign(way=way, component=head))
    return pd.concat(parts, ignore_index=True)


def overshoots(curves: pd.DataFrame) -> int:
    """In how many of the curves of ``largest_curves`` the parabola ends farther off than the tangent."""
    ends = curves.groupby("way", sort=False).last()
    return int(((ends.HVP - ends.truth).abs() > (ends.AP - ends.truth).abs()).sum())


def helps_at(found: pd.DataFrame, strength: float) -> bool:
    """Whether HVP has the smaller error at one strength everywhere, of what ``on_the_way`` returns."""
    part = by_prompt(found)
    means = part[part.strength == strength].groupby(["model", "way"])[["AP", "HVP"]].mean()
    return bool((means.HVP < means.AP).all())
