"""What estimates cost, in forward equivalents: runs of the model for one patched component.

That unit is the whole price of patching one component exactly, with everything this package does
to make such runs cheap. The prices of derivatives are measured beside it, not assumed.

Prices are those of full batches. A batch reads all weights of the model, however few components
are in it, so a handful of components costs more than their number says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from tqdm.auto import tqdm

from hvp_utils import _checks
from hvp_utils.patched_metric import PatchedMetric, of_metric

__all__ = ["Costs", "measure_costs"]

_N_VECTORS = 16  # products, or gradients, that are timed together, beside the first


@dataclass(frozen=True)
class Costs:
    """Prices in forward equivalents.

    Attributes:
        gradient: One gradient of M: attribution patching of all components together.
        gradient_row: One more point in a batch of gradients.
        curvature: Curvature of one component at t = 0, beside the gradient that all share.
        slope_on_path: The slope of one component elsewhere on its axis.
        curvature_on_path: Slope and curvature there.
        third: The first three derivatives of one component.
        matvec: One more vector in a batch of products of the Hessian with vectors over all
            components, at a point whose gradient is already there.
        matvec_batch: A batch of such products beside its vectors.
        seconds: Seconds that one forward equivalent took.
    """

    gradient: float
    gradient_row: float
    curvature: float
    slope_on_path: float
    curvature_on_path: float
    third: float
    matvec: float
    matvec_batch: float
    seconds: float

    def price(self, passes: Mapping[str, int]) -> float:
        """Forward equivalents of some passes: ``{"forward": 5, "gradient": 1, ...}``."""
        prices = {"forward": 1.0} | asdict(self)
        del prices["seconds"]
        _checks.instance("passes", passes, Mapping, "numbers of passes by kind")
        unknown = [name for name in passes if name not in prices]
        if unknown:
            raise ValueError(f"Unknown passes {unknown}. Known: {', '.join(prices)}.")
        return sum(
            _checks.number(f"passes[{name!r}]", count, least=0) * prices[name]
            for name, count in passes.items()
        )


@of_metric
def measure_costs(M: PatchedMetric, sample: int = 60, repeats: int = 3) -> Costs:
    """Measure the prices on this machine.

    Args:
        M: The metric.
        sample: Components that are run, half of them a quarter of the way up the layers and half
            three quarters: as in a run of all, batches are of neighbours, and on average they
            start halfway up. (An eighth of them for third derivatives.)
        repeats: The fastest of so many tries counts.

    Raises:
        ValueError: No component differs between the two prompts, so none would be run.
    """
    _checks.whole("sample", sample)
    _checks.steps("repeats", repeats)
    if not M.delta_norm.any():
        raise ValueError("The two prompts give the same activations: there is no run to time.")
    half = min(max(sample // 2, 1), M.n // 2)
    which = torch.arange(M.n)
    if sample < M.n:
        which = torch.cat([which[i * M.n // 4 - half // 2 :][:half] for i in (1, 3)])
    few = which[::8]
    _, products = M.gradient_and_hessian()
    vectors = torch.ones(M.n, 1 + _N_VECTORS, dtype=M.delta_norm.dtype, device=M.delta_norm.device)
    points = 0.01 * vectors.T
    tasks: dict[str, Callable[[], object]] = {
        "forward": lambda: M.along_axes(0.5, 0, which),
        "gradient": M.gradient,
        "gradient_row": lambda: M.gradient(points),
        "shared": M.gradient_and_hessian,
        "curvature": lambda: M.along_axes(0.0, 2, which),
        "slope_on_path": lambda: M.along_axes(0.5, 1, which),
        "curvature_on_path": lambda: M.along_axes(0.5, 2, which),
        "third": lambda: M.along_axes(0.0, 3, few),
        "matvec_batch": lambda: products(vectors[:, :1]),
        "matvec": lambda: products(vectors),
    }
    counts = {name: len(which) for name in tasks}
    counts |= {"gradient": 1, "gradient_row": _N_VECTORS, "third": len(few)}
    counts |= {"matvec": _N_VECTORS, "matvec_batch": 1}
    seconds = {}
    for name, task in tqdm(tasks.items(), desc="measuring costs", delay=2, leave=False):
        tries = []
        for _ in range(repeats):
            started = time.perf_counter()
            task()
            if M.delta_norm.is_cuda:
                torch.cuda.synchronize()
            tries.append(time.perf_counter() - started)
        seconds[name] = min(tries)
    # What all curvatures share is one gradient, which has its own price; and so for products.
    seconds["curvature"] = max(seconds["curvature"] - seconds.pop("shared"), 0.0)
    seconds["gradient_row"] = max(seconds["gradient_row"] - seconds["gradient"], 0.0)
    seconds["matvec"] = max(seconds["matvec"] - seconds["matvec_batch"], 0.0)
    seconds["matvec_batch"] -= min(seconds["matvec"] / _N_VECTORS, seconds["matvec_batch"])
    each = {name: spent / counts[name] for name, spent in seconds.items()}
    unit = each.pop("forward")
    return Costs(**{name: price / unit for name, price in each.items()}, seconds=unit)
