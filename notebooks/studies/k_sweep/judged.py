"""What the paper says of MS-HVP's steps, beside what was found here."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from hvp_utils.claims import Claim, verdict

from .. import common


def _listed(table: pd.DataFrame, text: Callable) -> str:
    """One text for each task, and how many prompts."""
    return "; ".join(f"{row.task}: {text(row)}" for row in table.itertuples())


def claims(means: pd.DataFrame, first: pd.DataFrame, median: pd.DataFrame) -> list[Claim]:
    """The claims of section 4 and Appendix D.1 on the number of steps.

    Args:
        means: What ``at_steps`` returns, with K = 1, 5, 10 and 20 and attribution patching.
        first: What ``one_step`` returns.
        median: What ``median_of_several`` returns.
    """
    n = int(first.prompts.iloc[0])
    error = {(row.model, row.task, row.steps): row.error.estimate for row in means.itertuples()}
    worse_mean = [row.gain.estimate < 0 and row.holm < 0.05 for row in first.itertuples()]
    better = [row.difference.high < 0 for row in median.itertuples()]

    def to_twenty(row):
        return " to ".join(f"{error[row.model, row.task, k]:.2f}" for k in (10, 20)) + " %"

    def gain(row):
        return f"{error[row.model, row.task, 0]:.1f} to {error[row.model, row.task, 1]:.1f} %"

    def of_median(row):
        return f"{row.median:.3f} against {row.finest:.3f} %"

    finest = [name for name in median.columns if name.startswith("K = ")][-1]
    return [
        Claim(
            claim="One HVP step can raise the error far above that of attribution patching",
            paper="from 22.34 to 47.48 % on Pythia-410M, IOI",
            source="Table 2",
            here=(
                f"mean error {_listed(first, gain)}; the step makes {int(first.worse.sum())} of "
                f"{int(first.prompts.sum())} prompts worse"
            ),
            verdict=verdict(any(worse_mean), bool(first.worse.sum())),
            rule="the mean error higher on some task, with p < 0.05 after Holm's correction; partly: higher on some prompts",
        ),
        Claim(
            claim="With more steps the error levels off",
            paper="near 18 % on Pythia-410M, IOI",
            source="Table 2",
            here=(
                f"from K = 10 to 20 the mean error goes {_listed(first, to_twenty)}; median slopes from K = 5 on "
                f"{common.span(first.slope, 2)} ({n} prompts each)"
            ),
            verdict=verdict((first.slope > -0.5).any(), (first.slope > -1).any()),
            rule="a median slope above -0.5 on some task (level is 0, the theory says -2); partly: above -1",
        ),
        Claim(
            claim="The median of the estimates with K = 5, 10 and 20 is better than any of the three",
            paper="better on Pythia-410M, IOI; no number given in the text used here",
            source="section 4.3, Appendix D.1",
            here=_listed(median.rename(columns={finest: "finest"}), of_median)
            + f" with {finest} ({n} prompts each)",
            verdict=verdict(all(better), any(better)),
            rule=f"a lower mean error than {finest} on every task, with an interval below 0; partly: on some",
        ),
        Claim(
            claim="The values of Table 2 on Pythia-410M, IOI",
            paper="22.34 % (attribution patching), 47.48 % (one step), 18.03 % (MS-HVP)",
            source="Table 2",
            here="not run: the model is another one",
            verdict="cannot be tested here",
            rule="this model is not among ours",
        ),
    ]
