"""Speed of the package beside the obvious way of getting the same numbers, in one run.

``make bench`` prints the table and writes benchmarks/results.json, which the book shows. It all
runs on SmolLM2-135M and the reference pair, all heads, in one process on one machine; ratios are
what travels to other machines. It takes a few minutes, and wants the machine for itself.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformer_lens import patching

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    diagonal,
    hvp,
    load_model,
    reference_pair,
)

RESULTS = Path(__file__).parent / "results.json"


def seconds_of(function: Callable[[], Tensor], repeats: int = 5) -> tuple[float, Tensor]:
    """Median seconds of a few calls after a first one that does not count; and the result."""
    result, times = function(), []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def once(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of one call of something slow, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def transformer_lens_patching(model, pair) -> Tensor:
    """Effect of every head, one run each, as TransformerLens ships it."""
    resolved = pair.resolve(model)
    cache = model.run_with_cache(resolved.clean[None])[1]
    with torch.no_grad():
        patched = patching.get_act_patch_attn_head_out_all_pos(
            model, resolved.corrupted[None], cache, lambda logits: resolved.metric(logits[:, -1])[0]
        )
    return torch.as_tensor(patched).flatten()


def one_at_a_time_hvp(model, pair) -> Tensor:
    """Slope plus half the curvature of every head, one double backward each, whole prompt."""
    resolved = pair.resolve(model)
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        clean = model.run_with_cache(resolved.clean[None], names_filter=hooks)[1]
        corrupted = model.run_with_cache(resolved.corrupted[None], names_filter=hooks)[1]
    estimates = []
    for hook in tqdm(hooks, desc="one at a time", unit="layer", leave=False):
        delta = clean[hook] - corrupted[hook]
        for head in range(model.cfg.n_heads):
            only = torch.zeros_like(delta)
            only[:, :, head] = delta[:, :, head]
            t = torch.zeros((), requires_grad=True)
            patch = (hook, lambda z, hook, t=t, only=only: z + t * only)
            logits = model.run_with_hooks(resolved.corrupted[None], fwd_hooks=[patch])
            (slope,) = torch.autograd.grad(resolved.metric(logits[:, -1]), t, create_graph=True)
            (curvature,) = torch.autograd.grad(slope, t)
            estimates.append(slope.detach() + curvature / 2)
    return torch.stack(estimates)


def matmul_rate(rows: int) -> float:
    """The machine's own rate for a product of the shape of this model's MLP, in GFLOP/s."""
    a, b = torch.randn(rows, 576), torch.randn(576, 1536)
    seconds, _ = seconds_of(lambda: [a @ b for _ in range(50)][-1])
    return 50 * 2 * rows * 576 * 1536 / seconds / 1e9


def arithmetic_rate(function: Callable[[], Tensor], seconds: float) -> float:
    """Floating-point operations of one call over its time, in GFLOP/s."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / seconds / 1e9


def peak_memory_gib() -> float:
    """Highest memory of a process of its own that runs ``hvp`` over all heads."""
    code = (
        "import resource; from hvp_utils import *; "
        "hvp(PatchedMetric(load_model(device='cpu'), reference_pair())); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return int(out.stdout.split()[-1]) * unit / 2**30


def agreement(ours: Tensor, theirs: Tensor) -> str:
    """Largest difference, relative to the largest effect."""
    return f"largest difference {(ours - theirs).abs().max() / theirs.abs().max():.0e} of the range"


def main() -> None:
    """Measure, print, store."""
    model, pair = load_model(device="cpu"), reference_pair()

    def fresh() -> PatchedMetric:
        return PatchedMetric(model, pair)

    base = fresh().base
    exact, effects = seconds_of(lambda: activation_patching(fresh()))
    peer, peer_metric = once(lambda: transformer_lens_patching(model, pair))
    gradient, _ = seconds_of(lambda: attribution_patching(fresh()))
    corrected, estimates = seconds_of(lambda: hvp(fresh()), repeats=3)
    sketch, sketched = seconds_of(lambda: diagonal(fresh(), "xdiag", 32).values)
    curvature = fresh().along_axes(0.0).curvature
    sketch_error = ((sketched - curvature).norm() / curvature.norm()).item()
    naive, naive_estimates = once(lambda: one_at_a_time_hvp(model, pair))
    rows_per_batch = fresh().batch_size * fresh().n_run
    machine_rate = matmul_rate(rows_per_batch)
    memory = peak_memory_gib()

    def row(name, what, seconds=None, ratio=None, target=None, note=None):
        return dict(name=name, what=what, seconds=seconds, ratio=ratio, target=target, note=note)

    rows = [
        row("activation patching", "TransformerLens' `patching`, a run per head", peer),
        row(
            "activation patching",
            "`activation_patching`, faster by",
            exact,
            peer / exact,
            "at least 20×",
            agreement(effects, peer_metric - base),
        ),
        row("HVP", "a double backward per head, whole prompt", naive),
        row(
            "HVP",
            "`hvp`, faster by",
            corrected,
            naive / corrected,
            "at least 15×",
            agreement(estimates, naive_estimates),
        ),
        row(
            "HVP",
            "`hvp`, cost against `activation_patching`",
            corrected,
            corrected / exact,
            "at most 6×",
        ),
        row(
            "sketch",
            "all quadratic terms from 32 products, cost against `activation_patching`",
            sketch,
            sketch / exact,
            "at most 1×",
            f"error {sketch_error:.1%} in the 2-norm",
        ),
        row(
            "attribution patching",
            "`attribution_patching`, cost against `activation_patching`",
            gradient,
            gradient / exact,
        ),
        *(
            row(
                name,
                "arithmetic rate, share of the machine's matrix-product rate",
                seconds,
                (rate := arithmetic_rate(function, seconds)) / machine_rate,
                None,
                f"{rate:.0f} of {machine_rate:.0f} GFLOP/s",
            )
            for name, function, seconds in (
                ("activation patching", lambda: activation_patching(fresh()), exact),
                ("HVP", lambda: hvp(fresh()), corrected),
            )
        ),
        row("HVP", "peak memory of the process", None, None, "at most 6 GiB", f"{memory:.1f} GiB"),
    ]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "model": "smollm2-135m (float32)",
        "heads": len(effects),
        "tokens": fresh().n_tokens,
    }
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    for r in rows:
        seconds = "" if r["seconds"] is None else f"{r['seconds']:8.2f} s"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:6.2f}×"
        line = f"{r['name']:22}{r['what']:62}{seconds:>11}{ratio:>9}"
        print(f"{line}  {r['target'] or '':14}{r['note'] or ''}")


if __name__ == "__main__":
    main()
