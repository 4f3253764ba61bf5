"""How good an SAE is, and what its features respond to: report.json, top_tokens.json, README.md.

Called by tools/train_sae.py, on text that the SAE was not trained on. In float32.
"""

# ruff: noqa: E501 - the model card is text

import json
import shutil

import numpy as np
import torch
from sae_corpus import PACKAGES, PROMPT_SHARE, SHARES
from tqdm.auto import tqdm

from hvp_utils import load_model, load_sae, make_prompts

N_LOSS = 48  # rows of text for the loss
N_TOKENS = 200_000  # activations whose largest are looked up
N_CONTEXTS, BEFORE, AFTER = 4, 6, 3  # contexts of a feature, and their tokens


def explained(sae, x):
    """The share of the variance of activations [token, d] that an SAE explains: summed, typical.

    The sum is mostly that of a few positions with a large norm, which are easy. So beside it stands
    the share at the median position.
    """
    missed = torch.cat([(part - sae.reconstruct(part)).square().sum(1) for part in x.split(4096)])
    total = (x - x.mean(0)).square().sum(1)
    return 1 - (missed.sum() / total.sum()).item(), 1 - (missed / total).median().item()


def firing(sae, x):
    """How many features fire at a position (L0), and which ever do."""
    fired, ever = 0, torch.zeros(sae.n, dtype=torch.bool)
    for part in x.split(4096):
        active = sae.encode(part) > 0
        fired += int(active.sum())
        ever |= active.any(0)
    return fired / len(x), ever


def losses(bridge, sae, rows):
    """Mean cross-entropy of the next token, in nats: as it is, spliced, and with zeros instead.

    The first position, whose activation the SAE was not trained on, stays as it is.
    """
    tokens = torch.as_tensor(rows.astype(np.int64))

    def loss(change):
        def hooked(x, hook):
            return torch.cat([x[:, :1], change(x[:, 1:])], dim=1)

        with torch.no_grad(), bridge.hooks(fwd_hooks=[(sae.hook, hooked)]):
            found = [
                torch.nn.functional.cross_entropy(
                    bridge.original_model(part).logits[:, 1:-1].flatten(0, 1), part[:, 2:].flatten()
                )
                for part in tqdm(tokens.split(8), desc="loss", leave=False)
            ]
        return torch.stack(found).mean().item()

    return loss(lambda x: x), loss(sae.reconstruct), loss(torch.zeros_like)


def on_task(bridge, sae, task="ioi", n=50):
    """The same on the prompts of a task, from the first difference on, both runs: summed, typical."""
    found = []
    for pair in make_prompts(task, bridge, n):
        resolved = pair.resolve(bridge)
        for tokens in (resolved.clean, resolved.corrupted):
            with torch.no_grad():
                _, cache = bridge.run_with_cache(tokens[None], names_filter=[sae.hook])
            found.append(cache[sae.hook][0, resolved.first_difference :])
    return explained(sae, torch.cat(found))


def contexts(tokenizer, sae, x, batches, counted):
    """For each feature the tokens that it is strongest on, marked in their context."""
    where = []  # of each activation: batch, row, position
    for i, batch in enumerate(batches):
        row, pos = counted(batch.astype(np.int64)).nonzero(as_tuple=True)
        where.append(torch.stack([torch.full_like(row, i), row, pos], dim=1))
        if sum(map(len, where)) >= len(x):
            break
    where = torch.cat(where)
    values = torch.zeros(N_CONTEXTS, sae.n)
    places = torch.zeros(N_CONTEXTS, sae.n, dtype=torch.long)
    for start in tqdm(range(0, len(x), 4096), desc="contexts", leave=False):
        found = sae.encode(x[start : start + 4096].float())
        both = torch.cat([values, found])
        index = torch.arange(start, start + len(found))[:, None].expand(-1, sae.n)
        values, order = both.topk(N_CONTEXTS, dim=0)
        places = torch.cat([places, index]).gather(0, order)

    def shown(place):
        i, row, pos = where[place].tolist()
        tokens = batches[i][row]
        part = [
            tokenizer.decode([t]) for t in tokens[max(1, pos - BEFORE) : pos + AFTER + 1] if t >= 0
        ]
        at = min(pos - 1, BEFORE)
        part[at] = f"⟦{part[at]}⟧"
        return " ".join("".join(part).split())

    return {
        feature: [shown(places[j, feature]) for j in range(N_CONTEXTS) if values[j, feature] > 0]
        for feature in range(sae.n)
        if values[0, feature] > 0
    }


