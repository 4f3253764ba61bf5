"""Changed backward passes: the same forward to the last bit, another gradient.

Several methods are attribution patching with another derivative of some operation. Each rule here
replaces the output y of an operation by ``y.detach() + (r - r.detach())``: its value is y, its
derivative that of the surrogate r. Rules are put on a model for the length of a ``with`` block, go
with every estimator, and are taken off again whatever happens:

    >>> with changed_backward(model, *gim_rules()):
    ...     scores = attribution_patching(M)

``linearised`` does the same to whole parts of the network: first derivatives stay as they are,
second derivatives vanish. Since a second derivative is a sum over operations, of the curvature of
each between first derivatives, what is missing afterwards is exactly what that part contributed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import NormalizationBridge
from transformers import PreTrainedModel

from hvp_utils import _checks
from hvp_utils.architectures import hf_model
from hvp_utils.models import as_bridge

if TYPE_CHECKING:
    from typing import Protocol

    class _Norm(Protocol):
        weight: Tensor


__all__ = [
    "NONLINEARITIES",
    "changed_backward",
    "drop_layer",
    "gim_rules",
    "linearised",
    "relp_rules",
]

Rule = Callable[[TransformerBridge], Iterable[RemovableHandle]]

_active = 0


@contextlib.contextmanager
def changed_backward(model: TransformerBridge | PreTrainedModel, *rules: Rule) -> Iterator[None]:
    """Put rules on a model while the block runs.

    Args:
        model: The model that a ``PatchedMetric`` was made with.
        rules: What this module's ``..._rules`` return, or single rules.
    """
    global _active
    bridge = as_bridge(model)
    for rule in rules:
        _checks.instance(
            "each of rules", rule, cast("type", Callable), "a rule, as gim_rules() gives them"
        )
    with contextlib.ExitStack() as stack:
        for rule in rules:
            for handle in rule(bridge):
                stack.callback(handle.remove)
        _active += 1
        try:
            yield
        finally:
            _active -= 1


def rules_are_active() -> bool:
    """Whether any rule is on: what was computed before must then not be used again."""
    return _active > 0


def gim_rules() -> tuple[Rule, ...]:
    """Gradient interaction modifications: keeps softmax redistribution from hiding effects.

    The scale of norms is held fixed, the softmax differentiated at temperature 2, the gradients
    at queries and keys quartered and at values halved, and the gradients at the two factors of a
    gated MLP halved. A component that is itself a query, key or value keeps its own gradient
    whole: the shares act on what flows on from it to earlier layers.

    Source:
        Edin et al. (2025), GIM.
    """
    shares = {"attn.hook_q": 1 / 4, "attn.hook_k": 1 / 4, "attn.hook_v": 1 / 2}
    scaled = (scale_gradients(hook, share) for hook, share in shares.items())
    return (freeze_norm_scales, softmax_temperature(2.0), *scaled, halve_gated_products)


def relp_rules(freeze_patterns: bool = False) -> tuple[Rule, ...]:
    """Relevance patching: layer-wise relevance propagation, written as a gradient.

    The scale of norms is held fixed, an activation function is a factor act(z)/z held fixed, and
    the gradients at the two factors of a gated MLP are halved.

    Args:
        freeze_patterns: Hold the attention patterns fixed as well.

    Source:
        Jafari et al. (2025), RelP.
    """
    _checks.truth("freeze_patterns", freeze_patterns)
    rules = (freeze_norm_scales, freeze_activation_ratios, halve_gated_products)
    return (*rules, scale_gradients("attn.hook_pattern", 0.0)) if freeze_patterns else rules


def drop_layer(layer: int) -> Rule:
    """No gradient flows into what the attention and the MLP of one layer write (GradDrop)."""
    _checks.whole("layer", layer, 0)

    def cut(module: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
        return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()

    def rule(bridge: TransformerBridge) -> Iterator[RemovableHandle]:
        if layer >= bridge.cfg.n_layers:
            raise ValueError(f"There is no layer {layer}: the model has {bridge.cfg.n_layers}.")
        for hook in ("hook_attn_out", "hook_mlp_out"):
            point = bridge.hook_dict[f"blocks.{layer}.{hook}"]
            # On the module around the hook, so that patches at the hook are cut off as well.
            for module in bridge.blocks[layer].modules():
                if getattr(module, "hook_out", None) is point:
                    yield module.register_forward_hook(cut)

    return rule


# --- single rules ------------------------------------------------------------------------------


def scale_gradients(hook: str, factor: float) -> Rule:
    """Multiply the gradient at one hook of every block."""

    def rule(bridge: TransformerBridge) -> Iterator[RemovableHandle]:
        for layer in range(bridge.cfg.n_layers):
            point = bridge.hook_dict[f"blocks.{layer}.{hook}"]
            yield point.register_forward_hook(
                cast(
                    "Callable[[nn.Module, tuple, Tensor], Tensor]",
                    lambda module, args, out: _value(out, factor * out),
                )
            )

    return rule


def halve_gated_products(bridge: TransformerBridge) -> Iterator[RemovableHandle]:
    """Halve the gradients at both factors of act(gate) * up; nothing in an MLP without a gate."""
    if "blocks.0.mlp.hook_pre_linear" in bridge.hook_dict:
        yield from scale_gradients("mlp.hook_post", 1 / 2)(bridge)


def freeze_norm_scales(bridge: TransformerBridge) -> Iterator[RemovableHandle]:
    """Differentiate every LayerNorm and RMSNorm as if its scale were a constant."""

    def freeze(
        norm: NormalizationBridge, module: nn.Module, end: nn.Module
    ) -> Iterator[RemovableHandle]:
        entered: list[Tensor] = []
        original = cast("_Norm", norm.original_component)
        eps = getattr(original, "eps", getattr(original, "variance_epsilon", None))
        if eps is None or getattr(original, "weight", None) is None:
            raise NotImplementedError(
                f"The scale of {type(original).__name__} cannot be frozen: it has no weight, or "
                "its epsilon is not known. GIM and RelP need both."
            )

        def frozen(_, args: tuple, out: Tensor) -> Tensor:
            x = entered.pop()
            if not norm.uses_rms_norm:
                x = x - x.mean(-1, keepdim=True)
            scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
            weight = original.weight + 1.0 if norm.uses_weight_offset else original.weight
            return _value(out, x * scale * weight)

        yield module.register_forward_pre_hook(
            lambda _, args: entered.__setitem__(slice(None), args[:1])
        )
        # Before any patch of what the norm gives (in Gemma, of an MLP), which keeps its gradient.
        yield end.register_forward_hook(frozen, prepend=True)

    for norm in _norms(bridge):
        for module in _where_applied(bridge, norm):
            yield from freeze(norm, module, norm.hook_out if module is norm else module)


def softmax_temperature(temperature: float) -> Rule:
    """Differentiate the attention softmax at another temperature, without the factor 1/T."""

    def rule(bridge: TransformerBridge) -> Iterator[RemovableHandle]:
        scores: dict[int, Tensor] = {}

        def remember(layer: int) -> Callable[..., None]:
            return lambda module, args, out: scores.__setitem__(layer, out)

        def soften(layer: int) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
            def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
                softer = (scores.pop(layer) / temperature).softmax(-1)
                return _value(out, temperature * softer.to(out.dtype))

            return hook

        for layer in range(bridge.cfg.n_layers):
            attention = f"blocks.{layer}.attn"
            before = bridge.hook_dict[f"{attention}.hook_attn_scores"]
            after = bridge.hook_dict[f"{attention}.hook_pattern"]
            yield before.register_forward_hook(remember(layer))
            yield after.register_forward_hook(soften(layer))

    return rule


def freeze_activation_ratios(bridge: TransformerBridge) -> Iterator[RemovableHandle]:
    """Differentiate every MLP activation function as z times the constant act(z)/z."""

    def ratio(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        z = args[0]
        # At 0 the ratio is the slope there, which a tiny z gives.
        near = torch.where(z == 0, torch.full_like(z, 1e-6), z).detach()
        value = torch.where(z == 0, type(module).forward(module, near), out).detach()
        return _value(out, z * (value / near))

    for block in bridge.blocks:
        yield _activation(block.mlp).register_forward_hook(ratio)


def _value(value: Tensor, surrogate: Tensor) -> Tensor:
    """A tensor with this value and the derivatives of a surrogate."""
    return value.detach() + (surrogate - surrogate.detach())


def _norms(bridge: TransformerBridge) -> list[NormalizationBridge]:
    return [m for m in bridge.modules() if isinstance(m, NormalizationBridge)]


def _where_applied(bridge: TransformerBridge, norm: NormalizationBridge) -> list[nn.Module]:
    """The modules through which a norm is applied.

    Inputs that are kept apart for each head, and the contributions of heads to edges, go through
    the norm that the bridge wraps.
    """
    return (
        [norm, cast("nn.Module", norm.original_component)]
        if bridge.cfg.use_split_qkv_input
        else [norm]
    )


def _activation(mlp: nn.Module) -> nn.Module:
    original = mlp.original_component
    for name in ("act_fn", "act", "activation_fn", "activation"):
        if isinstance(found := getattr(original, name, None), nn.Module):
            return found
    raise NotImplementedError(
        f"The MLP {type(original).__name__} has no activation module that this rule knows."
    )


# --- parts of the network without second derivatives -------------------------------------------

#: Where second derivatives come from: norms; scores and softmax of attention; the product of
#: pattern and values; activation functions; the product in a gated MLP; and everything after the
#: last norm, which is the metric and any soft cap of the logits.
NONLINEARITIES = (
    "norms",
    "attention_pattern",
    "attention_mixing",
    "mlp_activation",
    "mlp_gating",
    "output",
)


@contextlib.contextmanager
def linearised(
    model: TransformerBridge | PreTrainedModel,
    kinds: str | Collection[str] = NONLINEARITIES,
    layers: Collection[int] | None = None,
) -> Iterator[None]:
    """Replace operations by their linearisation at the point where they are evaluated.

    Values and first derivatives stay the same. Second derivatives lose what these operations
    contribute, and nothing else: with all kinds in all layers the Hessian is zero.

    Args:
        model: The model that a ``PatchedMetric`` was made with.
        kinds: Some of ``NONLINEARITIES``.
        layers: Only in these layers; all by default. The last norm and the output count as layer
            ``n_layers``.

    Raises:
        ValueError: An unknown kind.
    """
    kinds = _checks.members("kinds", kinds, NONLINEARITIES)
    bridge = as_bridge(model)
    if layers is not None:
        layers = _checks.items("layers", layers, "numbers of layers, or None for all")
        for layer in layers:
            _checks.whole("each of layers", layer, 0, bridge.cfg.n_layers)
    here = _Whereabouts(bridge)

    def chosen() -> bool:
        kind, layer = here.stack[-1]
        return kind in kinds and (layers is None or layer in layers)

    with changed_backward(bridge, here.follow), _Linearised(chosen):
        yield


class _Whereabouts:
    """Which kind of operation the model is running, and in which layer."""

    def __init__(self, bridge: TransformerBridge):
        self._end = ("output", bridge.cfg.n_layers)
        self.stack: list[tuple[str, int]] = [self._end]

    def follow(self, bridge: TransformerBridge) -> Iterator[RemovableHandle]:
        def start(*_) -> None:
            self.stack[:] = [self._end]  # anew, should the last run have ended in an error

        yield hf_model(bridge).register_forward_pre_hook(start)
        last = bridge.cfg.n_layers
        within = {norm: last for norm in _norms(bridge)}
        for layer, block in enumerate(bridge.blocks):
            within |= {norm: layer for norm in block.modules() if norm in within}
            yield from self._inside(block.attn, "attention_pattern", layer)
            yield block.attn.hook_pattern.register_forward_hook(self._mixing(layer))
            yield from self._inside(block.mlp, "mlp_gating", layer)
            yield from self._inside(_activation(block.mlp), "mlp_activation", layer)
        for norm, layer in within.items():
            for module in _where_applied(bridge, norm):
                yield from self._inside(module, "norms", layer)

    def _inside(self, module: nn.Module, kind: str, layer: int) -> Iterator[RemovableHandle]:
        # Post hooks pop before any other of the module's hooks: those may be rules of their own.
        yield module.register_forward_pre_hook(lambda *_: self.stack.append((kind, layer)))
        yield module.register_forward_hook(lambda *_: self.stack.pop() and None, prepend=True)

    def _mixing(self, layer: int) -> Callable[..., None]:
        def hook(*_) -> None:
            self.stack[-1] = ("attention_mixing", layer)

        return hook


class _Linearised(TorchFunctionMode):
    """Where ``chosen()``, every nonlinear function gets the derivative it has now, for ever."""

    _NONLINEAR = frozenset(
        "softmax log_softmax logsumexp silu gelu relu sigmoid tanh exp log pow square sqrt rsqrt "
        "div truediv reciprocal prod rms_norm layer_norm cross_entropy".split()
    )
    # Linear in each factor: only two that depend on the patch make a curvature.
    _PRODUCTS = frozenset("mul rmul matmul bmm mm baddbmm einsum".split())

    def __init__(self, chosen: Callable[[], bool]):
        super().__init__()
        self._chosen = chosen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function.__name__.strip("_")
        if name not in self._NONLINEAR | self._PRODUCTS or not self._chosen():
            return out
        live = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if len(live) < (2 if name in self._PRODUCTS else 1):
            return out

        def of_live(*changed: Tensor) -> Tensor:
            everything = list(args)
            for i, tensor in zip(live, changed, strict=True):
                everything[i] = tensor
            return function(*everything, **kwargs)

        # Copied, since forward derivatives refuse tensors that are expanded in place.
        at = tuple(args[i].detach().contiguous() for i in live)
        away = tuple((args[i] - args[i].detach()).contiguous() for i in live)
        _, change = cast("tuple[Tensor, Tensor]", torch.func.jvp(of_live, at, away))
        return out.detach() + change
