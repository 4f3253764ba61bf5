"""What the prompt generators share: drawing without repeats, and looking tokens up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

from hvp_utils import _checks

from .prompt_pair import PromptPair

# Position of the token that random-token corruption replaces, counted in the sequence that the
# model reads: where a beginning-of-sequence token is prepended, that token is position 0.
RANDOM_TOKEN_POSITION = 3


def draw(total: int, rng: random.Random) -> Iterator[int]:
    """Yield ``0 .. total-1`` in random order, each once, without building the whole list.

    A Fisher-Yates shuffle that remembers only the places it has touched. What comes first does
    not depend on how many are drawn, so a longer list of prompts begins with the shorter one.
    """
    moved: dict[int, int] = {}
    for i in range(total):
        j = rng.randrange(i, total)
        chosen = moved.get(j, j)
        moved[j] = moved.pop(i, i)
        yield chosen


def take(
    n: int,
    total: int,
    build: Callable[[int, random.Random], PromptPair | None],
    task: str,
    seed: int,
) -> list[PromptPair]:
    """The first ``n`` pairs that ``build`` makes from indices drawn without repeats.

    Args:
        n: Number of pairs.
        total: Number of candidates.
        build: Makes a pair from an index below ``total``; ``None`` if this tokenizer cannot
            express that candidate.
        task: Name for the error message and for the random stream.
        seed: Seed of the random stream.

    Raises:
        ValueError: If ``n`` is negative or more pairs are asked for than exist.
    """
    _checks.whole("n", n, 0)
    _checks.instance("seed", seed, Integral, "a whole number")
    if total > 10_000:
        # Known at once, and drawing millions of candidates just to fail would take minutes.
        _require_enough(n, total, task)
    # Seeding with a string keeps the tasks' streams apart, and is the same on every Python.
    rng = random.Random(f"{task}/{seed}")
    pairs: list[PromptPair] = []
    for index in draw(total, rng):
        if len(pairs) == n:
            break
        pair = build(index, rng)
        if pair is not None:
            pairs.append(pair)
    _require_enough(n, len(pairs), task)
    return pairs


def _require_enough(n: int, available: int, task: str) -> None:
    if available < n:
        raise ValueError(
            f"task {task!r}: {n} prompts were asked for, but with this model's tokenizer only "
            f"{available} different ones exist. Ask for at most {available}."
        )


def token_ids(model: Any, text: str) -> list[int]:
    """Token ids of a whole prompt, with the model's own beginning-of-sequence convention."""
    return model.to_tokens(text, truncate=False)[0].tolist()


def single_token(model: Any, text: str) -> int | None:
    """The id of ``text`` if it is exactly one token in the middle of a prompt, else ``None``."""
    ids = model.to_tokens(text, prepend_bos=False, truncate=False)[0].tolist()
    return ids[0] if len(ids) == 1 else None


def require_tokenizer(model: Any, task: str) -> None:
    """Raise ``ValueError`` if the model cannot read text."""
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            f"task {task!r} writes its prompts as text, but this model has no tokenizer. Load the "
            f"model with its tokenizer, or make PromptPair objects from token ids."
        )


def ordinary_tokens(model: Any) -> list[int]:
    """All token ids a random token may be: the vocabulary without special and added tokens."""
    tokenizer = model.tokenizer
    markers = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", ()))
    # Some models pad their vocabulary beyond the tokenizer's; those ids stand for no text.
    return [i for i in range(min(len(tokenizer), model.cfg.d_vocab)) if i not in markers]


def with_random_token(
    model: Any,
    text: str,
    ordinary: list[int],
    rng: random.Random,
    position: int = RANDOM_TOKEN_POSITION,
) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Replace one token by another, drawn uniformly from ``ordinary``.

    At position 3 this is the paper's corruption for Greater-Than and factual prompts (section 4,
    experimental setup). A random token seldom survives a round trip through text, so both runs are
    token ids.

    Returns:
        Clean ids, corrupted ids, and a readable description of the change.
    """
    clean = token_ids(model, text)
    replacement = clean[position]
    while replacement == clean[position]:
        replacement = rng.choice(ordinary)
    corrupted = [*clean[:position], replacement, *clean[position + 1 :]]
    before, after = (model.tokenizer.decode([i]) for i in (clean[position], replacement))
    description = f"{text} [position {position}: {before!r} -> {after!r}]"
    return tuple(clean), tuple(corrupted), description