def report(model_name, folder, files, batches, n_held, counted, about):
    """Measure, and write everything beside the weights."""
    sae, bridge = load_sae(folder), load_model(model_name, device="cpu")
    x, held_out = files[sae.hook], sum(int(counted(batch).sum()) for batch in batches[-n_held:])
    end = about["n_activations"]
    unseen = torch.as_tensor(np.array(x[end - held_out : end])).float()
    (summed, typical), (l0, ever) = explained(sae, unseen), firing(sae, unseen)
    seen = torch.as_tensor(np.array(x[: min(N_TOKENS, end - held_out)]))
    ever |= firing(sae, seen.float())[1]
    text = np.concatenate([batch for batch in batches[-n_held:] if batch.shape[1] == 128])
    clean, spliced, ablated = losses(bridge, sae, text[:N_LOSS])
    on_ioi = on_task(bridge, sae)
    found = about | {
        "n_held_out": held_out,
        "variance_explained": summed,
        "variance_explained_typical": typical,
        "l0": l0,
        "dead_share": 1 - ever.float().mean().item(),
        "loss_clean": clean,
        "loss_spliced": spliced,
        "loss_ablated": ablated,
        "loss_recovered": (ablated - spliced) / (ablated - clean),
        "ioi_variance_explained": on_ioi[0],
        "ioi_variance_explained_typical": on_ioi[1],
    }
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    top = contexts(bridge.tokenizer, sae, seen, batches, counted)
    (folder / "top_tokens.json").write_text(json.dumps(top, ensure_ascii=False, indent=0) + "\n")
    (folder / "README.md").write_text(card(model_name, sae, found))
    for path in folder.iterdir():
        shutil.copymode(folder / "report.json", path)
    return found


def card(model_name, sae, found):
    """The model card."""
    packages = ", ".join(f"{name} ({licence})" for name, licence in PACKAGES.items())
    names = {"wordnet": "WordNet", "docstrings": "documentation"}
    shares = ", ".join(f"{share:.0%} {names.get(name, name)}" for name, share in SHARES.items())
    return f"""# SAE of {model_name}, {sae.hook}

A sparse autoencoder with {sae.n:,} features, {sae.k} of them active at a position (TopK), of the residual stream of {model_name}. It was made for chapter 13 of *When attribution patching lies* by
`tools/train_sae.py`, so that the chapter has features without a download. It is small: for research on features as such use a larger one, such as Gemma Scope 2.

| measured on text that it was not trained on | |
| --- | --- |
| tokens | {found["n_held_out"]:,} |
| variance explained, summed | {found["variance_explained"]:.3f} |
| the same at a typical position (the median) | {found["variance_explained_typical"]:.3f} |
| features active at a position (L0) | {found["l0"]:.1f} |
| features that never fire, there or on {N_TOKENS:,} tokens of training | {found["dead_share"]:.1%} |
| loss of the model, nats a token | {found["loss_clean"]:.3f} |
| with the reconstruction instead of the activation | {found["loss_spliced"]:.3f} |
| with zeros instead | {found["loss_ablated"]:.3f} |
| loss recovered | {found["loss_recovered"]:.1%} |
| variance explained on 50 IOI prompts, from their first difference on, summed | {found["ioi_variance_explained"]:.3f} |
| the same at a typical position | {found["ioi_variance_explained_typical"]:.3f} |

**Data.** {found["n_training"]:,} activations, each seen {found["epochs"]} times: {PROMPT_SHARE:.0%} prompts of this book's tasks (with other seeds than those that are studied); of the rest, {shares}. WordNet 3.0 (WordNet licence),
documentation strings of {packages}, and Debian's fortunes (BSD). The first position of a text, whose norm is of another order, is left out.

**Training.** Adam, learning rate {found["learning_rate"]}, batches of {found["batch_size"]}, AuxK loss with weight 1/32, decoder of unit norm; the code of
[sparsify](https://github.com/EleutherAI/sparsify); seed 0. Activations were computed in bfloat16.

**Files.** `sae_weights.safetensors` and `cfg.json` have the format of SAELens; `top_tokens.json` holds for each feature the contexts of its largest activations; `report.json` the numbers above.

**Limits.** A dictionary learned from so little text, much of it documentation, names few of the things that the model knows. What it fails to explain is not noise: chapter 13 measures how much of the behaviour goes through it.

Weights: Apache-2.0, like those of the model that they were made from.
"""
