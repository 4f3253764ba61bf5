"""What the estimators share."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric

Components = Int[Tensor, " m"] | None


def require_whole(n_steps: int) -> int:
    """A number of steps, checked."""
    if not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be a whole number of at least 1, not {n_steps!r}.")
    return n_steps


def along_path(
    M: PatchedMetric, t: Float[Tensor, " k"], order: Literal[1, 2], components: Components
) -> AxisDerivatives:
    """Derivatives of every component's g_c at the same points: each field is ``[k, m]``."""
    which = torch.arange(M.n) if components is None else torch.as_tensor(components)
    g = M.along_axes(t.repeat_interleave(len(which)), order, which.repeat(len(t)))
    return AxisDerivatives(*(d if d is None else d.reshape(len(t), len(which)) for d in g))


def only(values: Float[Tensor, " n"], components: Components) -> Float[Tensor, " m"]:
    """The values of some components; all by default."""
    return values if components is None else values[torch.as_tensor(components)]
