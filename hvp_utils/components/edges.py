"""Edges of a network: from each writer of the residual stream to each of its later readers.

*Writers* are the embedding, every head and every MLP. *Readers* are the query, key and value inputs
of every query head, every MLP, and the logits. Patched with strength alpha_uv, the edge from u to v
adds to the input of v what u has written in the other run less what it writes in this one:

    in_v + sum over u of alpha_uv (z_u(other run) - z_u(live)).

``live`` matters: with all strengths 1 every input is that of the other run, so M(1, ..., 1) is the
metric of the other run. On an axis nothing before the reader changes, so ``live`` is the base run,
and the change is alpha_uv times a fixed difference.

Where the sum of the heads passes through a norm before it reaches the stream (Gemma), what head h
contributes to a reader is PN(s + alpha_hv delta_h) - PN(s), with s the live sum.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.autograd.forward_ad as fwAD
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import _checks
from hvp_utils.architectures import hf_model, require_edges
from hvp_utils.models import as_bridge
from hvp_utils.suffix_run import Patch, Rows, SuffixRun, full_precision

from .patches import Patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EdgeGraph", "EdgePatches", "edge_graph", "edge_model"]


@dataclass(frozen=True)
class Writers:
    """Writers that one hook shows: the embedding, the heads of a layer, or its MLP."""

    hook: str
    layer: int
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Readers:
    """Readers that one hook shows, and how many writers come before them."""

    hook: str
    layer: int
    labels: tuple[str, ...]
    n_writers: int


@dataclass(frozen=True)
class EdgeGraph:
    """Who writes to the residual stream and who reads it, in the order of the network.

    Attributes:
        writers: Groups of writers.
        readers: Groups of readers. Edges are numbered reader by reader: the first group's edges
            first, among them those from the first writer to each reader of the group, and so on.
    """

    writers: tuple[Writers, ...]
    readers: tuple[Readers, ...]

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return sum(r.n_writers * len(r.labels) for r in self.readers)

    @cached_property
    def writer_labels(self) -> tuple[str, ...]:
        """Labels of all writers: ``embed``, ``L0H0``, ..., ``L0.mlp``, ..."""
        return tuple(label for group in self.writers for label in group.labels)

    @cached_property
    def nodes_of_edges(self) -> tuple[tuple[str, str], ...]:
        """Of each edge the nodes that write and read, such as ``L4H11`` and ``L9H9``."""
        return tuple(
            (writer, reader if reader.endswith("mlp") else reader.partition(".")[0])
            for writer, _, reader in (label.partition("->") for label in self.labels)
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each edge, by label."""
        return {label: i for i, label in enumerate(self.labels)}

    def shape(self) -> dict[str, int | bool]:
        """What ``edge_graph`` makes this graph from."""
        n_heads = len(self.writers[1].labels)
        return {
            "n_layers": (len(self.writers) - 1) // 2,
            "n_heads": n_heads,
            "parallel": self.readers[3].n_writers == 1,
        }

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of all edges, such as ``L4H11->L9H9.q`` or ``embed->L0.mlp``."""
        return tuple(
            f"{writer}->{reader}"
            for group in self.readers
            for writer in self.writer_labels[: group.n_writers]
            for reader in group.labels
        )


def edge_graph(n_layers: int, n_heads: int, parallel: bool = False) -> EdgeGraph:
    """The graph of a transformer of some shape.

    Args:
        n_layers: Number of blocks.
        n_heads: Query heads of a block. Keys and values count once for each of them, shared or not.
        parallel: Whether attention and MLP of a block read the same stream (GPT-NeoX), so that no
            edge leads from one to the other.
    """
    n_layers, n_heads = _checks.steps("n_layers", n_layers), _checks.steps("n_heads", n_heads)
    _checks.truth("parallel", parallel)
    writers, readers, n = [Writers("blocks.0.hook_in", 0, ("embed",))], [], 1
    for layer in range(n_layers):
        block, heads = f"blocks.{layer}", tuple(f"L{layer}H{h}" for h in range(n_heads))
        for part in "qkv":
            labels = tuple(f"{head}.{part}" for head in heads)
            readers.append(Readers(f"{block}.attn.hook_{part}_input", layer, labels, n))
        mlp = (f"L{layer}.mlp",)
        before_mlp = n if parallel else n + n_heads
        readers.append(Readers(f"{block}.hook_mlp_in", layer, mlp, before_mlp))
        writers.append(Writers(f"{block}.attn.hook_result", layer, heads))
        writers.append(Writers(f"{block}.hook_mlp_out", layer, mlp))
        n += n_heads + 1
    last = n_layers - 1
    readers.append(Readers(f"blocks.{last}.hook_resid_post", last, ("logits",), n))
    return EdgeGraph(tuple(writers), tuple(readers))


class EdgePatches(Patches):
    """Patches of all edges between two runs of some prompts.

    Args:
        bridge: What ``edge_model`` gives.
        base: Activations of the base run at ``hooks(bridge)``, ``[prompt, pos, *rest]``.
        other: Those of the other run.

    Attributes:
        graph: The graph.
        difference: What each writer writes in the other run less what it writes in the base run,
            ``[prompt, writer, pos, d_model]``.
        tangent: The same as it reaches the residual stream, to first order: behind a norm after
            the heads where there is one.
    """

    one_run_at_base = False
    product_rows = 5

    def __init__(
        self, bridge: TransformerBridge, base: Mapping[str, Tensor], other: Mapping[str, Tensor]
    ):
        self.graph = _graph_of(bridge)
        self._norms, self._dtype = _norms_after_heads(bridge), hf_model(bridge).dtype
        self._other = [_writers_first(other[group.hook]) for group in self.graph.writers]
        fixed = [_writers_first(base[group.hook]) for group in self.graph.writers]
        self.difference = torch.cat(
            [there - here for there, here in zip(self._other, fixed, strict=True)], dim=1
        )
        self._sums = {layer: base[_sum_hook(layer)] for layer in self._norms}
        with full_precision(self._dtype):
            self._rms = {layer: _rms_norm(norm) for layer, norm in self._norms.items()}
        # Where each group's writers stand among all.
        stops = torch.tensor([len(group.labels) for group in self.graph.writers]).cumsum(0).tolist()
        self._spans = [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]
        self.tangent = self._tangent()
        self.labels = self.graph.labels
        self.sizes = [group.n_writers * len(group.labels) for group in self.graph.readers]
        self.site_layers = [group.layer for group in self.graph.readers]
        norms = self.difference.flatten(2).norm(dim=-1)
        self.delta_norm = torch.cat(
            [
                norms[:, : group.n_writers].repeat_interleave(len(group.labels), dim=1)
                for group in self.graph.readers
            ],
            dim=1,
        )

    @staticmethod
    def hooks(bridge: TransformerBridge) -> list[str]:
        """Where activations of both runs are needed."""
        sums = [_sum_hook(layer) for layer in _norms_after_heads(bridge)]
        return [group.hook for group in _graph_of(bridge).writers] + sums

    # --- at any point ---------------------------------------------------------------------------

    def patch(self, strengths: Mapping[int, Tensor], rows: Rows) -> dict[str, Patch]:
        """See ``Patches``: writers are watched, and readers get what their edges add."""
        live = _Live(self, strengths, rows)
        patches = {group.hook: live.watch(j) for j, group in enumerate(self.graph.writers)}
        patches |= {_sum_hook(layer): live.watch_sum(layer) for layer in self._norms}

        def shift(i: int) -> Patch:
            def add(x: Tensor) -> Tensor:
                added = live.added(i, len(x))  # [rows, readers, pos, d_model]
                return x + (added.transpose(1, 2) if x.ndim == 4 else added[:, 0])

            return add

        for i in strengths:
            hook = self.graph.readers[i].hook
            patches[hook] = _after(patches[hook], shift(i)) if hook in patches else shift(i)
        return patches

    def patch_on_axes(
        self,
        places: Mapping[int, tuple[Int[Tensor, " k"], Int[Tensor, " k"]]],
        t: Float[Tensor, " rows"],
        rows: Rows,
    ) -> dict[str, Patch]:
        """See ``Patches``: up to a row's reader all is as in the base run, so none is watched."""

        def shift(i: int) -> Patch:
            row, column = places[i]
            n_readers = len(self.graph.readers[i].labels)
            writer = torch.div(column, n_readers, rounding_mode="floor")
            added = self.contributions(writer, t[row], rows.prompts[row.cpu()])

            def add(x: Tensor) -> Tensor:
                if x.ndim == 3:
                    return x.index_put((row,), added, accumulate=True)
                blank = torch.zeros_like(x)
                at = (row, slice(None), column % n_readers)
                return x + blank.transpose(1, 2).index_put(
                    cast("tuple[Tensor, Tensor]", at[::2]), added
                ).transpose(1, 2)

            return add

        return {self.graph.readers[i].hook: shift(i) for i in places}

    def contributions(
        self,
        writers: Int[Tensor, " k"],
        t: Float[Tensor, " k"],
        prompts: Int[Tensor, " k"],
    ) -> Float[Tensor, "k pos d_model"]:
        """What writers add to a reader when one edge of theirs has strength t, all else at rest."""
        moved = t[:, None, None] * self.difference[prompts.to(writers.device), writers]
        if not self._norms:
            return moved
        group = torch.searchsorted(
            torch.tensor([span.stop for span in self._spans]), writers.cpu(), right=True
        )
        for j in group.unique().tolist():
            if (norm := self._norm_after(j)) is not None:
                of_group = (group == j).nonzero()[:, 0]
                s = self._sums[self.graph.writers[j].layer][prompts[of_group]]
                of_group = of_group.to(moved.device)
                with full_precision(self._dtype):
                    behind = norm(s + moved[of_group]) - norm(s)
                moved = moved.index_put((of_group,), behind)
        return moved

    def move_writers(self, j: int, t: float, rows: Rows) -> dict[str, Patch]:
        """The writers of one group moved by t of the way to the other run, and all after them."""
        group = self.graph.writers[j]
        shift = t * self.difference[:, self._spans[j]]
        return {
            group.hook: lambda live: (
                live + rows.of(shift.transpose(1, 2) if live.ndim == 4 else shift[:, 0])
            )
        }

    # --- at the base run, to first order --------------------------------------------------------

    def slopes(
        self, gradients: Mapping[str, Float[Tensor, "rows pos ..."]], rows: Rows
    ) -> Float[Tensor, "rows n"]:
        """Slopes of all edges at 0 from gradients at the readers' inputs, by hook.

        Source:
            Edge attribution patching: Syed et al. (2023).
        """
        parts = []
        for group in self.graph.readers:
            G = gradients[group.hook]
            G = G.transpose(1, 2) if G.ndim == 4 else G[:, None]
            written = rows.of(self.tangent[:, : group.n_writers])
            parts.append((written.flatten(2) @ G.flatten(2).mT).flatten(1))
        return torch.cat(parts, dim=1)

    def _tangent(self) -> Float[Tensor, "prompt writer pos d_model"]:
        if not self._norms:
            return self.difference
        parts = []
        for j, group in enumerate(self.graph.writers):
            part = self.difference[:, self._spans[j]]
            if (norm := self._norm_after(j)) is not None:
                s = self._sums[group.layer][:, None].expand_as(part).contiguous()
                with full_precision(self._dtype):
                    part = torch.func.jvp(norm, (s,), (part.contiguous(),))[1]
            parts.append(part)
        return torch.cat(parts, dim=1)

    def _norm_after(self, j: int) -> nn.Module | None:
        group = self.graph.writers[j]
        return self._norms.get(group.layer) if group.hook.endswith("hook_result") else None


