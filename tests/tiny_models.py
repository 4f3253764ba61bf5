"""Tiny random language models of every architecture in the paper: no download, milliseconds a run.

Their weights are drawn much larger than an initialisation would, so that the metric bends visibly
along every axis: in a nearly linear model a wrong second derivative would pass unnoticed.
"""

import functools

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

import hvp_utils

N_LAYERS, N_HEADS, D_MLP, D_VOCAB = 3, 4, 5, 53

_SHARED = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": D_MLP,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 32,
}
_GROUPED = {**_SHARED, "num_key_value_heads": 2}
# Heads that do not fill the model's width; a window shorter than the prompts; and layers that
# alternate between that window and full attention.
_GEMMA = {**_GROUPED, "head_dim": 10, "query_pre_attn_scalar": 10, "sliding_window": 3}
_LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]

CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=D_VOCAB,
        n_embd=32,
        n_inner=D_MLP,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "neox": lambda: GPTNeoXConfig(**_SHARED, bos_token_id=0, eos_token_id=0),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "gemma2": lambda: Gemma2Config(
        **_GEMMA, layer_types=_LAYER_TYPES, attn_logit_softcapping=3.0, final_logit_softcapping=4.0
    ),
    "gemma3": lambda: Gemma3TextConfig(**_GEMMA, layer_types=_LAYER_TYPES),
}
ARCHITECTURES = tuple(CONFIGS)


def tiny_hf_model(architecture: str, dtype: torch.dtype = torch.float64, seed: int = 0):
    """A Hugging Face model with large random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            CONFIGS[architecture](), attn_implementation="eager", dtype=torch.float64
        )
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if isinstance(module, nn.Embedding):
                    scale = 1.0
                elif weight.ndim == 2:
                    # A Linear is [out, in]; GPT-2's Conv1D is [in, out].
                    fan_in = weight.shape[1 if isinstance(module, nn.Linear) else 0]
                    scale = 2.0 / fan_in**0.5
                else:  # biases, and the scales of norms
                    scale = 0.2
                noise = scale * torch.randn_like(weight)
                weight.data = noise if weight.ndim == 2 else weight.data + noise
                assert name
        model.tie_weights()
    return model.to(dtype)


@functools.cache
def tiny_model(architecture: str, dtype: torch.dtype = torch.float64):
    """The same as a bridge, without a tokenizer."""
    return hvp_utils.as_bridge(tiny_hf_model(architecture, dtype))


#: Prompts as token ids, by where they first differ.
PROMPTS = {
    "middle": ((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 9, 5, 6, 10, 8)),
    "first": ((11, 2, 3, 4, 5), (12, 2, 3, 4, 5)),
    "last": ((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 13)),
    "same": ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
}


def entropy(logits):
    """A metric of one's own: entropy of the next token, in nats."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


METRICS = ("log_prob", "logit_diff", "prob_diff", entropy)


def tiny_pair(where: str = "middle", metric="log_prob", **kwargs) -> hvp_utils.PromptPair:
    """A prompt pair for the tiny models; two answers against one wrong answer."""
    clean, corrupted = PROMPTS[where]
    return hvp_utils.PromptPair(clean, corrupted, (20, 21), 22, metric=metric, **kwargs)


def tiny_task(model, n, seed=0):
    """A task for the tiny models: random token ids, one of which differs. Extending keeps them."""
    pairs = []
    for i in range(n):
        generator = torch.Generator().manual_seed(1000 * seed + i)
        clean = torch.randperm(D_VOCAB, generator=generator)[:6].tolist()
        corrupted = [*clean[:3], (clean[3] + 1) % D_VOCAB, *clean[4:]]
        pairs.append(hvp_utils.PromptPair(clean, corrupted, clean[0], name=f"tiny {i}"))
    return pairs
