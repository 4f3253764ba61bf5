"""Prompt pairs: two prompts of equal length and the number that tells them apart.

Patching copies activations from one run into the other position by position. That only has a
meaning if both prompts have the same number of tokens. A ``PromptPair`` is the pair as a person
writes it; ``resolve(model)`` turns it into token ids and checks everything that depends on the
model's tokenizer. What cannot be right is refused with an error that shows the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from hvp_utils import _checks

from .metrics import METRICS, NEEDS_WRONG_ANSWER, LastPositionMetric, bind_metric


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt, a corrupted prompt and the metric that is read at the last position.

    Attributes:
        clean: The prompt on which the model does the task: text, or token ids.
        corrupted: The same with the decisive information destroyed: text, or token ids. Both are
            text or both are ids. Text gets the model's own beginning-of-sequence token; ids are
            used exactly as they are. ``None`` stands for zero ablation: there is no other run,
            and components are patched with zeros.
        answer: What should come next: text that is one token (mind the leading space), a token
            id, or a tuple of those. ``None`` only with a metric of your own.
        wrong_answer: What should not come next, in the same form.
        metric: ``"log_prob"`` (log of the summed probability of the answers), ``"logit_diff"``
            (mean logit of the answers minus that of the wrong answers), ``"prob_diff"`` (summed
            probability of the answers minus that of the wrong answers), or a callable taking the
            logits at the last position, ``[batch, d_vocab]``, and returning ``[batch]``.
        name: A label for tables and error messages.

    Raises:
        ValueError: If a prompt or an answer is empty, text and ids are mixed, token-id prompts
            differ in length, the metric is unknown, or it needs a ``wrong_answer`` that is missing.
        TypeError: If a field has a type that none of the above allows.
    """

    clean: str | Sequence[int]
    corrupted: str | Sequence[int] | None
    answer: str | int | Sequence[str | int] | None
    wrong_answer: str | int | Sequence[str | int] | None = None
    metric: str | Callable[[Tensor], Tensor] = "log_prob"
    name: str = ""

    def __post_init__(self) -> None:
        _checks.instance("name", self.name, str, "a text")
        for prompt in ("clean", "corrupted"):
            if prompt == "clean" or self.corrupted is not None:
                object.__setattr__(self, prompt, _plain_prompt(getattr(self, prompt), prompt))
        for answer in ("answer", "wrong_answer"):
            object.__setattr__(self, answer, _plain_answer(getattr(self, answer), answer))
        if self.corrupted is None:
            pass
        elif isinstance(self.clean, str) != isinstance(self.corrupted, str):
            raise ValueError(
                f"one prompt is text and the other is token ids: clean = {self.clean!r}, "
                f"corrupted = {self.corrupted!r}. Give both as text or both as token ids."
            )
        elif not isinstance(self.clean, str) and len(self.clean) != len(self.corrupted):
            raise ValueError(
                _unequal_lengths([str(i) for i in self.clean], [str(i) for i in self.corrupted])
            )
        if isinstance(self.metric, str):
            if self.metric not in METRICS:
                raise ValueError(
                    f"unknown metric {self.metric!r}. Known metrics: {', '.join(METRICS)}; "
                    f"or pass a callable [batch, d_vocab] -> [batch]."
                )
            if self.answer is None:
                raise ValueError(f"metric {self.metric!r} needs an answer, but answer is None.")
            if self.metric in NEEDS_WRONG_ANSWER and self.wrong_answer is None:
                raise ValueError(
                    f"metric {self.metric!r} compares the answer {self.answer!r} with a wrong "
                    f"answer, but wrong_answer is None. Give one, or use metric='log_prob'."
                )
        elif not callable(self.metric):
            raise TypeError(f"metric must be a name or a callable, not {self.metric!r}.")

    def resolve(self, model: Any) -> ResolvedPair:
        """Tokenise the pair for one model and check it.

        Args:
            model: A TransformerLens ``TransformerBridge``. Only ``cfg``, ``tokenizer`` and
                ``to_tokens`` are used; nothing is run.

        Returns:
            The pair as token ids on the model's device, with its metric bound to token ids.

        Raises:
            ValueError: If the prompts differ in length, do not fit the model's context, or hold
                ids outside its vocabulary; if an answer is not exactly one token, or is listed
                twice; or if text is given and the model has no tokenizer.
        """
        _checks.model(model)
        clean = _prompt_ids(self.clean, "clean", model)
        zeros = self.corrupted is None
        corrupted = (
            clean
            if zeros
            else _prompt_ids(cast("str | Sequence[int]", self.corrupted), "corrupted", model)
        )
        if len(clean) != len(corrupted):
            raise ValueError(
                _unequal_lengths(_str_tokens(clean, model), _str_tokens(corrupted, model))
            )
        answer_ids = _answer_ids(self.answer, "answer", model)
        wrong_ids = _answer_ids(self.wrong_answer, "wrong_answer", model)
        # A token listed twice would count twice in a sum; one on both sides would cancel.
        listed = answer_ids + wrong_ids
        twice = sorted({i for i in listed if listed.count(i) > 1})
        if twice:
            shown = ", ".join(repr(t) for t in _str_tokens(twice, model))
            raise ValueError(
                f"answer = {self.answer!r} and wrong_answer = {self.wrong_answer!r} list the same "
                f"token more than once: {shown} (ids {twice}). List every token once, on one side."
            )
        device = model.cfg.device
        differences = (i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b)
        return ResolvedPair(
            clean=torch.tensor(clean, dtype=torch.long, device=device),
            corrupted=None if zeros else torch.tensor(corrupted, dtype=torch.long, device=device),
            metric=bind_metric(self.metric, answer_ids, wrong_ids, device),
            answer_ids=answer_ids,
            wrong_ids=wrong_ids,
            first_difference=0 if zeros else next(differences, len(clean) - 1),
            name=self.name,
            _model=model,
        )