class _Live:
    """What writers write during one batch of runs, against the other run.

    All rows enter the run together, at the lowest layer that has a patched reader.
    """

    def __init__(self, edges: EdgePatches, strengths: Mapping[int, Tensor], rows: Rows):
        self._edges, self._strengths, self._rows = edges, strengths, rows
        self._differences: dict[int, Float[Tensor, "rows writer pos d_model"]] = {}
        self._sums: dict[int, Float[Tensor, "rows pos d_model"]] = {}
        n_writers = edges._spans[-1].stop
        self._ready: dict[int, Float[Tensor, "rows reader pos d_model"]] = {}
        tracked = any(
            alpha.requires_grad or fwAD.unpack_dual(alpha).tangent is not None
            for alpha in strengths.values()
        )
        # What was written, those behind norms apart and position by position, scaled by the norm's
        # weight and followed by their sum.
        self._stacked: list[int] = []  # the groups of writers in the first
        self._direct = _Stack(1, n_writers, tracked)
        self._scaled = _Stack(2, n_writers + len(edges._norms), tracked)
        self._products: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def watch(self, j: int) -> Patch:
        def record(x: Tensor) -> Tensor:
            other = self._rows.of(self._edges._other[j], len(x))
            self._differences[j] = other - _writers_first(x)
            return x

        return record

    def watch_sum(self, layer: int) -> Patch:
        def record(x: Tensor) -> Tensor:
            self._sums[layer] = x
            return x

        return record

    def added(self, i: int, n_rows: int) -> Float[Tensor, "rows reader pos d_model"]:
        """What all edges into a group of readers add to their inputs.

        Queries, keys and values of a layer read the same writers, and are made together: most of
        the time goes into reading what those have written.
        """
        if i not in self._ready:
            readers = self._edges.graph.readers
            reads = (readers[i].layer, readers[i].n_writers)
            together = [
                j for j in self._strengths if (readers[j].layer, readers[j].n_writers) == reads
            ]
            sizes = [len(readers[j].labels) for j in together]
            parts = [
                self._strengths[j][:n_rows].unflatten(1, (reads[1], size))
                for j, size in zip(together, sizes, strict=True)
            ]
            found = self._added(torch.cat(parts, dim=2)).split(sizes, dim=1)
            self._ready.update(zip(together, found, strict=True))
        return self._ready.pop(i)

    def _added(
        self, alpha: Float[Tensor, "rows n_writers n_readers"]
    ) -> Float[Tensor, "rows n_readers pos d_model"]:
        n_rows, n_writers = alpha.shape[:2]
        spans = self._edges._spans
        groups = [j for j, span in enumerate(spans) if span.stop <= n_writers]
        behind = [j for j in groups if self._edges._norm_after(j) is not None]
        direct = [j for j in groups if j not in behind]
        weights = alpha
        if behind:
            weights = torch.cat([alpha[:, spans[j]] for j in direct], dim=1)
        total = _mixed(weights, self._written(direct, n_rows))
        return total + self._behind_norms(alpha, behind, n_rows) if behind else total

    def _written(self, groups: list[int], n_rows: int) -> Float[Tensor, "rows writer pos d_model"]:
        """What some groups of writers have written, with those of earlier calls in front."""
        new = [j for j in groups if j not in self._stacked]
        self._stacked += new
        return self._direct.with_more([self._difference(j, n_rows) for j in new])

    def _behind_norms(
        self, alpha: Float[Tensor, "rows n_writers n_readers"], groups: list[int], n_rows: int
    ) -> Float[Tensor, "rows n_readers pos d_model"]:
        """What heads behind a norm add: sum over layers of PN(s + sum_h alpha_h delta_h) - PN(s).

        PN(x) is w x / r(x), with r the root of the mean square, and r(s + sum_h alpha_h delta_h)
        follows from the products of s and the deltas among themselves. So all readers and all
        layers are one product of matrices: 1 / r times alpha with w delta, the change of 1 / r with
        w s. (Norms of all the sums would take several times as long as the model.)
        """
        edges, spans, new = self._edges, self._edges._spans, []
        for j in groups:
            if j in self._products:
                continue
            layer, D = edges.graph.writers[j].layer, self._difference(j, n_rows)
            s = self._sums.get(layer)
            s = edges._sums[layer][self._rows.prompts[:n_rows]] if s is None else s
            self._products[j] = (
                s.square().mean(-1) + edges._rms[layer].eps,
                torch.einsum("rhpd,rpd->rhp", D, s) / s.shape[-1],
                torch.einsum("rhpd,rkpd->rhkp", D, D) / s.shape[-1],
            )
            scaled = torch.cat([D, s[:, None]], dim=1) * edges._rms[layer].weight
            new.append(scaled.transpose(1, 2))
        ss, ds, dd = (
            torch.stack(part, dim=1)
            for part in zip(*(self._products[j] for j in groups), strict=True)
        )
        a = torch.stack([alpha[:, spans[j]] for j in groups], dim=1)  # [rows, layer, head, reader]
        moved = 2 * torch.einsum("rlhv,rlhp->rlvp", a, ds)
        moved = moved + torch.einsum(
            "rlhv,rlhvp->rlvp", a, torch.einsum("rlkv,rlhkp->rlhvp", a, dd)
        )
        at_rest = ss[:, :, None].rsqrt()
        there = (ss[:, :, None] + moved).rsqrt()
        weights = torch.cat(
            [a[..., None] * there[:, :, None], (there - at_rest)[:, :, None]], dim=2
        )
        weights = weights.flatten(1, 2).permute(0, 3, 2, 1)  # [rows, pos, reader, layer and head]
        return (weights @ self._scaled.with_more(new)).transpose(1, 2)

    def _difference(self, j: int, n_rows: int) -> Float[Tensor, "rows writer pos d_model"]:
        if j in self._differences:
            return self._differences[j]
        # Its block was passed over, since no reader of these runs is that low.
        return self._rows.of(self._edges.difference[:, self._edges._spans[j]], n_rows)


