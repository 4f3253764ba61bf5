"""What the tutorial and the papers say of each failure and its remedy, beside what was found.

Rules were written before any result of the search was looked at.
"""

from __future__ import annotations

import pandas as pd

from hvp_utils import diagnosis as d
from hvp_utils.claims import VERDICTS, Claim, verdict

from .. import common
from ..edges_and_mib import TASKS as EDGE_TASKS
from .tables import NAMED, counts, queries_and_keys, symptoms

__all__ = ["claims"]

TUTORIAL = "tutorial on the failure modes of attribution patching"
ATP = "Kramár et al. 2024"
GP = "Zhang et al. 2025"


def claims(table: pd.DataFrame, neurons: pd.DataFrame, edges: pd.DataFrame) -> list[Claim]:
    """All claims of the chapter.

    Args:
        table: What ``cases`` returns.
        neurons: What ``hidden_neurons`` returns.
        edges: What ``edge_remedies`` returns.
    """
    return [
        _saturation(table),
        _cancellation(table, neurons),
        _systematic(table),
        _false_negatives(table),
        _symptom(table),
        _flat(table),
        _graddrop(table),
        _five_points(table),
        _gradpath(edges),
    ]


def _saturation(table: pd.DataFrame) -> Claim:
    found = queries_and_keys(table)
    part = found[found.saturated].set_index("model")
    models = list(dict.fromkeys(table.model))
    both = set(part.index) == set(models)
    good = (part["too small"] > part.n / 2) & (part.nearer > part.n / 2)
    said = {
        m: f"{part.n[m]} found, {part['too small'][m]} too small, {part.nearer[m]} nearer by the fix"
        if m in part.index
        else "none found"
        for m in models
    }
    return Claim(
        claim="Saturated attention hides queries and keys from AP, and the Q and K fix finds them",
        paper="stated",
        source=f"{TUTORIAL}; {ATP}",
        here="badly misjudged queries and keys whose own attention leaves saturation: "
        + common.listed(said, between="; "),
        verdict=verdict(both and bool(good.all()), bool(good.any())),
        rule="in both models some are found, most of them too small, and the fix is nearer on most; partly: in one",
    )


def _cancellation(table: pd.DataFrame, neurons: pd.DataFrame) -> Claim:
    cases = table[table.bad & table.setting.str.startswith("neurons")]
    taken = cases["removed: grad_drop"]
    nearer, hidden = int((taken > 0).sum()), neurons.set_index("model").hidden
    cancelled = {m: int(part[d.CANCELLATION].sum()) for m, part in cases.groupby("model")}
    found = bool((hidden > 0).all())
    explained = bool(cancelled) and min(cancelled.values()) > 0
    return Claim(
        claim="Cancellation makes AP of neurons 5 to 12 times too small, and GradDrop helps",
        paper="5 to 12 times (GPT-2, Pythia-12B)",
        source=f"{TUTORIAL}; {ATP}",
        here="large neurons that AP makes 5 times too small: "
        + common.listed(hidden.to_dict(), "d")
        + f"; badly misjudged neurons that cancellation accounts for: {sum(cancelled.values())} of {len(cases)}; GradDrop is nearer on {nearer} of {len(cases)}",
        verdict=verdict(found and explained and nearer > len(cases) / 2, found),
        rule="such neurons are found in both models, cancellation accounts for some, and GradDrop is nearer on most; partly: they are found",
    )


def _systematic(table: pd.DataFrame) -> Claim:
    by_model = counts(table, ("model",)).set_index("model")
    share = (100 * by_model[list(NAMED)].sum(axis=1) / by_model.misjudged).to_dict()
    return Claim(
        claim="The misjudgements of AP come from three failures: saturation, cancellation, zero gradients",
        paper="three failure modes, each with a refinement",
        source=TUTORIAL,
        here="badly misjudged components that one of the three accounts for: "
        + common.listed(share, ".0f", " %")
        + f" (of {len(table[table.bad])})",
        verdict=verdict(min(share.values()) >= 50, max(share.values()) >= 25),
        rule="at least half in both models; partly: a quarter in one",
    )


