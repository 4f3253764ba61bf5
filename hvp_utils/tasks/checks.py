"""Can the model do the task at all?

A circuit for a behaviour that a model does not show is a circuit for nothing. ``accuracy`` runs a
model on the prompts of a task and counts.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from hvp_utils import _checks
from hvp_utils.architectures import hf_model

from .prompt_pair import PromptPair, ResolvedPair

if TYPE_CHECKING:
    import pandas as pd

#: From this accuracy on we say that a model can do a task.
CAN_DO = 0.75
# Tokens run together. Logits are computed at the last position only, so memory is no limit here.
_TOKENS_PER_BATCH = 512


@dataclass(frozen=True, eq=False)
class TaskCheck:
    """On which prompts a model gives the answer. Made by ``accuracy``.

    Attributes:
        right: For each prompt, whether in the clean run the answers are together more probable
            than the wrong answers; where a prompt has no wrong answer, whether the most probable
            token is an answer. ``[n]``.
        first: For each prompt, whether in the clean run the most probable token of all is an
            answer. Stricter; it depends on the wording too, not only on the choice. ``[n]``.
        turned: For each prompt, whether in the corrupted run it is the wrong answers that are more
            probable. False where there is no wrong answer or no corrupted prompt. It says something
            only of tasks whose corrupted prompt asks for the wrong answer. ``[n]``.
        asked: For each prompt, whether ``turned`` could be asked. ``[n]``.
    """

    right: Bool[np.ndarray, " n"]
    first: Bool[np.ndarray, " n"]
    turned: Bool[np.ndarray, " n"]
    asked: Bool[np.ndarray, " n"]

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.right)

    @property
    def accuracy(self) -> float:
        """Share of the prompts whose clean run is ``right``."""
        return float(self.right.mean())

    @property
    def first_accuracy(self) -> float:
        """Share of the prompts in whose clean run an answer comes ``first``."""
        return float(self.first.mean())

    @property
    def corrupted_accuracy(self) -> float:
        """Share of the corrupted runs that ``turned``, of those asked; NaN if there are none."""
        return float(self.turned[self.asked].mean()) if self.asked.any() else float("nan")

    @property
    def can_do(self) -> bool:
        """Whether the accuracy is at least ``CAN_DO``."""
        return self.accuracy >= CAN_DO


def accuracy(model: Any, pairs: Sequence[PromptPair]) -> TaskCheck:
    """Count on how many prompts a model prefers the answer.

    Args:
        model: A ``TransformerBridge``.
        pairs: Prompt pairs, of a task or of your own. They may have any lengths and any metric; the
            metric is not used.

    Returns:
        One verdict a prompt, in the order of ``pairs``.

    Raises:
        ValueError: If there are no pairs, a pair has no answer, or it does not suit the model's
            tokenizer (see ``PromptPair.resolve``).
        TypeError: If something in the list is not a ``PromptPair``.
    """
    pairs = _checks.items("pairs", pairs, "a list of PromptPair")
    if not pairs:
        raise ValueError("there are no prompts to check: the list of pairs is empty.")
    _checks.model(model)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, PromptPair):
            raise TypeError(f"prompt {i} must be a PromptPair, not {pair!r}.")
        if pair.answer is None:
            raise ValueError(
                f"prompt {i} ({pair.name or pair.clean}) has no answer, only a metric of its "
                f"own, so there is nothing to be right about. Give it an answer."
            )
    resolved = [pair.resolve(model) for pair in pairs]
    right, first, turned, asked = np.zeros((4, len(pairs)), dtype=bool)
    for (i, which), logits in _last_logits(model, resolved):
        answer, wrong = (list(ids) for ids in (resolved[i].answer_ids, resolved[i].wrong_ids))
        # The total log probability of a set, but for a constant. Not a mean of logits: a set is as
        # probable as its members together, however many improbable ones are listed with them.
        margin = logits[answer].logsumexp(0) - logits[wrong].logsumexp(0)  # of no logits, -inf
        if which == "clean":
            first[i] = logits.argmax().item() in answer
            right[i] = margin.item() > 0 if wrong else first[i]
        elif wrong:
            turned[i], asked[i] = margin.item() < 0, True
    return TaskCheck(right, first, turned, asked)


def check_tasks(
    model: Any,
    tasks: Sequence[str | Callable[..., Sequence[PromptPair]]],
    n: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Check several tasks: a DataFrame with one row each.

    Args:
        model: A ``TransformerBridge``.
        tasks: Names or generators, as ``make_prompts`` takes them.
        n: Prompts of each.
        seed: Seed of the generators.

    Returns:
        Indexed by task, with the columns ``n_prompts``, ``accuracy``, ``first_accuracy``,
        ``corrupted_accuracy`` (shares; see ``TaskCheck``), ``can_do``, ``n_tokens`` (the mean
        length of a prompt) and ``n_shapes`` (how many pairs of length and first difference there
        are: prompts of one shape run together).
    """
    import pandas as pd

    from . import make_prompts

    _checks.model(model)
    tasks = [tasks] if isinstance(tasks, str) else _checks.items("tasks", tasks, "a list of tasks")
    _checks.whole("n", n)
    _checks.seed(seed)
    rows = {}
    for task in tasks:
        if not isinstance(task, str | Callable):
            raise TypeError(
                f"each of tasks must be a name or a generator, not {_checks.shown(task)}."
            )
        pairs = make_prompts(task, model, n, seed)
        check, resolved = accuracy(model, pairs), [pair.resolve(model) for pair in pairs]
        rows[task if isinstance(task, str) else getattr(task, "__name__", repr(task))] = {
            "n_prompts": check.n,
            "accuracy": check.accuracy,
            "first_accuracy": check.first_accuracy,
            "corrupted_accuracy": check.corrupted_accuracy,
            "can_do": check.can_do,
            "n_tokens": float(np.mean([len(pair) for pair in resolved])),
            "n_shapes": len({(len(pair), pair.first_difference) for pair in resolved}),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


@torch.no_grad()
def _last_logits(
    model: Any, resolved: Sequence[ResolvedPair]
) -> Iterator[tuple[tuple[int, str], Float[Tensor, " d_vocab"]]]:
    """Yield ((number of the prompt, "clean" or "corrupted"), its logits at the last position)."""
    by_length: dict[int, list[tuple[int, str]]] = collections.defaultdict(list)
    for i, pair in enumerate(resolved):
        by_length[len(pair)] += [(i, "clean")] + [(i, "corrupted")] * (pair.corrupted is not None)
    with tqdm(total=sum(map(len, by_length.values())), desc="accuracy", delay=2) as bar:
        for length, runs in by_length.items():
            rows = max(1, _TOKENS_PER_BATCH // length)
            for start in range(0, len(runs), rows):
                batch = runs[start : start + rows]
                tokens = torch.stack([getattr(resolved[i], which) for i, which in batch])
                logits = hf_model(model)(tokens, logits_to_keep=1).logits[:, -1]
                yield from zip(batch, logits.float(), strict=True)
                bar.update(len(batch))
