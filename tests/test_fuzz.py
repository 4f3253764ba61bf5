"""Every public function with arguments that make sense and arguments that do not.

Whatever a function is given, there are two things it may do: return a result, whose numbers are
finite, or raise an error of its own that says which argument is wrong. An AttributeError from deep
inside, a RuntimeError of torch, a NaN without a word: these are faults. What a call hangs on, the
time limit of its test shows.

`make test` draws a few examples for each function, always the same; `make nightly` draws many,
and gives each argument each hostile value in turn.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import linecache
import math
import pkgutil
import traceback
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hvp_utils
from hvp_utils import (
    backward_rules,
    circuits,
    claims,
    components,
    costs,
    curvature,
    diagnosis,
    estimators,
    models,
    plans,
    planted,
    plots,
    reliability,
    stats,
    sweeps,
    tasks,
    top,
)
from hvp_utils.patched_metric import PatchedMetric
from hvp_utils.saes import SAE, load_sae

# Behind PatchedMetric and the store; nobody calls them from outside.
MACHINERY = {"architectures", "axes", "over_prompts", "prompt_batch", "store", "suffix_run"}
#: What functions return, and what nobody makes by hand; what their methods do is drawn below.
RESULTS = {
    *(circuits.Curve, circuits.Kept, diagnosis.Diagnosis, plans.Plan, tasks.TaskCheck),
    *(tasks.ResolvedPair, tasks.LastPositionMetric, components.EdgeGraph, components.Site),
    *(components.Patches, components.NodePatches, components.EdgePatches),
    *(components.FeaturePatches, components.SparseAutoencoder, models.ModelOrigin),
    *(costs.Costs, plans.ModelSizes, SAE, components.find_patches),
}
#: Errors that say that an argument is wrong, or that something is not there.
ALLOWED = (ValueError, TypeError, IndexError, NotImplementedError, OSError, ModuleNotFoundError)

HOSTILE = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "2": lambda: 2,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "2**70": lambda: 2**70,
    "1j": lambda: 1j,
    "''": lambda: "",
    "'no such thing'": lambda: "no such thing",
    "b'heads'": lambda: b"heads",
    "[]": list,
    "[0, 1]": lambda: [0, 1],
    "[-1]": lambda: [-1],
    "[0.5]": lambda: [0.5],
    "[nan]": lambda: [math.nan],
    "[99]": lambda: [99],
    "['heads']": lambda: ["heads"],
    "[[0], [1, 2]]": lambda: [[0], [1, 2]],
    "[None]": lambda: [None],
    "{}": dict,
    "{'a': 1}": lambda: {"a": 1},
    "object()": object,
    "len": lambda: len,
    "a scalar tensor": lambda: torch.tensor(1),
    "NaN tensor": lambda: torch.full((12,), math.nan),
    "2 by 3": lambda: torch.ones(2, 3),
    "empty tensor": lambda: torch.zeros(0),
    "truth values": lambda: torch.ones(12, dtype=torch.bool),
    "complex": lambda: torch.ones(12, dtype=torch.complex64),
    "array": lambda: np.arange(3.0),
    "array of objects": lambda: np.array([object()]),
}


class Entry:
    """A function, and for each of its arguments values that make sense; the first is plain."""

    def __init__(self, function, finite=True, /, **good):
        self.function, self.finite, self.good = function, finite, good
        parameters = inspect.signature(function).parameters.values()
        # Arguments without a value here keep their default, or get a hostile one.
        named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        self.names = sorted((named | set(good)) - {"self"})


def metric(kind="heads", architecture="gpt2", n_prompts=1, direction="noising", seed=0):
    """A fresh M; making one of a tiny model takes milliseconds."""
    pairs = tiny_models.tiny_task(None, n_prompts, seed)
    model = tiny_models.tiny_model(architecture)
    return PatchedMetric(model, pairs, kind, direction)


@functools.cache
def M(*arguments):
    return metric(*arguments)


@functools.cache
def each():
    return metric("heads", "llama", 2).each


@functools.cache
def sae():
    generator = torch.Generator().manual_seed(0)
    d, n = 32, 6
    W = torch.randn(d, n, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(n, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    return SAE(W, zeros[0], W.T.contiguous(), zeros[1], hook="blocks.1.hook_resid_pre")


@functools.cache
def planted_circuit():
    """M of the edges of a small planted circuit, and the circuit."""
    made = planted.planted_model(1, 2, 2)
    pairs = [hvp_utils.PromptPair((1, 2, 3, 4), (1, 2, 3, last), 6) for last in (5, 7)]
    M = PatchedMetric(made.model, pairs, "edges", "noising")
    return M, circuits.Circuit.of(M.batches[0].patches.graph, made.circuit)


def plant():
    return planted_circuit()[0]


def some_circuit():
    return planted_circuit()[1]


def graph():
    return some_circuit().graph


def kept():
    return circuits.faithfulness(plant(), [some_circuit()])


def edge_effects():
    return estimators.attribution_patching(plant())


def model():
    return tiny_models.tiny_model("gpt2")


def claim():
    return claims.Claim("c", "p", "s", "h", "holds", "r")


def some_costs():
    return costs.Costs(*[1.0] * 8, seconds=0.1)


def sizes():
    return plans.model_sizes("gpt2")


def ones(*shape):
    return lambda: torch.arange(1.0, 1 + math.prod(shape)).reshape(shape)


def zeros_M(n_rows=None):
    return lambda: torch.zeros(M().n) if n_rows is None else torch.zeros(n_rows, M().n)


PLAIN_M = [M, lambda: M("mlp_out", "gemma2"), each, lambda: M("resid", "neox", 2)]
ONE_M = PLAIN_M[:2]
OF_12 = [M, lambda: M("heads", "gemma2")]  # with as many components as ALPHA has strengths
INDICES = [
    lambda: None,
    lambda: [0, 2],
    lambda: torch.tensor([1, 1]),
    lambda: np.array([2]),
    lambda: [],
]
ALPHA = [lambda: None, zeros_M()]
METHODS = [lambda: "midpoint", lambda: "gausslegendre", lambda: "left"]
PAIR = {
    "clean": [lambda: (1, 2, 3), lambda: torch.tensor([1, 2, 3])],
    "corrupted": [lambda: (1, 4, 3), lambda: None],
    "answer": [lambda: 5, lambda: (5, 6)],
    "wrong_answer": [lambda: 7],
    "metric": [lambda: "logit_diff", lambda: tiny_models.entropy],
    "name": [lambda: "a pair"],
}
A_PAIR = functools.partial(tiny_models.tiny_pair)
PAIRS = [A_PAIR, lambda: tiny_models.tiny_task(None, 3)]
ROW = [lambda: np.linspace(-1.0, 2.0, 6), lambda: [3.0, 1.0, -2.0, 0.5, 0.25, 2.0]]
ROWS = [lambda: np.linspace(-1.0, 2.0, 12).reshape(3, 4)]


def of(*values):
    return [lambda value=value: value for value in values]


def an_estimator(function, Ms=PLAIN_M, **good):
    return Entry(function, M=Ms, components=INDICES, **good)


E, R, C = estimators, reliability, circuits
EDGES = [lambda: M("edges")]
NEURONS = [lambda: M("neurons_pre"), lambda: M("edges")]

ENTRIES = [
    *(
        an_estimator(function)
        for function in (
            *(E.activation_patching, E.attribution_patching, E.hvp, E.quadratic_term),
            *(E.third_order, E.gauss_newton, E.gim, E.relp, E.atp_star),
        )
    ),
    an_estimator(E.ms_hvp, n_steps=of(2, 1, 3)),
    an_estimator(E.ms_hvp_median, n_steps=of((1, 2), [2, 3, 4])),
    an_estimator(E.sketched_hvp, n_matvecs=of(4, 6, 64), seed=of(0, 3)),
    an_estimator(E.quadratic_without, kinds=of("norms", ("output",)), layers=of(None, [0, 1])),
    an_estimator(E.finite_difference_hvp, step=of(0.01, 1)),
    an_estimator(E.integrated_gradients, n_steps=of(2, 3), method=METHODS),
    an_estimator(
        E.integrated_hessians,
        n_steps=of(2, 1),
        scheme=of("path", "grid"),
        part=of("pairwise", "complete"),
        method=METHODS,
    ),
    *(an_estimator(f, NEURONS) for f in (E.local_curvature, E.local_quadratic_term)),
    an_estimator(E.local_sketched_hvp, NEURONS, n_matvecs=of(4)),
    an_estimator(E.eap_ig, EDGES, n_steps=of(2), where=of("inputs", "activations")),
    an_estimator(E.eap_gp, EDGES, n_steps=of(2)),
    Entry(E.find_estimator, name=of("hvp", "ms_hvp:3", "integrated_gradients:2:left")),
    # --- M itself
    Entry(
        PatchedMetric,
        model=[model],
        pairs=PAIRS,
        components=[*of("heads", "edges", "neurons_pre:2"), lambda: components.SAEFeatures(sae())],
        direction=of("noising", "denoising"),
        batch_size=of(None, 1, 5),
        seed=of(0, 1),
    ),
    Entry(PatchedMetric.__call__, self=OF_12, alpha=[zeros_M(), zeros_M(3)]),
    Entry(PatchedMetric.gradient, self=OF_12, alpha=ALPHA),
    Entry(PatchedMetric.hvp, self=OF_12, v=[zeros_M()], alpha=ALPHA),
    Entry(
        PatchedMetric.hessian_matvec,
        self=OF_12,
        V=[lambda: torch.ones(M().n, 2)],
        alpha=ALPHA,
    ),
    Entry(
        PatchedMetric.along_axes,
        self=PLAIN_M,
        t=of(0.0, 1, 0.5),
        order=of(2, 0, 1, 3),
        components=INDICES,
    ),
    Entry(PatchedMetric.hessian_delta, self=PLAIN_M[:3], t=of(0.0, 0.5), components=INDICES),
    Entry(PatchedMetric.index, self=OF_12, labels=[lambda: ["L0H0"], lambda: "L1H2", list]),
    # --- the Hessian
    Entry(
        curvature.diagonal,
        M=[*OF_12, each],
        method=of("xdiag", "hutchinson", "exact"),
        n_matvecs=of(4, 6),
        alpha=ALPHA,
    ),
    Entry(curvature.row_norms, M=PLAIN_M, n_probes=of(2, 3), step=of(0.01, 1)),
    Entry(curvature.low_rank, M=OF_12, rank=of(2, 1), alpha=ALPHA),
    Entry(curvature.spectrum, M=[*OF_12, each], alpha=ALPHA),
    Entry(curvature.hessian_operator, M=OF_12, alpha=ALPHA),
    # At 0, of other numbers of components too.
    Entry(curvature.diagonal, M=PLAIN_M, method=of("xdiag", "hutchinson", "exact")),
    Entry(curvature.spectrum, M=PLAIN_M),
    Entry(PatchedMetric.gradient, self=PLAIN_M),
    Entry(curvature.low_rank, M=ONE_M, rank=of(2, 1)),
    Entry(curvature.hessian_operator, M=ONE_M),
    Entry(
        curvature.LowRank.rows,
        self=[lambda: curvature.low_rank(M(), 2)],
        components=INDICES[1:],
    ),
    Entry(
        curvature.LowRank.quadratic,
        self=[lambda: curvature.low_rank(M(), 2)],
        alpha=[zeros_M(), zeros_M(2)],
    ),
    # --- reliability
    Entry(R.reliability_score, False, first_order=[ones(6)], quadratic=[ones(6), ones(2, 6)]),
    Entry(R.hessian_lipschitz, M=PLAIN_M[:3], points=of((0, 1), [0.0, 0.5]), components=INDICES),
    Entry(R.slack, False, quadratic=[ones(6)], delta_norm=[ones(6)], L_H=[ones(6)]),
    Entry(
        R.error_bounds,
        False,
        first_order=[ones(6)],
        quadratic=[ones(6)],
        delta_norm=[ones(6)],
        L_H=[ones(6)],
    ),
    Entry(R.flag, score=[ones(6)], tau=of(0.1, 0, math.inf)),
    Entry(
        R.selective_bound,
        False,
        first_order=[ones(6)],
        quadratic=[ones(6)],
        delta_norm=[ones(6)],
        L_H=[ones(6)],
        tau=of(0.1, 3.0),
    ),
    Entry(R.screen, M=PLAIN_M, n_matvecs=of(4, None), seed=of(0)),
    Entry(R.row_screen, M=PLAIN_M, n_probes=of(2)),
    Entry(
        R.screen_flag_fix,
        False,
        M=ONE_M,
        tau=of(0.1, math.inf),
        fix=of("hvp", "ms_hvp", "activation_patching"),
        n_steps=of(2),
        costs=[some_costs],
        screen=of("exact", "sketch", "rows"),
        n_matvecs=of(None, 4),
        largest=of(0, 3, 0.5),
    ),
    Entry(
        R.missed_bound,
        False,  # what was shown is NaN
        M=ONE_M[:1],
        shown=[lambda: ["L0H0"], lambda: [0, 1], tuple],
        n_subsets=of(40, 60),
        p=of(0.1, 0.3),
        confidence=of(0.9),
        control=[*of("attribution_patching", None), zeros_M()],
        patch_shown=of(False, True),
    ),
    Entry(R.subsets_needed, n=of(100), p=of(0.02, 1), inclusions=of(12)),
    # --- circuits
    Entry(C.importance, M=[plant], effects=[edge_effects]),
    Entry(C.Circuit, graph=[graph], numbers=of(frozenset({0, 1}), frozenset())),
    Entry(C.Circuit.of, graph=[graph], labels=[lambda: ["embed->L0.mlp"], list]),
    Entry(
        C.Circuit.from_mask,
        graph=[graph],
        mask=[lambda: torch.zeros(plant().n, dtype=torch.bool)],
    ),
    Entry(C.Circuit.top, M=[plant], effects=[edge_effects], n=of(3, 0), signed=of(True, False)),
    Entry(C.Circuit.above, M=[plant], effects=[edge_effects], threshold=of(0.1, 0)),
    Entry(C.Circuit.greedy, M=[plant], effects=[edge_effects], n=of(3)),
    Entry(C.Circuit.random, graph=[graph], n=of(3), seed=of(1)),
    Entry(C.Circuit.from_json, source=[lambda: some_circuit().to_json()]),
    Entry(C.auroc, M=[plant], effects=[edge_effects], known=[some_circuit]),
    Entry(C.overlap, found=[some_circuit], known=[some_circuit]),
    Entry(
        C.faithfulness,
        M=[plant],
        circuits=[some_circuit, lambda: torch.zeros(1, plant().n, dtype=torch.bool)],
    ),
    Entry(C.Kept.faithfulness, self=[kept], prompts=of(None, [0, 0])),
    Entry(
        C.curve,
        M=[plant],
        effects=[edge_effects],
        fractions=of((0.1, 1.0), (0.5,)),
        cut=of(C.Circuit.top, C.Circuit.greedy),
    ),
    *(
        Entry(f, False, M=[plant], effects=[edge_effects], n_resamples=of(20))
        for f in (C.cpr, C.cmd)
    ),
    Entry(C.acdc, M=[plant], threshold=of(0.5, math.inf), together=of(50)),
    Entry(
        C.edge_pruning,
        M=[plant],
        n_edges=of(2),
        n_steps=of(2),
        candidates=[lambda: None, some_circuit],
        learning_rate=of(0.1),
    ),
    Entry(C.hap, M=[plant], n_edges=of(3), n_candidates=of(6), n_steps=of(2)),
    Entry(C.with_kl, model=[model], pairs=PAIRS),
    # --- diagnosis
    Entry(diagnosis.diagnose, False, M=ONE_M[:1], component=of("L1H2", 3), grad_drop=of(False)),
    Entry(
        diagnosis.diagnose_each,
        False,
        M=ONE_M[:1],
        components=of(["L1H2"], [0, 1]),
        grad_drop=of(False),
        symptoms_only=of(True),
    ),
    Entry(diagnosis.is_saturation, error=of(1.0, 0), pattern_part=of(0.6), saturated_share=of(0.7)),
    Entry(diagnosis.is_cancellation, direct=of(1.0), indirect=of(-0.9), error=of(0.1)),
    Entry(diagnosis.is_zero_gradient, slope_at_base=of(0.1), mean_size=of(1.0)),
    # --- statistics
    *(
        Entry(f, False, estimate=ROW, truth=ROW)  # a correlation with a constant is NaN
        for f in (stats.kendall_tau, stats.spearman)
    ),
    *(
        Entry(f, estimate=ROW, truth=ROW, k=of(2, 1))
        for f in (stats.top_k_relative_error, stats.top_k_overlap)
    ),
    Entry(stats.ndcg, estimate=ROW, truth=ROW, k=of(2), gain=of("magnitude", "membership")),
    Entry(
        stats.bootstrap_ci,
        values=ROW,
        statistic=of(np.mean, np.median),
        n_resamples=of(10, 1),
        level=of(0.95),
        seed=of(0),
    ),
    Entry(stats.bootstrap_share, part=ROW, whole=[lambda: np.full(6, 2.0)]),
    Entry(
        stats.Auroc,
        score=ROWS,
        positive=[lambda: np.arange(12).reshape(3, 4) % 2 == 0],
        kept=[lambda: None],
    ),
    Entry(
        stats.Auroc.__call__,
        False,
        self=[lambda: stats.Auroc(np.eye(3), np.eye(3) > 0)],
        prompts=of(None, [0, 1]),
    ),
    Entry(stats.paired_bootstrap, a=ROW, b=ROW, n_resamples=of(10), level=of(0.9)),
    Entry(stats.holm, p_values=of([0.1, 0.01], [1.0])),
    # --- prices
    Entry(
        costs.Costs.price, self=[some_costs], passes=of({"forward": 2}, {"gradient": 1, "third": 2})
    ),
    Entry(costs.measure_costs, False, M=ONE_M[:1], sample=of(4), repeats=of(1)),
    Entry(plans.model_sizes, name=of("gpt2", "llama-3.1-8b")),
    Entry(plans.ModelSizes.of, model=[model, transformers.GPT2Config]),
    Entry(
        plans.ModelSizes.n_components, self=[sizes], components=of("heads", "edges"), n_run=of(3)
    ),
    Entry(plans.measure_rate, device=of("cpu"), d_model=of(8), d_mlp=of(8)),
    Entry(
        plans.pass_flops,
        sizes=[sizes],
        components=[*of("heads", "edges"), lambda: torch.tensor([0, 1])],
        n_tokens=of(6),
        n_run=of(3),
        batch_size=of(4),
    ),
    Entry(
        plans.passes,
        estimator=of("hvp", "ms_hvp:3", "row_norms"),
        n=of(10),
        n_layers=of(3),
        components=of("heads"),
    ),
    Entry(
        plans.plan,
        sizes=[sizes],
        components=of("heads", "resid"),
        estimators=of(["hvp"], ("ms_hvp:5", "sketched_hvp")),
        n_tokens=of(6),
        n_run=of(3),
        n_prompts=of(2),
        flops_per_second=of(1e9),
        bytes_per_number=of(4),
        batch_size=of(2),
    ),
    Entry(top.top_effects, False, M=ONE_M, k=of(2), n_patched=of(None, 3)),
    # --- sweeps, claims, figures
    Entry(
        sweeps.sweep,
        model=[model],
        task=of(tiny_models.tiny_task),
        estimators=of(["hvp"], ["activation_patching", "ms_hvp:2"]),
        n_prompts=of(1, 2),
        components=of("heads"),
        direction=of("noising"),
    ),
    Entry(sweeps.provenance, model=[model]),
    Entry(
        claims.Claim,
        claim=of("c"),
        paper=of("p"),
        source=of("s"),
        here=of("h"),
        verdict=of("holds"),
        rule=of("r"),
    ),
    Entry(claims.claims_table, claims=[lambda: [claim()], list]),
    Entry(claims.verdict, holds=of(True, False), partly=of(False)),
    Entry(
        claims.write_claims,
        chapter=of("01_a"),
        claims=[lambda: [claim()]],
        folder=of("claims"),
    ),
    Entry(plots.use_style, style=of("light", "dark", "print")),
    Entry(plots.axis_curve, M=ONE_M[:1], component=of("L1H2"), n_steps=of(2), title=of("t")),
    Entry(
        plots.estimate_vs_truth,
        truth=ROW,
        estimates=[lambda: {"hvp": ROW[0]()}],
        labels=of(None, list("abcdef")),
        name_worst=of(2),
        title=of(""),
        unit=of("nats"),
    ),
    Entry(
        plots.scaling,
        x=of([1.0, 2.0, 3.0]),
        curves=[lambda: {"a": [1.0, 2.0, 0.0]}],
        slopes=of(None, {"a": (1.0, 1.0)}),
        xlabel=of("x"),
        ylabel=of("y"),
        title=of(""),
    ),
    Entry(
        plots.steps,
        n_steps=of([1, 2]),
        curves=[lambda: {"a": ([1.0, 2.0], [0.5, 1.0], [2.0, 3.0])}],
        references=of(None, {"a": 3.0}),
        title=of(""),
        ylabel=of("y"),
    ),
    Entry(plots.circuit, found=[some_circuit], effects=[lambda: None, edge_effects], title=of("")),
    # --- prompts
    Entry(tasks.PromptPair, **PAIR),
    Entry(tasks.PromptPair.resolve, self=[A_PAIR], model=[model]),
    Entry(tasks.make_prompts, task=[lambda: tiny_models.tiny_task], model=[model], n=of(2, 0)),
    Entry(tasks.accuracy, model=[model], pairs=[PAIRS[1]]),
    Entry(tasks.check_tasks, False, model=[model], tasks=of([tiny_models.tiny_task]), n=of(2)),
    Entry(tasks.reference_pair),
    *(
        Entry(function, model=[model], n=of(2))  # whose model has no tokenizer
        for function in (
            *(tasks.ioi, tasks.greater_than, tasks.factual, tasks.arithmetic, tasks.mcqa),
            *(tasks.country_capital, tasks.gender_bias, tasks.hypernymy, tasks.mib_ioi),
            tasks.subject_verb_agreement,
        )
    ),
    *(
        Entry(
            function,
            logits=[ones(2, 9)],
            answers=[lambda: torch.tensor([1, 2])],
            wrong=[lambda: torch.tensor([3])],
        )
        for function in (tasks.log_prob, tasks.logit_diff, tasks.prob_diff)
    ),
    # --- models and what is in them
    Entry(models.as_bridge, model=[model]),
    Entry(models.model_origin, model=[model]),
    Entry(models.load_model, name_or_model=[model], device=of(None, "cpu")),
    Entry(components.find_sites, bridge=[model], components=of("heads"), positions=of(range(3))),
    Entry(components.edge_graph, n_layers=of(2), n_heads=of(3), parallel=of(False, True)),
    Entry(components.edge_model, model=[model]),
    Entry(components.SAEFeatures, sae=[sae], hook=of(None, "blocks.0.hook_resid_pre")),
    Entry(load_sae, where=of("no/such/folder")),
    Entry(backward_rules.changed_backward, model=[model]),
    Entry(backward_rules.linearised, model=[model], kinds=of(("norms",)), layers=of(None, (0,))),
    Entry(backward_rules.drop_layer, layer=of(0)),
    Entry(backward_rules.gim_rules),
    Entry(backward_rules.relp_rules, freeze_patterns=of(False, True)),
    Entry(
        planted.planted_model,
        seed=of(0),
        n_layers=of(2),
        n_heads=of(2),
        density=of(0.4),
        d_vocab=of(20),
    ),
]


def public():
    """Functions and classes that modules export, by module and name."""
    found = {}
    for module in pkgutil.walk_packages(hvp_utils.__path__, "hvp_utils."):
        parts = module.name.split(".")[1:]
        if parts[0] in MACHINERY or any(part.startswith("_") for part in parts):
            continue
        module = importlib.import_module(module.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                found[value] = f"{value.__module__}.{value.__qualname__}"
    return found


def test_every_public_function_is_drawn():
    drawn = {getattr(entry.function, "__func__", entry.function) for entry in ENTRIES}
    missing = [
        name
        for value, name in public().items()
        if value not in drawn
        and value not in RESULTS
        and not (inspect.isclass(value) and issubclass(value, tuple))  # results too
    ]
    assert not missing, f"test_fuzz.py has no entry for {', '.join(missing)}"


def finite_numbers(result, depth=0):
    """All floating-point numbers of a result, as far as they can be reached."""
    if isinstance(result, float):
        yield result
    elif isinstance(result, Tensor):
        yield from result.detach().double().flatten().tolist() if not result.is_complex() else ()
    elif isinstance(result, np.ndarray) and result.dtype.kind == "f":
        yield from result.ravel().tolist()
    elif isinstance(result, dict) and depth < 3:
        for value in result.values():
            yield from finite_numbers(value, depth + 1)
    elif isinstance(result, list | tuple) and depth < 3:
        for value in result:
            yield from finite_numbers(value, depth + 1)
    elif dataclasses.is_dataclass(result) and depth < 3:
        yield from finite_numbers(list(vars(result).values()), depth + 1)
    elif isinstance(result, pd.DataFrame):
        yield from result.select_dtypes("float").to_numpy().ravel().tolist()


def raised_here(error):
    """Whether a `raise` of the package raised it, rather than something that it called."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno).strip()
    return Path(last.filename).is_relative_to(hvp_utils.__path__[0]) and line.startswith("raise")


