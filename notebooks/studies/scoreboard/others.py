"""What the article, the review and the tutorial say, and what no chapter has of the paper.

Every number comes from stored sweeps or from counted prices. Rules were written before the numbers
were looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils import model_sizes
from hvp_utils.claims import VERDICTS, Claim, verdict
from hvp_utils.plans import passes
from hvp_utils.stats import spearman, top_k_relative_error

from .. import circuit_recovery, common, prices
from .. import is_it_worth_it as worth

__all__ = ["claims", "load", "recommended", "recovery_tests"]

ARTICLE = "article on the paper"
REVIEW = "automated review of the paper"
TUTORIAL = "tutorial on the failure modes of attribution patching"
ONE_ESTIMATE = ("activation_patching", "attribution_patching", "hvp")
IG_10 = "integrated_gradients:10:midpoint"
KINDS = ("heads", "mlp_out", "resid")
TASKS = ("ioi", "greater_than_01", "factual")
Sweeps = Mapping[tuple[str, str], xr.Dataset]


def load(models: Sequence[str], n_prompts: int = 20, store: str = "results", **options):
    """Sweeps by (model, task) over heads, and by (model, kind) over kinds of components."""
    heads = common.load(models, TASKS, ONE_ESTIMATE, n_prompts, store, **options)
    kinds = {
        (model, kind): common.load(
            [model],
            ["ioi_one_template"],
            ONE_ESTIMATE,
            n_prompts,
            store,
            components=kind,
            **options,
        )[model, "ioi_one_template"]
        for model in models
        for kind in KINDS
    }
    return heads, kinds


def _values(data: xr.Dataset) -> tuple[np.ndarray, ...]:
    return tuple(data[name].values.astype(float) for name in ONE_ESTIMATE)


def _flagged(data: xr.Dataset) -> float:
    """Percent of components with R > 0.1, of those that are patched at all."""
    _, f_ap, hvp = _values(data)
    moved = data.delta_norm.values > 0
    score = np.abs(hvp - f_ap)[moved] / np.maximum(np.abs(f_ap)[moved], 1e-30)
    return float(100 * (score > 0.1).mean())


def _by_kind(kinds: Sweeps, number) -> dict[str, dict[str, float]]:
    models = dict.fromkeys(model for model, _ in kinds)
    return {model: {kind: number(kinds[model, kind]) for kind in KINDS} for model in models}


def _said(found: Mapping[str, Mapping[str, float]], digits: str = ".0f", unit: str = " %") -> str:
    return "; ".join(
        f"{model}: " + ", ".join(f"{kind} {value:{digits}}{unit}" for kind, value in row.items())
        for model, row in found.items()
    )


def _listed(found: Mapping, digits: str, unit: str = "") -> str:
    return "; ".join(
        f"{' '.join(key) if isinstance(key, tuple) else key}: {value:{digits}}{unit}"
        for key, value in found.items()
    )


def recommended(
    models: Sequence[str], n_prompts: int = 20, n_fresh: int = 30, store: str = "results", **options
) -> tuple[pd.DataFrame, dict[str, float]]:
    """What the book recommends, put to the test, and its price; see chapter 10.

    Returns:
        Errors by model, task and method ("AP alone" and the rule), and the rule's price by model in
        percent of patching every head.
    """
    fresh = worth.fresh(models, n_prompts, n_fresh, store, **options)
    tested = worth.put_to_test(fresh, {worth.ROWS: worth.N_PATCHED})
    errors = tested.groupby(["model", "task", "method"]).error.mean().unstack("method")
    price = {model: worth.of_rule(model, worth.ROWS, worth.N_PATCHED) for model in models}
    return errors, price


def recovery_tests(
    models: Sequence[str], n_prompts: int = 50, store: str = "results", **options
) -> pd.DataFrame:
    """Holm-corrected tests of HVP against AP in finding the true top heads; see chapter 11."""
    methods = ("AP", "HVP")
    sweeps = common.load(
        models,
        circuit_recovery.TASKS,
        circuit_recovery.needs(methods),
        n_prompts,
        store,
        **options,
    )
    scored = circuit_recovery.scores(sweeps, methods)
    return circuit_recovery.paired_tests(circuit_recovery.per_prompt(scored))


def claims(
    heads: Sweeps,
    kinds: Sweeps,
    errors: pd.DataFrame,
    price: Mapping[str, float],
    tests: pd.DataFrame,
) -> list[Claim]:
    """All claims, in the order of their sources.

    Args:
        heads: Sweeps over heads, by (model, task); see ``load``.
        kinds: Sweeps over kinds of components, by (model, kind).
        errors: What ``recommended`` gives first.
        price: What it gives second.
        tests: What ``recovery_tests`` gives.
    """
    models = list(dict.fromkeys(model for model, _ in heads))
    return [
        *_paper(models),
        *_article(models, heads, kinds, errors, price),
        *_review(heads, tests),
        *_tutorial(models, errors, price),
    ]


def _paper(models: Sequence[str]) -> list[Claim]:
    ratios = worth.price_ratios(models)["hvp over ap"]
    alone = {m: _runs(m, "hvp") / model_sizes(m).n_components("heads", 5) for m in models}
    return [
        Claim(
            claim="The correction costs only one additional backward pass",
            paper="one additional backward pass",
            source="abstract; Figure 3",
            here="for one component that is so; for all heads it costs "
            + _listed(ratios, ",.0f", " times one gradient"),
            verdict=verdict(
                max(ratios.values()) <= 3,
                all(alone[m] <= 3 * _runs(m, "attribution_patching") for m in models),
            ),
            rule="all components together cost at most three gradients in both models; partly: one component does",
        ),
        Claim(
            claim="IG takes GPU-days for each task at 8 billion parameters, HVP GPU-hours",
            paper="stated; no number given in the text used here",
            source="Table 2, section 4.2",
            here="counted for Llama-3.1-8B, all heads: IG with 10 points costs "
            f"{_at_scale():.1f} times HVP, and exact patching less than either",
            verdict=verdict(_at_scale() >= 10, _at_scale() > 1),
            rule="IG with 10 points costs at least 10 times as much; partly: more",
        ),
    ]


def _runs(model: str, method: str, *tokens: int) -> float:
    return float(prices.counted(model_sizes(model), [method], *tokens).runs[0])


def _at_scale(model: str = "llama-3.1-8b") -> float:
    return _runs(model, IG_10, 20, 10) / _runs(model, "hvp", 20, 10)


def _article(
    models: Sequence[str],
    heads: Sweeps,
    kinds: Sweeps,
    errors: pd.DataFrame,
    price: Mapping[str, float],
) -> list[Claim]:
    error = _by_kind(
        kinds,
        lambda data: float(top_k_relative_error(*(v for v in reversed(_values(data)[:2]))).mean()),
    )
    flagged = _by_kind(kinds, _flagged)
    correlation = {}
    for key, data in heads.items():
        f, f_ap, _ = _values(data)
        moved = (data.delta_norm.values > 0) & (np.abs(f) > 0)
        relative = np.abs(f_ap - f)[moved] / np.abs(f)[moved]
        correlation[key] = float(spearman(data.delta_norm.values[moved], relative))
    missed = {}
    for key, data in heads.items():
        f, f_ap, hvp = _values(data)
        matters = np.abs(f) >= 0.01 * np.abs(f).max(1, keepdims=True)
        quiet = matters & (np.abs(hvp - f_ap) < 0.1 * np.abs(f_ap))
        wrong = np.abs(f_ap - f) > 0.1 * np.abs(f)
        missed[key] = float(100 * (quiet & wrong).sum() / max(quiet.sum(), 1))
    steps = {m: _runs(m, "ms_hvp:10") / _runs(m, IG_10) for m in models}
    one_by_one = worth.price_ratios(models)["hvp over exact"]
    better = int((errors[worth.ROWS] < errors[worth.AP]).sum())
    return [
        Claim(
            claim="AP works on small activations such as heads, and poorly on the residual stream",
            paper="stated, after Nanda 2023",
            source=ARTICLE,
            here="mean top-5 error, IOI: " + _said(error),
            verdict=verdict(
                all(row["resid"] > row["heads"] for row in error.values()),
                any(row["resid"] > row["heads"] for row in error.values()),
            ),
            rule="a larger top-5 error on the residual stream than on heads in both models; partly: in one",
        ),
        Claim(
            claim="The residual stream and MLP outputs are the first candidates for flagging",
            paper="stated as likely",
            source=ARTICLE,
            here="components with R > 0.1, IOI: " + _said(flagged),
            verdict=verdict(
                all(min(row["resid"], row["mlp_out"]) > row["heads"] for row in flagged.values()),
                any(max(row["resid"], row["mlp_out"]) > row["heads"] for row in flagged.values()),
            ),
            rule="both are flagged more often than heads in both models; partly: one of them in one model",
        ),
        Claim(
            claim="The error grows with the size of the activation that is patched",
            paper="stated, after Nanda 2023",
            source=ARTICLE,
            here="rank correlation of |δ| and relative error over heads: "
            + _listed(correlation, "+.2f"),
            verdict=verdict(min(correlation.values()) > 0.1, max(correlation.values()) > 0.1),
            rule="above 0.1 for every model and task; partly: for one",
        ),
        Claim(
            claim="Multi-step HVP costs one backward pass for each step, an order less than IG",
            paper="10 backward passes for 10 steps, 20 to 300 for IG",
            source=ARTICLE,
            here="10 steps for every head cost "
            + _listed(steps, ".1f", " times IG with 10 points"),
            verdict=verdict(max(steps.values()) < 0.1, max(steps.values()) < 1),
            rule="less than a tenth of IG with as many points in both models; partly: less",
        ),
        Claim(
            claim="Whether fixing by HVP beats exact patching of what is flagged is open",
            paper="not in the paper",
            source=ARTICLE,
            here="answered: exact patching has no error, and HVP of a head costs "
            + _listed(one_by_one, ".1f", " times as much"),
            verdict=verdict(min(one_by_one.values()) > 1 or max(one_by_one.values()) < 1),
            rule="it is answered if one of the two is cheaper in both models",
        ),
        Claim(
            claim="A score that misses a bad component gives false confidence",
            paper="stated as a risk",
            source=ARTICLE,
            here="heads with R < 0.1 that are off by more than 10 %, of those with at least 1 % of the largest effect: "
            + _listed(missed, ".0f", " %"),
            verdict=verdict(min(missed.values()) > 1, max(missed.values()) > 1),
            rule="more than 1 % of the heads that R calls safe, for every model and task; partly: for one",
        ),
        Claim(
            claim="The gated pattern, a cheap diagnostic before a dear correction, is worth its price",
            paper="concluded",
            source=ARTICLE,
            here="with R and HVP of every head it costs "
            + _listed(one_by_one, ".1f", " times as much as patching every head")
            + f"; with three gradients and exact patches it costs {_listed(price, '.0f', ' %')} and is more exact than AP in {better} of {len(errors)} settings",
            verdict=verdict(
                max(one_by_one.values()) < 1,
                max(price.values()) < 100 and better == len(errors),
            ),
            rule="cheaper than patching everything, and more exact than AP, in both models; partly: with another diagnostic or another fix",
        ),
        Claim(
            claim="Behaviour beyond 9 billion parameters is not known",
            paper="stated",
            source=ARTICLE,
            here="nothing above 270 million parameters was run here",
            verdict=VERDICTS[3],
            rule="a model of that size, run",
        ),
    ]


def _review(heads: Sweeps, tests: pd.DataFrame) -> list[Claim]:
    hvp = tests[tests.method == "HVP"]
    survive = (hvp.holm < 0.05) & (hvp.difference.map(lambda d: d.estimate) > 0)
    smaller, remainder = {}, {}
    for key, data in heads.items():
        f, f_ap, hvp = _values(data)
        smaller[key] = float(100 * (1 - np.abs(hvp - f).mean() / np.abs(f_ap - f).mean()))
        matters = np.abs(f) >= 0.01 * np.abs(f).max(1, keepdims=True)
        q, left = np.abs(hvp - f_ap)[matters], np.abs(f - hvp)[matters]
        remainder[key] = float(np.median(left / np.maximum(q, 1e-30)))
    return [
        Claim(
            claim="HVP reduces the mean absolute error of AP; if not, the central claim falls",
            paper="proposed as the test of the paper",
            source=REVIEW,
            here="mean error over all heads falls by " + _listed(smaller, ".0f", " %"),
            verdict=verdict(min(smaller.values()) > 0, max(smaller.values()) > 0),
            rule="a smaller mean absolute error for every model and task; partly: for one",
        ),
        Claim(
            claim="One product removes the leading error without a remainder that matters",
            paper="named as the assumption that carries the paper; the remainder is not quantified there",
            source=REVIEW,
            here="median over heads with at least 1 % of the largest effect of |remainder| / |q|: "
            + _listed(remainder, ".2f"),
            verdict=verdict(max(remainder.values()) < 0.1, min(remainder.values()) < 0.5),
            rule="below 0.1 for every model and task; partly: below 0.5 for one",
        ),
        Claim(
            claim="Gains in circuit recovery must survive a correction for many comparisons",
            paper="asked for; not reported in the paper",
            source=REVIEW,
            here=f"HVP against AP, overlap with the true top heads: {survive.sum()} of {len(hvp)} settings significant after Holm's correction",
            verdict=verdict(bool(survive.all()), bool(survive.any())),
            rule="HVP finds significantly more in every setting; partly: in some",
        ),
        Claim(
            claim="The diagnosis carries over to larger models and other gradient methods",
            paper="offered as an extension",
            source=REVIEW,
            here="no larger model was run here",
            verdict=VERDICTS[3],
            rule="a model of more than 9 billion parameters, run",
        ),
    ]


def _tutorial(
    models: Sequence[str], errors: pd.DataFrame, price: Mapping[str, float]
) -> list[Claim]:
    layers = {model: model_sizes(model).n_layers for model in models}
    fix = {m: passes("atp_star", 10, n, "queries").get("forward", 0) for m, n in layers.items()}
    drop = {m: passes("atp_star", 10, n).get("gradient", 0) for m, n in layers.items()}
    return [
        Claim(
            claim="The Q and K fix of AtP* costs less than two further forward passes",
            paper="less than two",
            source=TUTORIAL,
            here="runs of the model beside the gradients: " + _listed(fix, "d"),
            verdict=verdict(max(fix.values()) <= 2),
            rule="at most two in both models",
        ),
        Claim(
            claim="GradDrop costs a backward pass for each layer",
            paper="L backward passes",
            source=TUTORIAL,
            here="gradients: " + _listed(drop, "d") + "; layers: " + _listed(layers, "d"),
            verdict=verdict(drop == layers),
            rule="as many gradients as layers in both models",
        ),
        Claim(
            claim="Use gradients to screen, and verify the most important results by patching",
            paper="recommended",
            source=TUTORIAL,
            here=f"three gradients and {worth.N_PATCHED} exact patches leave {errors[worth.ROWS].mean():.2f} % on the five largest heads where AP leaves {errors[worth.AP].mean():.0f} %, for {_listed(price, '.0f', ' %')} of patching every head",
            verdict=verdict(
                bool((errors[worth.ROWS] < 1).all()) and max(price.values()) < 100,
                bool((errors[worth.ROWS] < errors[worth.AP]).all()),
            ),
            rule="an error below 1 % in every setting, for less than patching everything; partly: less than that of AP in every setting",
        ),
    ]
