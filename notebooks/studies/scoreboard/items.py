"""The paper's tables and figures, what each shows, and which claims are about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

__all__ = ["ITEMS", "Item", "by_item", "items_of"]


class Item(NamedTuple):
    """A table or figure.

    Attributes:
        shows: What it shows.
        chapter: The page that deals with it, below the book's root.
        only_describes: It claims nothing that could be measured.
    """

    shows: str
    chapter: str
    only_describes: bool = False


ITEMS = {
    "Table 1": Item("The models", "book/introduction", True),
    "Table 2": Item("Error on the five largest effects, by model and task", "08_baselines"),
    "Table 3": Item("AtP*, GIM and HVP on heads and neurons", "08_baselines"),
    "Table 4": Item("Share of the true top heads found", "11_circuit_recovery"),
    "Table 5": Item("Notation", "book/notation", True),
    "Table 6": Item("The Lipschitz constant of the Hessian, GPT-2", "06_lipschitz_hessian"),
    "Table 7": Item("The same, Gemma-2-2B", "06_lipschitz_hessian"),
    "Table 8": Item("MS-HVP and integrated gradients at one price", "08_baselines"),
    "Table 9": Item("MS-HVP and Integrated Hessians", "08_baselines"),
    "Table 10": Item("Heads that GIM finds", "08_baselines"),
    "Table 11": Item("Errors by kind of component", "14_corruptions"),
    "Table 12": Item("Three kinds of corruption", "14_corruptions"),
    "Table 13": Item("Entity swaps", "14_corruptions"),
    "Table 14": Item("Seconds for edges", "09_screen_flag_fix"),
    "Table 15": Item("Rank correlation and NDCG", "11_circuit_recovery"),
    "Table 16": Item("Faithfulness of circuits of edges (MIB)", "12_edges_and_mib"),
    "Table 17": Item("Features of sparse autoencoders", "13_sae_features"),
    "Figure 1": Item("Screen, flag, fix: a sketch of the workflow", "09_screen_flag_fix", True),
    "Figure 2": Item("Local curvature against the network's", "04_curvature_gap"),
    "Figure 3": Item("The reliability score against the error", "05_reliability_score"),
    "Figure 4": Item("The reliability score by layer", "05_reliability_score"),
    "Figure 5": Item("Error against price, three tasks", "08_baselines"),
    "Figure 6": Item("Number of steps; selective correction", "07_ms_hvp_k_sweep"),
    "Figure 7": Item("The workflow at several thresholds", "09_screen_flag_fix"),
    "Figure 8": Item("AUROC of the score by quarter", "05_reliability_score"),
    "Figure 9": Item("How many prompts are enough", "14_corruptions"),
    "Figure 10": Item("All heads by truth, AP and HVP", "11_circuit_recovery"),
    "Figure 11": Item("The circuit's heads by role", "11_circuit_recovery"),
    "Figure 12": Item("Attention of three heads", "11_circuit_recovery"),
}

# Claims that name a section of the paper, about what a figure or table of it shows.
_BY_SECTION = {
    "section 3.2, Proposition 1": ("Figure 3",),
    "section 4.3, Appendix D.1": ("Table 8",),
    "section 4.3, appendix D.1": ("Table 8",),
    "section 4.3, appendix D.2": ("Table 9",),
    "appendix B.2": ("Table 6", "Table 7"),
    "E.3": ("Table 12",),
    "E.4": ("Table 13",),
    "Appendix E.10": ("Figure 10", "Figure 11"),
    "section 4.5, Appendix E.10": ("Figure 10", "Figure 11"),
    "appendices E.2 to E.5": ("Table 11", "Table 12", "Table 13", "Figure 9"),
    "section 4.3": ("Figure 5",),
    "sections 4.2 and 4.3": ("Figure 5",),
}


def items_of(source: str) -> list[str]:
    """The tables and figures that a claim's source names: "Tables 6 and 7" gives two.

    A claim that names none belongs to those that its section is about.
    """
    found = []
    pattern = r"(Table|Figure)s? ((?:\d+[a-z]?(?:, | and | to )?)+)"
    for kind, listed in re.findall(pattern, source):
        for first, last in re.findall(r"(\d+)[a-z]?(?: to (\d+))?", listed):
            found += [f"{kind} {n}" for n in range(int(first), int(last or first) + 1)]
    found += _BY_SECTION.get(source, ())
    return [item for item in dict.fromkeys(found) if item in ITEMS]


def by_item(claims: pd.DataFrame, verdicts: Sequence[str]) -> pd.DataFrame:
    """A row for each table and figure: what it shows, and how many claims have each verdict."""
    rows = []
    for name, item in ITEMS.items():
        about = claims[claims["items"].map(lambda found, name=name: name in found)]
        row = {"item": name, "shows": item.shows, "chapter": item.chapter}
        row |= {verdict: int((about.verdict == verdict).sum()) for verdict in verdicts}
        row["only describes"] = item.only_describes
        rows.append(row)
    return pd.DataFrame(rows)
