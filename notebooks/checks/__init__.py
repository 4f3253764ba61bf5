"""Checks of the lessons' exercises, for a reader alone. Each takes a function and judges it.

    from checks.one_head import check_secant

    check_secant(secant)

One module a lesson, named as the lesson is. A check is a function with the mark `check`: it calls
the reader's function on cases so small that the answer is known. It raises `Wrong`, with words that
say what is probably wrong, or returns the sentence that follows "Right". What it prints is one
verdict, and never a traceback.
"""

import functools
import inspect
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["Wrong", "check", "parts", "same", "same_set"]


class Wrong(Exception):
    """What a reader's function gets wrong, in words."""


class NotWritten(Exception):
    """The reader's function still is the stub."""


def check(judge: Callable[[Callable], str]) -> Callable[[Callable], None]:
    """Make a check of a function that judges.

    Args:
        judge: takes the reader's function, raises `Wrong` or returns what has been shown.

    Returns:
        a function that takes the reader's function and prints one verdict.
    """

    @functools.wraps(judge)
    def checked(function: Callable) -> None:
        name = getattr(function, "__name__", "your function")
        try:
            if not callable(function):
                raise Wrong(f"give it your function itself, as in `{judge.__name__}(name)`.")
            verdict = f"✓ Right: {judge(_guarded(function, name))}"
        except NotWritten:
            verdict = (
                f"○ Not written yet: `{name}` returns nothing. Replace the dots, end with "
                "`return ...`, and run the cell again."
            )
        except Wrong as wrong:
            verdict = f"✗ Not yet: {wrong}"
        print(textwrap.fill(verdict, 88, subsequent_indent="  "))

    return checked


def _guarded(function: Callable, name: str) -> Callable:
    """Return the reader's function with errors, stubs and changed arguments told in words."""

    @functools.wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise Wrong(
                f"`{name}` is called with {len(arguments)} argument(s), which does not fit its "
                f"first line ({error}). Keep that line as the exercise has it."
            ) from None
        before = [a.clone() if isinstance(a, torch.Tensor) else None for a in arguments]
        try:
            result = function(*arguments)
        except NotImplementedError:
            raise NotWritten from None
        except Exception as error:
            raise Wrong(_told(error, function, name)) from None
        if result is None or result is ...:
            raise NotWritten
        for given, kept in zip(arguments, before, strict=True):
            if kept is not None and not torch.equal(given, kept):
                raise Wrong(f"`{name}` changes a tensor that it was given. Work on a copy of it.")
        return result

    return guarded


def _told(error: Exception, function: Callable, name: str) -> str:
    """Return one sentence for an error in the reader's function, with its line."""
    file = inspect.unwrap(function).__code__.co_filename if hasattr(function, "__code__") else ""
    lines = [f.line for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f" at `{lines[-1]}`" if lines and lines[-1] else ""
    reason = " ".join(str(error).split()) or "no message"
    if len(reason) > 200:
        reason = reason[:200] + " ..."
    if "does not require grad" in reason:
        reason += " (PyTorch differentiates a derivative only if `create_graph=True` made it.)"
    return f"`{name}` stopped with {type(error).__name__}{where}: {reason}"


def parts(result: Any, names: Sequence[str]) -> Sequence:
    """Return what the reader's function returned, if it has as many parts as there are names."""
    try:
        found = len(result)
    except TypeError:
        found = 1
    if found != len(names):
        raise Wrong(
            f"it returns {found} value(s), and {len(names)} are wanted: {', '.join(names)}."
        )
    return result


def same(
    got: Any,
    want: Any,
    mistakes: Sequence[tuple[Any, str]] = (),
    case: str = "the case",
    tolerance: float = 1e-6,
) -> None:
    """Compare numbers, and say which mistake explains others.

    Args:
        got: what the reader's function returned: a number, or a tensor, array or list of them.
        want: what is right, likewise.
        mistakes: values that typical mistakes give, each with words for the mistake. The first that
            fits is told. A value that is right as well is no mistake and is passed over.
        case: what the function was called with, for a difference that nothing explains.
        tolerance: relative, and absolute too for numbers below 1.

    Raises:
        Wrong: if they differ, in kind, in shape or in value.
    """
    right = _numbers(want)
    try:
        found = _numbers(got)
    except (TypeError, ValueError, RuntimeError):
        kind = "a number" if right.ndim == 0 else f"{right.numel()} numbers"
        raise Wrong(f"it returns a {type(got).__name__} where {kind} should be.") from None

    def fits(value: torch.Tensor) -> bool:
        return value.shape == found.shape and bool(
            torch.isclose(found, value, tolerance, tolerance).all()
        )

    if fits(right):
        return
    for value, words in mistakes:
        if fits(_numbers(value)):
            raise Wrong(words)
    if found.shape != right.shape:
        raise Wrong(
            f"it returns numbers of shape {list(found.shape)} where {list(right.shape)} is wanted "
            "([] is a single number)."
        )
    if not found.isfinite().all():
        raise Wrong(
            f"for {case} it returns {_shown(found)}: is something divided by 0, or a root taken of "
            "a negative number?"
        )
    raise Wrong(f"for {case} it returns {_shown(found)}, and {_shown(right)} is right.")


def same_set(
    got: Any, want: Any, mistakes: Sequence[tuple[Any, str]] = (), case: str = "the case"
) -> None:
    """Compare collections whose order does not count, as `same` compares numbers."""
    try:
        found = {x.item() if isinstance(x, torch.Tensor) else x for x in got}
    except TypeError:
        raise Wrong(f"it returns a {type(got).__name__} where a set or a list should be.") from None
    if found == set(want):
        return
    for value, words in mistakes:
        if found == set(value):
            raise Wrong(words)
    raise Wrong(f"for {case} it returns {_listed(found)}, and {_listed(set(want))} is right.")


def _numbers(value: Any) -> torch.Tensor:
    """Return numbers as a float64 tensor without gradient; complain about anything else."""
    if isinstance(value, (list, tuple)):
        return torch.stack([_numbers(x) for x in value]) if value else torch.empty(0)
    return torch.as_tensor(value).detach().cpu().to(torch.float64)


def _shown(numbers: torch.Tensor) -> str:
    """Return numbers as a reader writes them, at most eight of them."""
    each = [f"{x:.4g}" for x in numbers.flatten().tolist()]
    text = ", ".join(each[:8]) + (", ..." if len(each) > 8 else "")
    return text if numbers.ndim == 0 else f"[{text}]"


def _listed(items: set) -> str:
    return "{" + ", ".join(sorted(map(str, items))) + "}"
