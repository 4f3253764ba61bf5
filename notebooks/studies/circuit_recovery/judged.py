"""What the paper says of circuit recovery, beside what was found here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from hvp_utils.claims import Claim, verdict
from hvp_utils.stats import top_k_relative_error

from .. import common
from .case import case, underestimation
from .published import TABLE_15, paper_against_itself, roles_in_the_paper
from .ranking import TASKS, Scores, of_the_mean, paired_tests, per_prompt

GT, IOI, TAU = "greater_than_01", "ioi", "Kendall's tau"

_KEYS = ["model", "task", "method", "measure", "k"]


def _name(one: Scores) -> str:
    return f"{one.model}, {TASKS.get(one.task, one.task)}"


def _size(scored: Sequence[Scores]) -> str:
    """How many prompts: one number, or one for each task."""
    n = {TASKS.get(one.task, one.task): len(one.truth) for one in scored}
    if len(set(n.values())) == 1:
        return f"{next(iter(n.values()))} prompts each"
    return ", ".join(f"{count} {task} prompts" for task, count in n.items())


def _listed(scored: Sequence[Scores], text: Callable[[Scores], str]) -> str:
    """One text for each model and task, and the numbers of prompts."""
    return "; ".join(f"{_name(one)}: {text(one)}" for one in scored) + f" ({_size(scored)})"


def _on(scored: Sequence[Scores], task: str) -> list[Scores]:
    return [one for one in scored if one.task == task]


def _all_or_some(held: Sequence[bool]) -> str:
    return verdict(len(held) > 0 and all(held), any(held))


class _Found:
    """Means over prompts of what ``per_prompt`` returns, and values of mean effects."""

    def __init__(self, scored: Sequence[Scores]):
        self.each = per_prompt(scored)
        self.mean = self.each.groupby(_KEYS).value.mean().to_dict()
        self._scored = scored

    @cached_property
    def _of_mean(self) -> dict:
        table = of_the_mean(self._scored, n_resamples=2)  # no intervals are wanted
        return table.set_index(_KEYS).value.to_dict()

    def overlap(self, one: Scores, method: str, k: int) -> float:
        return 100 * self.mean[one.model, one.task, method, "overlap", k]

    def at(self, one: Scores, method: str, measure: str, k: int = 0) -> float:
        return self._of_mean[one.model, one.task, method, measure, k].estimate


def claims(wide: Sequence[Scores], scored: Sequence[Scores], faithful: pd.DataFrame) -> list[Claim]:
    """The claims of section 4.5 and Appendices E.7 and E.10.

    Args:
        wide: Scores of AP and HVP on many prompts.
        scored: Scores of all methods, on the prompts that all were run on.
        faithful: What ``faithfulness_table`` returns.
    """
    many, few = _Found(wide), _Found(scored)
    return [
        *_of_table_4(wide, scored, many, few),
        *_of_table_15(wide, many),
        *_of_the_case(wide, many),
        *_of_faithfulness(wide, faithful),
    ]


def _of_table_4(wide, scored, many: _Found, few: _Found) -> list[Claim]:
    tests = paired_tests(many.each)
    at_5 = tests[(tests.k == 5) & (tests.method == "HVP")].set_index(["model", "task"])
    gain = {(one.model, one.task): at_5.loc[(one.model, one.task)] for one in wide}
    surely = [row.holm < 0.05 and row.difference.estimate > 0 for row in gain.values()]
    worse = any(row.difference.estimate < 0 for row in gain.values())

    def of_hvp(one):
        row = gain[one.model, one.task]
        both = " to ".join(f"{many.overlap(one, m, 5):.1f}" for m in ("AP", "HVP"))
        return f"{both} % (p = {row.holm:.3f})"

    rivals, ks = ("AP", "HVP", "IG", "GIM"), (5, 10, 20)
    greater = _on(scored, GT)
    first = [
        few.overlap(one, "MS-HVP", k) >= max(few.overlap(one, m, k) for m in rivals)
        for one in greater
        for k in ks
    ]
    apart = [
        max(abs(few.overlap(one, "HVP", k) - few.overlap(one, "IG", k)) for k in ks)
        for one in greater
    ]
    gim = [few.overlap(one, "GIM", k) < few.overlap(one, "AP", k) for one in scored for k in ks]

    def shares(one, methods):
        of = {m: "/".join(f"{few.overlap(one, m, k):.0f}" for k in ks) for m in methods}
        return ", ".join(f"{m} {text} %" for m, text in of.items())

    return [
        Claim(
            claim="HVP finds more of the true top five than attribution patching",
            paper="70.1 to 72.5 % (GPT-2) and 76.0 to 80.4 % (Pythia-410M), Greater-Than",
            source="Table 4",
            here=_listed(wide, of_hvp),
            verdict=verdict(all(surely), any(surely) and not worse),
            rule=f"more in every setting, with p < 0.05 after Holm's correction for {len(tests)} tests; partly: in one at least, and fewer in none",
        ),
        Claim(
            claim="MS-HVP finds the most of the true top 5, 10 and 20 on Greater-Than",
            paper="83.2/59.4/53.8 % on GPT-2, IG 73.0/52.4/49.4 %; on Pythia-410M it is the best only at 20",
            source="Table 4",
            here=_listed(greater, lambda one: shares(one, ("MS-HVP", *rivals))),
            verdict=_all_or_some(first),
            rule="no other of the table's methods finds more, at any of the three sizes, in any model; partly: in one case at least",
        ),
        Claim(
            claim="HVP and integrated gradients find about as many",
            paper="differ by at most 0.6 points on Greater-Than",
            source="Table 4",
            here=_listed(greater, lambda one: shares(one, ("HVP", "IG"))),
            verdict=_all_or_some([points <= 1 for points in apart]),
            rule="differ by at most 1 point at 5, 10 and 20 in every model; partly: in one",
        ),
        Claim(
            claim="GIM ranks the top heads worse than plain attribution patching",
            paper="lower top-k overlap in 26 of 27 settings",
            source="section 4.2",
            here=f"lower in {sum(gim)} of {len(gim)} cases: "
            + _listed(scored, lambda one: shares(one, ("AP", "GIM"))),
            verdict=verdict(sum(gim) >= 26 / 27 * len(gim), sum(gim) > len(gim) / 2),
            rule="lower in at least 26 of 27 cases (settings by k = 5, 10, 20); partly: in more than half",
        ),
    ]


def _of_table_15(wide, many: _Found) -> list[Claim]:
    tau = {m: [many.at(one, m, TAU) for one in wide] for m in ("AP", "HVP")}
    gain = np.subtract(tau["HVP"], tau["AP"])
    right = [many.at(one, "AP", "NDCG, membership", 5) > 1 - 1e-9 for one in wide]
    paper = TABLE_15[TABLE_15.method == "AP"]
    share = (paper["NDCG@5"] == 1).mean()

    def both(one):
        return " to ".join(f"{many.at(one, m, TAU):.3f}" for m in ("AP", "HVP"))

    return [
        Claim(
            claim="Attribution patching ranks all heads well",
            paper=f"Kendall's tau {common.span(paper.tau, 3)}",
            source="Table 15, section 4.5",
            here=_listed(wide, lambda one: f"{many.at(one, 'AP', TAU):.3f}"),
            verdict=_all_or_some([value >= paper.tau.min() for value in tau["AP"]]),
            rule="tau of mean effects at least the paper's least in every setting; partly: in one",
        ),
        Claim(
            claim="HVP matches or slightly improves the ranking of all heads",
            paper="tau changes by -0.001 to +0.015",
            source="Table 15",
            here=_listed(wide, both),
            verdict=_all_or_some((gain >= -0.001).tolist()),
            rule="tau of mean effects falls by at most 0.001 in every setting; partly: in one",
        ),
        Claim(
            claim="The gains concentrate at the boundary, and heads are not reordered globally",
            paper="largest gain in tau 0.015",
            source="Appendix E.7",
            here=_listed(wide, both),
            verdict=_all_or_some((gain <= 0.015).tolist()),
            rule="tau of mean effects rises by at most 0.015 in every setting; partly: in one",
        ),
        Claim(
            claim="The five largest heads by attribution patching are the true five",
            paper=f"NDCG@5 is 1.000 in {(paper['NDCG@5'] == 1).sum()} of {len(paper)} settings",
            source="Table 15",
            here=_listed(wide, lambda one: f"{many.at(one, 'AP', 'NDCG, membership', 5):.3f}"),
            verdict=verdict(np.mean(right) >= share, any(right)),
            rule=f"NDCG@5 with gain 1 for each of the true five is 1 in {100 * share:.0f} % of the settings or more; partly: in one",
        ),
    ]


def _of_the_case(wide, many: _Found) -> list[Claim]:
    ioi = _on(wide, IOI)
    ks = (10, 15, 20, 26)

    def shares(one, method):
        return [100 * many.at(one, method, "overlap", k) for k in ks]

    never_less = [np.greater_equal(shares(one, "HVP"), shares(one, "AP")).all() for one in ioi]
    whole = [min(shares(one, "HVP")[1:]) > 100 - 1e-9 for one in ioi]
    heads = case(ioi)
    promoted = (
        (heads["place of AP"] > 20)
        & (heads["place of HVP"] < heads["place of AP"])
        & (heads.R > 0.1)
    ).tolist()
    nearer = ((heads.HVP - heads.truth).abs() < (heads.AP - heads.truth).abs()).tolist()
    told = dict(zip(heads.model, heads.to_dict("records"), strict=True))
    lengths = underestimation(ioi)
    itself, roles = paper_against_itself(), roles_in_the_paper()
    clash = itself[~itself.agree]

    def places(one):
        row = told[one.model]
        return (
            f"{row['component']}, place {row['place of truth']} by truth, {row['place of AP']} by AP, "
            f"{row['place of HVP']} by HVP, R = {row['R']:.2f}"
        )

    def values(one):
        row = told[one.model]
        return f"{row['component']}, truth {row['truth']:+.3f}, AP {row['AP']:+.3f}, HVP {row['HVP']:+.3f}"

    def thresholds(one):
        text = {m: "/".join(f"{share:.0f}" for share in shares(one, m)) for m in ("AP", "HVP")}
        return f"AP {text['AP']} %, HVP {text['HVP']} %"

    by_model = dict(zip(lengths.model, lengths.correlation, strict=True))
    return [
        Claim(
            claim="HVP recovers more of the IOI circuit at every threshold, and all of it from 15 heads on",
            paper="top 10/15/20/26: AP 80/93/95/96 %, HVP 90/100/100/100 % (GPT-2)",
            source="Appendix E.10",
            here=_listed(ioi, thresholds),
            verdict=verdict(all(never_less) and all(whole), all(never_less)),
            rule="never less than AP, and 100 % at 15, 20 and 26 heads, in every model; partly: never less",
        ),
        Claim(
            claim="A head of the true top ten falls out of sight by attribution patching, is flagged by R, and is promoted by HVP",
            paper="L4H11 of GPT-2: place 7 by truth, 27 by AP, 12 by HVP",
            source="section 4.5, Appendix E.10",
            here=_listed(ioi, places),
            verdict=_all_or_some(promoted),
            rule="AP puts the head beyond place 20, R > 0.1, and HVP puts it higher, in every model; partly: in one",
        ),
        Claim(
            claim="HVP partially recovers the true score of that head",
            paper="stated; no number given in the text used here",
            source="Appendix E.10",
            here=_listed(ioi, values),
            verdict=_all_or_some(nearer),
            rule="HVP's mean effect is nearer to the true one than AP's in every model; partly: in one",
        ),
        Claim(
            claim="Attribution patching underestimates heads whose patch is long",
            paper="stated as the broader pattern",
            source="Appendix E.10",
            here="correlation of |delta| with the share of the effect that is missing, 26 largest heads: "
            + _listed(ioi, lambda one: f"{by_model[one.model]:+.2f}"),
            verdict=_all_or_some([interval.low > 0 for interval in lengths.correlation]),
            rule="Spearman's correlation is above 0 with its whole interval in every model; partly: in one",
        ),
        Claim(
            claim="The three heads of Figure 12 have the roles that it gives them",
            paper="; ".join(
                f"{h}: {r}" for h, r in zip(roles["head"], roles["in Figure 12"], strict=True)
            ),
            source="Figure 12, Appendix E.10",
            here="the published circuit says "
            + "; ".join(
                f"{h}: {r}" for h, r in zip(roles["head"], roles["published"], strict=True)
            ),
            verdict=_all_or_some(roles.agree.tolist()),
            rule="each is listed with that role by Wang et al.; partly: one is",
        ),
        Claim(
            claim="HVP recovers all of GPT-2's top 20 on IOI, and attribution patching 19",
            paper="100 and 95 %; but Table 15 has the same NDCG@20 for both",
            source="section 4.5, Table 15, Appendix E.10",
            here=(
                "GPT-2 cannot be run here. With gain 1 for each right head, Table 15 contradicts Appendix E.10 in "
                f"{len(clash)} of {len(itself)} cases: "
                + "; ".join(
                    f"{row.method} at {row.k}: {' or '.join(map(str, row.hits_table_15))} right by Table 15, {row.hits_E10} by E.10"
                    for row in clash.itertuples()
                )
            ),
            verdict="cannot be tested here",
            rule="needs GPT-2's weights",
        ),
    ]


def _of_faithfulness(wide, faithful: pd.DataFrame) -> list[Claim]:
    gemma = [one for one in _on(wide, GT) if "gemma" in one.model]
    error = {
        m: [top_k_relative_error(one.values[m], one.truth).mean() for one in gemma]
        for m in ("AP", "HVP")
    }
    cut = 100 * (1 - np.divide(error["HVP"], error["AP"]))
    off = faithful.groupby(["model", "task", "method"], sort=False).off.mean()
    settings = common.settings_of(faithful)
    gain = [off[(*setting, "AP")] - off[(*setting, "HVP")] for setting in settings]
    text = "; ".join(
        f"{model}, {TASKS.get(task, task)}: "
        + ", ".join(f"{method} {off[model, task, method]:.2f}" for method in ("truth", "AP", "HVP"))
        for model, task in settings
    )
    found = [
        Claim(
            claim="Better estimates of heads give more faithful circuits of heads",
            paper="stated of edges (MIB); circuits of heads are not measured",
            source="section 4.5",
            here=f"mean distance of faithfulness from 1, over sizes {', '.join(map(str, sorted(faithful.k.unique())))}: {text}",
            verdict=verdict(min(gain) >= 0, np.mean(gain) > 0),
            rule="HVP's circuits are no farther from 1 than AP's, on average over sizes, in every setting; partly: on average over settings",
        )
    ]
    if gemma:
        found.append(
            Claim(
                claim="Greater-Than on Gemma shows the strongest correction",
                paper="top-5 error 7.41 to 0.62 %, a reduction by 92 % (Gemma-2-2B)",
                source="section 4.5, Table 2",
                here=_listed(
                    gemma,
                    lambda one: (
                        f"{error['AP'][gemma.index(one)]:.2f} to {error['HVP'][gemma.index(one)]:.2f} %"
                    ),
                ),
                verdict=verdict(min(cut) >= 90, min(cut) >= 50),
                rule="HVP takes away at least 90 % of the top-5 error; partly: half of it",
            )
        )
    return found
