"""Speed of the package beside the obvious way of getting the same numbers, in one run.

``make bench`` prints the table and writes benchmarks/results.json, which the book shows. It all
runs on SmolLM2-135M, in one process on one machine; ratios are what travels to other machines. It
takes a quarter of an hour, and wants the machine for itself.
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
import transformer_lens.tools.analysis.attribution_patching as peer_tool
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformer_lens import patching

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    hvp,
    ioi,
    load_model,
    reference_pair,
)
from hvp_utils.curvature import diagonal

RESULTS = Path(__file__).parent / "results.json"
MANY, SOME = 64, 8  # IOI prompts


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


def hand_written_loop(model, pairs: list[PromptPair]) -> Tensor:
    """Attribution patching of all heads, averaged: one batch for each length of prompt.

    Two runs and a backward pass of whole prompts, as one would write it with plain hooks.
    """
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    resolved = [pair.resolve(model) for pair in pairs]
    total = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for length in {len(tokens) for tokens in resolved}:
        group = [tokens for tokens in resolved if len(tokens) == length]

        def activations(prompts: Tensor) -> tuple[list[Tensor], Tensor]:
            seen: list[Tensor] = []

            def keep(z: Tensor, hook, seen=seen) -> Tensor:
                # The first is where the graph begins; the others lie on it.
                seen.append(
                    z if seen or not torch.is_grad_enabled() else z.detach().requires_grad_()
                )
                return seen[-1]

            logits = model.run_with_hooks(prompts, fwd_hooks=[(hook, keep) for hook in hooks])
            return seen, logits[:, -1]

        with torch.no_grad():
            clean, _ = activations(torch.stack([tokens.clean for tokens in group]))
        corrupted, logits = activations(torch.stack([tokens.corrupted for tokens in group]))
        value = sum(
            tokens.metric(row[None]).sum() for tokens, row in zip(group, logits, strict=True)
        )
        gradients = torch.autograd.grad(value, corrupted)
        for layer, (there, here, g) in enumerate(zip(clean, corrupted, gradients, strict=True)):
            total[layer] += ((there - here.detach()) * g).sum((0, 1, 3))
    return total.flatten() / len(pairs)


def transformer_lens_attribution(model, pairs: list[PromptPair]) -> Tensor:
    """The same by TransformerLens' tool, averaged over prompts and added up over positions."""
    total = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    model.requires_grad_(True)  # it takes gradients where parameters have them
    try:
        for pair in tqdm(pairs, desc="TransformerLens", unit="prompt", leave=False):
            tokens = pair.resolve(model)
            found = peer_tool.attribution_patch(
                model,
                tokens.clean[None],
                tokens.corrupted[None],
                lambda logits, metric=tokens.metric: metric(logits[:, -1])[0],
            )
            for node, score in found.node_scores.items():
                if node.kind == "attn_head_out":
                    total[node.layer, node.head] += score
    finally:
        model.requires_grad_(False)
    return total.flatten() / len(pairs)


def peak_memory_gib(call: str) -> float:
    """Highest memory of a process of its own that makes one call."""
    code = (
        "import resource; from hvp_utils import *; "
        f"{call}; "
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
    on_pair = "PatchedMetric(load_model(device='cpu'), reference_pair()"
    memory = peak_memory_gib(f"hvp({on_pair}))")
    edge_memory = peak_memory_gib(f"diagonal({on_pair}, 'edges'), 'xdiag', 32)")

    # Many prompts.
    prompts = ioi(model, MANY, seed=0)
    some = prompts[:SOME]
    together, mean = seconds_of(lambda: PatchedMetric(model, prompts).gradient(), repeats=3)
    one_by_one, singles = once(
        lambda: torch.stack([PatchedMetric(model, pair).gradient() for pair in prompts])
    )
    by_hand, by_hand_mean = seconds_of(lambda: hand_written_loop(model, prompts), repeats=3)
    lens, lens_mean = once(lambda: transformer_lens_attribution(model, some))
    n_shapes = len(PatchedMetric(model, prompts).batches)
    pairs_of_calls = {
        "activation patching": activation_patching,
        "sketch": lambda M: diagonal(M, "xdiag", 32).values,
    }
    compared = {}
    for name, call in pairs_of_calls.items():
        each, found = once(lambda call=call: call(PatchedMetric(model, some).each))
        single, expected = once(
            lambda call=call: torch.stack([call(PatchedMetric(model, pair)) for pair in some])
        )
        rate = arithmetic_rate(lambda call=call: call(PatchedMetric(model, some).each), each)
        compared[name] = each, single, agreement(found, expected), rate

    # Edges.
    M_edges = PatchedMetric(model, pair, "edges")
    setup_edges, _ = seconds_of(lambda: PatchedMetric(model, pair, "edges").delta_norm, repeats=3)
    eap, _ = seconds_of(lambda: attribution_patching(PatchedMetric(model, pair, "edges")))
    heads_only, _ = seconds_of(fresh().gradient)
    eap_only, _ = seconds_of(M_edges.gradient)
    edge_sketch, _ = once(lambda: diagonal(M_edges, "xdiag", 32).values)
    few = torch.randperm(M_edges.n, generator=torch.Generator().manual_seed(0))[:200]
    exact_edges, _ = once(lambda: activation_patching(M_edges, few))

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
        row("many prompts", f"attribution patching of {MANY} prompts, one at a time", one_by_one),
        row(
            "many prompts",
            f"the same together ({n_shapes} batches), faster by",
            together,
            one_by_one / together,
            "at least 5×",
            agreement(mean, singles.mean(0)),
        ),
        row(
            "many prompts",
            "a plain batched loop with hooks; `PatchedMetric` faster by",
            by_hand,
            by_hand / together,
            "at least 1×",
            agreement(mean, by_hand_mean),
        ),
        row(
            "many prompts",
            f"TransformerLens' `attribution_patch` ({SOME} prompts); faster by",
            lens,
            (lens / SOME) / (together / MANY),
            "at least 1×",
            agreement(singles[:SOME].mean(0), lens_mean),
        ),
        *(
            row(
                "many prompts",
                f"{name} of {SOME} prompts together, faster than one at a time by",
                each,
                single / each,
                "at least 1.5×",
                close,
            )
            for name, (each, single, close, _) in compared.items()
        ),
        # The limit: with no more arithmetic than this, and the machine's own rate.
        *(
            row(
                "many prompts",
                f"{name} together: arithmetic rate, share of the machine's",
                each,
                rate / machine_rate,
                None,
                f"{rate:.0f} of {machine_rate:.0f} GFLOP/s: at best "
                f"{machine_rate / rate:.1f} times faster",
            )
            for name, (each, _, _, rate) in compared.items()
        ),
        row("edges", f"all {M_edges.n:,} edges: preparing a prompt", setup_edges),
        row(
            "edges",
            "EAP, cost against attribution patching of heads, both prepared",
            eap_only,
            eap_only / heads_only,
            "at most 1.5×",
        ),
        row(
            "edges",
            "EAP, cost against attribution patching of heads, with preparation",
            eap,
            eap / gradient,
        ),
        row(
            "edges",
            "all quadratic terms from 32 products",
            edge_sketch,
            None,
            "at most 30 s",
        ),
        row(
            "edges",
            "peak memory of a process that does that",
            None,
            None,
            "at most 6 GiB",
            f"{edge_memory:.1f} GiB",
        ),
        row("edges", "exact patches of 200 random edges", exact_edges),
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
