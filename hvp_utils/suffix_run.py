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
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformer_lens.model_bridge import TransformerBridge
from transformers import Cache

__all__ = ["SuffixRun", "full_precision"]

Patch = Callable[[Tensor], Tensor]


class SuffixRun:
    """Runs of one prompt with some activations changed.

    Call ``unpatched`` once before ``logits``: it stores the residual stream that runs start from.

    Args:
        bridge: The model, frozen.
        tokens: The prompt ``[pos]``.
        start_pos: First position to run; activations before it are those of the unpatched prompt.
        prefix: The key/value cache of the positions before it, if another run has it already.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        tokens: Int[Tensor, " pos"],
        start_pos: int,
        prefix: Cache | None = None,
    ):
        self.suffix = tokens[None, start_pos:]
        self.prefix = prefix
        self._bridge, self._model, self._points = bridge, bridge.original_model, bridge.hook_dict
        self._resid: dict[int, Float[Tensor, "pos d_model"]] = {}
        if start_pos and prefix is None:
            with torch.no_grad(), self._precision():
                out = self._model(tokens[None, :start_pos], use_cache=True, logits_to_keep=1)
            self.prefix = out.past_key_values

    def unpatched(
        self, hooks: Iterable[str]
    ) -> tuple[Float[Tensor, "1 d_vocab"], dict[str, Float[Tensor, "pos ..."]]]:
        """Logits of the prompt as it is, and its activations at some hooks (the positions run)."""
        hooks = list(hooks)
        entries = {f"blocks.{i}.hook_in": i for i in range(self._bridge.cfg.n_layers)}
        kept: dict[str, Tensor] = {}

        def keeper(name: str) -> Patch:
            def keep(activation: Tensor) -> Tensor:
                kept[name] = activation[0].detach()
                return activation

            return keep

        with torch.no_grad():
            logits = self.logits({name: keeper(name) for name in [*hooks, *entries]}, {})
        missing = [name for name in [*hooks, *entries] if name not in kept]
        if missing:
            raise RuntimeError(
                f"The model ran without reaching {missing[0]} (and {len(missing) - 1} more hooks)."
            )
        self._resid = {layer: kept[name] for name, layer in entries.items()}
        return logits, {name: kept[name] for name in hooks}

    def logits(
        self, patches: Mapping[str, Patch], entering: Mapping[int, int]
    ) -> Float[Tensor, "rows d_vocab"]:
        """Logits at the last position, for patched copies of the prompt.

        A copy enters the run at the lowest layer that its patches touch, with the residual stream
        that the unpatched prompt has there. So the batch grows from layer to layer, and no copy
        passes through a block that could not change it.

        Args:
            patches: For each hook name a function from the activation ``[rows so far, pos, *rest]``
                to the one to use instead.
            entering: How many copies enter at which layer; rows come in the order of the layers.
                Empty for one copy of the whole, unpatched prompt.
        """
        with self._staircase(entering), self._hooked(patches), self._precision():
            out = self._model(
                self.suffix,
                past_key_values=self._expanded_prefix(entering),
                use_cache=self.prefix is not None,
                logits_to_keep=1,
            )
        return out.logits[:, -1]

    def _precision(self):
        return full_precision(self._model.dtype)

    def _expanded_prefix(self, entering: Mapping[int, int]) -> Cache | None:
        """The prefix cache, repeated without copying; each run gets its own to append to."""
        if self.prefix is None:
            return None
        cache = copy.copy(self.prefix)
        cache.layers = [copy.copy(layer) for layer in self.prefix.layers]
        for i, layer in enumerate(cache.layers):
            rows = sum(count for at, count in entering.items() if at <= i) or 1
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    @contextlib.contextmanager
    def _staircase(self, entering: Mapping[int, int]) -> Iterator[None]:
        """Pass over the blocks below the first entry, and add rows to the batch at each entry."""
        blocks = list(self._bridge.blocks)
        first = min(entering, default=0)

        def pass_through(hidden_states: Tensor, *_, **__) -> Tensor:
            return hidden_states

        def entry(layer: int):
            new = self._resid[layer].expand(entering[layer], -1, -1)

            def add_rows(block, args, kwargs):
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
                handle = point.add_hook(lambda activation, hook, patch=patch: patch(activation))
                added.append((point, handle))
            yield
        finally:
            unembed.remove()
            for point, handle in added:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)


def _contiguous_input(module, args):
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
            function = Tensor.double
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if a is torch.float32 else a for k, a in (kwargs or {}).items()}
        return function(*args, **kwargs)