def _false_negatives(table: pd.DataFrame) -> Claim:
    bad = table[table.bad]
    small = bad.estimate.abs() < bad.truth.abs()
    share = (100 * small.groupby(bad.model, sort=False).mean()).to_dict()
    return Claim(
        claim="The failures make false negatives: important components look unimportant",
        paper="stated",
        source=TUTORIAL,
        here="badly misjudged components whose effect AP makes too small: "
        + common.listed(share, ".0f", " %")
        + f"; below half, or of the wrong sign: {100 * bad.hides.mean():.0f} %",
        verdict=verdict(min(share.values()) > 50, max(share.values()) > 50),
        rule="more than half in both models; partly: in one",
    )


def _symptom(table: pd.DataFrame) -> Claim:
    row = symptoms(table).iloc[0]
    seen = table[table.bad & table["row leaves saturation"]]
    explains = int(seen[d.SATURATION].sum())
    often = row.misjudged.estimate >= 2 * row.others.estimate
    return Claim(
        claim="Attention above 0.95 that changes tells saturation",
        paper="given as the way to confirm it",
        source=TUTORIAL,
        here=f"of the badly misjudged {row.misjudged:.0f %} show it, of other large components {row.others:.0f %}; it accounts for the error of {explains} of the {len(seen)}",
        verdict=verdict(often and explains > len(seen) / 2, often or explains > len(seen) / 2),
        rule="twice as common among the misjudged as among others, and it accounts for most of their errors; partly: one of the two",
    )


def _flat(table: pd.DataFrame) -> Claim:
    shares = {}
    for setting in ("heads, IOI", "heads, IOI, probability"):
        part = table[table.setting == setting]
        shares[setting] = 100 * float(part["flat start"].mean()) if len(part) else 0.0
    usual, probability = shares.values()
    return Claim(
        claim="A confident wrong answer makes the gradient nearly zero for all components",
        paper="stated",
        source=TUTORIAL,
        here=f"large heads with a zero gradient, IOI: {usual:.0f} % with log probability, {probability:.0f} % with probability",
        verdict=verdict(usual > 50, probability > 50),
        rule="more than half of the large heads, log probability; partly: probability",
    )


def _graddrop(table: pd.DataFrame) -> Claim:
    part = table[table.bad & table[d.CANCELLATION]]
    nearer = int((part["removed: grad_drop"] > 0).sum())
    return Claim(
        claim="GradDrop finds what cancellation hides",
        paper="stated",
        source=f"{TUTORIAL}; {ATP}",
        here=f"nearer to the size of the effect on {nearer} of {len(part)} components that cancel"
        if len(part)
        else "no badly misjudged component met the criterion",
        verdict=verdict(nearer > len(part) / 2, nearer > 0) if len(part) >= 5 else VERDICTS[3],
        rule="nearer on most of those that cancellation accounts for, of five at least; partly: on some",
    )


def _five_points(table: pd.DataFrame) -> Claim:
    taken = table[table.bad]["removed: five slopes"]
    share = 100 * float((taken >= 0.9).mean())
    return Claim(
        claim="Five points along the path are enough",
        paper="m = 5 is sufficient for stable results (EAP-IG, edges)",
        source=TUTORIAL,
        here=f"five slopes remove at least 90 % of the error for {share:.0f} % of the badly misjudged nodes (Gauss-Legendre points, one node at a time)",
        verdict=verdict(share >= 95, share >= 75),
        rule="for at least 95 %; partly: for 75 %",
    )


def _gradpath(edges: pd.DataFrame) -> Claim:
    edges = edges[edges.method.isin(["EAP-GP", "EAP-IG"])]
    wide = edges.pivot(index=["model", "task"], columns="method", values="error")
    wide = wide.map(lambda one: one.estimate)
    better = wide["EAP-GP"] < wide["EAP-IG"]
    said = "; ".join(
        f"{row['EAP-GP']:.0f} against {row['EAP-IG']:.0f} % ({model}, {EDGE_TASKS.get(task, task)})"
        for (model, task), row in wide.iterrows()
    )
    return Claim(
        claim="EAP-GP avoids the flat stretches that stay on the straight path of EAP-IG",
        paper="more faithful circuits, by up to 17.7 %",
        source=f"{TUTORIAL}; {GP}",
        here=f"error on sampled edges, EAP-GP against EAP-IG: {said}",
        verdict=verdict(bool(better.all()), bool(better.any())),
        rule="a smaller error in every model and task; partly: in some",
    )