# eq=False: tensors have no single truth value, so two resolved pairs compare by identity.
@dataclass(frozen=True, eq=False)
class ResolvedPair:
    """A prompt pair as token ids, checked against one model. Made by ``PromptPair.resolve``.

    Attributes:
        clean: Token ids of the clean prompt, ``[S]``, on the model's device.
        corrupted: Token ids of the corrupted prompt, ``[S]``, on the model's device; ``None`` for
            zero ablation.
        metric: Takes logits at the last position ``[batch, d_vocab]``, returns ``[batch]``.
        answer_ids: Token ids of the answers.
        wrong_ids: Token ids of the wrong answers; empty if there are none.
        first_difference: First position at which the prompts differ. Before it a causal model
            computes the same in both runs. If they are identical it is ``S - 1``, so that there
            is always at least one token left to run. 0 for zero ablation.
        name: The pair's label.
    """

    clean: Int[Tensor, "S"]
    corrupted: Int[Tensor, "S"] | None
    metric: LastPositionMetric
    answer_ids: tuple[int, ...]
    wrong_ids: tuple[int, ...]
    first_difference: int
    name: str = ""
    _model: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of tokens S in either prompt."""
        return self.clean.shape[0]

    def str_tokens(self, which: Literal["clean", "corrupted"] = "clean") -> list[str]:
        """The tokens of one prompt as text, for axis labels. Ids as digits without a tokenizer.

        Zero ablation has no corrupted tokens.
        """
        _checks.one_of("which", which, ("clean", "corrupted"))
        ids = getattr(self, which)
        return [] if ids is None else _str_tokens(ids.tolist(), self._model)


# --- without a model -----------------------------------------------------------------------------


def _plain_prompt(prompt: Any, which: str) -> str | tuple[int, ...]:
    """A prompt as text or as a tuple of plain ints, so that a pair is hashable."""
    if isinstance(prompt, Tensor):
        prompt = prompt.tolist()
    if not isinstance(prompt, str):
        if not isinstance(prompt, Iterable):
            raise TypeError(f"{which} must be text or token ids, not {prompt!r}.")
        prompt = tuple(prompt)
        if not all(_is_token_id(i) for i in prompt):
            raise TypeError(f"{which} must be text or a flat sequence of token ids: {prompt!r}.")
        prompt = tuple(int(i) for i in prompt)
    if len(prompt) == 0:
        raise ValueError(f"{which} is empty ({prompt!r}). A prompt needs at least one token.")
    return prompt


def _plain_answer(answer: Any, which: str) -> str | int | tuple[str | int, ...] | None:
    """An answer as text, an int, a tuple of those, or None."""
    if answer is None:
        return None
    if isinstance(answer, Tensor):
        answer = answer.tolist()
    single = isinstance(answer, str) or _is_token_id(answer)
    if not single and not isinstance(answer, Iterable):
        raise TypeError(f"{which} must be text, a token id, or a tuple of those, not {answer!r}.")
    parts = (cast("Any", answer),) if single else tuple(answer)
    if not all(isinstance(part, str) or _is_token_id(part) for part in parts):
        raise TypeError(f"{which} must hold only texts and token ids, not {answer!r}.")
    if not parts or "" in parts:
        raise ValueError(f"{which} = {answer!r} is empty. Give at least one token to score.")
    parts = tuple(part if isinstance(part, str) else int(part) for part in parts)
    return parts[0] if single else parts


def _is_token_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _unequal_lengths(clean: Sequence[str], corrupted: Sequence[str]) -> str:
    return (
        f"clean has {len(clean)} tokens and corrupted has {len(corrupted)}, but activations are "
        f"swapped position by position, so the two must have the same number.\n"
        f"  clean:     {'|'.join(clean)}\n"
        f"  corrupted: {'|'.join(corrupted)}\n"
        f"Choose a replacement with as many tokens as the part it replaces."
    )


# --- with a model --------------------------------------------------------------------------------


def _prompt_ids(prompt: str | Sequence[int], which: str, model: Any) -> tuple[int, ...]:
    """Token ids of a prompt; text gets the model's own beginning-of-sequence convention."""
    if isinstance(prompt, str):
        _require_tokenizer(prompt, which, model)
        # truncate=False: a prompt that was cut silently would answer another question.
        ids = tuple(model.to_tokens(prompt, truncate=False)[0].tolist())
    else:
        ids = cast("tuple[int, ...]", prompt)  # as PromptPair made it
    _require_in_vocabulary(ids, which, model)
    if len(ids) > model.cfg.n_ctx:
        raise ValueError(
            f"{which} has {len(ids)} tokens, but this model reads at most {model.cfg.n_ctx}. "
            f"Shorten it; it is never cut silently. It begins: {_begin(prompt)!r}"
        )
    return ids


