"""M(alpha), the one function that everything in this package is a derivative of.

Fix a model, a prompt pair and n components. Component c has activation a_c in the *base* run and
a_c + delta_c in the *other* run. With patch strengths alpha in R^n,

    M(alpha) = metric of the base run, with alpha_c * delta_c added to every component c.

On an axis nothing upstream of c changes, so M(t e_c) is the metric with component c set to
a_c + t delta_c. Writing g_c(t) = M(t e_c), activation patching is g_c(1) - g_c(0), attribution
patching g_c'(0), the quadratic form delta^T H delta of the paper g_c''(0), and the Hessian of M at
0 holds the interactions between components off its diagonal.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.autograd.forward_ad as fwAD
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from hvp_utils.components import find_sites
from hvp_utils.models import as_bridge
from hvp_utils.suffix_run import SuffixRun
from hvp_utils.tasks import PromptPair

__all__ = ["AxisDerivatives", "Direction", "PatchedMetric"]

Direction = Literal["denoising", "noising"]

# Tokens run together by default. On a CPU more rows than this only fall out of the caches; a GPU
# wants many more to be busy.
_TOKENS_PER_BATCH = {"cpu": 224, "cuda": 16384}


def tokens_per_batch(device: str) -> int:
    """Tokens that are run together by default on a kind of device."""
    return _TOKENS_PER_BATCH.get(device, _TOKENS_PER_BATCH["cpu"])


class AxisDerivatives(NamedTuple):
    """g_c(t) and its derivatives, one number per component; those not asked for are ``None``."""

    value: Float[Tensor, " n"]
    slope: Float[Tensor, " n"] | None = None
    curvature: Float[Tensor, " n"] | None = None
    third: Float[Tensor, " n"] | None = None


class PatchedMetric:
    """The metric as a function of patch strengths, with its derivatives.

    Args:
        model: A ``TransformerBridge`` or a Hugging Face causal language model.
        pair: The two prompts and the metric.
        components: What is patched; see ``hvp_utils.components.find_sites``.
        direction: ``"denoising"`` takes the corrupted run as base and patches towards the clean
            one; ``"noising"`` is the reverse. Zero ablation (a pair without a corrupted prompt)
            starts from the clean run, so it is noising.
        batch_size: Patched copies of the prompt run together. By default chosen for the device. It
            halves by itself when memory runs out, and never changes the result beyond rounding.
        seed: Seed for sampled components.

    Attributes:
        n: Number of components.
        labels: Their labels, such as ``L4H11``, in layer order.
        layers: Their layers, ``[n]``.
        delta_norm: Euclidean norm of each activation difference, ``[n]``.
        base: The metric of the base run, g_c(0).
        other: The metric of the other run; NaN for zero ablation, which has no other run.
        n_tokens: Tokens of either prompt.
        n_run: Tokens that every run has to process: those from the first difference on.
        model: The model, as a ``TransformerBridge``.
        run: Runs of the base prompt (a ``SuffixRun``).
        sites: The activation tensors that hold the components, in layer order.
        deltas: For each site the difference of its activation, other run minus base run,
            ``[n_run, *rest]``.

    Raises:
        ValueError: Prompts, answers, components or direction that cannot be used (the message says
            why), or a metric that is not finite.
        TypeError: A model of the wrong kind, or curvature asked of a half-precision model.

    Example:
        >>> M = PatchedMetric(model, reference_pair())
        >>> truth = M.along_axes(1.0, order=0).value - M.base
    """

    def __init__(
        self,
        model: TransformerBridge | PreTrainedModel,
        pair: PromptPair,
        components: str = "heads",
        direction: Direction = "denoising",
        batch_size: int | None = None,
        seed: int = 0,
    ):
        if direction not in ("denoising", "noising"):
            raise ValueError(f'direction must be "denoising" or "noising", not {direction!r}.')
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.model = bridge = as_bridge(model)
        resolved = pair.resolve(bridge)
        self.pair, self.components, self.direction = pair, components, direction
        self._metric = resolved.metric
        if resolved.corrupted is None and direction == "denoising":
            raise ValueError(
                f"{pair.name or pair.clean!r} has no corrupted prompt (zero ablation), so there is "
                'no corrupted run to start from. Use direction="noising".'
            )

        start = resolved.first_difference
        runs = {"clean": resolved.clean, "corrupted": resolved.corrupted}
        base, other = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
        self.run = SuffixRun(bridge, runs[base], start)

        self.n_tokens, self.n_run = len(runs[base]), len(runs[base]) - start
        self.sites = find_sites(bridge, components, range(start, self.n_tokens), seed)
        hooks = [site.hook for site in self.sites]
        logits, a = self.run.unpatched(hooks)
        self.base = self._checked(self._metric(logits)).item()
        if runs[other] is None:
            self.deltas, self.other = [-a[hook] for hook in hooks], float("nan")
        else:
            other_run = SuffixRun(bridge, runs[other], start, prefix=self.run.prefix)
            logits, a_other = other_run.unpatched(hooks)
            self.deltas = [a_other[hook] - a[hook] for hook in hooks]
            self.other = self._checked(self._metric(logits)).item()

        sizes = [len(site.labels) for site in self.sites]
        device = runs[base].device
        self.n, self._sizes = sum(sizes), sizes
        self.labels = tuple(label for site in self.sites for label in site.labels)
        self.layers = torch.tensor([site.layer for site in self.sites]).repeat_interleave(
            torch.tensor(sizes)
        )
        self.delta_norm = torch.cat(
            [site.norms(delta) for site, delta in zip(self.sites, self.deltas, strict=True)]
        )
        self._offsets = [0, *itertools.accumulate(sizes[:-1])]
        self._dtype, self._device = self.delta_norm.dtype, device
        self.batch_size = batch_size or max(1, tokens_per_batch(device.type) // self.n_run)

    # --- M and its derivatives at any point ----------------------------------------------------

    def __call__(self, alpha: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """M(alpha) for one or many alpha. Differentiable in ``alpha``, twice and more."""
        rows = self._rows(alpha)
        parts = self._map(lambda part: self._evaluate(rows[part]), len(rows))
        return torch.cat(list(parts)).reshape(alpha.shape[:-1])

    def gradient(self, alpha: Float[Tensor, "*batch n"] | None = None) -> Float[Tensor, "*batch n"]:
        """Gradient of M, for all components at once; at 0 unless ``alpha`` is given."""
        alpha = self._zeros() if alpha is None else torch.as_tensor(alpha)
        rows = self._rows(alpha).detach()

        def gradient_of(part: slice) -> Tensor:
            a = rows[part].clone().requires_grad_()
            return _derivative(self._evaluate(a).sum(), a)

        return torch.cat(list(self._map(gradient_of, len(rows)))).reshape(alpha.shape)

    def hessian_matvec(
        self, V: Float[Tensor, "n k"], alpha: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n k"]:
        """Products of the Hessian of M with the columns of V.

        One run and one backward pass serve all columns; only the second backward pass, through
        both of them, is made for each (Pearlmutter 1994), and many of those go together.

        Args:
            V: One or many directions, as columns.
            alpha: Where the Hessian is taken; 0 by default.
        """
        return self.gradient_and_hessian(alpha)[1](V)

    def gradient_and_hessian(
        self, alpha: Float[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, " n"], Callable[[Float[Tensor, "n k"]], Float[Tensor, "n k"]]]:
        """The gradient at one point, and ``hessian_matvec`` there, which share its run.

        For algorithms that ask for products again and again: run and first backward pass are made
        once. The second thing returned holds on to them.
        """
        self.require_full_precision()
        points = self._rows(self._zeros() if alpha is None else alpha).detach()
        if len(points) != 1:
            raise ValueError(f"A Hessian is taken at one point alpha, but {len(points)} are given.")
        strengths, slopes = self._gradient_graph(points)

        def products(V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
            V = torch.as_tensor(V, dtype=self._dtype, device=self._device)
            if V.ndim != 2 or V.shape[0] != self.n:
                raise ValueError(f"V must be [n, k] with n = {self.n}, not {tuple(V.shape)}.")
            directions = [part.T[:, None] for part in V.split(self._sizes)]

            def products_of(part: slice) -> Tensor:
                v = [direction[part] for direction in directions]
                return torch.cat(_batched_derivative(slopes, strengths, v), dim=-1)[:, 0]

            return torch.cat(list(self._map(products_of, V.shape[1]))).T

        return torch.cat(slopes, dim=1)[0].detach(), products

    def hvp(
        self, v: Float[Tensor, " n"], alpha: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """One Hessian-vector product, at 0 unless ``alpha`` is given."""
        v = torch.as_tensor(v, dtype=self._dtype, device=self._device)
        return self.hessian_matvec(v.reshape(-1, 1), alpha)[:, 0]

    # --- derivatives along every axis ----------------------------------------------------------

    def along_axes(
        self,
        t: float | Float[Tensor, " n"] = 0.0,
        order: Literal[0, 1, 2, 3] = 2,
        components: Int[Tensor, " m"] | None = None,
    ) -> AxisDerivatives:
        """g_c(t) and its first derivatives, for every component c.

        Args:
            t: Where along each axis; one number for all, or one per component.
            order: Highest derivative wanted: 0 (values), 1 (slopes too), 2 (curvatures too) or 3
                (third derivatives too).
            components: Indices of the components wanted, all by default; results follow this order.

        Returns:
            One number per component each, detached. A component whose activation is the same in
            both runs gets exactly ``base``, 0 and 0, without being run.

        Raises:
            TypeError: ``order`` above 1 on a model in half precision.
        """
        if order not in (0, 1, 2, 3):
            raise ValueError(f"order must be 0, 1, 2 or 3, not {order!r}.")
        if order > 1:
            self.require_full_precision()
        wanted, t = self._places(t, components)
        results = torch.zeros(order + 1, len(wanted), dtype=self._dtype, device=self._device)
        results[0] = self.base
        moving = (self.delta_norm.cpu()[wanted] > 0).nonzero()[:, 0]
        # In layer order, since a row enters the batch at the layer of its component.
        moving = moving[self.layers[wanted[moving]].argsort(stable=True)]

        if order in (1, 2):
            # At 0 all axes meet: one run serves them all.
            here = (t == 0).cpu()[moving]
            meeting, moving = moving[here], moving[~here]
            if len(meeting):
                at_base = self._at_base(wanted[meeting], order)
                results[:, meeting.to(self._device)] = at_base

        def derivatives_of(part: slice) -> Tensor:
            index = moving[part]
            return self._axis_batch(wanted[index], t[index.to(self._device)], order)

        parts = list(self._map(derivatives_of, len(moving)))
        if parts:
            results[:, moving.to(self._device)] = torch.cat(parts, dim=1)
        return AxisDerivatives(*results)

    def hessian_delta(
        self,
        t: float | Float[Tensor, " m"] = 0.0,
        components: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "m size"]:
        """H delta for every component c, H the Hessian in c's own activation at a_c + t delta_c.

        Where ``along_axes`` gives the number delta^T H delta, this gives the vector H delta.

        Args:
            t: Where along each axis; one number for all, or one per component.
            components: Indices; all by default.

        Returns:
            One row per component: its activation tensor at the ``n_run`` positions that are run,
            flattened, zero outside c.

        Raises:
            TypeError: A model in half precision.
        """
        self.require_full_precision()
        wanted, t = self._places(t, components)
        order = self.layers[wanted].argsort(stable=True)

        def vectors_of(part: slice) -> Tensor:
            index = order[part]
            at = t[index.to(self._device)].clone().requires_grad_()
            strengths, entering, sites = self._rows_on_axes(wanted[index], at)
            shifts = {
                i: self.deltas[i].new_zeros(len(at), *self.deltas[i].shape).requires_grad_()
                for i in strengths
            }
            value = self._metric_with(strengths, entering, shifts=shifts)
            slope = _derivative(value.sum(), at, create_graph=True)
            rows = at.new_zeros(len(at), self.deltas[0].numel())
            if not slope.requires_grad:
                return rows
            found = torch.autograd.grad(slope.sum(), list(shifts.values()), materialize_grads=True)
            for (i, (row, column)), vectors in zip(sites.items(), found, strict=True):
                own = at.new_zeros(len(row), self._sizes[i]).scatter(1, column[:, None], 1.0)
                rows[row] = (vectors[row] * self.sites[i].spread(own)).flatten(1)
            return rows

        vectors = torch.cat(list(self._map(vectors_of, len(wanted))))
        return vectors[order.argsort().to(self._device)]

    def _at_base(
        self, components: Int[Tensor, " m"], order: Literal[1, 2]
    ) -> Float[Tensor, "order m"]:
        """g, g' and perhaps g'' at 0 of some components, in layer order."""
        here = components.to(self._device)
        if order == 1:
            slope = self.gradient()[here]
            return torch.stack([torch.full_like(slope, self.base), slope])
        strengths, slopes = self._gradient_graph(self._rows(self._zeros()))
        site_of = torch.arange(len(self.sites)).repeat_interleave(torch.tensor(self._sizes))

        def curvatures_of(part: slice) -> Tensor:
            chosen = components[part]
            # Only the sites these components live at: nothing below their layers is run.
            first, last = site_of[chosen[0]].item(), site_of[chosen[-1]].item()
            sites = slice(first, last + 1)
            column = (chosen - self._offsets[first]).to(self._device)[:, None]
            blank = slopes[0].new_zeros(len(chosen), sum(self._sizes[sites]))
            axes = blank.scatter(1, column, 1.0)
            directions = axes[:, None].split(self._sizes[sites], dim=-1)
            rows = _batched_derivative(slopes[sites], strengths[sites], directions)
            return torch.cat(rows, dim=-1)[:, 0].gather(1, column)[:, 0]

        curvature = torch.cat(list(self._map(curvatures_of, len(components))))
        slope = torch.cat(slopes, dim=1)[0].detach()[here]
        return torch.stack([torch.full_like(slope, self.base), slope, curvature])

    def _axis_batch(
        self, components: Int[Tensor, " b"], t: Float[Tensor, " b"], order: int
    ) -> Float[Tensor, "order b"]:
        """g, g', ... of a few components, each in a row of its own."""
        t = t.clone().requires_grad_(order > 0)
        strengths, entering, _ = self._rows_on_axes(components, t)
        with torch.set_grad_enabled(order > 0):
            value = self._metric_with(strengths, entering)
        derivatives = [value]
        for k in range(order):
            # Row b depends on t_b alone, so the gradient of the sum holds every row's derivative.
            derivatives.append(_derivative(derivatives[-1].sum(), t, create_graph=k + 1 < order))
        return torch.stack([d.detach() for d in derivatives])

    def _places(
        self, t: float | Tensor, components: Int[Tensor, " m"] | None
    ) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
        """The components wanted, all by default, and where on its axis each is."""
        wanted = torch.arange(self.n) if components is None else torch.as_tensor(components).cpu()
        t = torch.as_tensor(t, dtype=self._dtype, device=self._device).detach()
        t = t.expand(len(wanted)) if t.ndim == 0 else t
        if t.shape != wanted.shape:
            raise ValueError(
                f"t must be one number or one per component: {tuple(t.shape)} given, "
                f"{len(wanted)} components."
            )
        return wanted, t

    def _rows_on_axes(
        self, components: Int[Tensor, " b"], t: Float[Tensor, " b"]
    ) -> tuple[dict[int, Tensor], collections.Counter, dict[int, tuple[Tensor, Tensor]]]:
        """Patch strengths with one component a row, how many rows enter where, and who is where."""
        entering = collections.Counter(self.layers[components].tolist())
        components = components.to(self._device)
        strengths, places = {}, {}
        for i, (start, size) in enumerate(zip(self._offsets, self._sizes, strict=True)):
            here = (components >= start) & (components < start + size)
            if here.any():
                places[i] = here.nonzero()[:, 0], components[here] - start
                strengths[i] = t.new_zeros(len(t), size).index_put(places[i], t[here])
        return strengths, entering, places

    # --- the machinery -------------------------------------------------------------------------

    def _evaluate(self, alpha: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        # A site with all strengths at 0 can be left out, unless derivatives pass through it.
        tracked = alpha.requires_grad or fwAD.unpack_dual(alpha).tangent is not None
        parts = alpha.split(self._sizes, dim=1)
        strengths = {i: part for i, part in enumerate(parts) if tracked or part.count_nonzero()}
        start = min((self.sites[i].layer for i in strengths), default=0)
        return self._metric_with(strengths, {start: len(alpha)})

    def traced(
        self, point: Float[Tensor, "1 n"] | None = None, hooks: Sequence[str] = ()
    ) -> tuple[list[Float[Tensor, "1 n_i"]], Tensor, dict[str, Tensor]]:
        """One run with its graph: patch strengths site by site, the metric, some activations.

        Args:
            point: The patch strengths; 0 by default.
            hooks: Hooks whose activations ``[1, n_run, ...]`` are wanted.
        """
        point = self._rows(self._zeros()) if point is None else point
        strengths = [part.clone().requires_grad_() for part in point.split(self._sizes, dim=1)]
        seen: dict[str, Tensor] = {}

        def watch(hook: str) -> Callable[[Tensor], Tensor]:
            return lambda activation: seen.setdefault(hook, activation)

        watching = {hook: watch(hook) for hook in hooks}
        first = 0 if hooks else self.sites[0].layer
        value = self._metric_with(dict(enumerate(strengths)), {first: 1}, watching)
        return strengths, value.sum(), seen

    def _gradient_graph(
        self, point: Float[Tensor, "1 n"]
    ) -> tuple[list[Float[Tensor, "1 n_i"]], list[Float[Tensor, "1 n_i"]]]:
        """Patch strengths at a point, site by site, and M's slopes there, which depend on them."""
        strengths, value, _ = self.traced(point)
        if not value.requires_grad:
            return strengths, [torch.zeros_like(part) for part in strengths]
        slopes = torch.autograd.grad(value, strengths, create_graph=True, materialize_grads=True)
        return strengths, list(slopes)

    def _metric_with(
        self,
        strengths: Mapping[int, Tensor],
        entering: Mapping[int, int],
        watching: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        shifts: Mapping[int, Tensor] | None = None,
    ) -> Float[Tensor, " rows"]:
        """The metric of some runs, given patch strengths ``[rows, n_i]`` at some sites i.

        ``entering`` says how many of the rows begin at which layer, in order; ``shifts`` are added
        to the activations on top.
        """

        def patch(i: int) -> Callable[[Tensor], Tensor]:
            site, delta = self.sites[i], self.deltas[i]
            if shifts is None:
                return lambda live: live + site.spread(strengths[i][: len(live)]) * delta
            return lambda live: (
                live + site.spread(strengths[i][: len(live)]) * delta + shifts[i][: len(live)]
            )

        patches = {self.sites[i].hook: patch(i) for i in strengths}
        logits = self.run.logits(patches | dict(watching or {}), entering)
        return self._checked(self._metric(logits))

    def _map(self, function: Callable[[slice], Tensor], rows: int) -> Iterator[Tensor]:
        """``function`` of consecutive slices of ``range(rows)``, halved when memory runs out."""
        done = 0
        # The bar appears only for work that takes a while.
        with tqdm(total=rows, desc=self.components, unit="run", delay=2, leave=False) as bar:
            while done < rows:
                stop = min(done + self.batch_size, rows)
                try:
                    result = function(slice(done, stop))
                except RuntimeError as error:
                    if stop - done == 1 or not should_reduce_batch_size(error):
                        raise
                    self.batch_size = (stop - done) // 2
                    clear_device_cache(garbage_collection=True)
                    continue
                yield result
                bar.update(stop - done)
                done = stop

    def _rows(self, alpha: Float[Tensor, "*batch n"]) -> Float[Tensor, "b n"]:
        alpha = torch.as_tensor(alpha, device=self._device)
        if alpha.ndim == 0 or alpha.shape[-1] != self.n:
            raise ValueError(
                f"Patch strengths must have {self.n} entries in their last dimension, one per "
                f"component; this has shape {tuple(alpha.shape)}."
            )
        return alpha.to(self._dtype).reshape(-1, self.n)

    def _zeros(self) -> Float[Tensor, " n"]:
        return torch.zeros(self.n, dtype=self._dtype, device=self._device)

    def _checked(self, values: Tensor) -> Tensor:
        if not torch.isfinite(values).all():
            raise ValueError(
                f"The metric {self.pair.metric!r} of {self.pair.name or self.pair.clean!r} "
                "is not finite (NaN or infinite). Check the metric, and the model's dtype: half "
                "precision overflows easily."
            )
        return values

    def require_full_precision(self) -> None:
        """Raise TypeError if the model runs in half precision."""
        if self._dtype not in (torch.float32, torch.float64):
            raise TypeError(
                "Second derivatives, and differences of first ones, need float32 or float64; this "
                f"model is in {self._dtype}. "
                "Load it with load_model(name, dtype=torch.float32)."
            )


def _derivative(value: Tensor, by: Tensor, create_graph: bool = False) -> Tensor:
    """Gradient of a scalar, and zero where ``value`` does not depend on ``by`` at all."""
    if not value.requires_grad:
        return torch.zeros_like(by)
    return torch.autograd.grad(value, by, create_graph=create_graph, materialize_grads=True)[0]


def _batched_derivative(
    values: Sequence[Tensor], by: Sequence[Tensor], directions: Sequence[Tensor]
) -> list[Tensor]:
    """For each of a batch of directions v, the gradient of the sum of values * v.

    One backward pass, vectorised over the batch (``torch.func.vmap``); the graph is kept.
    """
    pairs = [(value, v) for value, v in zip(values, directions, strict=True) if value.requires_grad]
    found = [None] * len(by)
    if pairs:
        values, directions = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            values, by, directions, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
    rows = len(directions[0])
    return [
        part.new_zeros(rows, *part.shape) if derivative is None else derivative
        for derivative, part in zip(found, by, strict=True)
    ]
