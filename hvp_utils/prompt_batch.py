"""Some prompts of one shape, run together: patched copies of them as rows of a batch.

Two prompts have the same shape if they have as many tokens and first differ from their other prompt
at the same position. Then their activations line up, and one batch of runs can hold copies of both.
``PromptBatch`` evaluates the metric of such rows and traces their graphs; derivatives, and what to
do with several prompts, are the business of ``PatchedMetric``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

import torch
import torch.autograd.forward_ad as fwAD
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils.components import EdgePatches, Patches, SAEFeatures, find_patches
from hvp_utils.suffix_run import Patch, Rows, SuffixRun
from hvp_utils.tasks import PromptPair, ResolvedPair

__all__ = ["PromptBatch"]

# Tokens run together by default. On a CPU more rows than this only fall out of the caches; a GPU
# wants many more to be busy.
_TOKENS_PER_BATCH = {"cpu": 224, "cuda": 16384}


def tokens_per_batch(device: str) -> int:
    """Tokens that are run together by default on a kind of device."""
    return _TOKENS_PER_BATCH.get(device, _TOKENS_PER_BATCH["cpu"])


class PromptBatch:
    """M of each of some prompts of one shape.

    Args:
        bridge: The model.
        pairs: The prompts.
        resolved: The same as token ids, with metrics.
        components: What is patched.
        base: Which of the two prompts is run; the other is patched in.
        batch_size: Rows run together.
        seed: Seed for sampled components.

    Attributes:
        run: Runs of the base prompts.
        patches: What is patched, between the runs of these prompts.
        base: The metric of each base run, ``[prompt]``.
        other: That of each other run; NaN for zero ablation.
        n_tokens: Tokens of each prompt.
        n_run: Those from the first difference on, which every run has to process.
        batch_size: Rows run together. It halves by itself when memory runs out.

    Raises:
        ValueError: Components that cannot be used, or a metric that is not finite.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        pairs: Sequence[PromptPair],
        resolved: Sequence[ResolvedPair],
        components: str | SAEFeatures,
        base: Literal["clean", "corrupted"],
        batch_size: int | None = None,
        seed: int = 0,
        start: int | None = None,
    ):
        self._pairs, self._metrics = pairs, [pair.metric for pair in resolved]
        start = resolved[0].first_difference if start is None else start
        tokens = torch.stack([getattr(pair, base) for pair in resolved])
        self.n_tokens, self.n_run = tokens.shape[1], tokens.shape[1] - start
        self.batch_size = batch_size or max(1, tokens_per_batch(tokens.device.type) // self.n_run)
        other = "clean" if base == "corrupted" else "corrupted"
        others = [getattr(pair, other) for pair in resolved]

        self.run = SuffixRun(bridge, tokens, start)
        hooks, patches = find_patches(bridge, components, range(start, self.n_tokens), seed)
        logits, a = self.run.unpatched(hooks)
        self.base = self._checked(logits, self.rows())
        if others[0] is None:
            a_other = {hook: torch.zeros_like(activation) for hook, activation in a.items()}
            self.other = torch.full_like(self.base, torch.nan)
        else:
            logits, a_other = self.run.unpatched(hooks, torch.stack(others)[:, start:])
            self.other = self._checked(logits, self.rows())
        self.take(patches(a, a_other))

    def take(self, patches: Patches) -> None:
        """Patch these from now on."""
        self.patches, sizes = patches, torch.tensor(patches.sizes)
        self.layers = torch.tensor(patches.site_layers).repeat_interleave(sizes)
        #: Number of the first component of each site.
        self.starts = torch.tensor([0, *patches.sizes[:-1]]).cumsum(0)
        #: For each component the number of its site.
        self.site_of = torch.arange(len(sizes)).repeat_interleave(sizes)

    def __len__(self) -> int:
        return len(self._pairs)

    def rows(self, prompts: slice | Int[Tensor, " rows"] | None = None) -> Rows:
        """Rows that are copies of some of the prompts, by default of each once."""
        every = torch.arange(len(self))
        if prompts is None:
            return Rows(every, len(self))
        return Rows(every[prompts] if isinstance(prompts, slice) else prompts, len(self))

    # --- the metric of some rows ----------------------------------------------------------------

    def at(self, alpha: Float[Tensor, "rows n"], rows: Rows) -> Float[Tensor, " rows"]:
        """M of each row's prompt at that row's patch strengths."""
        # A site with all strengths at 0 can be left out, unless derivatives pass through it.
        tracked = alpha.requires_grad or fwAD.unpack_dual(alpha).tangent is not None
        parts = alpha.split(self.patches.sizes, dim=1)
        strengths = {i: part for i, part in enumerate(parts) if tracked or part.count_nonzero()}
        start = min((self.patches.site_layers[i] for i in strengths), default=0)
        return self.evaluate(self.patches.patch(strengths, rows), {start: len(rows)}, rows)

    def on_axes(
        self, components: Int[Tensor, " rows"], t: Float[Tensor, " rows"], rows: Rows
    ) -> Float[Tensor, " rows"]:
        """M of each row's prompt with one component patched, in layer order, the others at 0."""
        patches = self.patches.patch_on_axes(self.places(components), t, rows)
        return self.evaluate(patches, self.entering(components), rows)

    def entering(self, components: Int[Tensor, " rows"]) -> collections.Counter:
        """How many rows enter at which layer."""
        return collections.Counter(self.layers[components].tolist())

    def places(
        self, components: Int[Tensor, " rows"]
    ) -> dict[int, tuple[Int[Tensor, " k"], Int[Tensor, " k"]]]:
        """By site, which rows have their component there, and which of the site's it is."""
        sites = self.site_of[components]
        column = (components - self.starts[sites]).to(self.base.device)
        found = {}
        for i in sites.unique().tolist():
            row = (sites == i).nonzero()[:, 0].to(self.base.device)
            found[i] = row, column[row]
        return found

    def evaluate(
        self, patches: Mapping[str, Patch], entering: Mapping[int, int], rows: Rows
    ) -> Float[Tensor, " rows"]:
        """The metric of some runs; see ``SuffixRun.logits``."""
        return self._checked(self.run.logits(patches, entering, rows), rows)

    def traced(
        self,
        rows: Rows,
        alpha: Float[Tensor, "rows n"] | None = None,
        hooks: Sequence[str] = (),
    ) -> tuple[list[Float[Tensor, "rows n_i"]], Float[Tensor, " rows"], dict[str, Tensor]]:
        """Runs with their graph: patch strengths site by site, metrics, some activations.

        Args:
            rows: Whose copy each row is.
            alpha: The patch strengths; 0 by default.
            hooks: Hooks whose activations ``[rows, n_run, ...]`` are wanted.
        """
        if alpha is None:
            alpha = self.base.new_zeros(len(rows), sum(self.patches.sizes))
        strengths = [part.clone().requires_grad_() for part in alpha.split(self.patches.sizes, 1)]
        patches = self.patches.patch(dict(enumerate(strengths)), rows)
        seen: dict[str, Tensor] = {}

        def watch(hook: str, patch: Patch | None) -> Patch:
            def see(activation: Tensor) -> Tensor:
                if patch is not None:
                    activation = patch(activation)
                return seen.setdefault(hook, activation)

            return see

        patches |= {hook: watch(hook, patches.get(hook)) for hook in hooks}
        first = 0 if hooks else self.patches.site_layers[0]
        return strengths, self.evaluate(patches, {first: len(rows)}, rows), seen

    def gradient_graph(
        self, rows: Rows, alpha: Float[Tensor, "rows n"] | None = None
    ) -> tuple[list[Float[Tensor, "rows n_i"]], list[Float[Tensor, "rows n_i"]]]:
        """Patch strengths at some points, site by site, and the slopes, which depend on them."""
        strengths, values, _ = self.traced(rows, alpha)
        if not values.requires_grad:
            return strengths, [torch.zeros_like(part) for part in strengths]
        slopes = torch.autograd.grad(
            values.sum(), strengths, create_graph=True, materialize_grads=True
        )
        return strengths, list(slopes)

    def slopes_at_base(
        self, rows: Rows, moved: Mapping[str, Patch] | None = None
    ) -> Float[Tensor, "rows n"]:
        """Slopes of all components at 0.

        Args:
            rows: Whose copy each row is.
            moved: Changes of activations under which the gradient is taken; of edges, what the
                slopes multiply stays the difference between the two runs.
        """
        if isinstance(self.patches, EdgePatches):
            readers = [group.hook for group in self.patches.graph.readers]
            return self.patches.slopes(self.gradients_at(readers, rows, moved), rows)
        strengths, values, _ = self.traced(rows)
        if not values.requires_grad:
            return torch.zeros_like(torch.cat(strengths, dim=1))
        slopes = torch.autograd.grad(values.sum(), strengths, materialize_grads=True)
        return torch.cat(slopes, dim=1)

    def gradients_at(
        self, hooks: Sequence[str], rows: Rows, moved: Mapping[str, Patch] | None = None
    ) -> dict[str, Float[Tensor, "rows pos ..."]]:
        """Gradients of the metric of each row at what some hooks show.

        Args:
            hooks: Their names.
            rows: Whose copy each row is.
            moved: Changes of activations under which the gradients are taken.
        """
        leaves: dict[str, Tensor] = {}

        def leaf(hook: str, before: Patch | None) -> Patch:
            def add(x: Tensor) -> Tensor:
                x = x if before is None else before(x)
                leaves[hook] = torch.zeros_like(x, requires_grad=True)
                return x + leaves[hook]

            return add

        patches = dict(moved or {})
        patches |= {hook: leaf(hook, patches.get(hook)) for hook in hooks}
        values = self.evaluate(patches, {0: len(rows)}, rows)
        found = torch.autograd.grad(values.sum(), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    # --- the machinery --------------------------------------------------------------------------

    def map(
        self, function: Callable[[slice], Tensor], n: int, bar: tqdm, weight: int = 1
    ) -> Iterator[Tensor]:
        """``function`` of consecutive slices of ``range(n)``, halved when memory runs out.

        Args:
            function: What is run.
            n: How many things there are.
            bar: Is told how many are done.
            weight: Rows that each of them takes.
        """
        done = 0
        while done < n:
            stop = min(done + max(1, self.batch_size // weight), n)
            try:
                result = function(slice(done, stop))
            except RuntimeError as error:
                if stop - done == 1 or not should_reduce_batch_size(error):
                    raise
                self.batch_size = (stop - done) * weight // 2
                clear_device_cache(garbage_collection=True)
                continue
            yield result
            bar.update((stop - done) * weight)
            done = stop

    def _checked(self, logits: Float[Tensor, "rows d_vocab"], rows: Rows) -> Float[Tensor, " rows"]:
        """The metric of each row, by its own prompt's metric."""
        order = rows.prompts.argsort(stable=True)
        sorted_already = torch.equal(order, torch.arange(len(order)))
        counts = rows.prompts.bincount(minlength=len(self)).tolist()
        parts = (logits if sorted_already else logits[order.to(logits.device)]).split(counts)
        values = torch.cat(
            [metric(part) for metric, part in zip(self._metrics, parts, strict=True) if len(part)]
        )
        if not sorted_already:
            values = values[order.argsort().to(values.device)]
        if not (finite := torch.isfinite(values)).all():
            bad = self._pairs[cast("int", rows.prompts[~finite.cpu()][0])]
            raise ValueError(
                f"The metric {bad.metric!r} of {bad.name or bad.clean!r} "
                "is not finite (NaN or infinite). Check the metric, and the model's dtype: half "
                "precision overflows easily."
            )
        return values
