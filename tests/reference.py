"""Slow, obvious versions of everything the package does fast: what its tests compare it with.

Nothing here is clever. Every run is a run of the whole prompt, through all the layers, of one copy
at a time, with plain hooks. Nothing is cached, batched or skipped, and no derivative is taken with
respect to patch strengths where the paper takes it with respect to the activation itself: `hvp`
builds the gradient g and the product H delta as vectors and multiplies them out.

Only one thing is shared with the package: `full_precision`, without which a float64 model would
compute its norms and softmaxes in float32.
"""

from __future__ import annotations

import contextlib
import math
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


def ndcg(estimate: list[float], truth: list[float], k: int = 5, gain: str = "magnitude") -> float:
    """Gains of the k largest |estimates|, discounted by place, over those of the true order."""
    gains = [abs(f) for f in truth]
    if gain == "membership":
        gains = [float(i in _largest(truth, k)) for i in range(len(truth))]

    def discounted(order):
        return sum(gains[i] / math.log2(place + 2) for place, i in enumerate(order))

    return discounted(_largest(estimate, k)) / discounted(_largest(truth, k))


def holm(p_values: list[float]) -> list[float]:
    """Each adjusted p-value as the largest of those that must be passed before it."""
    n = len(p_values)
    by_size = sorted(range(n), key=lambda i: p_values[i])
    adjusted = [0.0] * n
    for place, i in enumerate(by_size):
        passed = [(n - earlier) * p_values[by_size[earlier]] for earlier in range(place + 1)]
        adjusted[i] = min(1.0, max(passed))
    return adjusted


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


# --- edges -----------------------------------------------------------------------------------


