"""Estimators of what patching one component does: each a short rule on M(alpha).

All take a ``PatchedMetric`` and return one number per component, in the order of its ``labels``:
the estimated change of the metric when that component alone is patched, g_c(1) - g_c(0). Given
``components`` (indices), they work only on those and return one number for each.
"""

from .edges import eap_gp, eap_ig
from .integrals import QUADRATURES, integrated_gradients, integrated_hessians
from .local import local_curvature, local_quadratic_term, local_sketched_hvp
from .names import ESTIMATORS, find_estimator
from .other_gradients import atp_star, gim, relp
from .taylor import (
    activation_patching,
    attribution_patching,
    finite_difference_hvp,
    gauss_newton,
    hvp,
    ms_hvp,
    ms_hvp_median,
    quadratic_term,
    quadratic_without,
    sketched_hvp,
    third_order,
)

__all__ = [
    "ESTIMATORS",
    "QUADRATURES",
    "activation_patching",
    "atp_star",
    "attribution_patching",
    "eap_gp",
    "eap_ig",
    "find_estimator",
    "finite_difference_hvp",
    "gauss_newton",
    "gim",
    "hvp",
    "integrated_gradients",
    "integrated_hessians",
    "local_curvature",
    "local_quadratic_term",
    "local_sketched_hvp",
    "ms_hvp",
    "ms_hvp_median",
    "quadratic_term",
    "quadratic_without",
    "relp",
    "sketched_hvp",
    "third_order",
]
