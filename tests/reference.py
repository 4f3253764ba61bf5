"""Slow, obvious versions of everything the package does fast: what its tests compare it with.

Nothing here is clever. Every run is a run of the whole prompt, through all the layers, of one copy
at a time, with plain hooks. Nothing is cached, batched or skipped, and no derivative is taken with
respect to patch strengths where the paper takes it with respect to the activation itself: `hvp`
builds the gradient g and the product H delta as vectors and multiplies them out.

Only one thing is shared with the package: `full_precision`, without which a float64 model would
compute its norms and softmaxes in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hvp_utils.suffix_run import full_precision


@dataclass(frozen=True)
class Component:
    """A slice of one activation tensor.

    `where` indexes the activation of one run, without its batch dimension: `[pos, ...]`.
    """

    label: str
    hook: str
    where: tuple


ALL = slice(None)


def components_of(bridge, kind: str, positions) -> list[Component]:
    """All components of a kind, in the package's order. `positions` are used by kinds
    that have a component for each."""
    components = []
    for layer in range(bridge.cfg.n_layers):
        block = f"blocks.{layer}"
        if kind == "heads":
            for head in range(bridge.cfg.n_heads):
                where = (ALL, head)  # hook_z is [pos, head, d_head]
                components.append(Component(f"L{layer}H{head}", f"{block}.attn.hook_z", where))
        elif kind in ("queries", "keys", "values"):
            shared = getattr(bridge.cfg, "n_key_value_heads", None) or bridge.cfg.n_heads
            heads = bridge.cfg.n_heads if kind == "queries" else shared
            for pos in positions:
                for head in range(heads):
                    label = f"L{layer}H{head}P{pos}"
                    components.append(Component(label, f"{block}.attn.hook_{kind[0]}", (pos, head)))
        elif kind == "mlp_out":
            components.append(Component(f"L{layer}.mlp", f"{block}.hook_mlp_out", (ALL,)))
        elif kind == "resid":
            for pos in positions:
                where = (pos,)
                components.append(Component(f"L{layer}P{pos}", f"{block}.hook_resid_post", where))
        elif kind in ("neurons_pre", "neurons_post"):
            hook = {"neurons_pre": "hook_pre", "neurons_post": "hook_post"}[kind]
            for neuron in range(bridge.cfg.d_mlp):
                where = (ALL, neuron)  # [pos, d_mlp]
                components.append(Component(f"L{layer}N{neuron}", f"{block}.mlp.{hook}", where))
        else:
            raise ValueError(kind)
    return components


class Problem:
    """A model, a prompt pair and a kind of component; what `PatchedMetric` is given.

    Attributes:
        components: All components, in order.
        base: Activations of the base run, by hook, over the whole prompt.
        delta: For each component, a tensor shaped like its whole activation: the difference
            between the other run and the base run at the component, and 0 elsewhere.
    """

    def __init__(self, bridge, pair, kind: str = "heads", direction: str = "denoising"):
        resolved = pair.resolve(bridge)
        self.bridge, self.metric = bridge, resolved.metric
        if resolved.corrupted is None:  # zero ablation: start from the clean run, patch in zeros
            self.base_tokens, self.other_tokens = resolved.clean, None
        elif direction == "denoising":  # start from the corrupted run, patch in the clean one
            self.base_tokens, self.other_tokens = resolved.corrupted, resolved.clean
        else:
            self.base_tokens, self.other_tokens = resolved.clean, resolved.corrupted
        first = 0
        if self.other_tokens is not None:
            pairs = list(zip(self.base_tokens, self.other_tokens, strict=True))
            different = [i for i, (a, b) in enumerate(pairs) if a != b]
            first = different[0] if different else len(pairs) - 1
        positions = range(first, len(self.base_tokens))
        self.components = components_of(bridge, kind, positions)
        self.n = len(self.components)

        hooks = list(dict.fromkeys(component.hook for component in self.components))
        self.base = self._activations(self.base_tokens, hooks)
        if self.other_tokens is None:
            self.other = {hook: torch.zeros_like(self.base[hook]) for hook in hooks}
        else:
            self.other = self._activations(self.other_tokens, hooks)
        self.delta = []
        for component in self.components:
            delta = torch.zeros_like(self.base[component.hook])
            difference = self.other[component.hook] - self.base[component.hook]
            delta[component.where] = difference[component.where]
            self.delta.append(delta)

    def _activations(self, tokens: Tensor, hooks: list[str]) -> dict[str, Tensor]:
        with torch.no_grad(), full_precision(self.bridge.original_model.dtype):
            _, cache = self.bridge.run_with_cache(tokens[None], names_filter=hooks)
        return {hook: cache[hook][0] for hook in hooks}

    def run(self, hooks=(), tokens: Tensor | None = None) -> Tensor:
        """The metric of one run of the base prompt with hooks `(name, activation -> activation)`.

        The activation that a hook sees has its batch dimension, of size 1.
        """
        tokens = self.base_tokens if tokens is None else tokens
        fwd_hooks = [(name, lambda act, hook, change=change: change(act)) for name, change in hooks]
        with full_precision(self.bridge.original_model.dtype):
            logits = self.bridge.run_with_hooks(tokens[None], fwd_hooks=fwd_hooks)
        return self.metric(logits[:, -1])[0]

    def M(self, alpha: Tensor) -> Tensor:
        """The metric with alpha_c * delta_c added to every component c, each where it is live."""
        hooks = []
        for c, component in enumerate(self.components):
            hooks.append((component.hook, lambda live, c=c: live + alpha[c] * self.delta[c]))
        return self.run(hooks)


# --- along one axis: patching one component, all others live ---------------------------------


def along_axis(problem: Problem, c: int, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """g_c(t), g_c'(t) and g_c''(t), by differentiating twice with respect to the number t."""
    t = torch.tensor(t, dtype=problem.delta[c].dtype, requires_grad=True)
    hook = problem.components[c].hook
    value = problem.run([(hook, lambda live: live + t * problem.delta[c])])
    (slope,) = torch.autograd.grad(value, t, create_graph=True)
    if not slope.requires_grad:
        return value.detach(), slope, torch.zeros_like(slope)
    (curvature,) = torch.autograd.grad(slope, t)
    return value.detach(), slope.detach(), curvature


