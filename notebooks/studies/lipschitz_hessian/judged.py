"""What the paper says of the Lipschitz constant of the Hessian, beside what was found here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from hvp_utils.claims import Claim, verdict
from hvp_utils.stats import Interval, bootstrap_ci

from .. import common
from .certify import certificates
from .layers import by_layer
from .parts import gelu_closed_form
from .remainders import counted_failures, held, looseness, steps

Each = Callable[[Callable[[str], str]], str]


def _judge(found: Sequence[bool]) -> str:
    """Holds in all models; partly: in one at least."""
    return verdict(all(found), any(found))


def claims(table: pd.DataFrame, trend: pd.DataFrame, parts: pd.DataFrame, task: str) -> list[Claim]:
    """The claims of sections 3.1 and 3.3 and of Appendix B.

    Args:
        table: What ``records`` returns.
        trend: What ``trends`` returns for ``task``.
        parts: What ``smooth_parts`` returns.
        task: The task of the claims about layers.
    """
    models = list(dict.fromkeys(table.model))

    def each(text: Callable[[str], str]) -> str:
        return common.listed({model: text(model) for model in models}, between=", ")

    return [
        *_of_the_bound(table, each),
        *_of_layers(table[table.task == task], trend, each),
        *_of_theory(table),
        *_of_parts(parts),
    ]


def _of_the_bound(table: pd.DataFrame, each: Each) -> list[Claim]:
    shares = held(table).query("task == 'all'").set_index("model")["that count"]
    counted = [share.estimate for share in shares]
    fails = counted_failures(table).set_index("model")
    real = (fails["failures that count"] >= 0.5 * fails.failures) & (fails.failures > 0)
    failing = table[~table.holds]
    first = (failing.layer == 0).groupby(failing.model).mean()
    first = first.reindex(shares.index).fillna(0)
    loose = looseness(table)
    return [
        Claim(
            claim="The cubic bound with L_H estimated from three points holds for most head-prompt pairs",
            paper="82.4 % (GPT-2), 95.0 % (Gemma-2-2B)",
            source="section 3.1, Tables 6 and 7",
            here="of the records that count, " + each(lambda m: f"{shares[m].estimate:.1f} %"),
            verdict=_judge([share >= 82.4 for share in counted]),
            rule="at least 82.4 % of the records that count in both models; partly: in one",
        ),
        Claim(
            claim="Where it fails, the constant was estimated too low",
            paper="the failures are read as violations by sharp Hessian variation (GPT-2)",
            source="appendix B.2",
            here="failures that count, of all failures: "
            + each(lambda m: f"{fails['failures that count'][m]} of {fails.failures[m]}"),
            verdict=_judge(real.tolist()),
            rule="at least half of the failures are above the rounding of float32 in both models; partly: in one",
        ),
        Claim(
            claim="The failures are concentrated in layer 0",
            paper="stated for GPT-2",
            source="appendix B.2",
            here="share of all failures in layer 0: " + each(lambda m: f"{first[m]:.0%}"),
            verdict=_judge((first >= 0.5).tolist()),
            rule="at least half in both models; partly: in one",
        ),
        Claim(
            claim="The bound is about ten times the remainder",
            paper="an order of magnitude (Gemma-2-2B)",
            source="appendix B.2, Table 7",
            here="median ratio " + each(lambda m: f"{loose[m]:.1f}"),
            verdict=_judge(loose.between(3, 30).tolist()),
            rule="median ratio from 3 to 30 in both models; partly: in one",
        ),
    ]


def late_share(part: pd.DataFrame) -> Interval:
    """Of AP's summed error, the share in the last quarter of the layers, in percent; one task."""
    late = part.layer >= 0.75 * (part.layer.max() + 1)
    sums = part.assign(late=part.E * late).groupby("prompt", sort=False)[["late", "E"]].sum()
    return bootstrap_ci(100 * sums.late / sums.E)


