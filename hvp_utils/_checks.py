"""Checks of arguments, in one place: an error says which argument, what it must be, what it was."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

if TYPE_CHECKING:
    from types import UnionType

#: So many steps, points, probes, layers or heads nobody means; their tables alone would fill the
#: memory.
MOST_STEPS = 10_000


def shown(value: Any) -> str:
    """A value as an error shows it: in a few words, however large it is."""
    if isinstance(value, Tensor | ndarray) and value.ndim:
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)} and type {value.dtype!s}"
    return reprlib.repr(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number, such as a count.

    Raises:
        ValueError: It is not whole, or outside its range.
    """
    if not _is_whole(value) or value < least or (most is not None and value > most):
        range_ = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {range_}, not {shown(value)}.")
    return int(value)


def steps(name: str, value: Any, least: int = 1) -> int:
    """A number of steps, points, probes, layers or heads."""
    if whole(name, value, least) > MOST_STEPS:
        raise ValueError(f"{name} must be at most {MOST_STEPS}, not {shown(value)}.")
    return int(value)


def seed(value: Any, name: str = "seed") -> int:
    """A seed of a random generator."""
    return whole(name, value, 0, 2**63 - 1)


def number(
    name: str,
    value: Any,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    infinite: bool = False,
) -> float:
    """A real number within bounds; infinite only if said so.

    Raises:
        ValueError: It is no number, or outside its bounds.
    """
    if isinstance(value, Tensor | ndarray) and value.ndim == 0:
        value = value.item()
    is_number = isinstance(cast("Any", value), Real) and not isinstance(value, bool)
    inside = is_number and (above < value or above == -math.inf) and least <= value <= most
    inside = inside and (value < below or below == math.inf)
    if not inside or not (infinite or math.isfinite(value)):
        bounds = {"above": above, "at least": least, "at most": most, "below": below}
        said = [f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)]
        raise ValueError(
            f"{name} must be {' and '.join(said) or 'a finite number'}, not {shown(value)}."
        )
    return float(value)


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """One of some words.

    Raises:
        ValueError: It is another.
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {shown(value)}.")
    return value


def truth(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        TypeError: Something else, even where Python would take it for one of the two.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {shown(value)}.")
    return bool(value)


def items(name: str, values: Any, what: str) -> list[Any]:
    """Some things, as a list.

    Raises:
        TypeError: Nothing that can be gone through.
    """
    single = isinstance(values, Tensor | ndarray) and not values.ndim
    if single or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be {what}, not {shown(values)}.")
    return list(values)


def texts(name: str, values: Any) -> list[str]:
    """A list of texts; a single text, which is one too, is most likely a mistake.

    Raises:
        TypeError: Something else.
        ValueError: None at all.
    """
    what = 'a list of names, such as ["hvp"]'
    found: list[Any] = [None] if isinstance(values, str | bytes) else items(name, values, what)
    if not all(isinstance(value, str) for value in found):
        raise TypeError(f"{name} must be {what}, not {shown(values)}.")
    if not found:
        raise ValueError(f"{name} is empty: give at least one name.")
    return found


def indices(name: str, values: Any, n: int) -> Int[Tensor, "*prompt m"]:
    """Numbers of components, on the CPU.

    Raises:
        TypeError: No numbers, or truth values.
        ValueError: No list of them, or one that does not exist. Negative ones do not count from
            the end.
    """
    try:
        found = torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be numbers of components, not {shown(values)}. M.index(labels) gives "
            "those of labels."
        ) from None
    if not found.numel():
        found = found.long()
    if found.dtype == torch.bool:
        raise TypeError(
            f"{name} must be numbers of components, and these are truth values: {shown(values)}. "
            "mask.nonzero()[:, 0] gives the numbers."
        )
    if found.is_floating_point() or found.is_complex():
        raise TypeError(f"{name} must be whole numbers of components, not {shown(values)}.")
    if not found.ndim:
        raise ValueError(f"{name} must be a list of numbers, not the single {shown(values)}.")
    outside = found[(found < 0) | (found >= n)]
    if len(outside):
        raise ValueError(
            f"{name}: there is no component {outside[0].item()}. There are {n}, from 0 to {n - 1}."
        )
    return found.long()


def tensor(
    name: str, value: Any, finite: bool = False, truth_values: bool = False, as_it_is: bool = False
) -> Float[Tensor, "..."]:
    """Real numbers as a tensor; those that are no floating-point tensor are kept in float64.

    Raises:
        TypeError: Something that is not made of real numbers.
        ValueError: NaN, or infinite where that cannot be.
    """
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.is_complex() or (found.dtype == torch.bool and not truth_values):
        raise TypeError(f"{name} must be a tensor or a list of numbers, not {shown(value)}.")
    is_given = isinstance(value, Tensor | ndarray) and found.is_floating_point()
    if not (as_it_is or is_given):
        found = torch.as_tensor(value, dtype=torch.float64)
    if finite and not torch.isfinite(found).all():
        raise ValueError(f"{name} holds values that are NaN or infinite.")
    return found


def together(**tensors: Tensor) -> None:
    """Complain of tensors whose shapes do not go together, element by element.

    Raises:
        ValueError: They do not.
    """
    try:
        torch.broadcast_shapes(*(value.shape for value in tensors.values()))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())
        raise ValueError(
            f"These must have one shape, one number per component: {shapes}."
        ) from None


def array(name: str, value: Any) -> Float[ndarray, "..."]:
    """Real numbers as a NumPy array.

    Raises:
        TypeError: Something that is not made of real numbers.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "iufb":
            raise TypeError
        return found.astype(float)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be an array or a list of numbers, not {shown(value)}."
        ) from None


def instance(name: str, value: Any, kind: type | UnionType | tuple[type, ...], what: str) -> None:
    """Complain of a value of another type.

    Raises:
        TypeError: It is of another.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, not {shown(value)}.")


def model(value: Any, name: str = "model") -> None:
    """Complain of what is no ``TransformerBridge``, nor anything that looks like one.

    Raises:
        TypeError: It has no configuration and makes no tokens.
    """
    if not (hasattr(value, "cfg") and hasattr(value, "to_tokens")):
        raise TypeError(
            f"{name} must be a TransformerBridge, as load_model and as_bridge give it, not "
            f"{shown(value)}."
        )


def token_ids(name: str, values: Any, d_vocab: int) -> Int[Tensor, " n"]:
    """Ids of tokens, at least one. Whether they exist is asked only where that costs no waiting.

    Raises:
        TypeError: Something else, or no list.
        ValueError: None, or one that is outside the vocabulary.
    """
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(())
    whole_numbers = not (found.is_floating_point() or found.is_complex()) or not found.numel()
    if found.ndim != 1 or found.dtype == torch.bool or not whole_numbers:
        raise TypeError(f"{name} must be a list of token ids, not {shown(values)}.")
    if not len(found):
        raise ValueError(f"{name} is empty: give at least one token id.")
    if found.device.type == "cpu" and not (0 <= found.min() and found.max() < d_vocab):
        raise ValueError(f"{name} must be token ids from 0 to {d_vocab - 1}, not {shown(values)}.")
    return found


def members(name: str, values: Any, known: Collection[str]) -> list[str]:
    """Some of a set of words, or one of them.

    Raises:
        TypeError: Nothing that can be gone through.
        ValueError: Other words.
    """
    what = f"some of {', '.join(known)}"
    found = [values] if isinstance(values, str | bytes) else items(name, values, what)
    return [one_of(f"each of {name}", value, known) for value in found]
