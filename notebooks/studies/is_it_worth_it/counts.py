"""Prices of this chapter: operations counted for every method, seconds where they were measured.

The unit is the *run*: one exact patch of one component, on average. See ``studies.prices``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    hvp,
    model_sizes,
    plan,
    row_screen,
    sketched_hvp,
)
from hvp_utils.curvature import row_norms
from hvp_utils.plans import pass_flops
from hvp_utils.reliability import screen

from .. import prices
from .rules import BOTH, FIRST, ROWS, RULES

#: What methods are called on the page.
LABELS = {
    "activation_patching": "patch every head",
    "attribution_patching": "AP",
    "row_norms:2": "AP + rows of H, 2 differences",
    "sketched_hvp:4": "AP + sketched q, 4 products",
    "sketched_hvp:32": "AP + sketched q, 32 products",
    "sketched_hvp:64": "AP + sketched q, 64 products",
    "hvp": "HVP",
    "ms_hvp:2": "MS-HVP, K = 2",
    "ms_hvp:5": "MS-HVP, K = 5",
    "ms_hvp:10": "MS-HVP, K = 10",
    "integrated_gradients:5:midpoint": "IG, 5 points",
    "integrated_gradients:10:midpoint": "IG, 10 points",
}
#: A prompt with the reference pair's names and a longer way from the first difference to the answer.
LONGER = " was thirsty after the long walk in the summer heat and so, before anything else, gave a drink to"


def counted(
    model: str, methods: Sequence[str], components: str = "heads", **prompt: int
) -> pd.DataFrame:
    """Columns method, n, runs, percent and tflop of some methods; see ``prices.counted``.

    A Gauss-Legendre rule takes as many slopes as one of midpoints, and costs the same. ``prompt``
    may give ``n_tokens`` and ``n_run`` of another prompt than the reference pair's.
    """
    known = [method.replace("gausslegendre", "midpoint") for method in methods]
    wanted = list(dict.fromkeys(known))
    table = prices.counted(model_sizes(model), wanted, components=components, **prompt)
    return table.set_index("method").loc[known].reset_index().assign(method=list(methods))


def price_table(models: Sequence[str], methods: Sequence[str] = tuple(LABELS)) -> pd.DataFrame:
    """Runs and percent of patching every head, for each model; a row for each method."""
    found = {"method": [LABELS[method] for method in methods]}
    for model in models:
        table = counted(model, methods)
        found[f"{model}: runs"] = table.runs.to_numpy()
        found[f"{model}: %"] = table.percent.to_numpy()
    return pd.DataFrame(found)


def of_rule(model: str, rule: str, patches: int, **prompt: int) -> float:
    """Screen and patches of a rule, in percent of patching every head."""
    table = counted(model, [RULES[rule].runs], **prompt).iloc[0]
    return RULES[rule].times * table.percent + 100 * patches / table.n


def passes_in_runs(model: str, n_tokens: int = 15, n_run: int = 5, batch_size: int = 32) -> dict:
    """What one pass of each kind costs for heads, in runs; those of ``prices.counted``."""
    flops = pass_flops(model_sizes(model), "heads", n_tokens, n_run, batch_size)
    return {kind: operations / flops["forward"] for kind, operations in flops.items()}


def at_scale(
    model: str, methods: Sequence[str], rate: float, kinds: Sequence[str] = ("heads", "neurons_pre")
) -> pd.DataFrame:
    """Operations for all components of one prompt of 20 tokens of which 10 are run.

    Args:
        model: Any model whose sizes are known; no weights are needed.
        methods: Names of methods.
        rate: Operations a second. The seconds are lower bounds: reading weights is not counted.
        kinds: What is patched.

    Returns:
        Columns components, method, n, runs, seconds.
    """
    sizes, rows = model_sizes(model), []
    for kind in kinds:
        for one in plan(sizes, kind, list(methods), 20, 10, 1, rate):
            n = sizes.n_components(kind, 10)
            rows.append((kind, one.estimator, n, one.forward_equivalents, one.seconds))
    return pd.DataFrame(rows, columns=["components", "method", "n", "runs", "seconds"])


# --- seconds -------------------------------------------------------------------------------------


def follow(rule: str, M: PatchedMetric, n_patched: int) -> torch.Tensor:
    """Estimates of all components as a rule gives them: its screen, then exact patches."""
    if rule == FIRST:
        estimates = M.gradient().clone()
        size = estimates.abs()
    else:
        screened = {BOTH: lambda: screen(M, 4), ROWS: lambda: row_screen(M)}[rule]()
        estimates = screened.first_order.clone()
        size = estimates.abs() + screened.quadratic.abs()
    which = size.argsort(descending=True, stable=True)[:n_patched].cpu()
    estimates[which] = activation_patching(M, which).to(estimates)
    return estimates


def rule_label(rule: str, n_patched: int) -> str:
    """What a rule with its patches is called in tables of seconds."""
    return f"{n_patched} patches by {rule}"


def seconds(
    M: PatchedMetric, patches: Mapping[str, int], repeats: int = 2, derivatives: bool = True
) -> pd.DataFrame:
    """What methods and rules take for all components of a prompt, in rounds.

    Args:
        M: The metric.
        patches: Patches of each rule that is timed.
        repeats: Rounds, after a short run to warm up.
        derivatives: Whether HVP of every component and sketches are timed too.

    Returns:
        What ``prices.timed`` returns.
    """
    functions = {
        "activation_patching": lambda: activation_patching(M),
        "attribution_patching": lambda: attribution_patching(M),
        "row_norms:2": lambda: row_norms(M),
    }
    if derivatives:
        functions |= {
            "sketched_hvp:4": lambda: sketched_hvp(M, 4),
            "sketched_hvp:32": lambda: sketched_hvp(M, 32),
            "hvp": lambda: hvp(M),
        }
    for rule, m in patches.items():
        functions[rule_label(rule, m)] = lambda rule=rule, m=m: follow(rule, M, m)
    for rule in (FIRST, ROWS):
        follow(rule, M, min(32, M.n))
    return prices.timed(functions, repeats, warm_up=False)


def with_counts(
    model: str, measured: pd.DataFrame, patches: Mapping[str, int], **prompt: int
) -> pd.DataFrame:
    """Counted prices of what ``seconds`` timed: columns method, n, runs, percent."""
    rules = {rule_label(rule, m): (rule, m) for rule, m in patches.items()}
    plain = counted(model, [name for name in measured.method if name not in rules], **prompt)
    n = int(plain.n.iloc[0])
    rows = [(one.method, n, one.runs, one.percent) for one in plain.itertuples()]
    for label, (rule, m) in rules.items():
        percent = of_rule(model, rule, m, **prompt)
        rows.append((label, n, percent * n / 100, percent))
    return pd.DataFrame(rows, columns=["method", "n", "runs", "percent"])


def counted_over_measured(
    model: str, measured: pd.DataFrame, patches: Mapping[str, int]
) -> pd.DataFrame:
    """Do counted runs tell the seconds? 1 where they do; below it where seconds are longer.

    Returns:
        Columns method, kind ("one by one" or "all at once"), ratio.
    """
    table = with_counts(model, measured, patches).merge(measured)
    unit = table.seconds[table.method == "activation_patching"].iloc[0] / table.n
    kinds = {
        "hvp": "one by one",
        "attribution_patching": "all at once",
        "row_norms:2": "all at once",
        "sketched_hvp:4": "all at once",
    }
    table = table.assign(ratio=table.runs * unit / table.seconds, kind=table.method.map(kinds))
    return table.dropna(subset="kind")[["method", "kind", "ratio"]]


def weights_share(M: PatchedMetric, repeats: int = 5) -> tuple[float, bool]:
    """How much of a run is the reading of weights.

    Each weight matrix is multiplied once with as many vectors as tokens are run, and nothing else.

    Returns:
        Percent of the time of a run, and whether the repeats agreed.
    """
    weights = [W for W in M.model.original_model.parameters() if W.ndim == 2]

    def multiply() -> None:
        with torch.no_grad():
            for W in weights:
                torch.nn.functional.linear(W.new_ones(M.n_run, W.shape[1]), W)

    measured = prices.timed(
        {"weights": multiply, "run": lambda: M.run.unpatched([])}, repeats
    ).set_index("method")
    share = 100 * measured.fastest["weights"] / measured.fastest["run"]
    return float(share), not measured.disturbed.any()


def longer_pair() -> PromptPair:
    """The reference pair's names, with a longer way to the answer."""
    start = "When Mary and John went to the store,"
    return PromptPair(f"{start} John{LONGER}", f"{start} Mary{LONGER}", " Mary")
