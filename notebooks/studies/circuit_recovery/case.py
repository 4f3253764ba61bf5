"""One head that a ranking gets wrong: its places, its curve, and where it looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats
import torch

from hvp_utils import PatchedMetric, PromptPair, reliability_score
from hvp_utils.stats import Interval, bootstrap_ci

from .. import common
from .ranking import Scores


def places(one: Scores, k: int = 10) -> pd.DataFrame:
    """Where methods put the heads with the k largest mean effects; place 1 is the first.

    Returns:
        One row a head: component, truth (mean effect, in units of the metric) and the means of all
        methods, ``place of M`` for the truth and each method M, lost (places that attribution
        patching puts it too low), and R of the means.
    """
    place = {m: common.places(np.abs(one.mean(m))) for m in one.values}
    chosen = np.argsort(place["truth"])[:k]
    table = pd.DataFrame({"component": np.array(one.labels)[chosen]})
    for method in one.values:
        table[method] = one.mean(method)[chosen]
        table[f"place of {method}"] = place[method][chosen]
    table["lost"] = table["place of AP"] - table["place of truth"]
    first, second = torch.tensor(one.mean("AP")), torch.tensor(one.mean("HVP") - one.mean("AP"))
    table["R"] = reliability_score(first, second).numpy()[chosen]
    return table


def case(scored: Sequence[Scores], k: int = 10) -> pd.DataFrame:
    """Of each model and task the head of the true top k that attribution patching puts lowest."""
    rows = []
    for one in scored:
        table = places(one, k)
        worst = table.loc[table.lost.idxmax()]
        rows.append({"model": one.model, "task": one.task, **worst})
    return pd.DataFrame(rows)


def by_prompt(one: Scores, component: str) -> pd.DataFrame:
    """The effect of one head on every prompt, by all methods; a row a prompt."""
    c = one.labels.index(component)
    return pd.DataFrame({method: values[:, c] for method, values in one.values.items()})


def head_curve(M: PatchedMetric, component: str, n_points: int = 41) -> pd.DataFrame:
    """The effect of one head as it is patched by degrees, with its tangent and its parabola."""
    c = M.labels.index(component)
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)
    values = M.along_axes(t, order=0, components=torch.full((n_points,), c)).value
    start = M.along_axes(0.0, components=torch.tensor([c]))
    slope, curvature = start.slope.item(), start.curvature.item()
    return pd.DataFrame(
        {
            "strength": t,
            "truth": (values - M.base).double().cpu(),
            "AP": slope * t,
            "HVP": slope * t + curvature * t**2 / 2,
        }
    )


def _patterns(model, pair: PromptPair, layers: Sequence[int]) -> dict:
    """Attention patterns ``[head, query, key]`` by run and layer."""
    hooks = {f"blocks.{layer}.attn.hook_pattern": layer for layer in layers}
    tokens, found = pair.resolve(model), {}
    for run in ("clean", "corrupted"):
        ids = torch.as_tensor(getattr(tokens, run)).reshape(1, -1).to(model.cfg.device)
        with torch.no_grad():
            cache = model.run_with_cache(ids, names_filter=[*hooks])[1]
        found |= {(run, layer): cache[hook][0].cpu() for hook, layer in hooks.items()}
    return found


def attention_of(
    model, pair: PromptPair, component: str, patterns: dict | None = None
) -> pd.DataFrame:
    """The attention pattern of one head on both prompts of a pair.

    Returns:
        Columns run ("clean" or "corrupted"), query and key (positions), query_token, key_token and
        weight. The first token is left out as a key, since most heads rest there.
    """
    layer, head = (int(part) for part in component[1:].split("H"))
    tokens, rows = pair.resolve(model), []
    patterns = patterns or _patterns(model, pair, [layer])
    for run in ("clean", "corrupted"):
        pattern = patterns[run, layer][head]
        words = tokens.str_tokens(run)
        for query in range(1, len(words)):
            for key in range(1, query + 1):
                weight = pattern[query, key].item()
                rows.append((run, query, key, words[query], words[key], weight))
    columns = ["run", "query", "key", "query_token", "key_token", "weight"]
    return pd.DataFrame(rows, columns=columns)


def underestimation(scored: Sequence[Scores], k: int = 26) -> pd.DataFrame:
    """Does attribution patching underestimate heads whose patch is long?

    Among the k largest true effects of each prompt: Spearman's correlation of |delta| with
    1 - |f_AP| / |f|, the share of the effect that is missing.

    Returns:
        Columns model, task and correlation (an ``Interval`` of its mean over prompts).
    """
    rows = []
    for one in scored:
        found = []
        for f, a, d in zip(one.truth, one.values["AP"], one.delta_norm, strict=True):
            chosen = np.argsort(-np.abs(f), kind="stable")[:k]
            missing = 1 - np.abs(a[chosen]) / np.abs(f[chosen])
            found.append(scipy.stats.spearmanr(d[chosen], missing).statistic)
        interval: Interval = bootstrap_ci(found)
        rows.append({"model": one.model, "task": one.task, "correlation": interval})
    return pd.DataFrame(rows)


def measured_roles(model, pair: PromptPair, one: Scores, k: int = 18) -> pd.DataFrame:
    """The k heads with the largest mean effects, by where they look on one IOI pair.

    The roles are named after those of published circuits, and say no more than which of five
    weights is largest and above 0.2. The pair differs at the second name, S2; S1 is the same name
    before it, and IO the other name.

    Returns:
        Columns component, role, weight, and the mean effects truth, AP and HVP.
    """
    tokens = pair.resolve(model)
    clean = torch.as_tensor(tokens.clean).flatten().tolist()
    other = torch.as_tensor(tokens.corrupted).flatten().tolist()
    s2, end = tokens.first_difference, len(clean) - 1
    s1, io = clean.index(clean[s2]), clean.index(other[s2])
    looks = {
        "from the end to IO (name mover)": (end, io),
        "from the end to S2 (S-inhibition)": (end, s2),
        "from S2 to after S1 (induction)": (s2, s1 + 1),
        "from S2 to S1 (duplicate token)": (s2, s1),
    }
    rows = []
    patterns = _patterns(model, pair, sorted(set(one.layers.tolist())))
    for label in np.array(one.labels)[np.argsort(-np.abs(one.mean("truth")), kind="stable")[:k]]:
        pattern = attention_of(model, pair, label, patterns)
        clean_run = pattern[pattern["run"] == "clean"].set_index(["query", "key"]).weight
        weights = {role: clean_run[place] for role, place in looks.items()}
        before = [clean_run[q, q - 1] for q in range(2, end + 1)]
        weights["to the token before (previous token)"] = float(np.mean(before))
        role = max(weights, key=weights.get)
        c = one.labels.index(label)
        effects = {method: one.mean(method)[c] for method in ("truth", "AP", "HVP")}
        name = role if weights[role] > 0.2 else "elsewhere"
        rows.append({"component": label, "role": name, "weight": weights[role], **effects})
    return pd.DataFrame(rows)
