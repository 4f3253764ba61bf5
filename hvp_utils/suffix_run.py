"""Running a model from a given layer, on the tokens after a given position.

Two facts make many patched runs cheap in a causal model.

* **Positions.** Nothing before the first token where two prompts differ can change, so those
  positions are read from a key/value cache.
* **Layers.** A patch in layer l changes nothing below l, so the run can start from the stored
  residual stream that enters l.

``SuffixRun`` uses both and knows nothing of metrics or derivatives. It runs the whole Hugging Face
model, with blocks below the starting layer replaced by pass-throughs, so that whatever an
architecture does around its blocks (position embeddings, masks, soft-capped logits) stays its own
business.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformer_lens.model_bridge import TransformerBridge
from transformers import Cache

from hvp_utils.architectures import hf_model, runs_whole_batches

if TYPE_CHECKING:
    from typing import Protocol

    from transformer_lens.hook_points import HookFunction

    class _CacheLayer(Protocol):
        keys: Tensor
        values: Tensor


__all__ = ["Rows", "SuffixRun", "full_precision"]

Patch = Callable[[Tensor], Tensor]


class Rows:
    """Which of some prompts each row of a batch is a copy of.

    Args:
        prompts: Number of a prompt for each row, ``[rows]``.
        n_prompts: How many prompts there are to choose from.
    """

    def __init__(self, prompts: Int[Tensor, " rows"], n_prompts: int):
        self.prompts, self.n_prompts = prompts, n_prompts
        self._every = torch.equal(prompts, torch.arange(n_prompts))

    def __len__(self) -> int:
        return len(self.prompts)

    def of(
        self, stored: Float[Tensor, "prompt ..."], stop: int | None = None, start: int = 0
    ) -> Float[Tensor, "row ..."]:
        """What is stored of each row's prompt, for some consecutive rows.

        Nothing is copied where the rows are those of a single prompt, or are the prompts in order.
        """
        stop = len(self) if stop is None else stop
        if self.n_prompts == 1:
            return stored.expand(stop - start, *stored.shape[1:])
        if self._every:
            return stored[start:stop]
        return stored[self.prompts[start:stop].to(stored.device)]


class _Reached(Exception):
    """A run has come as far as was wanted."""

    def __init__(self, activation: Tensor):
        super().__init__()
        self.activation = activation


class SuffixRun:
    """Runs of prompts of one length with some activations changed.

    Call ``unpatched`` once before ``logits``: it stores the residual stream that runs start from.

    Args:
        bridge: The model, frozen.
        tokens: The prompts ``[prompt, pos]``.
        start_pos: First position to run; activations before it are those of the unpatched prompts.
    """

    def __init__(
        self, bridge: TransformerBridge, tokens: Int[Tensor, "prompt pos"], start_pos: int
    ):
        self.suffix, self.n_prompts = tokens[:, start_pos:], len(tokens)
        self.prefix: Cache | None = None
        self._bridge, self._model, self._points = bridge, hf_model(bridge), bridge.hook_dict
        self._resid: dict[int, Float[Tensor, "prompt pos d_model"]] = {}
        self._whole_batches = runs_whole_batches(self._model)
        if start_pos:
            with torch.no_grad(), self._precision():
                out = self._model(tokens[:, :start_pos], use_cache=True, logits_to_keep=1)
            self.prefix = out.past_key_values

    def unpatched(
        self, hooks: Iterable[str], others: Int[Tensor, "prompt pos"] | None = None
    ) -> tuple[Float[Tensor, "prompt d_vocab"], dict[str, Float[Tensor, "prompt pos ..."]]]:
        """Logits of the prompts as they are, and their activations at some hooks.

        Args:
            hooks: Where activations ``[prompt, pos, ...]`` are wanted (the positions run).
            others: Run these tokens after the prefixes instead. (In a batch of the same shape, so
                that what does not differ comes out equal to the last bit.)
        """
        hooks = list(hooks)
        entries = {f"blocks.{i}.hook_in": i for i in range(self._bridge.cfg.n_layers)}
        kept: dict[str, Tensor] = {}

        def keeper(name: str) -> Patch:
            def keep(activation: Tensor) -> Tensor:
                kept[name] = activation.detach()
                return activation

            return keep

        rows = Rows(torch.arange(self.n_prompts), self.n_prompts)
        with torch.no_grad():
            patches = {name: keeper(name) for name in [*hooks, *entries]}
            logits = self._run(self.suffix if others is None else others, patches, rows, {})
        missing = [name for name in [*hooks, *entries] if name not in kept]
        if missing:
            raise RuntimeError(
                f"The model ran without reaching {missing[0]} (and {len(missing) - 1} more hooks)."
            )
        if others is None:
            self._resid = {layer: kept[name] for name, layer in entries.items()}
        return logits, {name: kept[name] for name in hooks}

    def logits(
        self,
        patches: Mapping[str, Patch],
        entering: Mapping[int, int],
        rows: Rows | None = None,
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits at the last position, for patched copies of the prompts.

        A copy enters the run at the lowest layer that its patches touch, with the residual stream
        that the unpatched prompt has there. So the batch grows from layer to layer, and no copy
        passes through a block that could not change it.

        Args:
            patches: For each hook name a function from the activation ``[rows so far, pos, *rest]``
                to the one to use instead.
            entering: How many copies enter at which layer; rows come in the order of the layers.
                Empty for one whole, unpatched copy of each prompt.
            rows: Whose copy each row is; by default one copy of each prompt, or any number of
                copies of the only one.
        """
        if rows is None:
            count = sum(entering.values()) or self.n_prompts
            rows = Rows(torch.arange(count) % self.n_prompts, self.n_prompts)
        # Rows that enter at a block bring their own stream: of the tokens only the length matters.
        tokens = self.suffix[:1] if entering else self.suffix
        if entering and self._whole_batches:
            entering = {min(entering): len(rows)}
            tokens = rows.of(self.suffix)
        return self._run(tokens, patches, rows, entering)

    def until(
        self, hook: str, patches: Mapping[str, Patch], entering: Mapping[int, int], rows: Rows
    ) -> Float[Tensor, "row pos ..."]:
        """The activation at one hook, with some others patched; nothing behind it is run.

        The arguments are those of ``logits``.
        """

        def stop(activation: Tensor) -> Tensor:
            raise _Reached(activation)

        try:
            self.logits({**patches, hook: stop}, entering, rows)
        except _Reached as reached:
            return reached.activation
        raise RuntimeError(f"The model ran without reaching {hook}.")

    def _run(
        self,
        tokens: Int[Tensor, "row pos"],
        patches: Mapping[str, Patch],
        rows: Rows,
        entering: Mapping[int, int],
    ) -> Float[Tensor, "row d_vocab"]:
        with self._staircase(entering, rows), self._hooked(patches), self._precision():
            out = self._model(
                tokens,
                past_key_values=self._prefix_of(rows, entering),
                use_cache=self.prefix is not None,
                logits_to_keep=1,
            )
        return out.logits[:, -1]

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        return full_precision(self._model.dtype)

    def _prefix_of(self, rows: Rows, entering: Mapping[int, int]) -> Cache | None:
        """The prefix cache of each row; every run gets one of its own to append to."""
        if self.prefix is None:
            return None
        cache = copy.copy(self.prefix)
        cache.layers = [copy.copy(layer) for layer in self.prefix.layers]
        for i, layer in enumerate(cast("list[_CacheLayer]", cache.layers)):
            so_far = None  # all of them
            if entering:
                # A block that no row has entered yet is passed over; any one row keeps its shape.
                so_far = sum(count for at, count in entering.items() if at <= i) or 1
            layer.keys = rows.of(layer.keys, so_far)
            layer.values = rows.of(layer.values, so_far)
        return cache

    @contextlib.contextmanager
    def _staircase(self, entering: Mapping[int, int], rows: Rows) -> Iterator[None]:
        """Pass over the blocks below the first entry, and add rows to the batch at each entry."""
        blocks = list(self._bridge.blocks)
        first = min(entering, default=0)
        stops = dict(zip(entering, itertools.accumulate(entering.values()), strict=True))

        def pass_through(hidden_states: Tensor, *_, **__) -> Tensor:
            return hidden_states

        def entry(layer: int) -> Callable[[Any, tuple, dict[str, Any]], tuple[tuple, dict]]:
            new = rows.of(self._resid[layer], stops[layer], stops[layer] - entering[layer])

            def add_rows(block: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
                hidden = args[0] if args else kwargs["hidden_states"]
                hidden = new if layer == first else torch.cat([hidden, new])
                if args:
                    return (hidden, *args[1:]), kwargs
                return args, kwargs | {"hidden_states": hidden}

            return add_rows

        handles = []
        try:
            for block in blocks[:first]:
                # An instance attribute shadows the class's method until it is removed again.
                block.__dict__["forward"] = pass_through
            for layer in entering:
                handles.append(
                    blocks[layer].register_forward_pre_hook(entry(layer), with_kwargs=True)
                )
            yield
        finally:
            for handle in handles:
                handle.remove()
            for block in blocks[:first]:
                block.__dict__.pop("forward", None)

    @contextlib.contextmanager
    def _hooked(self, patches: Mapping[str, Patch]) -> Iterator[None]:
        added = []
        unembed = self._bridge.unembed.register_forward_pre_hook(_contiguous_input)
        try:
            for name, patch in patches.items():
                point = self._points[name]
                handle = point.add_hook(
                    cast("HookFunction", lambda activation, hook, patch=patch: patch(activation))
                )
                added.append((point, handle))
            yield
        finally:
            unembed.remove()
            for point, handle in added:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)


