"""What the paper says of where the error comes from, beside what was found here."""

from __future__ import annotations

import pandas as pd

from hvp_utils.claims import Claim, verdict
from hvp_utils.stats import bootstrap_share

from .. import common
from ..common import listed
from . import kinds as of_kinds
from . import neurons as of_neurons


def claims(gap: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """The claims of sections 3.3, 4.2 and 4.5, Figure 2 and Table 11.

    Args:
        gap: What ``neurons`` returns.
        table: What ``heads`` returns.
    """
    each, errors = of_neurons.per_prompt(gap), of_neurons.corrected(gap)
    return [
        *_of_agreement(each),
        _of_correction(errors),
        *_of_origin(each),
        _of_norms(of_kinds.shares(table)),
        _of_hvp(errors),
        *_of_gating(of_kinds.shares(table)),
        _of_gauss_newton(of_kinds.errors(table)),
        common.not_run(
            claim="The values of Figure 2 on the paper's models",
            paper="three model families",
            source="Figure 2",
        ),
    ]


def _all(each: pd.DataFrame, value: str) -> dict[str, float]:
    found = of_neurons.agreement(each, value)
    found = found[found.neurons == "all"]
    return {
        model: interval.estimate for model, interval in zip(found.model, found[value], strict=True)
    }


def _of_agreement(each: pd.DataFrame) -> list[Claim]:
    ratio, pearson, spearman = (_all(each, value) for value in ("ratio", "pearson", "spearman"))
    exceeds = [value >= 2 for value in ratio.values()]
    unrelated = [abs(pearson[m]) <= 0.2 and abs(spearman[m]) <= 0.2 for m in ratio]
    texts = [listed(of, "+.2f") for of in (pearson, spearman)]
    return [
        Claim(
            claim="The network's quadratic term exceeds the local one of a pre-activation neuron",
            paper="by a large factor, in three model families",
            source="section 3.3, Figure 2",
            here="median ratio of sizes " + listed(ratio, ".2f"),
            verdict=verdict(all(exceeds), any(exceeds)),
            rule="median at least 2 in both models; partly: in one",
        ),
        Claim(
            claim="The two are next to uncorrelated",
            paper="correlation near zero",
            source="section 3.3, Figure 2",
            here=f"Pearson {texts[0]}, Spearman {texts[1]}",
            verdict=verdict(all(unrelated), any(unrelated)),
            rule="both at most 0.2 in size, in both models; partly: in one",
        ),
    ]


def _of_correction(errors: pd.DataFrame) -> Claim:
    models = list(dict.fromkeys(errors.model))
    mean = errors.groupby(["model", "method"]).top5.mean()
    hurts = [
        of_neurons.difference(errors, m, "none", "local curvature", "top5").clear for m in models
    ]
    texts = {m: f"{mean[m, 'none']:.1f} to {mean[m, 'local curvature']:.1f} %" for m in models}
    return Claim(
        claim="Correcting with local curvature is worse than no correction",
        paper="an error of 750 %",
        source="section 3.3, Figure 2",
        here="top-5 relative error " + listed(texts),
        verdict=verdict(all(hurts), any(hurts)),
        rule="clearly worse in both models; partly: in one",
    )


def _of_origin(each: pd.DataFrame) -> list[Claim]:
    own = of_neurons.of_those_that_count(of_neurons.local_share(each), "share")
    downstream = [share.high < 50 for share in own.values()]
    texts = {model: f"{share.estimate:.0f} %" for model, share in own.items()}
    return [
        Claim(
            claim="The dominant error of heads stems from the downstream network, not from the patched component",
            paper="stated as the key finding, for all components",
            source="abstract, sections 1 and 5",
            here="a head's output is only multiplied by a matrix; it has no curvature of its own",
            verdict=verdict(True),
            rule="true by construction",
        ),
        Claim(
            claim="So does the dominant error of pre-activation neurons",
            paper="stated as the key finding, for all components",
            source="abstract, sections 1 and 5",
            here=f"of a neuron's quadratic term {listed(texts)} is its own",
            verdict=verdict(all(downstream), any(downstream)),
            rule="local share of neurons below 50 %, with its interval, in both models; partly: in one",
        ),
    ]


def _of_norms(shared: pd.DataFrame) -> Claim:
    norms = {m: share.estimate for m, share in of_kinds.of_kind(shared, "norms").items()}
    straight = [value <= 10 for value in norms.values()]
    return Claim(
        claim="Most of the downstream path is linear, LayerNorm in its operating regime included",
        paper="stated, without a number",
        source="section 3.3",
        here=f"norms do {listed(norms, '.0f', ' %')} of the bending",
        verdict=verdict(all(straight), any(straight)),
        rule="at most 10 % in both models; partly: in one",
    )


def _of_hvp(errors: pd.DataFrame) -> Claim:
    cut = {}
    for model, part in errors.groupby("model", sort=False):
        one = part.pivot(index="prompt", columns="method", values="top5")
        cut[model] = bootstrap_share(one["none"] - one["HVP"], one["none"])
    return Claim(
        claim="HVP reduces the top-5 error of pre-activation neurons by more than half",
        paper="by 55.8 to 66.7 %",
        source="Table 11",
        here="by " + listed({model: f"{share.estimate:.0f} %" for model, share in cut.items()}),
        verdict=verdict(
            all(share.estimate >= 50 for share in cut.values()),
            all(share.low > 0 for share in cut.values()),
        ),
        rule="at least 50 % in both models; partly: interval above 0 in both",
    )


def _of_gating(shared: pd.DataFrame) -> list[Claim]:
    """Of the first Gemma; without one there is no such claim."""
    activation, gating = (of_kinds.of_kind(shared, f"mlp_{x}") for x in ("activation", "gating"))
    gemmas = [model for model in activation if "gemma" in model]
    if not gemmas:
        return []
    gated = activation[gemmas[0]].estimate + gating[gemmas[0]].estimate
    return [
        Claim(
            claim="Gated activations bring in substantial network-level curvature",
            paper="stated for Gemma-2-2B",
            source="section 4.5, Appendix E.8",
            here=f"activation and gating do {gated:.0f} % of the bending ({gemmas[0]})",
            verdict=verdict(gated >= 25, gated >= 10),
            rule="at least 25 % of the sizes in our Gemma; partly: at least 10 %",
        )
    ]


def _of_gauss_newton(errors: pd.DataFrame) -> Claim:
    better, n = of_kinds.clearly_better(errors), errors.model.nunique()
    return Claim(
        claim="Gauss–Newton performs adequately where curvature is low",
        paper="stated; it fails on Pythia-410M and IOI",
        source="section 4.2",
        here=f"clearly better than attribution patching on {len(better)} of {n} models (IOI)",
        verdict=verdict(len(better) == n, len(better) > 0),
        rule="clearly better in both models; partly: in one",
    )
