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
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformer_lens.model_bridge import TransformerBridge

__all__ = ["SuffixRun", "full_precision"]

Patch = Callable[[Tensor], Tensor]


class SuffixRun:
    """Runs of one prompt with some activations changed.

    Args:
        bridge: The model, frozen.
        tokens: The prompt ``[pos]``.
        start_pos: First position to run; activations before it are those of the unpatched prompt.
    """

    def __init__(self, bridge: TransformerBridge, tokens: Int[Tensor, " pos"], start_pos: int):
        self.bridge = bridge
        self.suffix = tokens[None, start_pos:]
        self._model = bridge.original_model
        self._points = bridge.hook_dict
        self._prefix = None
        self._resid: list[Tensor | None] = [None] * bridge.cfg.n_layers
        with torch.no_grad(), self._precision():
            if start_pos:
                out = self._model(tokens[None, :start_pos], use_cache=True, logits_to_keep=1)
                self._prefix = out.past_key_values
            keep = {f"blocks.{i}.hook_in": i for i in range(bridge.cfg.n_layers)}
            for name, value in self.activations(keep).items():
                self._resid[keep[name]] = value

    def activations(self, hooks) -> dict[str, Float[Tensor, "pos ..."]]:
        """Activations of the unpatched prompt at the named hooks, from ``start_pos`` on."""
        kept: dict[str, Tensor] = {}

        def keeper(name: str) -> Patch:
            def keep(activation: Tensor) -> Tensor:
                kept[name] = activation[0].detach()
                return activation

            return keep

        with torch.no_grad():
            self.logits({name: keeper(name) for name in hooks}, rows=1)
        missing = [name for name in hooks if name not in kept]
        if missing:
            raise RuntimeError(
                f"The model ran without reaching {missing[0]} (and {len(missing) - 1} more hooks)."
            )
        return kept

    def logits(
        self, patches: Mapping[str, Patch], rows: int, start_layer: int = 0
    ) -> Float[Tensor, "rows d_vocab"]:
        """Logits at the last position, for ``rows`` patched copies of the prompt.

        Args:
            patches: For each hook name a function from the activation ``[rows, pos, *rest]`` to the
                one to use instead. None may sit below ``start_layer``.
            rows: Number of copies run together.
            start_layer: The blocks below it are skipped.
        """
        with self._skipping(start_layer, rows), self._hooked(patches), self._precision():
            out = self._model(
                self.suffix.expand(rows, -1),
                past_key_values=self._expanded_prefix(rows),
                use_cache=self._prefix is not None,
                logits_to_keep=1,
            )
        return out.logits[:, -1]

    def _precision(self):
        return full_precision(self._model.dtype)

    def _expanded_prefix(self, rows: int):
        """The prefix cache, repeated without copying; each run gets its own to append to."""
        if self._prefix is None:
            return None
        cache = copy.copy(self._prefix)
        cache.layers = [copy.copy(layer) for layer in self._prefix.layers]
        for layer in cache.layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    @contextlib.contextmanager
    def _skipping(self, start_layer: int, rows: int) -> Iterator[None]:
        """Turn the blocks below ``start_layer`` into pass-throughs, the last one into a source."""
        skipped = list(self.bridge.blocks)[:start_layer]

        def pass_through(hidden_states: Tensor, *_, **__) -> Tensor:
            return hidden_states

        def source(hidden_states: Tensor, *_, **__) -> Tensor:
            return self._resid[start_layer].expand(rows, -1, -1)

        try:
            for block in skipped:
                # An instance attribute shadows the class's method until it is removed again.
                block.__dict__["forward"] = source if block is skipped[-1] else pass_through
            yield
        finally:
            for block in skipped:
                block.__dict__.pop("forward", None)

    @contextlib.contextmanager
    def _hooked(self, patches: Mapping[str, Patch]) -> Iterator[None]:
        added = []
        # A strided last position would send the unembedding down a slow batched product, one
        # small matrix per row: several times the cost of the whole suffix on a CPU.
        unembed = self.bridge.unembed.register_forward_pre_hook(_contiguous_input)
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
    return (args[0].contiguous(), *args[1:])


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