class _Stack:
    """Tensors side by side in one, which grows as a run goes on.

    (Were it made anew from all its pieces, second derivatives would make a blank one for each of
    them.) Where no derivative passes, it has its full size from the beginning and is filled.

    Args:
        dim: The dimension along which they stand.
        size: How many there will be, all pieces together.
        tracked: Whether derivatives pass.
    """

    def __init__(self, dim: int, size: int, tracked: bool):
        self._dim, self._size, self._tracked, self._n = dim, size, tracked, 0
        self._all: Tensor | None = None

    def with_more(self, pieces: list[Tensor]) -> Tensor:
        """All so far, with some more behind them."""
        if pieces and (self._tracked or any(piece.requires_grad for piece in pieces)):
            before = [self._filled()] if self._n else []
            self._all = torch.cat([*before, *pieces], dim=self._dim)
            self._n = self._all.shape[self._dim]
            return self._all
        for piece in pieces:
            if self._all is None:
                shape = list(piece.shape)
                shape[self._dim] = self._size
                self._all = piece.new_empty(shape)
            n = piece.shape[self._dim]
            self._all.narrow(self._dim, self._n, n).copy_(piece)
            self._n += n
        return self._filled()

    def _filled(self) -> Tensor:
        assert self._all is not None  # the first call has pieces: the embedding, or a layer
        return self._all.narrow(self._dim, 0, self._n)


