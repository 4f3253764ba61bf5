"""Published circuits of GPT-2 small, and what the paper's own tables say of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from hvp_utils.stats import Auroc

from .ranking import Scores, top


def _heads(text: str) -> tuple[str, ...]:
    return tuple("L{}H{}".format(*head.split(".")) for head in text.split())


#: Heads of the IOI circuit by what they do (Wang et al. 2023).
GPT2_IOI = {
    "name mover": _heads("9.9 10.0 9.6"),
    "backup name mover": _heads("10.10 10.6 10.2 10.1 11.2 9.7 9.0 11.9"),
    "negative name mover": _heads("10.7 11.10"),
    "S-inhibition": _heads("7.3 7.9 8.6 8.10"),
    "induction": _heads("5.5 5.8 5.9 6.9"),
    "duplicate token": _heads("0.1 0.10 3.0"),
    "previous token": _heads("2.2 4.11"),
}
#: Heads of the Greater-Than circuit (Hanna et al. 2023); its MLPs are no heads.
GPT2_GREATER_THAN = {"all heads": _heads("0.1 0.3 0.5 5.5 6.1 6.9 7.10 8.11 9.1")}
PUBLISHED = {
    "ioi": GPT2_IOI,
    "greater_than_01": GPT2_GREATER_THAN,
    "greater_than": GPT2_GREATER_THAN,
}

#: The paper's Table 15: model, task, method, Kendall's tau, NDCG@5, @10 and @20.
TABLE_15 = pd.DataFrame(
    [
        ("GPT-2", "IOI", "AP", 0.568, 1.000, 1.000, 0.968),
        ("GPT-2", "IOI", "HVP", 0.567, 1.000, 1.000, 0.968),
        ("GPT-2", "IOI", "IH", 0.552, 1.000, 0.934, 1.000),
        ("GPT-2", "IOI", "GIM", 0.552, 1.000, 0.934, 1.000),
        ("GPT-2", "Greater-Than", "AP", 0.687, 1.000, 0.936, 0.930),
        ("GPT-2", "Greater-Than", "HVP", 0.689, 1.000, 0.936, 0.931),
        ("Pythia-410M", "IOI", "AP", 0.350, 1.000, 0.936, 0.934),
        ("Pythia-410M", "IOI", "HVP", 0.352, 0.699, 0.890, 0.935),
        ("Pythia-410M", "IOI", "IH-PI", 0.350, 1.000, 0.936, 0.934),
        ("Pythia-410M", "IOI", "GIM", 0.350, 1.000, 0.936, 0.934),
        ("Pythia-410M", "Greater-Than", "AP", 0.582, 1.000, 1.000, 0.935),
        ("Pythia-410M", "Greater-Than", "HVP", 0.585, 0.869, 1.000, 0.935),
        ("Gemma-2-2B", "IOI", "AP", 0.650, 0.869, 1.000, 1.000),
        ("Gemma-2-2B", "IOI", "HVP", 0.654, 1.000, 1.000, 1.000),
        ("Gemma-2-2B", "factual", "AP", 0.719, 1.000, 0.791, 0.934),
        ("Gemma-2-2B", "factual", "HVP", 0.734, 0.869, 0.863, 0.932),
        ("Gemma-2-2B", "factual", "GIM", 0.719, 1.000, 0.791, 0.934),
        ("Llama-3.1-8B", "IOI", "AP", 0.409, 0.723, 0.931, 0.933),
    ],
    columns=["model", "task", "method", "tau", "NDCG@5", "NDCG@10", "NDCG@20"],
)
#: Appendix E.10: percent of the true top k on GPT-2 IOI, over 50 prompts.
TABLE_E10 = {"AP": {10: 80, 15: 93, 20: 95, 26: 96}, "HVP": {10: 90, 15: 100, 20: 100, 26: 100}}
#: What Figure 12 calls the three heads that it shows.
FIGURE_12 = {"L10H7": "name mover", "L9H9": "negative name mover", "L4H11": "duplicate token"}


@cache
def _sums(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Discounted sums of all sets of the first k places, and the sets' sizes."""
    sets = np.arange(2**k)
    sums, sizes = np.zeros(2**k), np.zeros(2**k, dtype=int)
    for place in range(k):
        taken = (sets >> place) & 1
        sums += taken / np.log2(place + 2)
        sizes += taken
    return sums / sums.max(), sizes


def hits_behind(value: float, k: int, digits: int = 3) -> list[int]:
    """How many of the top k may be right if NDCG@k with gain 1 for each is printed as ``value``."""
    sums, sizes = _sums(k)
    return sorted(set(sizes[np.abs(sums - value) <= 0.5 * 10**-digits + 1e-12].tolist()))


def paper_against_itself() -> pd.DataFrame:
    """Table 15's NDCG on GPT-2 IOI as numbers of right heads, beside Appendix E.10's percentages.

    Returns:
        Columns method, k, NDCG, hits_table_15 (numbers that agree with the printed NDCG),
        hits_E10, and agree.
    """
    rows = []
    chosen = TABLE_15[(TABLE_15.model == "GPT-2") & (TABLE_15.task == "IOI")]
    for method in ("AP", "HVP"):
        row = chosen[chosen.method == method].iloc[0]
        for k in (10, 20):
            hits, told = hits_behind(row[f"NDCG@{k}"], k), TABLE_E10[method][k] * k // 100
            rows.append((method, k, row[f"NDCG@{k}"], hits, told, told in hits))
    columns = ["method", "k", "NDCG", "hits_table_15", "hits_E10", "agree"]
    return pd.DataFrame(rows, columns=columns)


def roles_in_the_paper() -> pd.DataFrame:
    """What Figure 12 calls its heads, and what the published circuit calls them."""
    by_head = {head: role for role, heads in GPT2_IOI.items() for head in heads}
    rows = [(head, role, by_head.get(head, "none")) for head, role in FIGURE_12.items()]
    table = pd.DataFrame(rows, columns=["head", "in Figure 12", "published"])
    return table.assign(agree=table["in Figure 12"] == table.published)


def against_published(
    scored: Sequence[Scores], circuits: Mapping[str, Mapping[str, Sequence[str]]] = PUBLISHED
) -> pd.DataFrame:
    """How well rankings find the heads of a published circuit.

    It was found by experiments of another kind, so the true effects are one ranking among others.

    Args:
        scored: Scores of the model that the circuits are of.
        circuits: For each task the heads of its circuit, by role.

    Returns:
        Columns task, method, heads (of the circuit), auroc and precision (the share of its heads
        among as many of the largest effects).

    Raises:
        ValueError: A circuit with heads that the model does not have.
    """
    rows = []
    for one in scored:
        if one.task not in circuits:
            continue
        heads = {head for group in circuits[one.task].values() for head in group}
        if missing := heads - set(one.labels):
            raise ValueError(f"{one.model} has no {', '.join(sorted(missing))}.")
        on = np.isin(one.labels, sorted(heads))
        for method in one.values:
            effect = np.abs(one.mean(method))
            auroc = Auroc(effect[None], on[None])()
            precision = float(on[top(effect, len(heads))].mean())
            rows.append((one.task, method, len(heads), auroc, precision))
    return pd.DataFrame(rows, columns=["task", "method", "heads", "auroc", "precision"])
