"""Chapter 11: does a better estimate of every head's effect give a better circuit?

``scores`` reads stored sweeps; everything else takes what it returns, or a model.
"""

from .case import attention_of, by_prompt, case, head_curve, measured_roles, places, underestimation
from .faithful import (
    by_method,
    differing_heads,
    faithfulness_table,
    heads_kept,
    overlap_is_not_faithfulness,
)
from .figures import (
    attention_figure,
    case_figure,
    faithfulness_figure,
    landscape_figure,
    overlap_figure,
    roles_figure,
)
from .judged import claims
from .planted import planted_recovery
from .published import (
    GPT2_GREATER_THAN,
    GPT2_IOI,
    TABLE_15,
    against_published,
    hits_behind,
    paper_against_itself,
    roles_in_the_paper,
)
from .ranking import (
    ESTIMATORS,
    KS,
    METHODS,
    TASKS,
    Scores,
    moves,
    needs,
    of_the_mean,
    paired_tests,
    per_prompt,
    scores,
    split_half,
    top,
    wide_table,
)

__all__ = [
    "ESTIMATORS",
    "GPT2_GREATER_THAN",
    "GPT2_IOI",
    "KS",
    "METHODS",
    "TABLE_15",
    "TASKS",
    "Scores",
    "against_published",
    "attention_figure",
    "attention_of",
    "by_method",
    "by_prompt",
    "case",
    "case_figure",
    "claims",
    "differing_heads",
    "faithfulness_figure",
    "faithfulness_table",
    "head_curve",
    "heads_kept",
    "hits_behind",
    "landscape_figure",
    "measured_roles",
    "moves",
    "needs",
    "of_the_mean",
    "overlap_figure",
    "overlap_is_not_faithfulness",
    "paired_tests",
    "paper_against_itself",
    "per_prompt",
    "places",
    "planted_recovery",
    "roles_figure",
    "roles_in_the_paper",
    "scores",
    "split_half",
    "top",
    "underestimation",
    "wide_table",
]