class EdgeProblem:
    """M over edges, the long way: every reader's input, and what becomes of it, one by one.

    The model is only ever asked what one of its modules makes of one input. Whole prompts are run,
    on the model as it is: heads that share keys and values get theirs in runs of their own.
    """

    def __init__(self, bridge, pair, direction: str = "denoising"):
        resolved = pair.resolve(bridge)
        runs = {"clean": resolved.clean, "corrupted": resolved.corrupted}
        names = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
        self.tokens, self.other_tokens = (runs[name][None] for name in names)
        self.bridge, self.metric, self.direction = bridge, resolved.metric, direction
        self.n_layers, self.n_heads = bridge.cfg.n_layers, bridge.cfg.n_heads
        self.group = self.n_heads // (
            getattr(bridge.cfg, "n_key_value_heads", None) or self.n_heads
        )
        self.parallel = "Parallel" in type(bridge.blocks[0]).__name__
        self.post_norm = hasattr(bridge.blocks[0], "ln1_post")
        writers, self.edges = ["embed"], []  # (writer, reader)
        for layer in range(self.n_layers):
            heads = [f"L{layer}H{h}" for h in range(self.n_heads)]
            for part in "qkv":
                self.edges += [(u, f"{head}.{part}") for u in writers for head in heads]
            before_mlp = writers if self.parallel else writers + heads
            self.edges += [(u, f"L{layer}.mlp") for u in before_mlp]
            writers = [*writers, *heads, f"L{layer}.mlp"]
        self.edges += [(u, "logits") for u in writers]
        self.labels = tuple(f"{u}->{v}" for u, v in self.edges)
        with torch.no_grad(), self._precision():
            nothing = torch.zeros(len(self.edges), dtype=torch.float64)
            _, self.other = self.forward(nothing, tokens=self.other_tokens)
            _, self.base = self.forward(nothing)

    def _precision(self):
        return full_precision(self.bridge.original_model.dtype)

    def ask(self, wanted: str, **given: Tensor) -> Tensor:
        """What a hook shows when others are given their values."""
        seen = []
        hooks = [(name, lambda act, hook, value=value: value) for name, value in given.items()]
        hooks.append((wanted, lambda act, hook: seen.append(act)))
        self.bridge.run_with_hooks(self.tokens, fwd_hooks=hooks)
        return seen[0]

    def after_norm(self, layer: int, s: Tensor) -> Tensor:
        """What the norm behind the heads makes of their sum, where there is one."""
        if not self.post_norm:
            return s
        return self.ask(
            f"blocks.{layer}.ln1_post.hook_out", **{f"blocks.{layer}.ln1_post.hook_in": s}
        )

    def head(self, layer: int, h: int, inputs: dict[str, Tensor]) -> Tensor:
        """What one head writes, before any norm, given the inputs of its query, key and value."""
        block = f"blocks.{layer}"
        # Of all heads, each from its own input; only this head's output is looked at.
        changed = {
            f"{block}.attn.hook_{part}": self.ask(
                f"{block}.attn.hook_{part}", **{f"{block}.hook_in": inputs[part]}
            )
            for part in "qkv"
        }
        z = self.ask(f"{block}.attn.hook_z", **changed)
        only = torch.zeros_like(z)
        only[:, :, h] = z[:, :, h]
        return self.from_z(layer, only) - self.from_z(layer, torch.zeros_like(z))

    def from_z(self, layer: int, z: Tensor) -> Tensor:
        """The sum of the heads, with its bias, before any norm."""
        out = (
            f"blocks.{layer}.ln1_post.hook_in"
            if self.post_norm
            else f"blocks.{layer}.hook_attn_out"
        )
        return self.ask(out, **{f"blocks.{layer}.attn.hook_z": z})

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        # Parallel blocks may have one norm for attention and MLP.
        norm = "ln2.hook_in" if hasattr(self.bridge.blocks[layer], "ln2") else "hook_in"
        return self.ask(f"blocks.{layer}.hook_mlp_out", **{f"blocks.{layer}.{norm}": x})

    def end(self, x: Tensor) -> Tensor:
        hooks = [(f"blocks.{self.n_layers - 1}.hook_resid_post", lambda act, hook: x)]
        return self.bridge.run_with_hooks(self.tokens, fwd_hooks=hooks)[:, -1]

    def forward(self, alpha, tokens=None, embed_shift=0.0, reader_shift=None, writer_shift=None):
        """Logits, and what every writer wrote; "sum L0" is the sum of layer 0's heads."""
        alpha = dict(zip(self.edges, alpha, strict=True))
        reader_shift, writer_shift = reader_shift or {}, writer_shift or {}
        own, self.tokens = self.tokens, self.tokens if tokens is None else tokens
        try:
            with self._precision():
                return self._forward(alpha, embed_shift, reader_shift, writer_shift)
        finally:
            self.tokens = own

    def _forward(self, alpha, embed_shift, reader_shift, writer_shift):
        x = self.ask("blocks.0.hook_in") + embed_shift
        written = {"embed": x}

        def input_of(reader: str, x: Tensor) -> Tensor:
            x = x + reader_shift.get(reader, 0.0)
            strengths = {u: alpha[u, reader] for u in written if (u, reader) in alpha}
            strengths = {u: s for u, s in strengths.items() if s.requires_grad or s != 0}
            behind = {}
            for u, strength in strengths.items():
                moved = strength * (self.other[u] - written[u])
                if "H" in u and self.post_norm:
                    layer = int(u[1 : u.index("H")])
                    behind[layer] = behind.get(layer, 0.0) + moved
                else:
                    x = x + moved
            for layer, moved in behind.items():
                s = written[f"sum L{layer}"]
                x = x + self.after_norm(layer, s + moved) - self.after_norm(layer, s)
            return x

        for layer in range(self.n_layers):
            heads = {}
            for h in range(self.n_heads):
                name = f"L{layer}H{h}"
                inputs = {part: input_of(f"{name}.{part}", x) for part in "qkv"}
                heads[name] = self.head(layer, h, inputs) + writer_shift.get(name, 0.0)
            z = self.ask(f"blocks.{layer}.attn.hook_z")
            s = self.from_z(layer, torch.zeros_like(z)) + sum(heads.values())
            mid = x + self.after_norm(layer, s)
            mlp = f"L{layer}.mlp"
            if not self.parallel:
                written |= {**heads, f"sum L{layer}": s}
            out = self.mlp(layer, input_of(mlp, x if self.parallel else mid))
            written |= {**heads, f"sum L{layer}": s, mlp: out + writer_shift.get(mlp, 0.0)}
            x = mid + written[mlp]
        return self.end(input_of("logits", x)), written

    def M(self, alpha: Tensor) -> Tensor:
        return self.metric(self.forward(alpha)[0])[0]

    def along_axis(self, c: int) -> tuple[Tensor, Tensor]:
        """The effect of one edge, and its slope at 0."""
        unit = torch.eye(len(self.edges), dtype=torch.float64)[c]
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        at_0 = self.M(t * unit)
        (slope,) = torch.autograd.grad(at_0, t)
        with torch.no_grad():
            return self.M(unit) - at_0, slope

    def contribution(self, u: str, t: Tensor) -> Tensor:
        """What writer u adds to a reader at strength t, its layer being as in the base run."""
        moved = t * (self.other[u] - self.base[u])
        if "H" in u and self.post_norm:
            layer = int(u[1 : u.index("H")])
            s = self.base[f"sum L{layer}"]
            return self.after_norm(layer, s + moved) - self.after_norm(layer, s)
        return moved

    def scores(self, embed_shift=0.0, writer_shift=None) -> Tensor:
        """For every edge the gradient at its reader's input times what its writer would change."""
        readers = dict.fromkeys(v for _, v in self.edges)
        shape = self.base["embed"]
        leaves = {v: torch.zeros_like(shape, requires_grad=True) for v in readers}
        alpha = torch.zeros(len(self.edges), dtype=torch.float64)
        logits, _ = self.forward(
            alpha, embed_shift=embed_shift, reader_shift=leaves, writer_shift=writer_shift
        )
        found = torch.autograd.grad(self.metric(logits)[0], list(leaves.values()))
        gradients = dict(zip(leaves, found, strict=True))
        with self._precision():
            written = {
                u: torch.autograd.functional.jvp(
                    lambda t, u=u: self.contribution(u, t),
                    torch.zeros((), dtype=torch.float64),
                    torch.ones((), dtype=torch.float64),
                )[1]
                for u, _ in dict.fromkeys((u, None) for u, _ in self.edges)
            }
        return torch.stack([(written[u] * gradients[v]).sum() for u, v in self.edges])

    def eap_ig(self, points, where: str) -> Tensor:
        """The mean of `scores` over points from the corrupted (0) to the clean prompt (1)."""
        if self.direction == "noising":
            points = [1 - t for t in points]
        difference = {u: self.other[u] - self.base[u] for u in self.other if "sum" not in u}
        groups = [["embed"]]
        if where == "activations":
            for layer in range(self.n_layers):
                groups += [[f"L{layer}H{h}" for h in range(self.n_heads)], [f"L{layer}.mlp"]]
        runs = []
        for group in groups:
            for t in points:
                if group == ["embed"]:
                    runs.append(self.scores(embed_shift=t * difference["embed"]))
                else:
                    runs.append(self.scores(writer_shift={u: t * difference[u] for u in group}))
        return torch.stack(runs).mean(0)

    def eap_gp(self, n_steps: int) -> Tensor:
        """The mean of `scores` along the path from the clean embedding, its start left out."""
        to_other = self.other["embed"] - self.base["embed"]
        nothing = torch.zeros_like(to_other)
        clean, corrupted = (
            (to_other, nothing) if self.direction == "denoising" else (nothing, to_other)
        )
        alpha = torch.zeros(len(self.edges), dtype=torch.float64)
        goal = self.forward(alpha, embed_shift=corrupted)[0].detach()
        shift, runs = clean, []
        for _ in range(n_steps):
            shift = shift.detach().requires_grad_()
            logits, _ = self.forward(alpha, embed_shift=shift)
            (uphill,) = torch.autograd.grad((logits - goal).square().sum(), shift)
            shift = (shift - uphill / uphill.norm()).detach()
            runs.append(self.scores(embed_shift=shift))
        return torch.stack(runs).mean(0)

    def local_curvature(self, c: int) -> Tensor:
        """Second derivative at 0 of <gradient at the reader's output, the reader's output>."""
        u, v = self.edges[c]
        alpha, written = torch.zeros(len(self.edges), dtype=torch.float64), self.base
        # The stream that the readers of each layer see in the base run.
        stream = [written["embed"]]
        for layer in range(self.n_layers):
            with self._precision():
                mid = stream[-1] + self.after_norm(layer, written[f"sum L{layer}"])
            stream.append(mid + written[f"L{layer}.mlp"])
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        with self._precision():
            added = self.contribution(u, t)
            if v == "logits":
                value = self.metric(self.end(stream[-1] + added))[0]
            else:
                node, _, part = v.partition(".")
                layer = int(node[1:].partition("H")[0])
                writer = v if part == "mlp" else node
                leaf = torch.zeros_like(stream[0], requires_grad=True)
                logits, _ = self.forward(alpha, writer_shift={writer: leaf})
                (g,) = torch.autograd.grad(self.metric(logits)[0], leaf)
                if part == "mlp":
                    x = stream[layer]
                    if not self.parallel:
                        x = x + self.after_norm(layer, written[f"sum L{layer}"])
                    out = self.mlp(layer, x + added)
                else:
                    inputs = dict.fromkeys("qkv", stream[layer])
                    inputs[part] = inputs[part] + added
                    out = self.head(layer, int(node.partition("H")[2]), inputs)
                value = (g * out).sum()
            (first,) = torch.autograd.grad(value, t, create_graph=True)
            if not first.requires_grad:
                return torch.zeros_like(t).detach()
            return torch.autograd.grad(first, t)[0]


