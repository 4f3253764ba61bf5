"""When can you trust attribution patching, and what do you do when you can't?

What is exported here is imported when it is first asked for, and torch with it.
"""
# ruff: noqa: F401 - what type checkers import here is exported by the table below

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

# A thread that waits for the others by spinning keeps a processor from whatever else wants it, and
# beside other programs most of the time goes into that. OpenMP reads these when torch is imported,
# so they change nothing if that has happened already. A setting of the user's own wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if TYPE_CHECKING:
    from hvp_utils import plots
    from hvp_utils.backward_rules import (
        NONLINEARITIES,
        changed_backward,
        drop_layer,
        gim_rules,
        linearised,
        relp_rules,
    )
    from hvp_utils.claims import VERDICTS, Claim, claims_table, verdict, write_claims
    from hvp_utils.components import COMPONENT_KINDS, SAEFeatures, Site, find_sites
    from hvp_utils.costs import Costs, measure_costs
    from hvp_utils.curvature import (
        Diagonal,
        LowRank,
        RowNorms,
        diagonal,
        hessian_operator,
        low_rank,
        row_norms,
        spectrum,
    )
    from hvp_utils.diagnosis import Diagnosis, diagnose
    from hvp_utils.estimators import (
        ESTIMATORS,
        QUADRATURES,
        activation_patching,
        atp_star,
        attribution_patching,
        eap_gp,
        eap_ig,
        find_estimator,
        finite_difference_hvp,
        gauss_newton,
        gim,
        hvp,
        integrated_gradients,
        integrated_hessians,
        local_curvature,
        local_quadratic_term,
        local_sketched_hvp,
        ms_hvp,
        ms_hvp_median,
        quadratic_term,
        quadratic_without,
        relp,
        sketched_hvp,
        third_order,
    )
    from hvp_utils.models import MODELS, ModelOrigin, as_bridge, load_model, model_origin
    from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric
    from hvp_utils.plans import (
        ModelSizes,
        Plan,
        measure_rate,
        model_sizes,
        pass_flops,
        passes,
        plan,
    )
    from hvp_utils.reliability import (
        ErrorBounds,
        MissedBound,
        Screen,
        Screened,
        SelectiveBound,
        error_bounds,
        flag,
        hessian_lipschitz,
        missed_bound,
        reliability_score,
        row_screen,
        screen,
        screen_flag_fix,
        selective_bound,
        slack,
    )
    from hvp_utils.saes import SAE, load_sae
    from hvp_utils.stats import (
        Auroc,
        Interval,
        PairedTest,
        bootstrap_ci,
        bootstrap_share,
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
        accuracy,
        factual,
        greater_than,
        ioi,
        make_prompts,
        reference_pair,
    )
    from hvp_utils.top import top_effects

# What can be had from the top, by module. Any module can: hvp_utils.plots, hvp_utils.stats.
_EXPORTS = {
    "backward_rules": "NONLINEARITIES changed_backward drop_layer gim_rules linearised relp_rules",
    "claims": "VERDICTS Claim claims_table verdict write_claims",
    "components": "COMPONENT_KINDS SAEFeatures Site find_sites",
    "costs": "Costs measure_costs",
    "curvature": "Diagonal LowRank RowNorms diagonal hessian_operator low_rank row_norms spectrum",
    "diagnosis": "Diagnosis diagnose",
    "estimators": (
        "ESTIMATORS QUADRATURES activation_patching atp_star attribution_patching eap_gp eap_ig "
        "find_estimator finite_difference_hvp gauss_newton gim hvp integrated_gradients "
        "integrated_hessians local_curvature local_quadratic_term local_sketched_hvp ms_hvp "
        "ms_hvp_median quadratic_term quadratic_without relp sketched_hvp third_order"
    ),
    "models": "MODELS ModelOrigin as_bridge load_model model_origin",
    "patched_metric": "AxisDerivatives PatchedMetric",
    "plans": "ModelSizes Plan measure_rate model_sizes pass_flops passes plan",
    "reliability": (
        "ErrorBounds MissedBound Screen Screened SelectiveBound error_bounds flag "
        "hessian_lipschitz missed_bound reliability_score row_screen screen screen_flag_fix "
        "selective_bound slack"
    ),
    "saes": "SAE load_sae",
    "stats": (
        "Auroc Interval PairedTest bootstrap_ci bootstrap_share kendall_tau paired_bootstrap "
        "spearman top_k_overlap top_k_relative_error"
    ),
    "sweeps": "provenance sweep",
    "tasks": (
        "METRICS TASKS PromptPair ResolvedPair accuracy factual greater_than ioi make_prompts "
        "reference_pair"
    ),
    "top": "top_effects",
    "plots": "",
}

_HOMES = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = sorted([*_HOMES, "plots"])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for, and keep it."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif importlib.util.find_spec(f"{__name__}.{name}"):
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_EXPORTS})
