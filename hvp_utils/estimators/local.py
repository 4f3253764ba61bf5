"""The curvature of a neuron alone: the correction that stops at the neuron itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils.patched_metric import PatchedMetric

from .common import Components, only
from .taylor import attribution_patching


def local_curvature(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Attribution patching plus the curvature of the patched neuron's own activation function.

    The correction that stops at the neuron itself; the paper's counter-example.

    Source:
        Zhang & Wang (2026), section 3.3 and figure 2.

    Raises:
        ValueError: The components are not pre-activation neurons.
    """
    return attribution_patching(M, components) + local_quadratic_term(M, components)


def local_quadratic_term(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Half of act''(z) delta^2 times the gradient at the neuron's output, over all positions.

    Source:
        Zhang & Wang (2026), section 3.3.

    Raises:
        ValueError: The components are not pre-activation neurons.
    """
    if not M.components.startswith("neurons_pre"):
        raise ValueError(
            "The local curvature is that of an activation function, so it needs components "
            f'"neurons_pre" (or "neurons_pre:256"), not {M.components!r}.'
        )
    outputs = [site.hook.replace("hook_pre", "hook_post") for site in M.sites]
    strengths, value, seen = M.traced(hooks=outputs)
    posts = [seen[hook] for hook in outputs]
    gradients = torch.autograd.grad(value, posts, retain_graph=True)
    terms = []
    for strength, post, gradient in zip(strengths, posts, gradients, strict=True):
        # A neuron's output depends on no strength of its layer but its own: one pass serves all.
        (first,) = torch.autograd.grad((gradient * post).sum(), strength, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), strength, retain_graph=True)
        terms.append(second[0] / 2)
    return only(torch.cat(terms), components)