def transformer_lens_edges(tool, bridge, pair, direction: str) -> dict[str, float]:
    """TransformerLens' edge scores, which are for each position, added up; by our labels."""
    other, base, metric = _for_transformer_lens(bridge, pair, direction)
    config = tool.EdgeAttributionConfig(granularity="edge")
    with _differentiable(bridge):
        found = tool.attribution_patch(bridge, other, base, metric, config)
    scores: dict[str, float] = {}
    for (writer, reader), score in found.edge_scores.items():
        label = f"{_label_of(writer)}->{_label_of(reader)}"
        scores[label] = scores.get(label, 0.0) + score
    return scores


def transformer_lens_circuit(tool, bridge, pair, kept: set[str]) -> float:
    """The metric of the clean run with all edges but some from the corrupted run."""
    other, base, metric = _for_transformer_lens(bridge, pair, "noising")
    config = tool.EdgeAttributionConfig(granularity="edge")
    with _differentiable(bridge):
        edges = tool.attribution_patch(bridge, other, base, metric, config).edge_scores
        circuit = [edge for edge in edges if "->".join(map(_label_of, edge)) in kept]
        found = tool.faithfulness(bridge, base, other, metric, circuit)
    gap = found.full_metric - found.corrupt_metric
    return found.corrupt_metric + found.recovered * gap


def _for_transformer_lens(bridge, pair, direction: str):
    """The other prompt, the base prompt and the metric of one run."""
    resolved = pair.resolve(bridge)
    prompts = [resolved.clean[None], resolved.corrupted[None]]
    other, base = prompts if direction == "denoising" else prompts[::-1]
    return other, base, lambda logits: resolved.metric(logits[:, -1])[0]


@contextlib.contextmanager
def _differentiable(bridge):
    """It takes gradients where parameters have them."""
    bridge.requires_grad_(True)
    try:
        with full_precision(bridge.original_model.dtype):
            yield
    finally:
        bridge.requires_grad_(False)


def _label_of(node) -> str:
    if node.kind in ("embed", "logits"):
        return node.kind
    if node.kind.startswith("mlp"):
        return f"L{node.layer}.mlp"
    part = "" if node.kind == "attn_head_out" else f".{node.kind[0]}"
    return f"L{node.layer}H{node.head}{part}"
