"""What the estimators share."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric

Components = Int[Tensor, "*prompt m"] | None


def along_path(
    M: PatchedMetric, t: Float[Tensor, " k"], order: Literal[1, 2], components: Components
) -> AxisDerivatives:
    """Derivatives of every component's g_c at the same points: each field is ``[k, ..., m]``."""
    which = torch.arange(M.n)
    if components is not None:
        which = _checks.indices("components", components, M.n)
    k, m = len(t), which.shape[-1]
    if not k:
        nothing = torch.zeros(0, *M.prompt_dims, m).to(M.delta_norm)
        return AxisDerivatives(*([nothing] * (order + 1)))
    g = M.along_axes(t.repeat_interleave(m), order, torch.cat([which] * k, dim=-1))
    return AxisDerivatives._make(
        d if d is None else d.unflatten(-1, (k, m)).movedim(-2, 0) for d in g
    )


def only(values: Float[Tensor, "*prompt n"], components: Components) -> Float[Tensor, "*prompt m"]:
    """The values of some components; all by default."""
    if components is None:
        return values
    components = _checks.indices("components", components, values.shape[-1]).to(values.device)
    if components.ndim == 1:
        return values[..., components]
    if components.ndim != values.ndim or len(components) != len(values):
        raise ValueError(
            f"components must be a list of numbers, or one for each prompt of M.each, not of shape "
            f"{tuple(components.shape)}."
        )
    return values.gather(-1, components)  # each prompt has its own
