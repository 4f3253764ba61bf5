"""What the paper says of the other methods, beside what was found here."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hvp_utils.claims import Claim, verdict

from .. import common
from ..common import settings_of, span
from .errors import compared
from .methods import AP, label
from .quadrature import IH, RULES
from .ranking import by_multiple

__all__ = ["claims", "no_help"]

_MS, _MIDPOINT, _GAUSS = (
    "ms_hvp:5",
    "integrated_gradients:10:midpoint",
    "integrated_gradients:5:gausslegendre",
)


def no_help(tests: pd.DataFrame) -> list[tuple[str, str]]:
    """Models and tasks on which one HVP step does not lower the error significantly.

    Args:
        tests: What ``compared`` returns, against attribution patching.
    """
    own = tests[(tests.method == "hvp") & (tests["sign"] >= 0)]
    return settings_of(own)


class _Signs:
    """Signs of tests by model and task: -1 where the first method is significantly lower."""

    def __init__(self, tests: pd.DataFrame):
        self._of = tests.set_index(["model", "task", "method"])["sign"].to_dict()
        self.settings = settings_of(tests)

    def __call__(self, method: str, where: Sequence[tuple[str, str]] | None = None) -> list[int]:
        return [self._of[(*key, method)] for key in (self.settings if where is None else where)]


def _signs(table: pd.DataFrame, method: str, than: str) -> _Signs:
    return _Signs(compared(table, against=than, methods=[method]))


def claims(
    table: pd.DataFrame,
    versus: pd.DataFrame,
    share: pd.DataFrame,
    median: pd.DataFrame,
    scores: pd.DataFrame,
    overlap: pd.DataFrame,
    price: pd.DataFrame,
) -> list[Claim]:
    """The claims of sections 4.2 and 4.3 on other methods.

    Args:
        table: What ``errors`` returns.
        versus: What ``steps_against_points`` returns.
        share: What ``shares`` returns.
        median: What ``median_against_ten`` returns.
        scores: What ``rank_scores`` returns.
        overlap: What ``overlap_changes`` returns.
        price: What ``priced`` returns.
    """
    tests = compared(table)
    signs, stuck = _Signs(tests), no_help(tests)
    return [
        *_of_steps(table, signs),
        *_of_points(table, versus, stuck),
        _of_prices(price),
        _of_the_median(median),
        *_of_integrated_hessians(table, share),
        _of_singles(signs, stuck),
        *_of_gim(signs, overlap),
        *_of_the_typical_head(scores),
        common.not_run(
            claim="The values of Tables 2, 3, 8, 9 and 10 on the paper's models",
            paper="Pythia, GPT-2, Qwen2.5, Gemma-2 and Llama-3.1",
            source="Tables 2, 3, 8, 9 and 10",
        ),
    ]


def _of_steps(table: pd.DataFrame, signs: _Signs) -> list[Claim]:
    wins = {m: [sign == -1 for sign in signs(m)] for m in ("hvp", _MS)}
    n = len(signs.settings)
    means = table[table.method == _MS].groupby(["model", "task"]).error.mean()
    rule = "significant everywhere; partly: on at least half"
    return [
        Claim(
            claim="One HVP step lowers the top-5 error of attribution patching",
            paper="significant on 13 of 14 combinations of model and task; worse on one",
            source="Table 2",
            here=f"significant on {sum(wins['hvp'])} of {n}",
            verdict=verdict(all(wins["hvp"]), sum(wins["hvp"]) >= n / 2),
            rule=rule,
        ),
        Claim(
            claim="MS-HVP with 5 steps lowers it, also where one step does not",
            paper="significant on all 13 combinations that were run",
            source="Table 2",
            here=f"significant on {sum(wins[_MS])} of {n}, down to {span(means, 2)} %",
            verdict=verdict(all(wins[_MS]), sum(wins[_MS]) >= n / 2),
            rule=rule,
        ),
    ]


def _of_points(table, versus: pd.DataFrame, stuck) -> list[Claim]:
    by_rule = {rule: versus[versus.rule == rule]["sign"].tolist() for rule in RULES}
    no_worse = [all(sign <= 0 for sign in found) for found in by_rule.values()]
    beats = {
        than: [sign == -1 for sign in _signs(table, _MS, than)(_MS, stuck)]
        for than in ("integrated_gradients:35:right", _MIDPOINT)
    }
    one_sided, midpoint = beats.values()
    return [
        Claim(
            claim="At matched cost (10 backward passes) MS-HVP is tied with integrated gradients or better",
            paper="tied on 7 of 9, better on 2",
            source="Table 8, section 4.3",
            here="better, tied and worse on: "
            + "; ".join(
                f"{'/'.join(str(found.count(x)) for x in (-1, 0, 1))} ({rule})"
                for rule, found in by_rule.items()
            ),
            verdict=verdict(all(no_worse), any(no_worse)),
            rule="never significantly worse, under any of five rules; partly: under at least one",
        ),
        Claim(
            claim="Where one step does not help, MS-HVP with 5 steps beats integrated gradients with 35 points",
            paper="Pythia-410M IOI",
            source="section 4.3",
            here=(
                f"{len(stuck)} such combinations; better than 35 points on the right on {sum(one_sided)}, "
                f"better than 10 midpoints on {sum(midpoint)}"
            ),
            verdict=verdict(bool(stuck) and all(one_sided) and all(midpoint), any(one_sided)),
            rule="significantly better on each than 35 one-sided points and than 10 midpoints; partly: than the former on some",
        ),
    ]


def _of_prices(price: pd.DataFrame) -> Claim:
    runs = price.pivot(index="model", columns="method", values="runs")
    runs = runs.loc[list(dict.fromkeys(price.model))]
    return Claim(
        claim="MS-HVP stays affordable where integrated gradients does not, by reusing curvature",
        paper="stated; GPU-days against GPU-hours at 8B",
        source="sections 4.2 and 4.3",
        here=(
            "price of MS-HVP with 5 steps and of IG with 10 points, in runs for a head: "
            + "; ".join(
                f"{row[_MS]:.1f} and {row[_MIDPOINT]:.1f} ({model})"
                for model, row in runs.iterrows()
            )
            + f"; 5 Gauss–Legendre points cost {span(runs[_GAUSS])}"
        ),
        verdict=verdict(
            bool((runs[_MS] < runs[_GAUSS]).all()), bool((runs[_MS] <= runs[_MIDPOINT]).all())
        ),
        rule="MS-HVP with 5 steps is cheaper than 5 Gauss–Legendre points, whose error is smaller; partly: than 10 points",
    )


def _of_the_median(median: pd.DataFrame) -> Claim:
    wins = (median["sign"] == -1).tolist()
    return Claim(
        claim="The median of K = 5, 10, 20 outperforms any single K",
        paper="stated, on Pythia-410M IOI",
        source="section 4.3, appendix D.1",
        here=f"significantly better than K = 10 on {sum(wins)} of {len(wins)}",
        verdict=verdict(all(wins), any(wins)),
        rule="significantly better than K = 10 everywhere; partly: somewhere",
    )


def _of_integrated_hessians(table: pd.DataFrame, share: pd.DataFrame) -> list[Claim]:
    loses = [
        sign == 1
        for part in ("path", "coarse", "grid")
        for sign in _signs(table, IH[part], _MS)(IH[part])
    ]
    of = {name: part for name, part in share.groupby("part", sort=False)}
    half = {r.model: r.share.estimate for r in of["path"].itertuples()}
    inside = [0.4 <= value <= 0.6 for value in half.values()]
    coarse = [f"{interval.estimate:.2f}" for interval in of["coarse"].share]
    return [
        Claim(
            claim="Integrated Hessians (pairwise part) is behind MS-HVP, on a path and on a grid",
            paper="on all three foreground tasks",
            source="Table 9, section 4.3",
            here=f"significantly worse than 5 steps in {sum(loses)} of {len(loses)} comparisons; the complete sum is exact",
            verdict=verdict(all(loses), sum(loses) >= len(loses) / 2),
            rule="in all comparisons; partly: in at least half",
        ),
        Claim(
            claim="The reason is its coefficient, 1/4 where 1/2 is needed (on a path)",
            paper="about 1/4, by derivation",
            source="section 4.3, appendix D.2",
            here="it makes "
            + common.listed(half, ".2f")
            + f" of the needed correction; a 3×3 grid makes {' and '.join(coarse)}, and its error has another cause",
            verdict=verdict(all(inside), any(inside)),
            rule="median share between 0.4 and 0.6 on both models; partly: on one",
        ),
    ]


def _of_singles(signs: _Signs, stuck) -> Claim:
    others = ("third_order", "finite_difference_hvp", "gauss_newton")
    calm = [key for key in signs.settings if key not in stuck]
    fails = [sign >= 0 for method in others for sign in signs(method, stuck)]
    adequate = [sign == -1 for method in others for sign in signs(method, calm)]
    return Claim(
        claim="Third order, finite differences and Gauss–Newton fail where one HVP step does, and are adequate elsewhere",
        paper="stated, without numbers",
        source="section 4.2",
        here=(
            f"no better than attribution patching in {sum(fails)} of {len(fails)} cases where HVP is not; better in "
            f"{sum(adequate)} of {len(adequate)} elsewhere"
        ),
        verdict=verdict(
            bool(fails) and all(fails) and all(adequate),
            sum(fails) + sum(adequate) >= (len(fails) + len(adequate)) / 2,
        ),
        rule="in all cases of both kinds (significance against attribution patching); partly: in at least half",
    )


def _of_gim(signs: _Signs, overlap: pd.DataFrame) -> list[Claim]:
    found, n = signs("gim"), len(signs.settings)
    better, worse = found.count(-1), found.count(1)
    gim = overlap[overlap.method == "gim"].difference
    fewer, surely = sum(d.estimate < 0 for d in gim), sum(d.high < 0 for d in gim)
    return [
        Claim(
            claim="GIM has a larger top-5 error than attribution patching",
            paper="significant on 12 of 13 combinations, better on one",
            source="Table 2, section 4.3",
            here=f"significantly worse on {worse} of {n}, better on {better}",
            verdict=verdict(worse >= n - 1, worse >= n / 2),
            rule="significantly worse on all but one; partly: on at least half",
        ),
        Claim(
            claim="GIM finds fewer of the true top k heads",
            paper="26 of 27 settings",
            source="Table 10, section 4.2",
            here=f"{fewer} of {len(gim)} (significant in {surely})",
            verdict=verdict(fewer >= 0.9 * len(gim), fewer >= len(gim) / 2),
            rule="at least 90 % of the settings; partly: at least half",
        ),
    ]


def _of_the_typical_head(scores: pd.DataFrame) -> list[Claim]:
    multiple = by_multiple(scores).groupby("method").multiple.apply(list)
    names = ("gim", "atp_star")
    ahead = [
        [sign == 1 for sign in _Signs(compared(scores, "relative", "hvp", [name]))(name)]
        for name in names
    ]
    against_ap = _Signs(compared(scores, "relative", AP, names))
    reduced = [sign == -1 for name in names for sign in against_ap(name)]
    return [
        Claim(
            claim="On the typical head, HVP reduces the error by more than GIM and AtP*",
            paper="to 0.23 times that of attribution patching, against 0.59 and 0.66",
            source="Table 3",
            here=f"to {span(multiple['hvp'], 2)} times",
            verdict=verdict(all(map(all, ahead)), any(map(any, ahead))),
            rule="median relative error significantly below both, everywhere; partly: somewhere",
        ),
        Claim(
            claim="On the typical head, GIM and AtP* reduce the error too",
            paper="to 0.59 and 0.66 times that of attribution patching",
            source="Table 3",
            here=" and ".join(f"{span(multiple[name])} times ({label(name)})" for name in names),
            verdict=verdict(all(reduced), any(reduced)),
            rule="median relative error significantly lower everywhere, for both; partly: somewhere",
        ),
    ]
