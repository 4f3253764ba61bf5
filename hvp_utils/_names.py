"""The names that the command line lists in its help, apart from what they name.

The tables of functions need torch, which takes seconds to import. A test compares each of these
lists with its table, so that a new name is a line there and a line here.
"""

from __future__ import annotations

__all__ = ["COMPONENTS", "ESTIMATORS", "MEASURES", "MODELS", "TASKS", "WORDS", "with_parameters"]

#: What ``hvp_utils.models.MODELS`` is.
MODELS = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "gemma-3-270m": "google/gemma-3-270m",
    "gpt2": "openai-community/gpt2",
    "pythia-410m": "EleutherAI/pythia-410m-deduped",
    "pythia-2.8b": "EleutherAI/pythia-2.8b-deduped",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
}

#: What ``hvp_utils.estimators.ESTIMATORS`` holds, with the parameters that may follow each name.
ESTIMATORS = {
    "activation_patching": (),
    "attribution_patching": (),
    "hvp": (),
    "sketched_hvp": ("n_matvecs", "seed"),
    "ms_hvp": ("n_steps",),
    "ms_hvp_median": (),
    "third_order": (),
    "finite_difference_hvp": (),
    "gauss_newton": (),
    "quadratic_without": ("kinds",),
    "local_curvature": (),
    "local_sketched_hvp": ("n_matvecs", "seed"),
    "integrated_gradients": ("n_steps", "method"),
    "integrated_hessians": ("n_steps", "scheme", "part", "method"),
    "gim": (),
    "relp": (),
    "atp_star": (),
    "eap_ig": ("n_steps", "method", "where"),
    "eap_gp": ("n_steps",),
}

#: The same of ``hvp_utils.sweeps.MEASURES``: what can be swept beside estimates of an effect.
MEASURES = {
    "hessian_lipschitz": (),
    "hessian_eigenvalues": (),
    "row_norms": ("n_probes",),
}

#: What a parameter that is not a whole number can be.
WORDS = {
    "kinds": (
        *("norms", "attention_pattern", "attention_mixing"),
        *("mlp_activation", "mlp_gating", "output"),
    ),
    "method": ("left", "right", "midpoint", "trapezoid", "gausslegendre"),
    "scheme": ("path", "grid"),
    "part": ("pairwise", "complete"),
    "where": ("inputs", "activations"),
}

#: What ``hvp_utils.components.COMPONENT_KINDS`` holds.
COMPONENTS = (
    "heads",
    "queries",
    "keys",
    "values",
    "mlp_out",
    "resid",
    "neurons_pre",
    "neurons_post",
    "edges",
)

#: The keys of ``hvp_utils.tasks.TASKS``.
TASKS = (
    "ioi",
    "ioi_random_token",
    "ioi_resample",
    "ioi_zero",
    "ioi_one_template",
    "greater_than",
    "greater_than_01",
    "factual",
    "factual_swap",
    "factual_resample",
    "factual_zero",
    "subject_verb_agreement",
    "gender_bias",
    "country_capital",
    "hypernymy",
    "mib_ioi",
    "arithmetic_addition",
    "arithmetic_subtraction",
    "mcqa",
    "mcqa_letters",
)


def with_parameters(names: dict[str, tuple[str, ...]]) -> str:
    """Names as the help shows them: ``hvp, ms_hvp (n_steps)``."""
    return ", ".join(
        f"{name} ({', '.join(parameters)})" if parameters else name
        for name, parameters in names.items()
    )
