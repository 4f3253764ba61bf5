"""When can you trust attribution patching, and what do you do when you can't?"""

from hvp_utils import plots
from hvp_utils.components import COMPONENT_KINDS, Site, find_sites
from hvp_utils.estimators import (
    ESTIMATORS,
    activation_patching,
    attribution_patching,
    find_estimator,
    hvp,
    ms_hvp,
)
from hvp_utils.models import MODELS, ModelOrigin, as_bridge, load_model, model_origin
from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric
from hvp_utils.stats import (
    Interval,
    PairedTest,
    bootstrap_ci,
    kendall_tau,
    paired_bootstrap,
    spearman,
    top_k_overlap,
    top_k_relative_error,
)
from hvp_utils.sweeps import provenance, sweep
from hvp_utils.tasks import (
    METRICS,
    TASKS,
    PromptPair,
    ResolvedPair,
    factual,
    greater_than,
    ioi,
    make_prompts,
    reference_pair,
)

__all__ = [
    "COMPONENT_KINDS",
    "ESTIMATORS",
    "METRICS",
    "MODELS",
    "TASKS",
    "AxisDerivatives",
    "Interval",
    "ModelOrigin",
    "PairedTest",
    "PatchedMetric",
    "PromptPair",
    "ResolvedPair",
    "Site",
    "activation_patching",
    "as_bridge",
    "attribution_patching",
    "bootstrap_ci",
    "factual",
    "find_estimator",
    "find_sites",
    "greater_than",
    "hvp",
    "ioi",
    "kendall_tau",
    "load_model",
    "make_prompts",
    "model_origin",
    "ms_hvp",
    "paired_bootstrap",
    "plots",
    "provenance",
    "reference_pair",
    "spearman",
    "sweep",
    "top_k_overlap",
    "top_k_relative_error",
]
__version__ = "0.1.0"
