"""What the paper says of the reliability score, beside what was found here."""

from __future__ import annotations

import pandas as pd

from hvp_utils.claims import Claim, verdict

from .. import common
from .detecting import lowest_quarter

#: The paper's AUROC of quarters two to four (Figure 8).
PAPER = 0.97


def claims(
    within: pd.DataFrame,
    misses: pd.DataFrame,
    tests: pd.DataFrame,
    quarters: pd.DataFrame,
    falls: pd.DataFrame,
    tracks: pd.DataFrame,
) -> list[Claim]:
    """The claims of sections 3.2, 4.2 and 4.4.

    Args:
        within: What the function of that name returns, as all the others here.
        misses: Its rows are settings.
        tests: What ``rivals_beaten`` returns.
        quarters: Of both sizes.
        falls: Of both sizes.
        tracks: Of the models on IOI.
    """
    return [
        *_of_the_score(within, misses, tests),
        *_of_figure_8(quarters, falls),
        _of_figure_4(tracks),
        common.not_run(
            claim="The values of Figures 4 and 8 on the paper's models",
            paper="Pythia-410M, GPT-2, Qwen2.5-1.5B, Gemma-2-2B and others",
            source="Figure 4, Figure 8",
        ),
    ]


def _of_the_score(within, misses, tests) -> list[Claim]:
    close = [ci.estimate for ci in within[within["heads"] == "all effects"].within]
    missed = [ci.estimate for ci in misses["missed %"]]
    against_q = tests[tests.rival == "|q|"]
    wins = [
        d.estimate > 0 and p < 0.05 for d, p in zip(against_q.difference, against_q.p, strict=True)
    ]
    return [
        Claim(
            claim="R tracks attribution patching's relative error up to the cubic remainder",
            paper="stated, with Proposition 1 as its proof",
            source="section 3.2, Proposition 1",
            here=f"within a factor of 2 for {common.span(close, 0)} % of head-prompt pairs, by model",
            verdict=verdict(min(close) >= 90, min(close) >= 50),
            rule="at least 90 % in both models; partly: at least 50 %",
        ),
        Claim(
            claim="R far below 1 means that attribution patching is accurate",
            paper="stated, without a number",
            source="section 3.2",
            here=f"of heads that matter with R < 0.1, {common.span(missed, 0)} % are off by more than 10 %",
            verdict=verdict(max(missed) <= 5, min(missed) <= 5),
            rule="at most 5 % missed everywhere; partly: somewhere",
        ),
        Claim(
            claim="Dividing |q| by |f_AP| makes it a better guide than |q| alone",
            paper="stated as the reason for the definition",
            source="section 3.2",
            here=f"AUROC significantly higher on {sum(wins)} of {len(wins)} combinations of model and task",
            verdict=verdict(all(wins), any(wins)),
            rule="significant everywhere; partly: somewhere",
        ),
    ]


def _of_figure_8(quarters, falls) -> list[Claim]:
    later = [ci.estimate for ci in quarters[quarters.quarter > 1].AUROC]
    above = [area > PAPER for area in later]
    lowest = lowest_quarter(quarters)
    first = int((lowest.quarter == 1).sum())
    falling = sum(ci.low > 0 for ci in falls[falls.by == "|f|"]["2 less 4"])
    return [
        Claim(
            claim="AUROC of R above 0.97 in quarters 2 to 4 of |δ| and |f|",
            paper="above 0.97 for all models",
            source="Figure 8, section 4.4",
            here=f"{sum(above)} of {len(above)} entries above 0.97; lowest {min(later):.2f}",
            verdict=verdict(all(above), 2 * sum(above) >= len(above)),
            rule="all entries; partly: at least half",
        ),
        Claim(
            claim="Where R is weak, it is in the first quarter of |f|, which matters least",
            paper="quarters 2 to 4 are the regimes that matter most, and consistently strong",
            source="Figure 8, section 4.4",
            here=(
                f"the first quarter is the lowest on {first} of {len(lowest)} combinations of model and task; "
                f"from quarter 2 to quarter 4 the AUROC falls on {falling}"
            ),
            verdict=verdict(first == len(lowest), first > 0),
            rule="first quarter lowest everywhere; partly: somewhere",
        ),
    ]


def _of_figure_4(tracks) -> Claim:
    found = dict(zip(tracks.model, tracks.correlation, strict=True))
    return Claim(
        claim="By layer, R is high where attribution patching's errors are largest (IOI)",
        paper="R concentrates in the layers of the circuit (Pythia-410M)",
        source="Figure 4, section 4.2",
        here="rank correlation over layers "
        + common.listed({m: ci.estimate for m, ci in found.items()}, "+.2f", between=", "),
        verdict=verdict(
            all(ci.estimate >= 0.7 for ci in found.values()),
            all(ci.low > 0 for ci in found.values()),
        ),
        rule="at least 0.7 in both models; partly: interval above 0 in both",
    )
