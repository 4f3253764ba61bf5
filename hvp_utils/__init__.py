"""When can you trust attribution patching, and what do you do when you can't?

What most readers need is exported here, and imported when it is first asked for, torch with it. The
rest is reached by module: ``hvp_utils.stats.spearman``, ``hvp_utils.circuits.cpr``.
"""
# ruff: noqa: F401 - what type checkers import here is exported by the tables below

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import TYPE_CHECKING, Any

# A thread that waits for the others by spinning keeps a processor from whatever else wants it, and
# beside other programs most of the time goes into that. OpenMP reads these when torch is imported,
# so they change nothing if that has happened already. A setting of the user's own wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if TYPE_CHECKING:
    # Old names too. They are not in __all__, so a type checker says where to import them from.
    from hvp_utils import plots
    from hvp_utils.backward_rules import (
        NONLINEARITIES,
        changed_backward,
        drop_layer,
        gim_rules,
        linearised,
        relp_rules,
    )
    from hvp_utils.claims import (
        VERDICTS,
        Claim,
        claims_table,
        verdict,
        write_claims,
    )
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
    from hvp_utils.models import (
        MODELS,
        ModelOrigin,
        as_bridge,
        load_model,
        model_origin,
    )
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
    "components": "SAEFeatures",
    "diagnosis": "diagnose",
    "estimators": (
        "activation_patching atp_star attribution_patching eap_ig gim hvp integrated_gradients "
        "integrated_hessians ms_hvp quadratic_term sketched_hvp"
    ),
    "models": "as_bridge load_model",
    "patched_metric": "PatchedMetric",
    "plans": "model_sizes plan",
    "reliability": "error_bounds missed_bound reliability_score row_screen screen_flag_fix",
    "saes": "load_sae",
    "sweeps": "sweep",
    "tasks": "PromptPair factual greater_than ioi make_prompts reference_pair",
    "top": "top_effects",
    "plots": "",
}

# What could be had from the top until 0.1, by module. It still can, with a warning.
_MOVED = {
    "backward_rules": (
        "NONLINEARITIES changed_backward drop_layer gim_rules linearised relp_rules"
    ),
    "claims": "VERDICTS Claim claims_table verdict write_claims",
    "components": "COMPONENT_KINDS Site find_sites",
    "costs": "Costs measure_costs",
    "curvature": (
        "Diagonal LowRank RowNorms diagonal hessian_operator low_rank row_norms spectrum"
    ),
    "diagnosis": "Diagnosis",
    "estimators": (
        "ESTIMATORS QUADRATURES eap_gp find_estimator finite_difference_hvp gauss_newton "
        "local_curvature local_quadratic_term local_sketched_hvp ms_hvp_median "
        "quadratic_without relp third_order"
    ),
    "models": "MODELS ModelOrigin model_origin",
    "patched_metric": "AxisDerivatives",
    "plans": "ModelSizes Plan measure_rate pass_flops passes",
    "reliability": (
        "ErrorBounds MissedBound Screen Screened SelectiveBound flag hessian_lipschitz screen "
        "selective_bound slack"
    ),
    "saes": "SAE",
    "stats": (
        "Auroc Interval PairedTest bootstrap_ci bootstrap_share kendall_tau paired_bootstrap "
        "spearman top_k_overlap top_k_relative_error"
    ),
    "sweeps": "provenance",
    "tasks": "METRICS TASKS ResolvedPair accuracy",
}
_GONE_IN = "0.2"

_HOMES = {name: module for module, names in _EXPORTS.items() for name in names.split()}
_OLD_HOMES = {name: module for module, names in _MOVED.items() for name in names.split()}

__all__ = sorted([*_HOMES, "plots"])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for, and keep it; warn of a name that has moved."""
    if name in _OLD_HOMES:
        module = f"{__name__}.{_OLD_HOMES[name]}"
        warnings.warn(
            f"{__name__}.{name} is now {module}.{name}; the old name goes in version {_GONE_IN}.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(module), name)
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
