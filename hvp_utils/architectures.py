"""Which models this package is right about, and why it refuses the others.

The engine rests on a few facts: a causal model, so that nothing before a changed token changes; a
key/value cache, so that what is before it need not be run again; one activation for each component.
Where one of them fails, numbers would be wrong, or an error would come from deep inside a run. So
models are refused here, by name, before anything runs. ``tests/test_architectures.py`` tries the
families that are not refused against plain hooks.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

__all__ = [
    "hf_model",
    "mlp_width",
    "require_edges",
    "require_loaded",
    "require_node_kind",
    "require_supported",
    "runs_whole_batches",
    "sharded_parameter",
]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# What blocks may be made of: whatever remembers the past by keys and values alone.
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def hf_model(bridge: TransformerBridge) -> PreTrainedModel:
    """The Hugging Face model that a bridge wraps."""
    return cast("PreTrainedModel", bridge.original_model)


def _family(model: PreTrainedModel) -> str:
    config = model.config
    return f"{type(model).__name__} ({config.model_type})"


def require_supported(hf_model: PreTrainedModel) -> None:
    """Refuse a model of a kind that the engine cannot run.

    Raises:
        NotImplementedError: An encoder, an encoder and decoder, several modalities, a running state
            in place of keys and values, or packed (quantised) weights. The message says which, and
            what to do.
    """
    config, family = hf_model.config, _family(hf_model)
    if getattr(config, "is_encoder_decoder", False):
        raise NotImplementedError(
            f"{family} has an encoder and a decoder. Only causal decoders can be patched here: in "
            "an encoder a changed token changes what comes before it too."
        )
    if config.get_text_config() is not config:
        raise NotImplementedError(
            f"{family} takes more than text. Load its language model alone, as the ...ForCausalLM "
            "class of its family, with the weights of the part that reads text."
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    if getattr(hf_model, "_is_stateful", False) or kinds:
        what = f"layers of type {', '.join(sorted(kinds))}" if kinds else "layers with a state"
        raise NotImplementedError(
            f"{family} has {what}: state-space, recurrent, convolutional or linear attention layers"
            " carry what came before in a running state, and not in keys and values of each "
            "position, which runs here start from. Use a model all of whose layers are softmax "
            "attention."
        )
    if not hf_model.can_generate():
        raise NotImplementedError(
            f"{family} predicts no next token, or reads tokens in both directions. Load a causal "
            "language model (transformers.AutoModelForCausalLM)."
        )
    _require_plain_weights(hf_model, family)


def _require_plain_weights(hf_model: PreTrainedModel, family: str) -> None:
    """Weights must be floating-point numbers of a type that arithmetic is done in."""
    packed = next((n for n, p in hf_model.named_parameters() if p.dtype not in _DTYPES), None)
    packed = packed or next(
        (n for n, b in hf_model.named_buffers() if n.endswith(("qweight", "weight_packed"))), None
    )
    if packed is not None:
        method = getattr(hf_model, "quantization_method", None)
        method = f" by {getattr(method, 'value', method)}" if method else ""
        raise NotImplementedError(
            f"{family} has quantised weights{method} ({packed} is packed). Kernels for such "
            "weights round activations, and have no second derivative. Load it "
            "without quantization_config, or unpack it first: model.dequantize()."
        )


def runs_whole_batches(hf_model: PreTrainedModel) -> bool:
    """Whether what a model computes around its blocks depends on how many rows the batch has.

    So with ALiBi in the manner of BLOOM, whose slopes are laid out row by row, and with GPTBigCode,
    which gives the end of the run the shape that its beginning had.
    """
    config = hf_model.config
    return config.model_type in ("bloom", "gpt_bigcode") or (
        config.model_type == "falcon" and config.alibi
    )


def mlp_width(bridge: TransformerBridge) -> int | None:
    """The number of neurons of an MLP, from its weights; ``None`` where they do not tell.

    (Configurations call it by many names, and where TransformerLens does not know the name it
    takes four times the width of the stream.)
    """
    out = getattr(getattr(bridge.blocks[0], "mlp", None), "out", None)
    linear = getattr(out, "original_component", None)
    if isinstance(linear, nn.Linear):
        return linear.in_features
    return getattr(linear, "nx", None)  # a Conv1D of GPT-2


def require_node_kind(bridge: TransformerBridge, kind: str) -> None:
    """Refuse nodes that a model does not have as one activation each.

    Raises:
        NotImplementedError: Neurons of a mixture of experts; queries, keys and values of latent
            attention.
    """
    family = _family(hf_model(bridge))
    for layer, block in enumerate(bridge.blocks):
        if kind.startswith("neurons") and _is(block, "mlp", "MoEBridge"):
            raise NotImplementedError(
                f"{family} has mixtures of experts for MLPs: which neurons a token reaches depends "
                "on the token, so that a neuron's activation is missing from one run or the other. "
                'Use "mlp_out", the output of all experts together.'
            )
        if kind in ("queries", "keys", "values") and _is(block, "attn", "MLAAttentionBridge"):
            raise NotImplementedError(
                f"Layer {layer} of {family} has latent attention: {kind} are made of a compressed "
                'stream that the heads share. Use "heads".'
            )


def require_edges(bridge: TransformerBridge) -> None:
    """Refuse to tell apart edges where a model's attention or stream does not allow it.

    Raises:
        NotImplementedError: The message says why.
    """
    model = hf_model(bridge)
    config, family, why = model.config, _family(model), None
    for name in ("residual_multiplier", "multiplier_residual"):
        if getattr(config, name, 1.0) not in (None, 1.0):
            why = (
                f"its blocks scale what they add to the residual stream ({name} = "
                f"{getattr(config, name)}), so that what a head shows is not what its readers get"
            )
    shared = getattr(bridge.cfg, "n_key_value_heads", None) or bridge.cfg.n_heads
    if config.model_type in ("falcon", "gpt_bigcode") and shared != bridge.cfg.n_heads:
        why = (
            "its query heads share keys and values that lie in one matrix with the queries, and "
            "cannot be repeated for each head"
        )
    if config.model_type in ("olmo2", "olmo3", "olmoe"):
        why = (
            "its queries and keys pass through a norm over all heads together, so that no head "
            "reads an input of its own"
        )
    attention = {type(getattr(block, "attn", None)).__name__ for block in bridge.blocks}
    if config.model_type == "gpt_oss" or attention & {"AttentionBridge", "MLAAttentionBridge"}:
        why = "TransformerLens cannot give each query, key and value of it an input of its own"
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(devices) > 1:
        why = "it lies on several devices, and a copy of it would not"
    if why is not None:
        raise NotImplementedError(
            f'Edges of {family} are not supported: {why}. Use nodes, such as "heads" and "mlp_out".'
        )


def _is(block: nn.Module, part: str, kind: str) -> bool:
    return any(cls.__name__ == kind for cls in type(getattr(block, part, None)).__mro__)


def require_loaded(model: PreTrainedModel) -> None:
    """Refuse a model whose weights are fetched while it runs, as ``accelerate`` can do.

    Raises:
        ValueError: A weight lies on the meta device: it waits in the processor's memory or on disk.
    """
    away = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if away is not None:
        raise ValueError(
            f"{_family(model)} is not wholly in memory where it runs: {away} is fetched when it is "
            "needed (offloaded), or has no numbers yet. Patched runs would fetch it thousands of "
            "times. Use devices that hold the whole model, fewer bytes a weight "
            "(dtype=torch.bfloat16, for first-order estimates only), or a smaller model."
        )


def sharded_parameter(model: nn.Module) -> str | None:
    """The name of a parameter that is spread over processes (a DTensor), if there is one."""
    return next((n for n, p in model.named_parameters() if hasattr(p, "device_mesh")), None)
