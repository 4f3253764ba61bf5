"""The numbers that the landing page and "The answer" give, each from stored results.

``tools/answer.py`` writes them to ``notebooks/results/answer.json``; pages name them, and type none.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvp_utils import model_sizes

from . import common, prices
from . import is_it_worth_it as worth
from .is_it_worth_it import neurons

__all__ = ["numbers"]

MODELS = ("smollm2-135m", "gemma-3-270m")


def numbers(
    models: Sequence[str] = MODELS, n_prompts: int = 20, n_fresh: int = 30, store: str = "results"
) -> dict[str, str]:
    """Every number by its name, as text.

    Args:
        models: The book's two models; names end in 1 and 2 by their order.
        n_prompts: Prompts of each task on which the rule was found.
        n_fresh: Prompts on which it was tested.
        store: Folder of the stored results.
    """
    return {
        **_prices(models),
        **_heads(models, n_prompts, n_fresh, store),
        **_neurons(models, store),
    }


def _prices(models: Sequence[str]) -> dict[str, str]:
    """What methods cost for all heads, in percent of patching every head."""
    names = {
        "ap": "attribution_patching",
        "hvp": "hvp",
        "ms_hvp": "ms_hvp:5",
        "rows": "row_norms:2",
    }
    found = {}
    for i, model in enumerate(models, start=1):
        counted = prices.counted(model_sizes(model), list(names.values())).set_index("method")
        found[f"heads_{i}"] = f"{counted.n.iloc[0]:,}"
        found[f"ap_runs_{i}"] = f"{counted.runs['attribution_patching']:.1f}"
        found[f"rows_runs_{i}"] = f"{counted.runs['row_norms:2']:.0f}"
        for name, method in names.items():
            percent = counted.percent[method]
            found[f"{name}_price_{i}"] = (
                f"{percent:,.1f} %" if percent < 10 else f"{percent:,.0f} %"
            )
    return found


def _heads(models: Sequence[str], n_prompts: int, n_fresh: int, store: str) -> dict[str, str]:
    """Errors on the five largest heads of fresh prompts, and what they cost."""
    known = worth.scored(models, n_prompts, store=store)
    rival = worth.chosen(worth.errors_after(known, [worth.FIRST]), models[0])[worth.FIRST]
    patches = {worth.FIRST: rival, worth.ROWS: worth.N_PATCHED}
    fresh = worth.fresh(models, n_prompts, n_fresh, store)
    tested = worth.put_to_test(fresh, patches)
    whole = worth.pooled(tested).set_index("method")
    settings = worth.in_settings(tested)
    by_setting = tested[tested.method == worth.AP].groupby(["model", "task"]).error.mean()
    price = {
        rule: [worth.of_rule(model, rule, m) for model in models] for rule, m in patches.items()
    }
    gap = worth.missed([*known, *fresh])
    return {
        "ap_error": f"{whole.error[worth.AP].estimate:.0f} %",
        "ap_error_low": f"{by_setting.min():.0f} %",
        "ap_error_high": f"{by_setting.max():.0f} %",
        "rule_error": f"{whole.error[worth.ROWS].estimate:.2f} %",
        "rule_patches": str(worth.N_PATCHED),
        "rule_price_1": f"{price[worth.ROWS][0]:.0f} %",
        "rule_price_2": f"{price[worth.ROWS][1]:.0f} %",
        "rival_error": f"{whole.error[worth.FIRST].estimate:.2f} %",
        "rival_patches": str(rival),
        "rival_price_1": f"{price[worth.FIRST][0]:.0f} %",
        "rival_price_2": f"{price[worth.FIRST][1]:.0f} %",
        "rival_p": common.p_value(whole.p[worth.FIRST], 1000),
        "rival_worse_in": str(sum(d.estimate < 0 for d in settings.difference)),
        "settings": str(len(settings)),
        "fresh_prompts": str(whole.prompts.iloc[0]),
        "missed_heads": str(gap["missed"]),
        "looked_at_heads": f"{gap['heads']:,}",
        "missed_prompts": str(gap["hit"]),
        "looked_at_prompts": str(gap["prompts"]),
        **_lengths(models, n_prompts + n_fresh, store),
    }


def _lengths(models: Sequence[str], n_prompts: int, store: str) -> dict[str, str]:
    """How many tokens the prompts have."""
    sweeps = common.load(models, worth.TASKS, ("attribution_patching",), n_prompts, store)
    tokens = [int(n) for data in sweeps.values() for n in data.n_tokens.values]
    return {"tokens_low": str(min(tokens)), "tokens_high": str(max(tokens))}


def _neurons(models: Sequence[str], store: str) -> dict[str, str]:
    """What an error below 0.1 % on the largest neurons costs, in percent of patching all."""
    sample = neurons.measure(models, 4, 256, store=store)
    cheapest = worth.cheapest(neurons.front(sample), 0.1).set_index(["series", "model"]).price
    found = {}
    for i, model in enumerate(models, start=1):
        found[f"neurons_{i}"] = f"{model_sizes(model).n_components('neurons_pre', 5):,}"
        for name, series in (("rule", neurons.ROWS), ("rival", neurons.FIRST)):
            percent = cheapest[series, model]
            text = f"{percent:.1f} %" if percent == percent else "more than 10 %"
            found[f"neuron_{name}_price_{i}"] = text
    return found