def _contiguous_input(module: Any, args: tuple) -> tuple:
    """Copy the last position out of its strides, on the way back too.

    A strided input sends the unembedding down a slow batched product, one copy of the vocabulary
    per row: several times the cost of the whole suffix on a CPU. ``contiguous`` would pass the
    gradients of gradients through as they are; a product is a product in every direction.
    """
    return (args[0] * 1.0, *args[1:])


@contextlib.contextmanager
def full_precision(dtype: torch.dtype) -> Iterator[None]:
    """Arithmetic in the precision that the model was loaded in, throughout.

    In float32 this means no TF32: ten bits of mantissa are too few for differences of nearly equal
    runs. In float64 it means no detour through float32, which transformers writes into its norms
    and softmaxes for the sake of half-precision models, and which would cost a float64 model half
    of its digits.
    """
    before = torch.get_float32_matmul_precision()
    detours = _Float64Throughout() if dtype == torch.float64 else contextlib.nullcontext()
    try:
        torch.set_float32_matmul_precision("highest")
        with detours:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Float64Throughout(TorchFunctionMode):
    """Where code says float32, read float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.float:
            function = cast("Callable[..., Any]", Tensor.double)
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if a is torch.float32 else a for k, a in (kwargs or {}).items()}
        return function(*args, **kwargs)
