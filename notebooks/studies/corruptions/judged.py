"""What the paper says of corruptions and of other components, beside what was found here."""

from __future__ import annotations

import pandas as pd

from hvp_utils.claims import Claim, verdict

from .. import common
from .errors import better, estimates, worse

#: The settings of the paper's Table 12: random tokens, other prompts and zero ablation.
TABLE_12 = (
    "ioi_random_token",
    "ioi_resample",
    "ioi_zero",
    "factual",
    "factual_resample",
    "factual_zero",
)
_SHOWN = {"median head": "median", "top 5": "top 5"}


def claims(
    heads: pd.DataFrame,
    steps: pd.DataFrame,
    swaps: pd.DataFrame,
    moved: pd.DataFrame,
    later: pd.DataFrame,
    kinds: pd.DataFrame,
) -> list[Claim]:
    """The claims of Appendices E.2 to E.5.

    Args:
        heads: ``compare`` of all corruptions by model, task and measure.
        steps: What ``more_steps`` returns, of all models.
        swaps: ``compare`` of entity swaps by model, task and measure.
        moved: What ``lengths`` returns.
        later: What ``settled`` returns.
        kinds: What ``compare_kinds`` returns.
    """
    return [
        *_of_table_12(heads),
        _of_more_steps(steps),
        _of_entity_swaps(swaps),
        _of_lengths(moved),
        _of_settling(later),
        *_of_kinds(kinds),
        common.not_run(
            claim="The values of Tables 11 to 13 and Figure 9 on the paper's models",
            paper="GPT-2, Pythia, Qwen2.5-1.5B, Gemma-2-2B",
            source="appendices E.2 to E.5",
        ),
    ]


def behind(heads: pd.DataFrame) -> pd.DataFrame:
    """By how many points the reduction under zero ablation is behind that under other prompts.

    Returns:
        A row for each model and task, a column for each measure.
    """
    cut = heads.assign(cut=estimates(heads.reduction)).pivot(
        index=["model", "task"], columns="measure", values="cut"
    )
    parts = [
        cut.xs(f"{family}_resample", level="task") - cut.xs(f"{family}_zero", level="task")
        for family in ("ioi", "factual")
    ]
    return pd.concat(parts)


def _of_table_12(heads: pd.DataFrame) -> list[Claim]:
    chosen = heads[heads.task.isin(TABLE_12)]
    median, top = (chosen[chosen.measure == m] for m in ("median head", "top 5"))
    n, cuts = len(median), {m: estimates(t.reduction) for m, t in (("m", median), ("t", top))}
    gaps = behind(chosen)

    def of(task: str) -> str:
        rows = [t[t.task.str.endswith(task)] for t in (median, top)]
        m, t = (common.span(estimates(r.reduction), 0) for r in rows)
        return m, t

    (zero_m, zero_t), (other_m, other_t) = of("zero"), of("resample")
    return [
        Claim(
            claim="HVP lowers the median error under random-token, resample and zero corruption",
            paper="by 79 to 90 %; 36 to 50 % in its pathological setting, 12 % in one outlier",
            source="Table 12, section 4.4",
            here=f"by {common.span(cuts['m'], 0)} %, significant in {better(median).sum()} of {n}",
            verdict=verdict(cuts["m"].min() >= 78, better(median).all()),
            rule="at least 78 % for each corruption, task and model; partly: significant everywhere",
        ),
        Claim(
            claim="The gain under these corruptions holds for the heads that matter (top-5 error)",
            paper="consistently reduces the error; measured on the median only",
            source="Table 12, section 4.4",
            here=(
                f"significantly lower in {better(top).sum()} and higher in {worse(top).sum()} of "
                f"{n}; reduction {common.span(cuts['t'], 0)} %"
            ),
            verdict=verdict(better(top).all(), better(top).sum() >= n / 2 and not worse(top).any()),
            rule="significantly lower everywhere; partly: in at least half, and nowhere higher",
        ),
        Claim(
            claim="Zero corruption can be corrected as well as resampling",
            paper="78, 79, 84, 88 % against 80, 79, 83, 89 %; Pythia-410M 50 against 36 %",
            source="Table 12",
            here=(
                f"zero {zero_m} % (median) and {zero_t} % (top 5); other "
                f"prompt {other_m} % and {other_t} %"
            ),
            verdict=verdict(
                bool((gaps[["median head", "top 5"]] <= 10).all(axis=None)),
                bool((gaps["median head"] <= 10).all()),
            ),
            rule="reduction at most 10 points below that of the other prompt, both measures; partly: median only",
        ),
    ]