def along_axes(problem: Problem, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """`along_axis` of every component."""
    points = [along_axis(problem, c, t) for c in range(problem.n)]
    values, slopes, curvatures = zip(*points, strict=True)
    return torch.stack(values), torch.stack(slopes), torch.stack(curvatures)


# --- the four estimators ---------------------------------------------------------------------


def activation_patching(problem: Problem) -> Tensor:
    """Overwrite the component with the other run's activation, and see what the metric does."""
    effects = []
    with torch.no_grad():
        base = problem.run()
        for component in problem.components:

            def overwrite(live: Tensor, component=component) -> Tensor:
                live = live.clone()
                live[0][component.where] = problem.other[component.hook][component.where]
                return live

            effects.append(problem.run([(component.hook, overwrite)]) - base)
    return torch.stack(effects)


def gradient_and_hessian_product(
    problem: Problem, c: int, moved: float = 0.0
) -> tuple[Tensor, Tensor]:
    """g and H delta for component c, as tensors shaped like its activation.

    Both are taken with respect to the activation, at the base activation plus `moved` * delta.
    """
    component, delta = problem.components[c], problem.delta[c]
    nudge = torch.zeros_like(delta, requires_grad=True)
    value = problem.run([(component.hook, lambda live: live + moved * delta + nudge)])
    (g,) = torch.autograd.grad(value, nudge, create_graph=True)
    if not g.requires_grad:
        return g, torch.zeros_like(g)
    (h_delta,) = torch.autograd.grad((g * delta).sum(), nudge)
    return g.detach(), h_delta


def attribution_patching(problem: Problem) -> Tensor:
    """g . delta."""
    estimates = []
    for c in range(problem.n):
        g, _ = gradient_and_hessian_product(problem, c)
        estimates.append((g * problem.delta[c]).sum())
    return torch.stack(estimates)


def hvp(problem: Problem) -> Tensor:
    """g . delta + delta^T H delta / 2."""
    estimates = []
    for c in range(problem.n):
        g, h_delta = gradient_and_hessian_product(problem, c)
        delta = problem.delta[c]
        estimates.append((g * delta).sum() + (delta * h_delta).sum() / 2)
    return torch.stack(estimates)


def ms_hvp(problem: Problem, n_steps: int) -> Tensor:
    """Algorithm 1 of the paper: walk from a to a + delta in K steps of delta / K.

    Each step adds the second-order Taylor estimate of what that step changes, from the gradient and
    Hessian where the step begins.
    """
    estimates = []
    for c in range(problem.n):
        step = problem.delta[c] / n_steps
        total = 0.0
        for k in range(n_steps):
            g, h_delta = gradient_and_hessian_product(problem, c, moved=k / n_steps)
            h_step = h_delta / n_steps
            total = total + (g * step).sum() + (step * h_step).sum() / 2
        estimates.append(total)
    return torch.stack(estimates)


# --- any point: all components moved together ------------------------------------------------


def gradient(problem: Problem, alpha: Tensor) -> Tensor:
    """Gradient of M at alpha."""
    return torch.autograd.functional.jacobian(problem.M, alpha)


def hessian_products(problem: Problem, V: Tensor, alpha: Tensor) -> Tensor:
    """H v for each column v of V, one at a time; H is the Hessian of M at alpha."""
    columns = [torch.autograd.functional.vhp(problem.M, alpha, v)[1] for v in V.T]
    return torch.stack(columns, dim=1)


# --- statistics, for one prompt --------------------------------------------------------------


def _largest(values: list[float], k: int) -> list[int]:
    """Indices of the k largest magnitudes; of equals, the first."""
    ranked = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    return ranked[:k]


def top_k_relative_error(estimate: list[float], truth: list[float], k: int = 5) -> float:
    """Mean absolute error on the k largest |true effects| over (max - min) of them all, in %."""
    total = 0.0
    for i in _largest(truth, k):
        total += abs(estimate[i] - truth[i])
    return 100 * (total / k) / (max(truth) - min(truth))


def top_k_overlap(estimate: list[float], truth: list[float], k: int = 5) -> float:
    """How many of the k largest |true effects| the k largest |estimates| contain, as a share."""
    found = 0
    for i in _largest(truth, k):
        if i in _largest(estimate, k):
            found += 1
    return found / k


def kendall_tau(estimate: list[float], truth: list[float]) -> float:
    """Kendall's tau-b of the magnitudes: concordant minus discordant pairs, corrected for ties."""
    x, y = [abs(v) for v in estimate], [abs(v) for v in truth]
    balance = untied_x = untied_y = 0
    for i in range(len(x)):
        for j in range(i):
            sign_x = (x[i] > x[j]) - (x[i] < x[j])
            sign_y = (y[i] > y[j]) - (y[i] < y[j])
            balance += sign_x * sign_y
            untied_x += sign_x != 0
            untied_y += sign_y != 0
    return balance / (untied_x * untied_y) ** 0.5


def spearman(estimate: list[float], truth: list[float]) -> float:
    """Pearson correlation of the ranks of the magnitudes; equals share their mean rank."""

    def ranks(values: list[float]) -> list[float]:
        values = [abs(v) for v in values]
        below = [sum(w < v for w in values) for v in values]
        equal = [sum(w == v for w in values) for v in values]
        return [b + (e + 1) / 2 for b, e in zip(below, equal, strict=True)]

    x, y = ranks(estimate), ranks(truth)
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread_x = sum((a - mean_x) ** 2 for a in x)
    spread_y = sum((b - mean_y) ** 2 for b in y)
    return covariance / (spread_x * spread_y) ** 0.5
