"""Metrics: one number per run, read from the logits at the last position.

Every quantity in this book is a derivative of a metric, so a metric must be a smooth function
of the logits. It takes the logits at the last position of a batch of runs, ``[batch, d_vocab]``,
and returns one value per run, ``[batch]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils import _checks


def log_prob(
    logits: Float[Tensor, "batch d_vocab"],
    answers: Int[Tensor, "n_answers"],
    wrong: Int[Tensor, "n_wrong"] | None = None,
) -> Float[Tensor, "batch"]:
    """Log of the summed probability of the answers, in nats (the paper's metric, section 4).

    ``wrong`` is ignored. It is accepted so that all metrics can be called alike.
    """
    answers, _ = _ids(logits, answers, answers)
    # log sum_a p_a without forming p: stays exact where the probabilities underflow.
    return logits[:, answers].logsumexp(dim=-1) - logits.logsumexp(dim=-1)


def logit_diff(
    logits: Float[Tensor, "batch d_vocab"],
    answers: Int[Tensor, "n_answers"],
    wrong: Int[Tensor, "n_wrong"],
) -> Float[Tensor, "batch"]:
    """Mean logit of the answers minus mean logit of the wrong answers (Wang et al. 2022)."""
    answers, wrong = _ids(logits, answers, wrong)
    return logits[:, answers].mean(dim=-1) - logits[:, wrong].mean(dim=-1)


def prob_diff(
    logits: Float[Tensor, "batch d_vocab"],
    answers: Int[Tensor, "n_answers"],
    wrong: Int[Tensor, "n_wrong"],
) -> Float[Tensor, "batch"]:
    """Summed probability of the answers minus that of the wrong ones (Hanna et al. 2023)."""
    answers, wrong = _ids(logits, answers, wrong)
    probs = logits.softmax(dim=-1)
    return probs[:, answers].sum(dim=-1) - probs[:, wrong].sum(dim=-1)


def _ids(logits: Tensor, answers: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    _checks.instance("logits", logits, Tensor, "a tensor [batch, d_vocab]")
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be real numbers, [batch, d_vocab], not {_checks.shown(logits)}."
        )
    n = logits.shape[1]
    return _checks.token_ids("answers", answers, n), _checks.token_ids("wrong", wrong, n)


METRICS: dict[str, Callable[..., Tensor]] = {
    "log_prob": log_prob,
    "logit_diff": logit_diff,
    "prob_diff": prob_diff,
}
NEEDS_WRONG_ANSWER = frozenset({"logit_diff", "prob_diff"})


@dataclass(frozen=True, eq=False)
class LastPositionMetric:
    """A metric bound to its answers: call it with logits ``[batch, d_vocab]``, get ``[batch]``."""

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch"]:
        """Evaluate the metric, one number per run.

        Raises:
            ValueError: If the logits are not ``[batch, d_vocab]``, the value that comes back is not
                one number per run, or a derivative is wanted and it has none.
        """
        if logits.ndim != 2:
            raise ValueError(
                f"metric {self.name!r} reads the logits at the last position, [batch, d_vocab], "
                f"but it was given shape {list(logits.shape)}. Pass logits[:, -1]."
            )
        value = self.function(logits)
        # A metric that forgets the batch (say, ends in .mean()) would mix the patched runs of
        # different components without any other sign of trouble, so this is checked every time.
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if found != [logits.shape[0]]:
            raise ValueError(
                f"metric {self.name!r} must return one value per run, a tensor of shape [batch] = "
                f"[{logits.shape[0]}], but it returned {found}. Reduce over the vocabulary "
                f"(dim=-1) and leave the batch dimension alone."
            )
        # Where derivatives are wanted, a metric without one would make every effect exactly 0.
        # (Of a view made under no_grad, PyTorch says that it requires one, but it has no history.)
        if torch.is_grad_enabled() and logits.requires_grad and value.grad_fn is None:
            raise ValueError(
                f"metric {self.name!r} has no derivative: what it returns does not lead back to "
                "the logits. Is there a detach(), an item(), a torch.no_grad() or NumPy in it, or "
                "something that moves in steps, such as argmax or a comparison? Values of such a "
                "metric, as in activation_patching, can be had."
            )
        return value


def bind_metric(
    metric: str | Callable[[Tensor], Tensor],
    answer_ids: Sequence[int],
    wrong_ids: Sequence[int],
    device: torch.device | str = "cpu",
) -> LastPositionMetric:
    """Bind a named or user-supplied metric to the token ids it compares.

    Args:
        metric: A key of ``METRICS``, or any callable ``[batch, d_vocab] -> [batch]``.
        answer_ids: Token ids of the answers. A callable does not see them.
        wrong_ids: Token ids of the wrong answers, possibly none.
        device: Where the logits will be. The ids are put there once, not on every call.
    """
    if callable(metric):
        return LastPositionMetric(getattr(metric, "__name__", type(metric).__name__), metric)
    function = METRICS[metric]
    answers = torch.tensor(list(answer_ids), dtype=torch.long, device=device)
    wrong = torch.tensor(list(wrong_ids), dtype=torch.long, device=device)
    return LastPositionMetric(metric, lambda logits: function(logits, answers, wrong))