def _answer_ids(
    answer: str | int | Sequence[str | int] | None, which: str, model: Any
) -> tuple[int, ...]:
    """Token ids of the answers, each exactly one token."""
    if answer is None:
        return ()
    parts = answer if isinstance(answer, tuple) else (cast("str | int", answer),)
    return tuple(
        _one_token(part, which, model)
        if isinstance(part, str)
        else _require_in_vocabulary((part,), which, model)[0]
        for part in parts
    )


def _one_token(text: str, which: str, model: Any) -> int:
    _require_tokenizer(text, which, model)
    ids = model.to_tokens(text, prepend_bos=False, truncate=False)[0].tolist()
    if len(ids) == 1:
        return ids[0]
    hint = "Choose an answer that is one token, or give the id of the token to score."
    spaced = model.to_tokens(f" {text.lstrip()}", prepend_bos=False, truncate=False)[0]
    if len(spaced) == 1:
        spelled = f" {text.lstrip()}"
        hint = f"With one leading space, {spelled!r}, it is one token, like most words mid-text."
    raise ValueError(
        f"{which} {text!r} is {len(ids)} tokens in this model, "
        f"{'|'.join(_str_tokens(ids, model))}, but the metric scores exactly one next token. {hint}"
    )


def _require_tokenizer(text: str, which: str, model: Any) -> None:
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            f"{which} is text ({_begin(text)!r}), but this model has no tokenizer. "
            f"Give it one, as_bridge(model, tokenizer) or load_model(model, tokenizer=...), or "
            f"pass token ids."
        )


def _require_in_vocabulary(ids: tuple[int, ...], which: str, model: Any) -> tuple[int, ...]:
    outside = [i for i in ids if not 0 <= i < model.cfg.d_vocab]
    if outside:
        raise ValueError(
            f"{which} holds token ids outside the vocabulary: {outside[:8]}. This model has ids "
            f"0 to {model.cfg.d_vocab - 1}; were the prompts, or the tokenizer, made for another "
            f"model?"
        )
    return ids


def _str_tokens(ids: Iterable[int], model: Any) -> list[str]:
    tokenizer = getattr(model, "tokenizer", None)
    return [str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids]


def _begin(prompt: str | Sequence[int]) -> str | Sequence[int]:
    return prompt if len(prompt) <= 60 else prompt[:60]
