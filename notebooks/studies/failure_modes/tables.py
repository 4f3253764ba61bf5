"""From cases to tables: how many, explained by what, and what each remedy removes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hvp_utils import diagnosis as d
from hvp_utils import model_sizes
from hvp_utils.backward_rules import NONLINEARITIES
from hvp_utils.plans import passes
from hvp_utils.stats import Interval, bootstrap_share

from .. import prices
from ..edges_and_mib import tables as edges
from .census import REMEDIES

__all__ = [
    "NAMED",
    "OPERATIONS",
    "REMEDY_NAMES",
    "counts",
    "edge_remedies",
    "example",
    "explained",
    "fix_passes",
    "flat_starts",
    "hidden_neurons",
    "origins",
    "priced",
    "queries_and_keys",
    "remedied",
    "remedy_table",
    "softmax_cases",
    "symptoms",
    "thresholds",
]

#: The three failures that have names.
NAMED = (d.SATURATION, d.CANCELLATION, d.ZERO_GRADIENT)
#: What the kinds of operation are called.
OPERATIONS = {
    "attention_pattern": "attention patterns",
    "attention_mixing": "patterns times values",
    "norms": "norms",
    "mlp_activation": "MLP activation functions",
    "mlp_gating": "MLP gates",
    "output": "output and metric",
}
REMEDY_NAMES = {
    "qk_fix": "Q and K fix",
    "grad_drop": "GradDrop",
    "hvp": "HVP",
    "ms_hvp:5": "MS-HVP, K = 5",
    "five slopes": "5 slopes",
}
#: The symptoms of the three failures, as columns of ``cases``.
SYMPTOMS = ("row leaves saturation", "opposite signs", "flat start")


def _pooled(table: pd.DataFrame, holds: pd.Series):
    """A share in percent with its interval, from whole prompts resampled."""
    groups = holds.groupby([table.model, table.setting, table.prompt], sort=False)
    if groups.ngroups < 2:  # nothing to resample
        return Interval(100 * float(holds.mean()), float("nan"), float("nan"))
    return bootstrap_share(groups.sum().to_numpy(), groups.size().to_numpy())


def counts(table: pd.DataFrame, by: Sequence[str] = ("setting", "model")) -> pd.DataFrame:
    """Badly misjudged components by verdict.

    Args:
        table: What ``cases`` returns.
        by: What makes a row.

    Returns:
        Columns of ``by``, misjudged, a column for each of the three failures (verdicts), none, and
        ``AP below half``: how many AP hides or gives the wrong sign.
    """
    bad = table[table.bad]
    rows = []
    for key, part in bad.groupby(list(by), sort=False):
        verdicts = {name: int((part.verdict == name).sum()) for name in NAMED}
        none = len(part) - sum(verdicts.values())
        row = dict(zip(by, key, strict=True)) | {"misjudged": len(part)} | verdicts
        rows.append(row | {"none": none, "AP below half": int(part.hides.sum())})
    return pd.DataFrame(rows)


def symptoms(table: pd.DataFrame) -> pd.DataFrame:
    """How common each symptom is among the misjudged, and among others with large effects.

    Returns:
        Columns symptom, misjudged and others (percent, ``Interval``), accounts (how many of the
        misjudged the failure with this symptom accounts for).
    """
    rows = []
    for symptom, name in zip(
        SYMPTOMS, (d.SATURATION, d.CANCELLATION, d.ZERO_GRADIENT), strict=True
    ):
        bad, others = (table[table.bad == side] for side in (True, False))
        rows.append(
            {
                "symptom": symptom,
                "misjudged": _pooled(bad, bad[symptom]),
                "others": _pooled(others, others[symptom]),
                "accounts": int(bad[name].sum()),
            }
        )
    return pd.DataFrame(rows)


def thresholds(table: pd.DataFrame) -> pd.DataFrame:
    """How many each failure accounts for when one of its thresholds moves.

    Returns:
        Columns failure, threshold, and the number of misjudged components at a stricter value, at
        the one used, and at a looser one; ``values`` says which they are.
    """
    bad = table[table.bad]
    counted = {
        (d.SATURATION, "part of the error"): (
            (0.75, d.MAIN_PART, 0.25),
            lambda x: (bad.pattern_share >= x) & (bad.saturated_share >= d.MAIN_PART),
        ),
        (d.SATURATION, "part from saturated rows"): (
            (0.75, d.MAIN_PART, 0.25),
            lambda x: (bad.pattern_share >= d.MAIN_PART) & (bad.saturated_share >= x),
        ),
        (d.CANCELLATION, "both parts over the total"): (
            (2 * d.AMPLIFIED, d.AMPLIFIED, d.AMPLIFIED / 2),
            lambda x: _cancels(bad, x, d.MISJUDGED),
        ),
        (d.CANCELLATION, "error against both parts"): (
            (d.MISJUDGED / 2, d.MISJUDGED, 2 * d.MISJUDGED),
            lambda x: _cancels(bad, d.AMPLIFIED, x),
        ),
        (d.ZERO_GRADIENT, "slope over mean slope"): (
            (d.FLAT / 2, d.FLAT, 2 * d.FLAT),
            lambda x: bad.flatness <= x,
        ),
    }
    rows = []
    for (failure, name), (values, holds) in counted.items():
        numbers = [int(holds(x).sum()) for x in values]
        row = dict(zip(("stricter", "used", "looser"), numbers, strict=True))
        told = ", ".join(f"{x:g}" for x in values)
        rows.append({"failure": failure, "threshold": name, **row, "values": told})
    return pd.DataFrame(rows)


def softmax_cases(table: pd.DataFrame) -> dict[str, object]:
    """Misjudged components whose error comes from attention patterns, by where the softmax starts.

    A wider reading of saturation, made after the search: the key that changes most in the row that
    contributes most starts near 0 or near 1.

    Returns:
        n (patterns are at least half of the error), near (of these, the key starts at most
        1 - ``SATURATED`` or at least ``SATURATED``, and changes), too small (of ``near``, AP's is
        the smaller effect), middle (the interquartile range of all starts).
    """
    part = table[table.bad & (table.pattern_share >= d.MAIN_PART)]
    start, change = part["reader base"], (part["reader patched"] - part["reader base"]).abs()
    near = ((start <= 1 - d.SATURATED) | (start >= d.SATURATED)) & (change >= d.CHANGED)
    small = part.estimate.abs() < part.truth.abs()
    return {
        "n": len(part),
        "near": int(near.sum()),
        "too small": int((near & small).sum()),
        "middle": tuple(start.quantile([0.25, 0.75])) if len(part) else (np.nan, np.nan),
    }


def _cancels(bad: pd.DataFrame, amplified: float, gross: float) -> pd.Series:
    large = bad.amplification >= amplified
    return bad["opposite signs"] & large & (bad["gross error"] <= gross)


def flat_starts(table: pd.DataFrame) -> pd.DataFrame:
    """Zero gradients by setting, among the misjudged and other large components.

    Returns:
        Columns setting, components, flat (percent with a zero gradient, ``Interval``), median (of
        the slope at the base over the mean slope, in percent).
    """
    rows = [
        (setting, len(part), _pooled(part, part["flat start"]), 100 * part.flatness.median())
        for setting, part in table.groupby("setting", sort=False)
    ]
    return pd.DataFrame(rows, columns=["setting", "components", "flat", "median"])


def origins(table: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """Which kind of operation has the largest part of the error, of misjudged components.

    Returns:
        Columns operation, and for each value of ``by`` the number of components.
    """
    bad = table[table.bad]
    wide = bad.groupby(["main", by], sort=False).size().unstack(fill_value=0)
    wide = wide.reindex(NONLINEARITIES, fill_value=0)[list(dict.fromkeys(bad[by]))]
    wide.insert(0, "operation", [OPERATIONS[kind] for kind in wide.index])
    return wide.reset_index(drop=True)


def remedied(table: pd.DataFrame, group: str = "verdict") -> pd.DataFrame:
    """What each remedy removes of the errors, by verdict.

    Returns:
        Columns of ``group``, remedy, n, median (percent removed), halved (how many errors are at
        least halved), worse (how many grow).
    """
    rows = []
    for value, part in table[table.bad].groupby(group, sort=False):
        for remedy in REMEDIES:
            taken = part[f"removed: {remedy}"].dropna()
            if len(taken):
                rows.append(
                    {
                        group: value,
                        "remedy": REMEDY_NAMES[remedy],
                        "n": len(taken),
                        "median": 100 * float(taken.median()),
                        "halved": int((taken >= 0.5).sum()),
                        "worse": int((taken < 0).sum()),
                    }
                )
    return pd.DataFrame(rows)


def priced(models: Sequence[str], components: str = "heads") -> pd.DataFrame:
    """What each remedy costs for all components of one prompt of the size of the reference pair.

    Returns:
        Columns model, remedy, runs, percent (of patching every component). The Q and K fix without
        GradDrop is one gradient and two runs.
    """
    methods = {
        "grad_drop": "atp_star",
        "hvp": "hvp",
        "ms_hvp:5": "ms_hvp:5",
        "five slopes": "integrated_gradients:5:gausslegendre",
    }
    rows = []
    for model in models:
        table = prices.counted(model_sizes(model), list(methods.values()), components=components)
        table = table.set_index("method")
        for remedy, method in methods.items():
            row = table.loc[method]
            rows.append((model, REMEDY_NAMES[remedy], row.runs, row.percent))
    return pd.DataFrame(rows, columns=["model", "remedy", "runs", "percent"])


def fix_passes(models: Sequence[str]) -> dict[str, int]:
    """Forward runs that the Q and K fix needs beside the gradient, by model."""
    return {
        model: passes("atp_star", 10, model_sizes(model).n_layers, "queries").get("forward", 0)
        for model in models
    }


def queries_and_keys(table: pd.DataFrame) -> pd.DataFrame:
    """Misjudged queries and keys, by whether their own attention leaves saturation.

    Returns:
        Columns model, saturated, n, too small (how many of AP's effects), nearer (how many the Q
        and K fix brings nearer), halved, median (percent removed).
    """
    part = table[table.bad & table["removed: qk_fix"].notna()]
    part = part.assign(saturated=part.saturated_share >= d.MAIN_PART)
    rows = []
    for (model, saturated), group in part.groupby(["model", "saturated"], sort=False):
        taken = group["removed: qk_fix"]
        rows.append(
            {
                "model": model,
                "saturated": saturated,
                "n": len(group),
                "too small": int((group.estimate.abs() < group.truth.abs()).sum()),
                "nearer": int((taken > 0).sum()),
                "halved": int((taken >= 0.5).sum()),
                "median": 100 * float(taken.median()),
            }
        )
    columns = ["model", "saturated", "n", "too small", "nearer", "halved", "median"]
    return pd.DataFrame(rows, columns=columns).astype({"saturated": bool})


def hidden_neurons(
    sweeps: Mapping[str, object], factor: float = 5.0, n_largest: int = 50
) -> pd.DataFrame:
    """Neurons among the largest whose effect AP makes too small by a factor, or turns over.

    Args:
        sweeps: By model, a sweep of neurons.
        factor: |true effect| / |AP|.
        n_largest: So many of the largest true effects of each prompt.

    Returns:
        Columns model, neurons, hidden (how many), turned (wrong sign), largest (factor).
    """
    rows = []
    for model, data in sweeps.items():
        truth, estimate = (
            data[name].values.astype(float)
            for name in ("activation_patching", "attribution_patching")
        )
        top = np.argsort(-np.abs(truth), axis=1)[:, :n_largest]
        f, ap = (np.take_along_axis(v, top, 1) for v in (truth, estimate))
        ratio = np.abs(f) / np.maximum(np.abs(ap), 1e-30)
        rows.append(
            (model, f.size, int((ratio >= factor).sum()), int((f * ap < 0).sum()), ratio.max())
        )
    return pd.DataFrame(rows, columns=["model", "neurons", "hidden", "turned", "largest"])


def edge_remedies(measured: edges.Measured) -> pd.DataFrame:
    """Edges: errors of EAP and of the remedies for zero gradients, from chapter 12's results.

    Returns:
        Columns model, task, method, error (percent of the summed effects of the sampled edges) and
        missed (percent of the important ones that it calls unimportant), both ``Interval``.
    """
    methods = ("EAP", "EAP-IG", "EAP-GP", "HVP, sketched")
    key = ["model", "task", "method"]
    table = edges.errors(measured).merge(edges.zero_gradients(measured), on=key)
    table = table[table.method.isin(methods)]
    order = table.method.map(methods.index)
    table = table.assign(order=order).sort_values([*key[:2], "order"], kind="stable")
    return table[[*key, "error", "missed"]].reset_index(drop=True)


def example(table: pd.DataFrame, model: str, setting: str, verdict: str) -> pd.Series:
    """The misjudged component with this verdict and the largest error; of any, if none has it.

    Raises:
        ValueError: Nothing is misjudged there.
    """
    part = table[table.bad & (table.model == model) & (table.setting == setting)]
    if part.empty:
        raise ValueError(f"No component of {model} is badly misjudged in {setting!r}.")
    same = part[part.verdict == verdict]
    part = part if same.empty else same
    return part.loc[part.percent.idxmax()]


def remedy_table(table: pd.DataFrame, price: pd.DataFrame, model: str) -> pd.DataFrame:
    """For a reader: of how many misjudged components each remedy at least halves the error.

    Args:
        table: What ``cases`` returns.
        price: What ``priced`` returns.
        model: Whose prices are shown.

    Returns:
        Columns remedy, price (runs a head; a run is one exact patch), one for each verdict that occurs
        ("9 of 12"), and worse (how often the error grows).
    """
    bad, runs = table[table.bad], price[price.model == model].set_index("remedy").percent / 100
    rows = []
    for remedy, name in REMEDY_NAMES.items():
        row = {"remedy": name, "price": runs.get(name, float("nan"))}
        for verdict in (*NAMED, d.OTHER):
            taken = bad[bad.verdict == verdict][f"removed: {remedy}"].dropna()
            if (bad.verdict == verdict).any():
                row[verdict] = f"{(taken >= 0.5).sum()} of {len(taken)}" if len(taken) else "–"
        taken = bad[f"removed: {remedy}"].dropna()
        rows.append(row | {"worse": f"{(taken < 0).sum()} of {len(taken)}"})
    return pd.DataFrame(rows)


def explained(table: pd.DataFrame) -> dict[str, object]:
    """How many are misjudged, how many a named failure accounts for, and the shares' intervals."""
    bad = table[table.bad]
    named = bad.verdict.isin(NAMED)
    main = bad.main.isin(["mlp_gating", "mlp_activation"])
    return {
        "misjudged": len(bad),
        "named": int(named.sum()),
        "share": _pooled(bad, named),
        "mlp": int((main & ~named).sum()),
        "prompts": len(bad.groupby(["model", "setting", "prompt"])),
        "patterns": int(((bad.main == "attention_pattern") & ~named).sum()),
        "unresolved": int((bad.left_share.abs() > 0.1).sum()),
        **{name: int((bad.verdict == name).sum()) for name in NAMED},
    }
