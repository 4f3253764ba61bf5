"""Prompt pairs, metrics, the three tasks of the paper, and others that circuits are tested on.

``PromptPair`` is what every function of the package takes. ``ioi``, ``greater_than``, ``factual``
and the other generators make lists of them; ``make_prompts`` finds a task by name, and ``accuracy``
says whether a model can do it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hvp_utils import _checks

from .agreement import subject_verb_agreement
from .arithmetic import arithmetic
from .capitals import country_capital
from .checks import CAN_DO, TaskCheck, accuracy, check_tasks
from .factual import factual
from .gender_bias import gender_bias
from .greater_than import greater_than
from .hypernymy import hypernymy
from .ioi import ioi, reference_pair
from .mcqa import mcqa
from .metrics import METRICS, LastPositionMetric, log_prob, logit_diff, prob_diff
from .mib_ioi import mib_ioi
from .prompt_pair import PromptPair, ResolvedPair

__all__ = [
    "CAN_DO",
    "METRICS",
    "TASKS",
    "LastPositionMetric",
    "PromptPair",
    "ResolvedPair",
    "TaskCheck",
    "accuracy",
    "arithmetic",
    "check_tasks",
    "country_capital",
    "factual",
    "gender_bias",
    "greater_than",
    "hypernymy",
    "ioi",
    "log_prob",
    "logit_diff",
    "make_prompts",
    "mcqa",
    "mib_ioi",
    "prob_diff",
    "reference_pair",
    "subject_verb_agreement",
]

_MOST_PROMPTS = 1_000_000
TASKS: dict[str, Callable[..., list[PromptPair]]] = {
    "ioi": ioi,
    "ioi_random_token": partial(ioi, corruption="random_token"),
    "ioi_resample": partial(ioi, corruption="resample"),
    "ioi_zero": partial(ioi, corruption="zero"),
    "ioi_one_template": partial(ioi, template=0),
    "greater_than": greater_than,
    "greater_than_01": partial(greater_than, corruption="year_01"),
    "factual": factual,
    "factual_swap": partial(factual, corruption="subject_swap"),
    "factual_resample": partial(factual, corruption="resample"),
    "factual_zero": partial(factual, corruption="zero"),
    "subject_verb_agreement": subject_verb_agreement,
    "gender_bias": gender_bias,
    "country_capital": country_capital,
    "hypernymy": hypernymy,
    "mib_ioi": mib_ioi,
    "arithmetic_addition": arithmetic,
    "arithmetic_subtraction": partial(arithmetic, operation="subtraction"),
    "mcqa": mcqa,
    "mcqa_letters": partial(mcqa, corruption="letters"),
}


def make_prompts(
    task: str | Callable[..., Sequence[PromptPair]] | Sequence[PromptPair],
    model: Any,
    n: int,
    seed: int = 0,
) -> list[PromptPair]:
    """Turn any way of naming a task into a list of ``n`` prompt pairs.

    Args:
        task: A key of ``TASKS``; a generator ``(model, n, seed=...) -> pairs``; or a list of pairs
            of your own, of which the first ``n`` are taken (``seed`` then has no effect).
        model: A ``TransformerBridge``.
        n: Number of pairs.
        seed: Seed of the generator.

    Raises:
        ValueError: If the name is unknown, or there are not exactly ``n`` pairs to be had.
        TypeError: If the list or the generator holds something that is not a ``PromptPair``.
    """
    if isinstance(task, str):
        if task not in TASKS:
            raise ValueError(
                f"unknown task {task!r}. Known tasks: {', '.join(TASKS)}; "
                f"or pass a generator or a list of PromptPair."
            )
        task = TASKS[task]
    _checks.whole("n", n, 0, _MOST_PROMPTS)
    _checks.whole("seed", seed, -(2**63), 2**63 - 1)
    if callable(task):
        _require_generator(task)
    found = task(model, n, seed=seed) if callable(task) else task
    pairs = _checks.items("task", found, "a name, a generator or a list of PromptPair")
    pairs = pairs if callable(task) else pairs[:n]
    if len(pairs) != n:
        raise ValueError(f"{n} prompts were asked for, but the task holds {len(pairs)}.")
    for pair in pairs:
        if not isinstance(pair, PromptPair):
            raise TypeError(f"a task must consist of PromptPair objects, not {pair!r}.")
    return pairs


def _require_generator(task: Callable[..., object]) -> None:
    try:
        inspect.signature(task).bind("model", 1, seed=0)
    except TypeError as error:
        raise TypeError(
            f"task must take (model, n, seed=0) and give PromptPairs, but {_checks.shown(task)} "
            f"does not: {error}."
        ) from None
    except ValueError:
        pass  # built in, with a signature that nobody knows