def draw(entry, data):
    """All arguments good, or one or two of them hostile."""
    good = {name: data.draw(st.sampled_from(good))() for name, good in entry.good.items()}
    hostile = data.draw(st.sets(st.sampled_from(entry.names), max_size=2)) if entry.names else ()
    return good, {name: data.draw(st.sampled_from(sorted(HOSTILE))) for name in sorted(hostile)}


def check(entry, good, said):
    """One call, with good arguments but for the hostile ones that are said by name."""
    arguments = good | {name: HOSTILE[hostile]() for name, hostile in said.items()}
    try:
        with warnings.catch_warnings(), plt.rc_context():
            warnings.simplefilter("ignore")
            result = entry.function(**arguments)
            if hasattr(result, "__enter__") and inspect.isgeneratorfunction(
                inspect.unwrap(entry.function)
            ):
                with result:
                    pass
    except ALLOWED as error:
        own = raised_here(error) or any(name in str(error) for name in said if len(name) > 1)
        assert said or entry.function in REFUSED, f"good arguments were refused: {error!r}"
        assert own, f"an error that does not say what is wrong with {said}: {error!r}"
        return
    finally:
        plt.close("all")
    if entry.finite:
        wrong = [x for x in finite_numbers(result) if not math.isfinite(x)]
        assert not wrong, f"{said} gave {wrong[:3]} without a word"


#: Functions that refuse even good arguments here: no tokenizer, no file, nothing to sketch.
REFUSED = {
    *(tasks.ioi, tasks.greater_than, tasks.factual, tasks.arithmetic, tasks.mcqa),
    *(tasks.country_capital, tasks.gender_bias, tasks.hypernymy, tasks.mib_ioi),
    *(tasks.subject_verb_agreement, load_sae),
}

each_function = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.function.__qualname__)

SETTINGS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """What functions write, they write to an empty folder."""
    monkeypatch.chdir(tmp_path)


@each_function
@pytest.mark.timeout(120)
def test_a_result_or_an_error_that_says_which_argument(entry):
    @settings(max_examples=3, derandomize=True, **SETTINGS)
    @given(st.data())
    def run(data):
        check(entry, *draw(entry, data))

    run()


@each_function
@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_the_same_with_many_examples(entry):
    @settings(max_examples=80, **SETTINGS)
    @given(st.data())
    def run(data):
        check(entry, *draw(entry, data))

    run()


@each_function
@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_each_argument_with_each_hostile_value(entry):
    for name, hostile in itertools.product(entry.names, HOSTILE):
        check(entry, {other: good[0]() for other, good in entry.good.items()}, {name: hostile})