def _of_more_steps(steps: pd.DataFrame) -> Claim:
    texts, repaired = [], []
    for model, part in steps.groupby("model", sort=False):
        wide = part.pivot(index="prompt", columns="method", values="error")
        mean = wide.mean()
        texts.append(f"{mean['AP']:.0f}, {mean['K = 1']:.0f} and {mean['K = 5']:.1f} % ({model})")
        repaired.append(bool((wide["K = 5"] < wide["AP"]).all()))
    return Claim(
        claim="Under zero ablation, more steps of MS-HVP repair attribution patching",
        paper="expected where one step leaves the Taylor radius; not run for these corruptions",
        source="E.3",
        here="zero ablation, IOI, top-5 error of AP, HVP and K = 5: " + "; ".join(texts),
        verdict=verdict(all(repaired), any(repaired)),
        rule="K = 5 below attribution patching on every prompt, in both models; partly: in one",
    )


def _of_entity_swaps(swaps: pd.DataFrame) -> Claim:
    part = swaps[swaps.measure == "mean error"]
    cells = zip(part.model, part.reduction, strict=True)
    return Claim(
        claim="Under entity swaps HVP lowers the mean error by more than half",
        paper="54.1 % (GPT-2), 58.8 % (Pythia-410M)",
        source="Table 13",
        here=common.listed(dict(cells), ".0f %", between=", "),
        verdict=verdict(bool((estimates(part.reduction) >= 50).all()), bool(better(part).any())),
        rule="at least 50 % in both models; partly: significantly lower in one",
    )


def _of_lengths(moved: pd.DataFrame) -> Claim:
    texts, longer = [], []
    for model, part in moved.groupby("model", sort=False):
        of = part.set_index("task").length
        swap, token = of["factual_swap"], of["factual"]
        texts.append(f"{swap.estimate:.1f} against {token.estimate:.1f} ({model})")
        longer.append(swap.low > token.high)
    return Claim(
        claim="Entity swaps make larger patches than random tokens",
        paper="stated, without a number",
        source="E.4",
        here="mean |δ| " + ", ".join(texts),
        verdict=verdict(all(longer), any(longer)),
        rule="larger, with intervals apart, in both models; partly: in one",
    )


def _of_settling(later: pd.DataFrame) -> Claim:
    off = later.groupby("measure", sort=False)["off later"].max()
    return Claim(
        claim="The estimate of the reduction is stable from 10 to 15 prompts on",
        paper="73.3 % (Pythia-410M), 90.2 % (Qwen2.5-1.5B)",
        source="Figure 9",
        here="largest distance from the last value: " + common.listed(off, ".0f", " points", ", "),
        verdict=verdict(bool((off <= 5).all()), bool(off["median head"] <= 5)),
        rule="from 15 prompts on within 5 points of the value at 50, for all three measures; partly: median head",
    )


def _of_kinds(table: pd.DataFrame) -> list[Claim]:
    table = table[table.measure.isin(_SHOWN)]

    def rows(kinds, measure=None) -> pd.DataFrame:
        part = table[table.kind.isin(kinds)]
        return part if measure is None else part[part.measure == measure]

    def text(kinds) -> str:
        return "; ".join(
            f"{kind}, {short}: "
            + ", ".join(
                f"{row.reduction.estimate:.0f} % ({row.model})"
                for row in rows([kind], measure).itertuples()
            )
            for kind in kinds
            for measure, short in _SHOWN.items()
        )

    def judge(kinds, least, tested=None) -> str:
        large = (estimates(rows(kinds).reduction) >= least).all()
        return verdict(bool(large), bool(better(rows(tested or kinds, "median head")).all()))

    whole, before = ("residual stream", "MLP outputs"), ("neurons before", "the same, 256 a layer")
    after = rows(["neurons after"])
    small = (estimates(after.reduction) <= 10).groupby(after.measure).all()
    return [
        Claim(
            claim="HVP works on the residual stream and on MLP outputs",
            paper="66 to 70 % and 68 %",
            source="Table 11",
            here=text(whole),
            verdict=judge(whole, 60),
            rule="at least 60 % in both measures and models; partly: median error significantly lower in both",
        ),
        Claim(
            claim="HVP works on neurons before the activation function",
            paper="56 to 67 %",
            source="Table 11",
            here=text(before),
            verdict=judge(before, 55, ["neurons before"]),
            rule=(
                "at least 55 % in both samples, measures and models; partly: median error significantly lower in both models "
                "(16 a layer)"
            ),
        ),
        Claim(
            claim="There is little to gain on neurons after the activation function",
            paper="7.0 % (Pythia-410M), 2.2 % (Pythia-2.8B)",
            source="Table 11, section 4.2",
            here=text(["neurons after"]),
            verdict=verdict(bool(small.all()), bool(small.any())),
            rule="at most 10 % in both measures and models; partly: in one measure",
        ),
    ]