class _RmsNorm(NamedTuple):
    weight: Float[Tensor, " d_model"]
    eps: float


def _rms_norm(norm: nn.Module) -> _RmsNorm:
    """What a norm multiplies by, and its epsilon.

    Raises:
        NotImplementedError: It is no RMS norm.
    """
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    like = next(norm.parameters())
    if eps is None or like.ndim != 1:
        raise NotImplementedError(f"Heads behind a norm of type {type(norm).__name__}.")
    ones = torch.ones_like(like)
    weight = norm(ones) * (1 + eps) ** 0.5
    x = torch.linspace(-1, 2, len(ones)).to(ones)
    expected = weight * x * (x.square().mean() + eps).rsqrt()
    if not torch.allclose(norm(x), expected, rtol=1e-4, atol=1e-6):
        raise NotImplementedError(f"Heads behind a norm of type {type(norm).__name__}.")
    return _RmsNorm(weight, eps)


def _mixed(
    weights: Float[Tensor, "rows n_writers n_readers"],
    written: Float[Tensor, "rows n_writers pos d_model"],
) -> Float[Tensor, "rows n_readers pos d_model"]:
    return (weights.mT @ written.flatten(2)).unflatten(2, written.shape[2:])


def _writers_first(x: Tensor) -> Float[Tensor, "rows writer pos d_model"]:
    return x.transpose(1, 2) if x.ndim == 4 else x[:, None]


