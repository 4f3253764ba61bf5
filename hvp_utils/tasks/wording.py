"""What the tasks that exchange words share: words of one token, and where two prompts differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .sampling import single_token, token_ids


def one_token(model: Any, words: Iterable[str]) -> tuple[str, ...]:
    """Those of the words which, after a space, are one token in this model."""
    return tuple(word for word in words if single_token(model, f" {word}") is not None)


def spaced(words: Iterable[str]) -> tuple[str, ...]:
    """The words with a leading space each, as answers are written."""
    return tuple(f" {word}" for word in words)


def changed_positions(model: Any, clean: str, corrupted: str) -> list[int] | None:
    """Positions at which two prompts hold different tokens; ``None`` if they differ in length."""
    ids, others = token_ids(model, clean), token_ids(model, corrupted)
    if len(ids) != len(others):
        return None
    return [i for i, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b]