def _of_layers(part: pd.DataFrame, trend: pd.DataFrame, each: Each) -> list[Claim]:
    depth = trend.set_index("model").depth
    of_model = dict(list(part.groupby("model", sort=False)))
    rates = {model: by_layer(rows, "L_H") for model, rows in of_model.items()}
    stands_out = {model: rate[0] / np.median(rate) for model, rate in rates.items()}
    late = {model: late_share(rows) for model, rows in of_model.items()}
    return [
        Claim(
            claim="L_H falls with depth",
            paper="monotonically on GPT-2; flat on Gemma-2-2B",
            source="appendix B.2",
            here="rank correlation with depth, IOI: " + each(lambda m: f"{depth[m].estimate:+.2f}"),
            verdict=_judge([ci.estimate <= -0.9 for ci in depth]),
            rule="at most -0.9 in both models; partly: in one",
        ),
        Claim(
            claim="Layer 0 stands out because of the position-dependent embedding",
            paper="given as the likely reason (GPT-2)",
            source="appendix B.2",
            here="layer 0 over the median layer, in models without position embeddings: "
            + each(lambda m: f"{stands_out[m]:.2g}"),
            verdict=verdict(max(stands_out.values()) < 10),
            rule="layer 0 does not stand out (factor 10) in either model, as neither has position embeddings",
        ),
        Claim(
            claim="A flat profile goes with grouped-query attention and gated MLPs",
            paper="given as the likely reason (Gemma-2-2B)",
            source="appendix B.2",
            here="both models have both; rank correlation with depth, interval over prompts: "
            + each(lambda m: f"{depth[m]:.2f}"),
            verdict=verdict(all(ci.low <= 0 <= ci.high for ci in depth)),
            rule="no trend with depth (interval holds 0) in either model, as both have both",
        ),
        Claim(
            claim="The last layers hardly need a correction",
            paper="nearly unnecessary for the last few layers (GPT-2)",
            source="appendix B.2",
            here="share of attribution patching's summed error in the last quarter of the layers, IOI: "
            + each(lambda m: f"{late[m]:.0f %}"),
            verdict=_judge([ci.estimate <= 10 for ci in late.values()]),
            rule="at most 10 % in both models; partly: in one",
        ),
    ]


def _of_theory(table: pd.DataFrame) -> list[Claim]:
    below = [share.estimate for share in certificates(table).below]
    kept = [share.estimate for share in steps(table).query("K > 1").held]
    return [
        Claim(
            claim="The relative error is at most (1 + η) R",
            paper="proved, given the true constant",
            source="Proposition 1",
            here=f"with the estimated one, for {common.span(below)} % of the heads that matter, by model and task",
            verdict=_judge([share >= 95 for share in below]),
            rule="at least 95 % everywhere; partly: somewhere",
        ),
        Claim(
            claim="MS-HVP with K steps leaves at most L_H |δ|³ / (6 K²)",
            paper="proved for K = 1, argued for more, given the true constant",
            source="Corollary 1, section 3.3",
            here=f"with the estimated one, K = 2 and 5: {common.span(kept)} % of the records that count",
            verdict=_judge([share >= 95 for share in kept]),
            rule="at least 95 % for both K in both models; partly: somewhere",
        ),
    ]


def _of_parts(parts: pd.DataFrame) -> list[Claim]:
    largest = parts.set_index("part").largest
    return [
        Claim(
            claim="GeLU and SiLU have bounded third derivatives, GeLU's largest at x² = (7 − √33) / 2",
            paper="derived for GeLU, by numerical search for SiLU",
            source="appendix B.1",
            here=f"largest {largest['GeLU']:.4f} and {largest['SiLU']:.4f}",
            verdict=verdict(abs(largest["GeLU"] - gelu_closed_form()) < 1e-6),
            rule="automatic differentiation agrees with the closed form to 1e-6",
        ),
        common.not_run(
            claim="The values of Tables 6 and 7",
            paper="on GPT-2 and Gemma-2-2B",
            source="Tables 6 and 7",
            rule="neither model is among ours",
        ),
    ]