def _after(first: Patch, second: Patch) -> Patch:
    return lambda x: second(first(x))


# --- the model ----------------------------------------------------------------------------------


def edge_model(model: TransformerBridge) -> TransformerBridge:
    """A copy of a model in which every edge has a place of its own.

    It has the same weights in the same memory, and computes the same. Its attention reads a copy of
    the stream for the query, the key and the value of each head, and shows what each head writes.
    Keys and values that several query heads share are repeated, one for each of them.

    Made once for each model.

    Raises:
        NotImplementedError: An architecture whose heads cannot be told apart in this way.
    """
    _checks.model(model)
    if model in _COPIES.values() or model.cfg.use_split_qkv_input:
        return model
    if model not in _COPIES:
        require_edges(model)
        copied = as_bridge(_ungrouped(model), getattr(model, "tokenizer", None))
        copied.set_use_split_qkv_input(True)
        copied.set_use_attn_result(True)
        copied.set_use_hook_mlp_in(True)
        _require_readers(copied)
        _COPIES[model] = copied
    return _COPIES[model]


_COPIES: weakref.WeakKeyDictionary[TransformerBridge, TransformerBridge] = (
    weakref.WeakKeyDictionary()
)


def _ungrouped(model: TransformerBridge) -> PreTrainedModel:
    original = hf_model(model)
    config = copy.deepcopy(original.config)
    text = config.get_text_config()
    n_heads = text.num_attention_heads
    shared = getattr(text, "num_key_value_heads", None) or n_heads
    if shared != n_heads:
        text.num_key_value_heads = n_heads
    with init_empty_weights(include_buffers=False):
        new = type(original)(config)
    there = {name: weight.shape for name, weight in new.state_dict().items()}
    weights = {}
    # The bridge has put its own modules in the places of the model's.
    for name, weight in original.state_dict().items():
        name = name.replace("._original_component", "")
        if name in there and weight.shape != there[name]:
            weight = _repeated(weight, n_heads, shared, fused=".qkv_proj." in name)
        if name in there and weight.shape != there[name]:
            raise NotImplementedError(
                f"Edges of {type(original).__name__} are not supported: the keys and values that "
                f"its query heads share cannot be repeated for each of them in {name}."
            )
        weights[name] = weight
    missing = new.load_state_dict(weights, strict=False, assign=True).missing_keys
    if missing:
        raise NotImplementedError(
            f"Edges of {type(original).__name__} are not supported: {missing[0]} was not found "
            f"among its weights, and {len(missing) - 1} more."
        )
    for name, buffer in original.named_buffers():
        owner, _, last = name.replace("._original_component", "").rpartition(".")
        new.get_submodule(owner)._buffers[last] = buffer
    for module in new.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = _LayerNorm
    return new.eval()


