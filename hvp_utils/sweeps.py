"""Many prompts, many estimators, one store.

A sweep is an ``xarray.Dataset`` with dimensions ``prompt`` and ``component`` and one variable per
estimator, kept in a netCDF file whose attributes say where every number comes from. ``sweep``
computes only what its store lacks, a batch of prompts of one shape at a time. Each batch is kept in
a hidden folder beside the file and joins it at the end, or when the sweep is interrupted or, after
it was killed, started again: at most the batch in flight is lost. Only one process at a time fills
a file; others wait for it, and then find what they wanted.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from hvp_utils import _checks
from hvp_utils.architectures import hf_model
from hvp_utils.backward_rules import rules_are_active
from hvp_utils.curvature import row_norms, spectrum
from hvp_utils.estimators import ESTIMATORS, find_estimator
from hvp_utils.estimators.common import Components, only
from hvp_utils.estimators.names import Named, find
from hvp_utils.models import as_bridge, load_model, model_origin
from hvp_utils.patched_metric import AxisDerivatives, Direction, PatchedMetric
from hvp_utils.reliability import hessian_lipschitz
from hvp_utils.store import add_part, drop_parts, only_writer, parts, read, set_aside, write
from hvp_utils.tasks import PromptPair, make_prompts

__all__ = ["provenance", "sweep"]

_FORMAT = 1


def _row_norms(M: PatchedMetric, n_probes: int = 2, components: Components = None) -> Tensor:
    return only(row_norms(M, n_probes).values, components)


# What can be swept: estimators, and measures beside them.
MEASURES: Named = {
    "hessian_lipschitz": (hessian_lipschitz, {}),
    "hessian_eigenvalues": (spectrum, {}),
    "row_norms": (_row_norms, {"n_probes": int}),
}
SWEPT: Named = cast("dict[str, Any]", ESTIMATORS) | cast("dict[str, Any]", MEASURES)


def sweep(
    model: str | TransformerBridge | PreTrainedModel = "smollm2-135m",
    task: str | Callable[..., Sequence[PromptPair]] = "ioi",
    estimators: Sequence[str] = ("activation_patching", "attribution_patching", "hvp"),
    n_prompts: int = 20,
    seed: int = 0,
    direction: Direction = "denoising",
    components: str = "heads",
    store: str | Path | None = None,
    top: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    prompts_per_batch: int = 16,
) -> xr.Dataset:
    """Run estimators on the prompts of a task, reusing what is stored.

    Args:
        model: A name for ``load_model``, or a loaded model. Given a name, the model is loaded only
            if something has to be computed.
        task: A key of ``TASKS``, or a named function ``(model, n, seed=...) -> pairs``.
        estimators: Names, such as ``"hvp"`` or ``"ms_hvp:5"``; also ``"hessian_lipschitz"``,
            ``"row_norms"`` (or ``"row_norms:4"``, from four probes), and
            ``"hessian_eigenvalues"``: as many as there are components, the largest in magnitude
            first, so that number i is not that of component i.
        n_prompts: Number of prompts. More than the store holds extends it.
        seed: Seed of the task and of sampled components.
        direction: ``"denoising"`` or ``"noising"``.
        components: What is patched; see ``PatchedMetric``.
        store: Folder of the result files; by default nothing is stored. Each combination of the
            other arguments has a file of its own.
        top: Run everything but ``activation_patching`` only on the components with the ``top``
            largest true effects of each prompt, and leave NaN elsewhere. Needs
            ``"activation_patching"`` among the estimators.
        device: Where to load the model, when ``model`` is a name.
        dtype: In what precision to load it, when ``model`` is a name.
        prompts_per_batch: At most so many prompts are run together and stored together. More are
            faster where prompts are short, and more is lost when a sweep is killed.

    Returns:
        Variables ``[prompt, component]``: one per estimator and ``delta_norm``; per prompt
        ``base``, ``other``, ``clean``, ``corrupted``, ``answer``, ``n_tokens``, ``n_run`` (tokens
        from the first difference on) and ``seconds``; coordinates ``label`` and ``layer`` per
        component, and ``head`` for heads.

    Raises:
        ValueError: Unknown names, or prompts whose components do not line up.
    """
    estimators = list(dict.fromkeys(_checks.texts("estimators", estimators)))
    functions = {name: find(name, SWEPT) for name in estimators}
    if top is not None and "activation_patching" not in functions:
        raise ValueError('top needs "activation_patching" among the estimators, to rank by.')
    if top is not None and "hessian_eigenvalues" in functions:
        raise ValueError("hessian_eigenvalues are those of all components: sweep them without top.")
    if not isinstance(components, str):
        raise TypeError(
            "A sweep has the same components for every prompt and file, so they must be a kind by "
            f'name, such as "heads", not {components}. For others use PatchedMetric.'
        )
    _checks.whole("n_prompts", n_prompts)
    _checks.whole("prompts_per_batch", prompts_per_batch)
    _checks.seed(seed)
    if top is not None:
        _checks.whole("top", top)
    _checks.one_of("direction", direction, get_args(Direction))
    if not (isinstance(task, str) or hasattr(task, "__name__")):
        raise TypeError(f"task must be a name or a named function, not {_checks.shown(task)}.")
    _require_folder(store)
    bridge = None if isinstance(model, str) else as_bridge(model)
    identity = {
        "format": _FORMAT,
        "model": model
        if isinstance(model, str)
        else model_origin(cast("TransformerBridge", bridge)).name,
        "task": task if isinstance(task, str) else task.__name__,
        "seed": seed,
        "direction": direction,
        "components": components,
        "top": top or 0,
        "dtype": str(dtype if bridge is None else hf_model(bridge).dtype).removeprefix("torch."),
    }
    path = None if store is None else Path(store) / _file_name(identity)
    done = read(path, identity)
    if _lacking(done, estimators, n_prompts):
        with only_writer(path):
            done = _with_parts(path, identity)  # somebody else may have filled it meanwhile
            if _lacking(done, estimators, n_prompts):
                bridge = bridge or load_model(model, device=device, dtype=dtype)
                done = _compute(
                    done, bridge, task, functions, n_prompts, identity, path, prompts_per_batch
                )
    assert done is not None  # what was lacking has been computed
    return _without_gaps(done, n_prompts)


def _require_folder(store: str | Path | None) -> None:
    """Complain of a store that can be no folder, before anything is computed."""
    if store is None:
        return
    _checks.instance("store", store, str | Path, "a folder, or None")
    for place in (Path(store), *Path(store).parents):
        if place.is_file():
            raise NotADirectoryError(f"store must be a folder, but {place} is a file.")


def _without_gaps(done: xr.Dataset, n_prompts: int) -> xr.Dataset:
    """The first prompts of a store that has them all."""
    return done.isel(prompt=slice(n_prompts)).drop_vars("prompt", errors="ignore")


def _lacking(done: xr.Dataset | None, estimators: Sequence[str], n_prompts: int) -> bool:
    if done is None or set(range(n_prompts)) - set(_numbers(done)):
        return True
    head = done.isel(prompt=slice(n_prompts))
    return not all(_has(head, name) for name in estimators)


def _with_parts(path: Path | None, identity: Mapping[str, Any]) -> xr.Dataset | None:
    """What a store holds, after the batches that a killed sweep left have joined it."""
    done, left = read(path, identity), parts(path, identity)
    if path is None or not left:
        return done
    prompts = _by_number(done)
    for part in left:  # A prompt in a part is whole: it holds what the file has of it too.
        prompts |= _by_number(part)
    done = _join(prompts, left[-1].attrs)
    write(done, path)
    drop_parts(path)
    return done


def _by_number(done: xr.Dataset | None) -> dict[int, xr.Dataset]:
    return {n: done.isel(prompt=[i]) for i, n in enumerate(_numbers(done))} if done else {}


def _numbers(done: xr.Dataset | None) -> list[int]:
    """Which prompts of the task a store holds. While batches are missing there are gaps."""
    if done is None:
        return []
    return (
        done.prompt.values.tolist() if "prompt" in done.coords else [*range(done.sizes["prompt"])]
    )


def _has(prompts: xr.Dataset, estimator: str) -> bool:
    """A computed result is never NaN for every component (``PatchedMetric`` refuses NaN)."""
    return estimator in prompts and bool(prompts[estimator].notnull().any("component").all())


def _compute(
    done: xr.Dataset | None,
    bridge: TransformerBridge,
    task: str | Callable[..., Sequence[PromptPair]],
    functions: Mapping[str, Callable[..., Tensor]],
    n_prompts: int,
    identity: dict[str, Any],
    path: Path | None,
    prompts_per_batch: int,
) -> xr.Dataset:
    pairs = make_prompts(task, bridge, n_prompts, seed=identity["seed"])
    resolved = [pair.resolve(bridge) for pair in pairs]
    texts = [
        ("".join(tokens.str_tokens("clean")), "".join(tokens.str_tokens("corrupted")))
        for tokens in resolved
    ]
    prompts = _by_number(done)
    for n, old in prompts.items():
        if n < n_prompts:
            stored = (old.clean.item(), old.corrupted.item(), old.answer.item())
            if stored != (*texts[n], str(pairs[n].answer)):
                set_aside(path, f"its prompt {n} is not the one that this task makes now")
                prompts = {}
                break
    # Prompts of one shape that lack the same results run together.
    batches: dict[tuple, list[int]] = {}
    for n, tokens in enumerate(resolved):
        missing = tuple(f for f in functions if not _has(prompts.get(n, xr.Dataset()), f))
        if missing:
            shape = (len(tokens), tokens.first_difference, tokens.corrupted is None)
            batches.setdefault((missing, shape), []).append(n)
    chunks = [
        (missing, members[i : i + prompts_per_batch])
        for (missing, _), members in batches.items()
        for i in range(0, len(members), prompts_per_batch)
    ]
    chunks.sort(key=lambda chunk: chunk[1][0])
    bar = tqdm(total=n_prompts, desc=f"{identity['model']}, {identity['task']}", unit="prompt")
    bar.update(n_prompts - sum(len(members) for _, members in chunks))
    about = provenance(bridge) | identity
    computed = False
    try:
        for number, (missing, members) in enumerate(chunks):
            found = _batch(
                bridge,
                [pairs[n] for n in members],
                {name: functions[name] for name in missing},
                identity,
                [texts[n] for n in members],
            )
            new = {
                n: _merged(prompts.get(n, xr.Dataset()), one)
                for n, one in zip(members, found, strict=True)
            }
            _require_one_kind([*list(prompts.values())[:1], *new.values()])
            prompts |= new
            computed = True
            if path is not None:
                add_part(_join(new, about), path, number)
            bar.update(len(members))
    finally:  # also when it is interrupted
        bar.close()
        if computed:
            done = _join(prompts, provenance(bridge) | identity)
            if path is not None:
                write(done, path)
                drop_parts(path)
    assert done is not None  # something was lacking, so something was computed
    return done


def _batch(
    bridge: TransformerBridge,
    pairs: Sequence[PromptPair],
    functions: Mapping[str, Callable[..., Tensor]],
    identity: Mapping[str, Any],
    texts: Sequence[tuple[str, str]],
) -> list[xr.Dataset]:
    """What was missing of some prompts of one shape."""
    started = time.perf_counter()
    M = PatchedMetric(
        bridge, pairs, identity["components"], identity["direction"], seed=identity["seed"]
    ).each
    M.along_axes = cast("Any", _Remembered(M))
    results, top = {}, None
    if identity["top"]:
        truth = functions.get("activation_patching", find_estimator("activation_patching"))(M)
        top = truth.abs().topk(min(identity["top"], M.n)).indices
    for name, function in functions.items():
        if top is None or name == "activation_patching":
            results[name] = function(M)
        else:
            blank = torch.full_like(M.delta_norm, torch.nan)
            results[name] = blank.scatter(1, top, function(M, components=top.cpu()))
    seconds = (time.perf_counter() - started) / len(pairs)
    variables = {
        name: value.cpu().numpy() for name, value in {"delta_norm": M.delta_norm, **results}.items()
    }
    coordinates = {"label": list(M.labels), "layer": M.layers.numpy()}
    if identity["components"] == "heads":
        coordinates["head"] = [int(label.partition("H")[2]) for label in M.labels]
    found = []
    for i, (pair, (clean, corrupted)) in enumerate(zip(pairs, texts, strict=True)):
        per_prompt = {
            "base": cast("Tensor", M.base)[i].item(),
            "other": cast("Tensor", M.other)[i].item(),
            "clean": clean,
            "corrupted": corrupted,
            "answer": str(pair.answer),
            "n_tokens": int(cast("Tensor", M.n_tokens)[i]),
            "n_run": int(cast("Tensor", M.n_run)[i]),
            "seconds": seconds,
        }
        found.append(
            xr.Dataset(
                {
                    **{name: (("prompt",), [value]) for name, value in per_prompt.items()},
                    **{
                        name: (("prompt", "component"), value[i : i + 1])
                        for name, value in variables.items()
                    },
                },
                coords={name: ("component", value) for name, value in coordinates.items()},
            )
        )
    return found


def _merged(old: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """What is stored of a prompt, and what was missing."""
    if "seconds" in old:
        new["seconds"] = new.seconds + old.seconds.item()
    kept = [name for name in old.data_vars if name not in new]
    old = old.drop_vars("prompt", errors="ignore")
    return new.merge(old[kept].drop_attrs(), compat="override") if kept else new


class _Remembered:
    """``along_axes`` of one PatchedMetric that computes no point of any axis twice.

    Estimators meet at the same points: MS-HVP of 2, 4 and 10 steps all need t = 1/2. Under changed
    backward rules the derivatives are others, so nothing is remembered then.
    """

    def __init__(self, M: PatchedMetric):
        self._compute = M.along_axes
        self._everything = torch.arange(M.n)
        self._known: dict[tuple[int, tuple[int, ...] | int, float], Tensor] = {}

    def __call__(
        self,
        t: float | Tensor = 0.0,
        order: Literal[0, 1, 2, 3] = 2,
        components: Components = None,
    ) -> AxisDerivatives:
        wanted = self._everything if components is None else torch.as_tensor(components).cpu()
        if rules_are_active() or not wanted.shape[-1]:
            return self._compute(t, order, components)
        points = torch.as_tensor(t, dtype=torch.float64).expand(wanted.shape[-1]).tolist()
        # A column is one component of all prompts, or one of each: [prompt, column].
        columns = wanted.movedim(-1, 0).tolist()
        # Rounded, since 1/3 and 2/6 need not agree to the last bit.
        keys = [
            (order, tuple(c) if isinstance(c, list) else c, round(p, 12))
            for c, p in zip(columns, points, strict=True)
        ]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if new:
            found = self._compute(
                torch.tensor([key[2] for key in new], dtype=torch.float64),
                order,
                torch.tensor([key[1] for key in new]).movedim(0, -1),
            )
            # [column, derivative, prompt]
            by_column = torch.stack(cast("tuple[Tensor, ...]", found[: order + 1])).movedim(-1, 0)
            self._known.update(zip(new, by_column, strict=True))
        return AxisDerivatives(*torch.stack([self._known[key] for key in keys], dim=-1))


def _join(prompts: Mapping[int, xr.Dataset], attributes: Mapping[str, Any]) -> xr.Dataset:
    numbers = sorted(prompts)
    _require_one_kind([prompts[n] for n in numbers])
    joined = xr.concat(
        [prompts[n].drop_vars("prompt", errors="ignore").drop_attrs() for n in numbers],
        dim="prompt",
        data_vars="all",
        coords="minimal",
        compat="override",
    )
    if numbers != [*range(len(numbers))]:  # there are gaps, which later batches fill
        joined = joined.assign_coords(prompt=numbers)
    return joined.assign_attrs(attributes)


def _require_one_kind(prompts: Sequence[xr.Dataset]) -> None:
    labels = [tuple(prompt.label.values) for prompt in prompts]
    if len(set(labels)) > 1:
        raise ValueError(
            "The prompts of a sweep must have the same components, but these have "
            f"{len(labels[0])} and {len(labels[-1])}: residual-stream positions only line up for "
            "prompts of one length. Sweep prompts of one template, or use another component kind."
        )


def _file_name(identity: Mapping[str, Any]) -> str:
    parts = [identity[key] for key in ("model", "task", "components", "direction", "dtype")]
    parts += [f"seed{identity['seed']}"] + [f"top{identity['top']}"] * bool(identity["top"])
    return "__".join(str(part).replace("/", "--").replace(":", "-") for part in parts) + ".nc"


def provenance(model: TransformerBridge | PreTrainedModel) -> dict[str, str]:
    """Where a number comes from: model, machine, library versions, git revision, time (UTC)."""
    bridge = as_bridge(model)
    device = torch.device(cast("str", bridge.cfg.device))
    packages = ("torch", "transformers", "transformer_lens", "xarray", "numpy")
    return {
        **model_origin(bridge).as_dict(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "git_revision": _git_revision(),
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _git_revision() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
