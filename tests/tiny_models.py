"""Tiny random language models of every architecture in the paper: no download, milliseconds a run.

Their weights are drawn much larger than an initialisation would, so that the metric bends visibly
along every axis: in a nearly linear model a wrong second derivative would pass unnoticed.
"""

import functools

import torch
import transformers
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

# Other families, each with what is special about it.
_MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": D_MLP}
_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6}
_NO_SPECIAL_TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_OLD_NAMES = {"vocab_size": D_VOCAB, "n_embd": 32, "n_layer": N_LAYERS, "n_head": N_HEADS}

OTHER_CONFIGS = {
    "gemma": lambda: transformers.GemmaConfig(**_GROUPED, head_dim=10),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, sliding_window=3),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=10),
    "phi": lambda: transformers.PhiConfig(**_SHARED),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED, **_NO_SPECIAL_TOKENS),
    "gptj": lambda: transformers.GPTJConfig(
        **_OLD_NAMES, n_inner=D_MLP, n_positions=32, rotary_dim=4, **_NO_SPECIAL_TOKENS
    ),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=D_VOCAB,
        hidden_size=32,
        intermediate_size=D_MLP,
        num_layers=2,
        num_heads=N_HEADS,
        attention_types=[[["global", "local"], 1]],
        window_size=3,
        max_position_embeddings=32,
        **_NO_SPECIAL_TOKENS,
    ),
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(
        **_OLD_NAMES, n_inner=D_MLP, n_positions=32, multi_query=True, **_NO_SPECIAL_TOKENS
    ),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=D_VOCAB,
        hidden_size=32,
        ffn_dim=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        max_position_embeddings=32,
        word_embed_proj_dim=32,
        dropout=0.0,
        activation_function="gelu",  # the published models have ReLU, which has no curvature
        **_NO_SPECIAL_TOKENS,
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=D_VOCAB,
        hidden_size=32,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        **_NO_SPECIAL_TOKENS,
    ),
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=D_VOCAB,
        hidden_size=32,
        ffn_hidden_size=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        multi_query=True,
        parallel_attn=True,
        alibi=False,
        **_NO_SPECIAL_TOKENS,
    ),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=D_VOCAB, d_model=32, n_layers=N_LAYERS, n_heads=N_HEADS, max_seq_len=32
    ),
    "stablelm": lambda: transformers.StableLmConfig(**_GROUPED),
    "olmo": lambda: transformers.OlmoConfig(**_GROUPED, **_NO_SPECIAL_TOKENS),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED, **_NO_SPECIAL_TOKENS),
    "cohere": lambda: transformers.CohereConfig(**_GROUPED, **_NO_SPECIAL_TOKENS),
    "granite": lambda: transformers.GraniteConfig(
        **_GROUPED, residual_multiplier=0.7, attention_multiplier=0.3, logits_scaling=2.0
    ),
    "starcoder2": lambda: transformers.Starcoder2Config(**_GROUPED, **_NO_SPECIAL_TOKENS),
    "smollm3": lambda: transformers.SmolLM3Config(**_GROUPED, **_NO_SPECIAL_TOKENS),
    "mixtral": lambda: transformers.MixtralConfig(
        **_GROUPED, num_local_experts=3, num_experts_per_tok=2
    ),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **_GROUPED, **_MIXTURE, num_experts=3, shared_expert_intermediate_size=D_MLP
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_GROUPED, **_MIXTURE, num_experts=3, head_dim=10
    ),
    "olmoe": lambda: transformers.OlmoeConfig(
        **_GROUPED, num_experts=3, num_experts_per_tok=2, **_NO_SPECIAL_TOKENS
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **_GROUPED,
        head_dim=10,
        num_local_experts=3,
        num_experts_per_tok=2,
        sliding_window=3,
        **_NO_SPECIAL_TOKENS,
    ),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **_SHARED,
        **_LATENT,
        **_MIXTURE,
        v_head_dim=8,
        first_k_dense_replace=1,
        n_routed_experts=3,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        **_NO_SPECIAL_TOKENS,
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **_SHARED,
        num_key_value_heads=N_HEADS,
        **_LATENT,
        **_MIXTURE,
        v_head_dim=8,
        first_k_dense_replace=1,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        **_NO_SPECIAL_TOKENS,
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=D_VOCAB, hidden_size=32, num_hidden_layers=N_LAYERS, **_NO_SPECIAL_TOKENS
    ),
    "mamba2": lambda: transformers.Mamba2Config(
        vocab_size=D_VOCAB,
        hidden_size=32,
        num_hidden_layers=N_LAYERS,
        num_heads=8,
        head_dim=8,
        state_size=8,
        n_groups=1,
        **_NO_SPECIAL_TOKENS,
    ),
}
FAMILIES = tuple(CONFIGS | OTHER_CONFIGS)


def tiny_hf_model(architecture: str, dtype: torch.dtype = torch.float64, seed: int = 0):
    """A Hugging Face model with large random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            (CONFIGS | OTHER_CONFIGS)[architecture](),
            attn_implementation="eager",
            dtype=torch.float64,
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
    return model.to(dtype).eval()


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