def _repeated(weight: Tensor, n_heads: int, shared: int, fused: bool) -> Tensor:
    """Rows of shared keys and values (their weights, biases, norms), once for each query head.

    Args:
        weight: The rows, head by head.
        n_heads: Query heads.
        shared: Heads of keys and values.
        fused: Whether rows of queries come first, then those of keys, then those of values.
    """
    times = n_heads // shared
    if not fused:
        return weight.unflatten(0, (shared, -1)).repeat_interleave(times, 0).flatten(0, 1)
    heads = weight.unflatten(0, (n_heads + 2 * shared, -1))
    queries, others = heads[:n_heads], heads[n_heads:].repeat_interleave(times, 0)
    return torch.cat([queries, others]).flatten(0, 1)


class _LayerNorm(nn.LayerNorm):
    """In plain operations: third derivatives of the fused one hold mean and scale constant."""

    # PyTorch hands the input on by position, whatever its name.
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight
        return x if self.bias is None else x + self.bias


def _require_readers(bridge: TransformerBridge) -> None:
    """Raise NotImplementedError unless every reader computes from what its hook returns."""
    leaves: dict[str, Tensor] = {}

    def leaf(hook: str) -> Patch:
        def add(x: Tensor) -> Tensor:
            leaves[hook] = torch.zeros_like(x, requires_grad=True)
            return x + leaves[hook]

        return add

    model, hooks = hf_model(bridge), [group.hook for group in _graph_of(bridge).readers]
    token = torch.zeros(1, 1, dtype=torch.long, device=bridge.cfg.device)
    logits = SuffixRun(bridge, token, 0).logits({hook: leaf(hook) for hook in hooks}, {})
    found = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    read = {hook for hook, gradient in zip(leaves, found, strict=True) if gradient is not None}
    if unread := [hook for hook in hooks if hook not in read]:
        raise NotImplementedError(
            f"Edges of {type(model).__name__} ({model.config.model_type}) are not supported: what "
            f"TransformerLens shows at {unread[0]} is not what that reader computes from. Use "
            'nodes, such as "heads" and "mlp_out".'
        )


def _graph_of(bridge: TransformerBridge) -> EdgeGraph:
    parallel = bool(getattr(bridge.cfg, "parallel_attn_mlp", False))
    return edge_graph(bridge.cfg.n_layers, bridge.cfg.n_heads, parallel)


def _norms_after_heads(bridge: TransformerBridge) -> dict[int, nn.Module]:
    """By layer, norms between the sum of the heads and the residual stream."""
    found = {i: getattr(block, "ln1_post", None) for i, block in enumerate(bridge.blocks)}
    return {i: norm.original_component for i, norm in found.items() if norm is not None}


def _sum_hook(layer: int) -> str:
    return f"blocks.{layer}.ln1_post.hook_in"
