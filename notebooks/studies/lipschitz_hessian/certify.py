"""What the bound certifies: the band of Proposition 1 around R, and calls made by it."""

from __future__ import annotations

import pandas as pd

from ..common import paired
from .remainders import settings, share

#: A head is called safe if its relative error is promised to be below this.
LIMIT = 0.1

_SAFE = {"R": "safe: R < 0.1", "η": "safe: (1 + η) R < 0.1"}


def certificates(table: pd.DataFrame) -> pd.DataFrame:
    """How often the band says something, and whether what it says is true; heads that matter.

    Returns:
        Columns model, task, "median η", "η < 1", "η < 1/2", inside (the relative error is in the
        band), below (below its upper end; all four an ``Interval`` in percent), sure (heads with
        η < 1/2) and broken (those of them that HVP does not help).
    """
    rows = []
    for model, task, part in settings(table, pooled=False):
        below = part.relative <= part.upper
        sure = part.matters & (part.eta < 0.5)
        found = {
            "η < 1": part.eta < 1,
            "η < 1/2": part.eta < 0.5,
            "inside": below & (part.relative >= part.lower),
            "below": below,
        }
        row = {"model": model, "task": task, "median η": part.eta[part.matters].median()}
        row |= {name: share(part, held, part.matters) for name, held in found.items()}
        rows.append(
            row | {"sure": int(sure.sum()), "broken": int((sure & (part.R3 >= part.E)).sum())}
        )
    return pd.DataFrame(rows)


def _calls(part: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Which heads are called what, and for which that is wrong."""
    bad = part.relative > LIMIT
    return {
        _SAFE["R"]: (part.R < LIMIT, bad),
        _SAFE["η"]: (part.upper < LIMIT, bad),
        "bad: R > 0.1": (part.R > LIMIT, ~bad),
        "bad: (1 − η) R > 0.1": (part.lower > LIMIT, ~bad),
    }


def calls(table: pd.DataFrame) -> pd.DataFrame:
    """Calls of heads that matter, all tasks together.

    Returns:
        Columns model, call, share (of the heads that matter, an ``Interval`` in percent), calls
        and wrong.
    """
    rows = []
    for model, part in table.groupby("model", sort=False):
        for call, (called, wrong) in _calls(part).items():
            chosen = part.matters & called
            of_all = share(part, called, part.matters)
            rows.append((model, call, of_all, int(chosen.sum()), int((chosen & wrong).sum())))
    return pd.DataFrame(rows, columns=["model", "call", "share", "calls", "wrong"])


def wrong_calls(table: pd.DataFrame, n_resamples: int = 1000) -> pd.DataFrame:
    """By how much the slack lowers the share of wrong calls among the safe ones.

    Prompts without a head that is called safe are left out.

    Returns:
        Columns model, difference (in percentage points, an ``Interval``), p and holm.
    """
    parts = []
    for model, part in table.groupby("model", sort=False):
        prompts = part.groupby(["task", "prompt"], sort=False).ngroup()
        shares = {}
        for method, call in _SAFE.items():
            called, wrong = _calls(part)[call]
            called = part.matters & called
            n_wrong, n = (kept.groupby(prompts).sum() for kept in (called & wrong, called))
            shares[method] = 100 * n_wrong / n
        both = pd.DataFrame(shares).dropna().rename_axis("prompt").reset_index()
        parts.append(both.melt("prompt", var_name="method", value_name="wrong").assign(model=model))
    tests = paired(pd.concat(parts), ["model"], "wrong", "η", ["R"], n_resamples)
    return tests.drop(columns="method")


def matched_calls(table: pd.DataFrame) -> pd.DataFrame:
    """Is it the bound, or that fewer heads are called safe? As many calls by the smallest R.

    Returns:
        Columns model, calls (of "safe" by the bound), "largest R" (of as many heads that matter,
        those with the smallest R), "wrong by R" (of these) and "wrong by the bound".
    """
    rows = []
    for model, part in table.groupby("model", sort=False):
        kept = part[part.matters]
        bad, safe = kept.relative > LIMIT, kept.upper < LIMIT
        smallest = kept.R.nsmallest(int(safe.sum()))
        largest = smallest.max() if len(smallest) else float("nan")
        wrong = int(bad[smallest.index].sum()), int((bad & safe).sum())
        rows.append((model, int(safe.sum()), largest, *wrong))
    columns = ["model", "calls", "largest R", "wrong by R", "wrong by the bound"]
    return pd.DataFrame(rows, columns=columns)
