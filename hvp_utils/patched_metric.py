"""M(alpha), the one function that everything in this package is a derivative of.

Fix a model, a prompt pair and n components. Component c has activation a_c in the *base* run and
a_c + delta_c in the *other* run. With patch strengths alpha in R^n,

    M(alpha) = metric of the base run, with alpha_c * delta_c added to every component c.

On an axis nothing upstream of c changes, so M(t e_c) is the metric with component c set to
a_c + t delta_c. Writing g_c(t) = M(t e_c), activation patching is g_c(1) - g_c(0), attribution
patching g_c'(0), the quadratic form delta^T H delta of the paper g_c''(0), and the Hessian of M at
0 holds the interactions between components off its diagonal.

M of many prompts is the mean of theirs at the same alpha, so its derivatives are the means of
theirs. Edges and the features of an SAE are components too; what their strengths do is in
``hvp_utils.components.edges`` and ``hvp_utils.components.features``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from hvp_utils import _checks, axes
from hvp_utils.architectures import hf_model, require_loaded, sharded_parameter
from hvp_utils.components import NodePatches, SAEFeatures, Site, edge_model
from hvp_utils.models import as_bridge
from hvp_utils.over_prompts import OverPrompts, by_shape
from hvp_utils.prompt_batch import PromptBatch
from hvp_utils.suffix_run import Rows, SuffixRun
from hvp_utils.tasks import PromptPair

__all__ = ["AxisDerivatives", "Direction", "PatchedMetric"]

Direction = Literal["denoising", "noising"]
F = TypeVar("F", bound=Callable)


class AxisDerivatives(NamedTuple):
    """g_c(t) and its derivatives, one number per component; those not asked for are ``None``.

    Of ``PatchedMetric.each`` every field has a first dimension for the prompts.
    """

    value: Float[Tensor, "*prompt n"]
    # Type checkers need not be told again of what was asked for.
    slope: Float[Tensor, "*prompt n"] | Any = None
    curvature: Float[Tensor, "*prompt n"] | Any = None
    third: Float[Tensor, "*prompt n"] | Any = None


class PatchedMetric:
    """The metric as a function of patch strengths, with its derivatives.

    Args:
        model: A ``TransformerBridge`` or a Hugging Face causal language model.
        pairs: Two prompts and the metric; or many such pairs, for the mean of their metrics. Those
            with as many tokens and the same first difference are run together.
        components: What is patched: a kind of node, see ``hvp_utils.components.find_sites``;
            ``"edges"``, see ``hvp_utils.components.edges``; or ``SAEFeatures(sae)``.
        direction: ``"denoising"`` takes the corrupted run as base and patches towards the clean
            one; ``"noising"`` is the reverse. Zero ablation (a pair without a corrupted prompt)
            starts from the clean run, so it is noising.
        batch_size: Patched copies of prompts run together. By default chosen for the device. It
            halves by itself when memory runs out, and never changes the result beyond rounding.
        seed: Seed for sampled components.
        whole_prompts: Run the tokens before the first difference too. Only needed where something
            else than the components is changed there.

    Attributes:
        pairs: The prompt pairs.
        base: The metric of the base run, g_c(0).
        other: The metric of the other run; NaN for zero ablation, which has no other run.
        n_tokens: Tokens of either prompt; of many prompts, the most.
        n_run: Tokens that every run has to process: those from the first difference on.
        n: Number of components.
        labels: Their labels, such as ``L4H11``, in layer order.
        layers: Their layers, ``[n]``.
        delta_norm: Euclidean norm of each activation difference, ``[n]``; of many prompts, the
            mean.
        model: The model, as a ``TransformerBridge``: of edges, the copy that ``edge_model`` makes.
        batches: The prompts by shape (``PromptBatch``).

    Raises:
        ValueError: Prompts, answers, components or direction that cannot be used (the message says
            why), or a metric that is not finite.
        TypeError: A model or prompts of the wrong kind, or curvature asked of a half-precision
            model.

    Example:
        >>> M = PatchedMetric(model, reference_pair())
        >>> truth = M.along_axes(1.0, order=0).value - M.base
    """

    direction: Direction
    # Numbers; of ``each``, tensors [prompt].
    base: float | Tensor
    other: float | Tensor
    n_tokens: int | Tensor
    n_run: int | Tensor

    def __init__(
        self,
        model: TransformerBridge | PreTrainedModel,
        pairs: PromptPair | Sequence[PromptPair],
        components: str | SAEFeatures = "heads",
        direction: Direction = "denoising",
        batch_size: int | None = None,
        seed: int = 0,
        whole_prompts: bool = False,
    ):
        _checks.one_of("direction", direction, ("denoising", "noising"))
        _checks.truth("whole_prompts", whole_prompts)
        if batch_size is not None:
            _checks.whole("batch_size", batch_size)
        _checks.seed(seed)
        bridge = as_bridge(model)
        require_loaded(hf_model(bridge))
        pairs = [pairs] if isinstance(pairs, PromptPair) else pairs
        self.pairs = tuple(_checks.items("pairs", pairs, "a PromptPair or a list of them"))
        if not self.pairs:
            raise ValueError("There is no prompt: pairs is empty.")
        for pair in self.pairs:
            if not isinstance(pair, PromptPair):
                raise TypeError(f"pairs must be a PromptPair or a list of them, not {pair!r}.")
        self.components, self.direction, self.seed = components, direction, seed
        resolved = [pair.resolve(bridge) for pair in self.pairs]
        for pair, tokens in zip(self.pairs, resolved, strict=True):
            if tokens.corrupted is None and direction == "denoising":
                raise ValueError(
                    f"{pair.name or pair.clean!r} has no corrupted prompt (zero ablation), so "
                    'there is no corrupted run to start from. Use direction="noising".'
                )
        of_edges = isinstance(components, str) and components == "edges"
        self.model = edge_model(bridge) if of_edges else bridge
        groups = by_shape(resolved, batch_size, whole_prompts)
        self.batches = [
            PromptBatch(
                self.model,
                [self.pairs[i] for i in group],
                [resolved[i] for i in group],
                components,
                "corrupted" if direction == "denoising" else "clean",
                batch_size,
                seed,
                start=0 if whole_prompts else None,
            )
            for group in groups
        ]
        if len(self.batches) > 1:
            alone = [batch.patches for batch in self.batches]
            for batch in self.batches:
                batch.take(batch.patches.aligned(alone))
        first = self.batches[0]
        self.labels, self.layers, self.n = first.patches.labels, first.layers, len(first.layers)
        self._dtype, self._device = first.base.dtype, first.base.device
        self._show(OverPrompts(self.batches, groups, str(components)))

    # --- one prompt, the mean of many, each of many ----------------------------------------------

    @property
    def each(self) -> PatchedMetric:
        """The same prompts side by side instead of their mean.

        Whatever M gives as ``[n]``, ``each`` gives as ``[prompt, n]``: values, derivatives, and so
        the estimators. Strengths, directions and components may be the same for all prompts or
        have a dimension for them.
        """
        if not self._prompts.mean:
            return self
        view = copy.copy(self)
        view._show(self._prompts.side_by_side())
        return view

    def whole(self) -> PatchedMetric:
        """The same with the tokens before the first difference run too."""
        again = PatchedMetric(
            self.model,
            self.pairs,
            self.components,
            self.direction,
            self.batch_size,
            self.seed,
            whole_prompts=True,
        )
        return again if self._prompts.mean else again.each

    def _show(self, prompts: OverPrompts) -> None:
        """Take results over these prompts, and say so in what M tells of itself."""
        self._prompts, batches = prompts, self.batches
        self.base, self.other = (
            prompts.result([getattr(batch, run) for batch in batches]) for run in ("base", "other")
        )
        self.delta_norm = prompts.result([batch.patches.delta_norm for batch in batches])
        self.n_tokens, self.n_run = (
            prompts.in_order(
                [torch.full_like(batch.base, getattr(batch, count)) for batch in batches]
            )
            for count in ("n_tokens", "n_run")
        )
        if prompts.mean:
            self.base, self.other = self.base.item(), self.other.item()
            self.n_tokens, self.n_run = int(self.n_tokens.max()), int(self.n_run.max())

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return len(self.pairs)

    @property
    def batch_size(self) -> int:
        """Patched copies of prompts run together."""
        return min(batch.batch_size for batch in self.batches)

    @batch_size.setter
    def batch_size(self, rows: int) -> None:
        _checks.whole("batch_size", rows)
        for batch in self.batches:
            batch.batch_size = rows

    @property
    def pair(self) -> PromptPair:
        """The only prompt pair."""
        self._prompts.only_batch()
        return self.pairs[0]

    @property
    def run(self) -> SuffixRun:
        """Runs of the base prompts, all of one shape."""
        return self._prompts.only_batch().run

    @property
    def sites(self) -> tuple[Site, ...]:
        """The activation tensors that hold the nodes, in layer order."""
        self._require_nodes()
        return cast("NodePatches", self._prompts.only_batch().patches).sites

    @property
    def deltas(self) -> list[Float[Tensor, "n_run ..."]]:
        """For each site of a single prompt, the difference of its activation."""
        self._require_nodes()
        if self.n_prompts > 1:
            raise ValueError(f"deltas are those of one prompt; this is M of {self.n_prompts}.")
        return [
            delta[0] for delta in cast("NodePatches", self._prompts.only_batch().patches).deltas
        ]

    def effects(self, values: Float[Tensor, "*prompt m"]) -> Float[Tensor, "*prompt m"]:
        """What values of M differ by from the base run's."""
        return values - (self.base if self._prompts.mean else cast("Tensor", self.base)[:, None])

    def index(self, labels: Iterable[str]) -> Int[Tensor, " m"]:
        """Numbers of the components with some labels.

        Raises:
            ValueError: A label that no component has.
        """
        if not hasattr(self, "_index"):
            self._index = {label: i for i, label in enumerate(self.labels)}
        labels = [labels] if isinstance(labels, str) else labels
        labels = _checks.items("labels", labels, "labels of components")
        for label in labels:
            if not isinstance(label, str) or label not in self._index:
                raise ValueError(
                    f"No component is called {label!r}. There are {self.n}, from "
                    f"{self.labels[0]!r} to {self.labels[-1]!r}."
                )
        return torch.tensor([self._index[label] for label in labels], dtype=torch.int64)

    # --- M and its derivatives at any point ----------------------------------------------------

    def __call__(self, alpha: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """M(alpha) for one or many alpha. Differentiable in ``alpha``, twice and more."""
        return self._at_points(lambda batch, a, rows: batch.at(a, rows)[:, None], alpha)[..., 0]

    def gradient(self, alpha: Float[Tensor, "*batch n"] | None = None) -> Float[Tensor, "*batch n"]:
        """Gradient of M, for all components at once; at 0 unless ``alpha`` is given."""
        if alpha is None:
            return self.of_prompts(PromptBatch.slopes_at_base)

        def gradient_of(batch: PromptBatch, a: Tensor, rows: Rows) -> Tensor:
            a = a.detach().clone().requires_grad_()
            return axes.derivative(batch.at(a, rows).sum(), a)

        return self._at_points(gradient_of, alpha)

    def hessian_matvec(
        self, V: Float[Tensor, "*prompt n k"], alpha: Float[Tensor, "*prompt n"] | None = None
    ) -> Float[Tensor, "*prompt n k"]:
        """Products of the Hessian of M with the columns of V.

        One run and one backward pass serve all columns; only the second backward pass, through
        both of them, is made for each (Pearlmutter 1994), and many of those go together.

        Args:
            V: One or many directions, as columns.
            alpha: Where the Hessian is taken; 0 by default.
        """
        return self.gradient_and_hessian(alpha)[1](V)

    def gradient_and_hessian(
        self, alpha: Float[Tensor, "*prompt n"] | None = None
    ) -> tuple[
        Float[Tensor, "*prompt n"],
        Callable[[Float[Tensor, "*prompt n k"]], Float[Tensor, "*prompt n k"]],
    ]:
        """The gradient at one point, and ``hessian_matvec`` there, which share its run.

        For algorithms that ask for products again and again: run and first backward pass are made
        once, and the second thing returned holds on to them. (So many prompts that they do not
        fit into one batch are run again for each call.)
        """
        self.require_full_precision()
        point = self._point(alpha)
        graphs: dict[tuple[int, int, int], tuple[list[Tensor], list[Tensor]]] = {}

        def graph(batch: PromptBatch, part: slice) -> tuple[list[Tensor], list[Tensor]]:
            key = (id(batch), part.start, part.stop)
            if key in graphs:
                return graphs[key]
            found = batch.gradient_graph(batch.rows(part), point(batch)[part])
            if len(self.batches) == 1 and part == slice(0, len(batch)):
                graphs[key] = found
            return found

        prompts = self._prompts
        slopes = prompts.map(lambda b, part: torch.cat(graph(b, part)[1], dim=1).detach())

        def products(V: Float[Tensor, "*prompt n k"]) -> Float[Tensor, "*prompt n k"]:
            V = _checks.tensor("V", V, finite=True).to(self._device, self._dtype)
            if V.ndim < 2 or V.shape[-2] != self.n or V.shape[:-2] not in ((), prompts.dims):
                raise ValueError(f"V must be [n, k] with n = {self.n}, not {tuple(V.shape)}.")
            k = V.shape[-1]

            def products_of(batch: PromptBatch, part: slice, bar: tqdm) -> Tensor:
                strengths, slopes = graph(batch, part)
                rows = part.stop - part.start
                weight = rows * batch.patches.product_rows
                v = V.expand(rows, -1, -1) if V.ndim == 2 else prompts.of_batch(batch, V)[part]
                v = v.movedim(-1, 0)  # [k, rows, n]
                sizes = batch.patches.sizes

                def of_columns(columns: slice) -> Tensor:
                    directions = [d.contiguous() for d in v[columns].split(sizes, dim=-1)]
                    found = torch.cat(
                        axes.batched_derivative(slopes, strengths, directions), dim=-1
                    )
                    return found.sum(1, keepdim=True) if prompts.mean else found

                return torch.cat(list(batch.map(of_columns, k, bar, weight))).movedim(0, -1)

            total = k * prompts.n * self.batches[0].patches.product_rows
            parts = prompts.map_and_count(products_of, total)
            # Of a mean only sums are kept, since a product may be long.
            return (
                cast("Tensor", sum(p.sum(0) for p in parts)) / prompts.n
                if prompts.mean
                else prompts.in_order(parts)
            )

        return prompts.result(slopes), products

    def hvp(
        self, v: Float[Tensor, "*prompt n"], alpha: Float[Tensor, "*prompt n"] | None = None
    ) -> Float[Tensor, "*prompt n"]:
        """One Hessian-vector product, at 0 unless ``alpha`` is given."""
        return self.hessian_matvec(_checks.tensor("v", v)[..., None], alpha)[..., 0]

    # --- derivatives along every axis ----------------------------------------------------------

    def along_axes(
        self,
        t: float | Float[Tensor, "*prompt m"] = 0.0,
        order: Literal[0, 1, 2, 3] = 2,
        components: Int[Tensor, "*prompt m"] | None = None,
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
        if type(order) is not int or order not in (0, 1, 2, 3):
            raise ValueError(f"order must be 0, 1, 2 or 3, not {order!r}.")
        if order > 1:
            self.require_full_precision()
        wanted, t = self._axes(t, components)
        own = self._prompts.of_batch
        with self._prompts.bar(wanted.numel()) as bar:
            parts = [
                axes.along_axes(batch, own(batch, wanted), own(batch, t), order, bar)
                for batch in self.batches
            ]
        return AxisDerivatives(*self._prompts.result([p.movedim(0, 2) for p in parts]).unbind(-1))

    def hessian_delta(
        self,
        t: float | Float[Tensor, "*prompt m"] = 0.0,
        components: Int[Tensor, "*prompt m"] | None = None,
    ) -> Float[Tensor, "*prompt m size"]:
        """H delta for every component c, H the Hessian in c's own activation at a_c + t delta_c.

        Where ``along_axes`` gives the number delta^T H delta, this gives the vector H delta.

        Args:
            t: Where along each axis; one number for all, or one per component.
            components: Indices; all by default.

        Returns:
            One row per component: its activation tensor at the ``n_run`` positions that are run
            (of the longest prompt; missing ones are 0), flattened, zero outside c.

        Raises:
            TypeError: A model in half precision.
            ValueError: Edges or features, which have no activation of their own; or the mean of
                many prompts, whose activations differ: take ``each``.
        """
        self.require_full_precision()
        self._require_nodes()
        if self._prompts.mean and self.n_prompts > 1:
            raise ValueError("Many prompts have no activation in common: take M.each.")
        wanted, t = self._axes(t, components)
        parts, own = [], self._prompts.of_batch
        with self._prompts.bar(wanted.numel()) as bar:
            for batch in self.batches:
                vectors = axes.hessian_delta(batch, own(batch, wanted), own(batch, t), bar)
                short = max(b.n_run for b in self.batches) - batch.n_run
                vectors = torch.nn.functional.pad(vectors.flatten(3), (0, 0, short, 0))
                parts.append(vectors.flatten(2))
        return self._prompts.result(parts)

    # --- prompts ---------------------------------------------------------------------------------

    @property
    def prompt_dims(self) -> tuple[int, ...]:
        """Dimensions of results before those of components: none, or the prompts of ``each``."""
        return self._prompts.dims

    def of_prompts(
        self, function: Callable[[PromptBatch, Rows], Float[Tensor, "rows ..."]]
    ) -> Float[Tensor, "*prompt ..."]:
        """Something that is computed for each prompt: its mean, or of ``each`` as it is.

        Args:
            function: Gets a batch and rows that are copies of some of its prompts.
        """
        return self._prompts.result(self._prompts.map(lambda b, part: function(b, b.rows(part))))

    def _at_points(
        self, function: Callable[[PromptBatch, Tensor, Rows], Tensor], alpha: Tensor
    ) -> Float[Tensor, "*batch n"]:
        """A function of one or many points, for one or many prompts."""
        alpha, mean = self._strengths(alpha), self._prompts.mean
        shape = alpha.shape[: alpha.ndim - 1 - (0 if mean else min(1, alpha.ndim - 1))]
        points = alpha.reshape(shape.numel(), -1, self.n)
        if points.shape[1] not in (1, self.n_prompts):
            raise ValueError(
                f"Patch strengths of each prompt must be [..., {self.n_prompts}, {self.n}], or "
                f"[..., 1, {self.n}] for the same of all; this has shape {tuple(alpha.shape)}."
            )
        values = self._prompts.map_points(function, points)
        values = values if mean else values.movedim(0, 1)  # points first
        return values.unflatten(0, shape) if shape else values[0]

    # --- arguments -------------------------------------------------------------------------------

    def _axes(
        self, t: float | Tensor, components: Tensor | None
    ) -> tuple[Int[Tensor, "prompt m"], Float[Tensor, "prompt m"]]:
        """The components wanted of each prompt, all by default, and where on its axis each is."""
        wanted = torch.arange(self.n)
        if components is not None:
            wanted = _checks.indices("components", components, self.n)
        t = _checks.tensor("t", t, finite=True).to(self._device, self._dtype).detach()
        for name, value in (("components", wanted), ("t", t)):
            if value.ndim > 2 or (value.ndim == 2 and len(value) not in (1, self.n_prompts)):
                raise ValueError(
                    f"{name} must be the same for all prompts or [{self.n_prompts}, m], for each, "
                    f"not of shape {tuple(value.shape)}."
                )
        shape = torch.broadcast_shapes(wanted.shape, self.prompt_dims + wanted.shape[-1:])
        if t.ndim and t.shape[-1] != wanted.shape[-1]:
            raise ValueError(
                f"t must be one number or one per component: {tuple(t.shape)} given, "
                f"{wanted.shape[-1]} components."
            )
        shape = (self.n_prompts, wanted.shape[-1]) if self._prompts.mean else shape
        return wanted.expand(shape), t.expand(shape)

    def _point(self, alpha: Tensor | None) -> Callable[[PromptBatch], Float[Tensor, "prompt n"]]:
        """One point, for each prompt of a batch."""
        alpha = torch.zeros(self.n) if alpha is None else alpha
        alpha = self._strengths(alpha).detach()
        if alpha.ndim > 1 + len(self.prompt_dims) and alpha.shape[:-1].numel() != 1:
            raise ValueError(
                f"A Hessian is taken at one point alpha, but {alpha.shape[:-1].numel()} are given."
            )
        alpha = alpha.reshape(-1, self.n).expand(self.n_prompts, -1)
        return lambda batch: self._prompts.of_batch(batch, alpha)

    def _strengths(self, alpha: Tensor) -> Float[Tensor, "*batch n"]:
        alpha = _checks.tensor("alpha", alpha, truth_values=True).to(self._device)
        if alpha.ndim == 0 or alpha.shape[-1] != self.n:
            raise ValueError(
                f"Patch strengths must have {self.n} entries in their last dimension, one per "
                f"component; this has shape {tuple(alpha.shape)}."
            )
        return alpha.to(self._dtype)

    def _require_nodes(self) -> None:
        """Raise ValueError unless every component is a part of one activation."""
        if not isinstance(self.batches[0].patches, NodePatches):
            raise ValueError(
                f"Only nodes have activations of their own, and so differences of these and H "
                f"delta; this is M over {self.components}."
            )

    def require_full_precision(self) -> None:
        """Raise TypeError if the model runs in half precision, or its weights are DTensors."""
        if (sharded := sharded_parameter(hf_model(self.model))) is not None:
            raise TypeError(
                "Second derivatives, and differences of first ones, of a model whose weights are "
                f"spread over processes can be wrong without a word in PyTorch ({sharded} is a "
                "DTensor). Load it whole, or with its layers on several devices: "
                'AutoModelForCausalLM.from_pretrained(name, device_map="auto").'
            )
        if self._dtype not in (torch.float32, torch.float64):
            raise TypeError(
                "Second derivatives, and differences of first ones, need float32 or float64; this "
                f"model is in {self._dtype}. "
                "Load it with load_model(name, dtype=torch.float32)."
            )


def of_metric(function: F) -> F:
    """A function of M, or of what does as M does, that refuses anything else by name."""

    @functools.wraps(function)
    def checked(M: PatchedMetric, *args: object, **options: object) -> object:
        if not hasattr(M, "delta_norm"):
            _checks.instance("M", M, PatchedMetric, "a PatchedMetric")
        return function(M, *args, **options)

    return cast("F", checked)
