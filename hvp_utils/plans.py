"""What a run will cost, told beforehand from the sizes of the model alone.

Counted are the floating-point operations of matrix products (a multiplication and an addition are
two), which is what a large model spends its time on. As in the runs themselves, positions before
the first difference of the prompts and layers below a component are not run.

A product of an activation with a weight matrix costs the same again in every further backward pass
through it, so each derivative doubles it. In a product of two activations, of which attention has
two, each factor needs a product of its own: each derivative triples it.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from typing import cast

import numpy as np
import torch
from huggingface_hub import errors as hub_errors
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hvp_utils import _checks
from hvp_utils.components import COMPONENT_KINDS, edge_graph
from hvp_utils.estimators.integrals import quadrature
from hvp_utils.estimators.names import find
from hvp_utils.models import MODELS, _resolve_device, explain_hub_error, require_on_hub
from hvp_utils.prompt_batch import tokens_per_batch
from hvp_utils.suffix_run import full_precision
from hvp_utils.sweeps import SWEPT

__all__ = ["ModelSizes", "Plan", "measure_rate", "model_sizes", "pass_flops", "passes", "plan"]


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a language model that its cost depends on.

    Attributes:
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        n_heads: Attention heads of a block.
        n_kv_heads: Heads of keys and values, which several heads of queries may share.
        d_head: Width of a head.
        d_mlp: Neurons of a block.
        gated: Whether the MLP has three matrices (one of them a gate) or two.
        d_vocab: Tokens in the vocabulary.
        n_parameters: Weights in all, a matrix that is used twice counted once.
        parallel: Whether attention and MLP of a block read the same stream.
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    gated: bool
    d_vocab: int
    n_parameters: int
    parallel: bool = False

    @classmethod
    def of(cls, model: TransformerBridge | PreTrainedModel | PreTrainedConfig) -> ModelSizes:
        """The sizes of a loaded model, or of a Hugging Face configuration.

        Raises:
            ValueError: A configuration that is not that of a causal transformer.
        """
        config = cast(
            "PreTrainedConfig", getattr(getattr(model, "original_model", model), "config", model)
        )
        _checks.instance("model", config, PreTrainedConfig, "a model or its configuration")
        with torch.device("meta"):  # the model without its numbers
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        text = config.get_text_config()
        mlp = [name for name, _ in empty.named_parameters() if ".mlp." in name]
        try:
            return cls(
                n_layers=text.num_hidden_layers,
                d_model=text.hidden_size,
                n_heads=text.num_attention_heads,
                n_kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
                d_head=getattr(text, "head_dim", None)
                or text.hidden_size // text.num_attention_heads,
                d_mlp=getattr(text, "intermediate_size", None)
                or getattr(text, "n_inner", None)
                or 4 * text.hidden_size,
                gated=any("gate" in name for name in mlp),
                d_vocab=text.vocab_size,
                n_parameters=empty.num_parameters(),
                parallel=bool(getattr(text, "use_parallel_residual", False)),
            )
        except AttributeError as error:
            raise ValueError(f"The sizes of this model cannot be read: {error}.") from None

    def n_components(self, components: str, n_run: int) -> int:
        """How many components of a kind there are, for prompts that differ in ``n_run`` tokens.

        Args:
            components: As for ``find_sites``, such as ``"heads"`` or ``"neurons_pre:256"``.
            n_run: Tokens from the first difference of the prompts on.

        Raises:
            ValueError: Components that ``find_sites`` would not take.
        """
        _checks.instance("components", components, str, "the name of a kind")
        _checks.whole("n_run", n_run)
        kind, _, count = components.partition(":")
        in_a_layer = {
            "heads": self.n_heads,
            "queries": self.n_heads * n_run,
            "keys": self.n_kv_heads * n_run,
            "values": self.n_kv_heads * n_run,
            "mlp_out": 1,
            "resid": n_run,
            "neurons_pre": self.d_mlp,
            "neurons_post": self.d_mlp,
        }
        if components == "edges":
            return edge_graph(self.n_layers, self.n_heads, self.parallel).n_edges
        if kind not in in_a_layer:
            raise ValueError(
                f"Unknown components {components!r}. Known kinds: {', '.join(COMPONENT_KINDS)}."
            )
        if count:
            sampled = kind.startswith("neurons") and count.isdigit()
            if not (sampled and 1 <= int(count) <= self.d_mlp):
                raise ValueError(
                    f"{components!r}: only neurons can be sampled, 1 to {self.d_mlp} of a layer."
                )
            return self.n_layers * int(count)
        return self.n_layers * in_a_layer[kind]


# In the order of the fields, from the configurations that come with the weights.
_SIZES = {
    "smollm2-135m": ModelSizes(30, 576, 9, 3, 64, 1536, True, 49152, 134_515_008),
    "gemma-3-270m": ModelSizes(18, 640, 4, 1, 256, 2048, True, 262144, 268_098_176),
    "gpt2": ModelSizes(12, 768, 12, 12, 64, 3072, False, 50257, 124_439_808),
    "pythia-410m": ModelSizes(24, 1024, 16, 16, 64, 4096, False, 50304, 405_334_016, True),
    "pythia-2.8b": ModelSizes(32, 2560, 32, 32, 80, 10240, False, 50304, 2_775_208_960, True),
    "qwen2.5-1.5b": ModelSizes(28, 1536, 12, 2, 128, 8960, True, 151936, 1_543_714_304),
    "gemma-2-2b": ModelSizes(26, 2304, 8, 4, 256, 9216, True, 256000, 2_614_341_888),
    "gemma-2-9b": ModelSizes(42, 3584, 16, 8, 256, 14336, True, 256000, 9_241_705_984),
    "llama-3.1-8b": ModelSizes(32, 4096, 32, 8, 128, 14336, True, 128256, 8_030_261_248),
}


def model_sizes(name: str) -> ModelSizes:
    """The sizes of a model, without its weights; for the names in ``MODELS`` without a network.

    Raises:
        OSError: The configuration of another model cannot be fetched: offline, gated or unknown.
        ValueError: It is not a causal transformer.
    """
    _checks.instance("name", name, str, "the name of a model")
    for short, hub_id in MODELS.items():
        if name in (short, hub_id):
            return _SIZES[short]
    try:
        config = None
        with contextlib.suppress(OSError):  # not in the cache
            config = AutoConfig.from_pretrained(
                name, trust_remote_code=False, local_files_only=True
            )
        if config is None:
            require_on_hub(name)
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, hub_errors.HfHubHTTPError, hub_errors.HFValidationError) as error:
        raise OSError(explain_hub_error(name, name, error)) from None
    return ModelSizes.of(config)


def passes(estimator: str, n: int, n_layers: int, components: str = "heads") -> dict[str, int]:
    """What an estimator runs for n components that all differ between the prompts.

    The kinds are those of ``Costs``, and ``"third"`` for a third derivative at t = 0. A run at
    t = 0 that all components share, with its first backward pass, counts as one ``"gradient"``.

    Args:
        estimator: A name that ``sweep`` takes.
        n: Number of components.
        n_layers: Layers of the model.
        components: Their kind; some estimators do more for some kinds.

    Raises:
        ValueError: An unknown name, or parameters or components that the estimator cannot take.
    """
    _checks.whole("n", n)
    _checks.whole("n_layers", n_layers)
    _checks.instance("components", components, str, "the name of a kind")
    parameters = inspect.signature(find(estimator, SWEPT)).parameters
    given = {name: parameter.default for name, parameter in parameters.items()}
    stem = estimator.partition(":")[0]
    found = Counter()

    def along(points: torch.Tensor, slope_or_curvature: str) -> None:
        """One derivative of each component at each point, those at 0 from a shared run."""
        at_0 = int((points == 0).sum())
        found["gradient"] += at_0
        found["curvature"] += at_0 * n if slope_or_curvature == "curvature" else 0
        found[f"{slope_or_curvature}_on_path"] += (len(points) - at_0) * n

    def sketch() -> None:
        """A sketched diagonal of the Hessian, with the gradient that comes with it."""
        k = given["n_matvecs"]
        if k >= n:  # exact
            along(torch.zeros(1), "curvature")
        elif k < 4 or k % 2:
            raise ValueError(f"xdiag needs an even number of products of at least 4, not {k}.")
        else:
            found.update(gradient=1, matvec=k, matvec_batch=2)  # a Counter adds

    if stem == "activation_patching":
        found["forward"] = n
    elif stem in ("attribution_patching", "gim", "relp"):
        found["gradient"] = 1
    elif stem in ("local_curvature", "local_sketched_hvp"):
        if components == "edges":
            raise ValueError(
                f"{stem} of edges runs single blocks, which have no price among the passes."
            )
        if not components.startswith("neurons_pre"):
            raise ValueError(f'{stem} needs "neurons_pre" or "edges", not {components!r}.')
        found["gradient"] = 1  # those at the outputs
        if stem == "local_curvature":
            found["gradient"] += 1
        else:
            sketch()
    elif stem in ("eap_ig", "eap_gp"):
        if components != "edges":
            raise ValueError(f'{stem} needs "edges", not {components!r}.')
        k = given["n_steps"]
        if stem == "eap_gp":
            found.update(gradient=2 * k, forward=1)
        else:
            k = len(quadrature(k, given["method"])[0])
            found["gradient"] = k * (2 * n_layers + 1 if given["where"] == "activations" else 1)
    elif stem == "atp_star":
        if n_layers < 2:
            raise ValueError("GradDrop averages over the layers but one; this model has only one.")
        found["gradient"] = n_layers
        # Patterns of the base run, and those under all patches at once.
        found["forward"] = 2 if components in ("queries", "keys") else 0
    elif stem in ("hvp", "gauss_newton", "quadratic_without"):
        along(torch.zeros(1), "curvature")
    elif stem in ("ms_hvp", "ms_hvp_median"):
        steps = (given["n_steps"],) if stem == "ms_hvp" else given["n_steps"]
        points = {Fraction(i, k) for k in steps for i in range(k)}
        along(torch.tensor([float(t) for t in points]), "curvature")
    elif stem == "third_order":
        found["third"] = n
    elif stem == "finite_difference_hvp":
        along(torch.tensor([0.0, given["step"]]), "slope")
    elif stem == "integrated_gradients":
        along(quadrature(given["n_steps"], given["method"])[0], "slope")
    elif stem == "integrated_hessians":
        t, _ = quadrature(given["n_steps"], given["method"])
        s = torch.outer(t, t).round(decimals=14).unique() if given["scheme"] == "grid" else t[t > 0]
        along(s, "curvature")
        found["gradient"] += given["part"] == "pairwise"
    elif stem == "hessian_lipschitz":
        found["curvature_on_path"] = 3 * n
    elif stem == "hessian_eigenvalues":
        found.update(gradient=1, matvec=n, matvec_batch=1)
    elif stem == "row_norms":
        if given["n_probes"] < 2:
            raise ValueError(f"Row norms need at least 2 probes, not {given['n_probes']}.")
        found.update(gradient=1, gradient_row=given["n_probes"])
    elif stem == "sketched_hvp":
        sketch()
    else:
        raise NotImplementedError(f"It is not known what {stem!r} runs.")
    return {name: count for name, count in found.items() if count}


def pass_flops(
    sizes: ModelSizes,
    components: str | Int[Tensor, " n"] | Sequence[int],
    n_tokens: int,
    n_run: int,
    batch_size: int = 1,
) -> dict[str, float]:
    """Floating-point operations of one pass of each kind, averaged over the components.

    A little too many, for a component's own block is counted whole, and its derivatives pass
    through only a part of it.

    Args:
        sizes: The model.
        components: What is patched, see ``find_sites``; or the layer of each component, as
            ``M.layers``, which is all that the price of features depends on.
        n_tokens: Tokens of a prompt.
        n_run: Those from the first difference of the prompts on.
        batch_size: Components run together. Curvatures at 0 go down to the lowest of their layers.
    """
    _checks.instance("sizes", sizes, ModelSizes, "the ModelSizes of a model; see model_sizes")
    for name, count in (("n_tokens", n_tokens), ("batch_size", batch_size)):
        _checks.whole(name, count)
    _checks.whole("n_run", n_run, 1, n_tokens)
    if isinstance(components, str) and components == "edges":
        return _edge_flops(sizes, n_tokens, n_run)
    if isinstance(components, str):
        each = sizes.n_components(components, n_run) // sizes.n_layers
        layers = np.arange(sizes.n_layers).repeat(each)
    else:
        layers = _checks.indices("components", components, sizes.n_layers).numpy()
        if layers.ndim != 1 or not len(layers):
            raise ValueError("components must be a kind by name, or the layer of each component.")
        layers = np.sort(layers)
    L, heads, kv = sizes.n_layers, sizes.n_heads * sizes.d_head, sizes.n_kv_heads * sizes.d_head
    weights = sizes.d_model * (2 * heads + 2 * kv + (3 if sizes.gated else 2) * sizes.d_mlp)
    attention = 2 * heads * n_tokens  # scores and mixing
    unembedding = sizes.d_model * sizes.d_vocab  # at the last position only

    def run(blocks: float, by_weights: int, by_activations: int) -> float:
        block = by_weights * weights + by_activations * attention
        return 2 * (blocks * n_run * block + by_weights * unembedding)

    rows = min(batch_size, len(layers))
    first = np.arange(len(layers)) // rows * rows  # of its batch, for each component
    own, lowest, whole = (float(L - x) for x in (layers.mean(), layers[first].mean(), layers.min()))
    return {
        "forward": run(own, 1, 1),
        "gradient": run(whole, 2, 3),
        "gradient_row": run(whole, 2, 3),
        "curvature": run(lowest, 2, 6),  # the second backward pass alone
        "slope_on_path": run(own, 2, 3),
        "curvature_on_path": run(own, 4, 9),
        "third": run(own, 8, 27),
        "matvec": run(whole, 2, 6),
        "matvec_batch": 0.0,  # reading the weights once more, which is no operation
    }


def _edge_flops(sizes: ModelSizes, n_tokens: int, n_run: int) -> dict[str, float]:
    """The same of edges, whose keys and values are not shared.

    What all writers add to all readers is one more product of activations with each other.
    """
    alone = replace(sizes, n_kv_heads=sizes.n_heads)
    found = pass_flops(alone, "heads", n_tokens, n_run)
    L = sizes.n_layers
    layer = np.array(
        [group.layer for group in edge_graph(L, sizes.n_heads, sizes.parallel).readers]
    )
    edges = [
        group.n_writers * len(group.labels)
        for group in edge_graph(L, sizes.n_heads, sizes.parallel).readers
    ]
    # An axis run starts at the reader's layer: most edges end in the upper half.
    share = (np.average(L - layer, weights=edges)) / ((L + 1) / 2)
    for name in ("forward", "slope_on_path", "curvature_on_path", "third"):
        found[name] *= share
    found["curvature"] = found["curvature_on_path"]  # a run for each, at 0 too
    mixing = 2.0 * sum(edges) * n_run * sizes.d_model
    found["gradient"] += mixing
    found["gradient_row"] += 3 * mixing
    found["matvec"] += 6 * mixing
    return found


def _numbers_per_run(sizes: ModelSizes, kind: str, n_tokens: int, n_run: int) -> float:
    """Numbers that one run holds at most, when it starts in the lowest layer.

    The factors were fitted to what runs of several architectures took.
    """
    projected = (sizes.n_heads + 2 * sizes.n_kv_heads) * sizes.d_head
    scores = sizes.n_heads * n_tokens
    block = n_run * (10 * sizes.d_model + 3 * projected + 4 * scores + 10 * sizes.d_mlp)
    if kind == "forward":  # nothing is kept
        return block + 2 * sizes.d_vocab
    graph = {"curvature_on_path": 1.0, "third": 3.0}.get(kind, 0.45)
    return graph * sizes.n_layers * block + 4 * sizes.d_vocab


@dataclass(frozen=True)
class Plan:
    """What one estimator takes.

    Attributes:
        estimator: Its name.
        passes: Passes for one prompt, by kind; see ``Costs``.
        flops: Floating-point operations for one prompt.
        forward_equivalents: The same, in runs with one component patched.
        seconds: Time for all prompts.
        weight_bytes: Memory of the weights.
        run_bytes: Memory of each run in a batch beside that, to a third or so. What fits together
            is ``(memory - weight_bytes) / run_bytes`` runs.
    """

    estimator: str
    passes: dict[str, int]
    flops: float
    forward_equivalents: float
    seconds: float
    weight_bytes: float
    run_bytes: float


def plan(
    sizes: ModelSizes,
    components: str | Int[Tensor, " n"] | Sequence[int],
    estimators: Sequence[str],
    n_tokens: int,
    n_run: int,
    n_prompts: int,
    flops_per_second: float,
    bytes_per_number: int = 4,
    batch_size: int = 1,
) -> list[Plan]:
    """What some estimators will take, at a given rate of matrix products.

    Left out is whatever is no matrix product, and the few runs that prepare a prompt. Reading the
    weights is left out too. A gradient of one short prompt, or a batch of few components, spends
    its time on that and takes longer than is said here; full batches do not.

    Args:
        sizes: The model; see ``model_sizes``.
        components: What is patched, see ``find_sites``; or the layer of each component.
        estimators: Names, as for ``sweep``, such as ``"hvp"`` or ``"ms_hvp:5"``.
        n_tokens: Tokens of a prompt.
        n_run: Those from the first difference of the prompts on.
        n_prompts: Number of prompts.
        flops_per_second: Floating-point operations a second; see ``measure_rate``.
        bytes_per_number: 4 for float32.
        batch_size: Components run together.

    Raises:
        ValueError: Names that are not known, or numbers that cannot be.
    """
    _checks.instance("flops_per_second", flops_per_second, Real, "a number")
    if not flops_per_second > 0:
        raise ValueError(f"The rate must be above 0 FLOP/s, not {flops_per_second!r}.")
    estimators = _checks.texts("estimators", estimators)
    for name, count in (("n_prompts", n_prompts), ("bytes_per_number", bytes_per_number)):
        _checks.whole(name, count)
    flops = pass_flops(sizes, components, n_tokens, n_run, batch_size)
    by_name = isinstance(components, str)
    n = sizes.n_components(components, n_run) if by_name else len(components)
    plans = []
    for name in estimators:
        needed = passes(name, n, sizes.n_layers, components if by_name else "features")
        total = sum(count * flops[kind] for kind, count in needed.items())
        numbers = max(_numbers_per_run(sizes, kind, n_tokens, n_run) for kind in needed)
        plans.append(
            Plan(
                estimator=name,
                passes=needed,
                flops=total,
                forward_equivalents=total / flops["forward"],
                seconds=n_prompts * total / flops_per_second,
                weight_bytes=bytes_per_number * sizes.n_parameters,
                run_bytes=bytes_per_number * numbers,
            )
        )
    return plans


def batch_tokens(device: str | torch.device | None = None) -> int:
    """Tokens that are run together by default on a device, which need not be there."""
    name = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return tokens_per_batch(name.partition(":")[0])


def measure_rate(
    device: str | torch.device | None = None, d_model: int = 2048, d_mlp: int = 2048
) -> float:
    """Floating-point operations a second in a product of the shape of an MLP's, in float32.

    Takes about a second. No TF32, as in the runs. Sizes beyond 2048 do not change the rate, and
    are cut to that.

    Args:
        device: By default a GPU when there is one.
        d_model: Width of the residual stream.
        d_mlp: Neurons of a block.

    Raises:
        ValueError: The device is not available.
    """
    _checks.whole("d_model", d_model)
    _checks.whole("d_mlp", d_mlp)
    device = _resolve_device(device)
    x = torch.randn(batch_tokens(device), min(d_model, 2048), device=device)
    W = torch.randn(x.shape[1], min(d_mlp, 2048), device=device)
    tries, end = [], time.perf_counter() + 1
    with torch.no_grad(), full_precision(x.dtype):
        while len(tries) < 2 or time.perf_counter() < end:  # the first warms up
            started = time.perf_counter()
            torch.mm(x, W)
            if x.is_cuda:
                torch.cuda.synchronize()
            tries.append(time.perf_counter() - started)
    return 2 * x.numel() * W.shape[1] / min(tries)
