"""Which failure is it? Why attribution patching misjudges one component.

Three failures of attribution patching have names: attention saturation and effect cancellation
(Kramar et al. 2024), and zero gradients (Hanna et al. 2024). Symptoms of them are common, also
where nothing is wrong, so each criterion here asks what part of the *error* a failure accounts for.

Of one component with path g(t) = M(t e_c), the error of attribution patching is

    E = g(1) - g(0) - g'(0) = integral of (1 - t) g''(t) over [0, 1].

g''(t) is a sum over the operations of the network (see ``hvp_utils.backward_rules.linearised``), so
E is the sum of one part for each kind of operation, with nothing left over: ``Diagnosis.parts``.
"""

from .criteria import (
    AMPLIFIED,
    CANCELLATION,
    CHANGED,
    FLAT,
    MAIN_PART,
    MISJUDGED,
    N_CURVATURES,
    N_SLOPES,
    NO_FAILURE,
    OTHER,
    SATURATED,
    SATURATION,
    VERDICTS_OF_DIAGNOSIS,
    ZERO_GRADIENT,
    Diagnosis,
    Reader,
    is_cancellation,
    is_saturation,
    is_zero_gradient,
)
from .evidence import diagnose, diagnose_each

__all__ = [
    "AMPLIFIED",
    "CANCELLATION",
    "CHANGED",
    "FLAT",
    "MAIN_PART",
    "MISJUDGED",
    "NO_FAILURE",
    "N_CURVATURES",
    "N_SLOPES",
    "OTHER",
    "SATURATED",
    "SATURATION",
    "VERDICTS_OF_DIAGNOSIS",
    "ZERO_GRADIENT",
    "Diagnosis",
    "Reader",
    "diagnose",
    "diagnose_each",
    "is_cancellation",
    "is_saturation",
    "is_zero_gradient",
]
