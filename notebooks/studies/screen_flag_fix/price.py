"""The whole price of a workflow in runs: one run is one exact patch of one head, on average.

Operations are counted, on a prompt of the reference pair's length, so prices depend on no machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hvp_utils import model_sizes
from hvp_utils.costs import Costs
from hvp_utils.plans import ModelSizes, pass_flops
from hvp_utils.stats import Interval, bootstrap_ci

from .. import prices
from .effects import ROWS
from .operating import errors_of

#: Of the reference pair: its tokens, those from the first difference on, and heads run together.
N_TOKENS, N_RUN, BATCH = 15, 5, 32
_ROWS, N_PATCHED = "row_norms:2", 10
#: The name in ``of_methods`` of the row screen with its patches.
CHOSEN = f"{_ROWS} + {N_PATCHED} patches"
METHODS = ("attribution_patching", _ROWS, "hvp", "ms_hvp:5", "activation_patching")
#: What is run to sort the heads by a rule.
SCREENS = {
    "|f_AP|": {"gradient": 1},
    ROWS: {"gradient": 1, "gradient_row": 2},
    "R": {"gradient": 1, "curvature": None},  # None: one for every head
}


def costs(sizes: ModelSizes) -> Costs:
    """Counted prices of single passes in runs, as ``screen_flag_fix`` takes them."""
    flops = pass_flops(sizes, "heads", N_TOKENS, N_RUN, BATCH)
    run = flops.pop("forward")
    return Costs(**{kind: count / run for kind, count in flops.items()}, seconds=math.nan)


def percent(sizes: ModelSizes, passes: Mapping[str, int]) -> float:
    """Price of some passes in percent of patching every head."""
    return 100 * costs(sizes).price(passes) / sizes.n_components("heads", N_RUN)


def screen_passes(rule: str, n: int) -> dict[str, int]:
    """What it takes to sort n heads by a rule."""
    return {kind: n if count is None else count for kind, count in SCREENS[rule].items()}


def of_methods(models: Sequence[str]) -> pd.DataFrame:
    """What each method costs for all heads of a prompt: operations, by ``prices.counted``.

    Returns:
        Columns model, method, n, runs, percent, tflop.
    """
    parts = []
    for model in models:
        sizes, prompt = model_sizes(model), dict(n_tokens=N_TOKENS, n_run=N_RUN, batch_size=BATCH)
        whole = prices.counted(sizes, METHODS, **prompt)
        chosen = prices.counted(sizes, [_ROWS], n_patched={_ROWS: N_PATCHED}, **prompt)
        chosen["method"] = CHOSEN
        parts.append(pd.concat([whole, chosen]).assign(model=model))
    return pd.concat(parts, ignore_index=True)


def price_of(table: pd.DataFrame, model: str, method: str) -> float:
    """Percent of patching every head, from ``of_methods``."""
    part = table[(table.model == model) & (table.method == method)]
    return float(part.percent.iloc[0])


@dataclass(frozen=True)
class Strategy:
    """A way to choose heads and to fix them.

    Attributes:
        name: For the reader.
        rule: How heads are sorted.
        fix: What replaces the estimates of those that come first.
        each: What the fix runs for one head, after the screen.
    """

    name: str
    rule: str
    fix: str
    each: Mapping[str, int]


STRATEGIES = (
    Strategy("largest |f_AP| + r, exact patching", ROWS, "exact", {"forward": 1}),
    Strategy("largest |f_AP|, exact patching", "|f_AP|", "exact", {"forward": 1}),
    Strategy("largest |f_AP|, HVP", "|f_AP|", "hvp", {"curvature": 1}),
    Strategy("screen by R, exact patching", "R", "exact", {"forward": 1}),
    Strategy("screen by R, MS-HVP", "R", "ms_hvp", {"curvature_on_path": 4}),
    Strategy("screen by R, HVP", "R", "hvp", {}),  # the screen has it already
)


def priced(
    curves: pd.DataFrame,
    sizes: Mapping[str, ModelSizes],
    strategies: Sequence[Strategy] = STRATEGIES,
) -> pd.DataFrame:
    """Error against the whole price, screen included, along the operating curve of each strategy.

    Args:
        curves: ``operating`` of the top-5 error.
        sizes: Sizes of the models.
        strategies: Which.

    Returns:
        Columns model, strategy, rule, fix, fixed, percent (of patching every head), left (an
        ``Interval``).
    """
    rows = []
    for model in curves.model.unique():
        for one in strategies:
            fixed, _, errors = errors_of(curves, model, one.rule, one.fix)
            screen = percent(sizes[model], screen_passes(one.rule, int(fixed[-1])))
            each = percent(sizes[model], one.each)
            for k, left in zip(fixed, errors, strict=True):
                interval = bootstrap_ci(left) if np.ptp(left) else Interval(*[left[0]] * 3)
                price = screen + k * each
                rows.append((model, one.name, one.rule, one.fix, int(k), price, interval))
    columns = ["model", "strategy", "rule", "fix", "fixed", "percent", "left"]
    return pd.DataFrame(rows, columns=columns)
