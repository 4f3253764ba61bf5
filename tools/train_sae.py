"""Train a sparse autoencoder (SAE) on a model's residual stream, on text that can be installed.

`make saes` runs it. Beside what `make setup` installs it needs the text: on Debian
`apt install wordnet-base fortunes`.

Everything is kept under `--work` as it is made: text as tokens, activations, checkpoints. Killed
and started again, it goes on from there. The same arguments give the same autoencoder.
"""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import torch
import typer
from sae_corpus import corpus
from sae_report import report
from safetensors.torch import save_file
from tqdm.auto import tqdm

from hvp_utils import load_model

SEED = 0
LENGTH, SHORT = 128, 32  # tokens in a row of running text, and of one prompt of a task
HELD_OUT = 0.05  # of the rows, never trained on


def rows_of(model, n_tokens, work):
    """Token ids of running text [row, 128] and of task prompts [row, 32], padded with -1."""
    path = work / "tokens.npz"
    if not path.exists():
        text, prompts = corpus(model, n_tokens, LENGTH, SHORT, SEED)
        np.savez(path, text=text, prompts=prompts)
    with np.load(path) as kept:
        return kept["text"], kept["prompts"]


def batches_of(text, prompts, n_rows=32):
    """Batches of rows of one width, in a fixed order that mixes both kinds."""
    parts = [rows[i : i + n_rows] for rows in (text, prompts) for i in range(0, len(rows), n_rows)]
    return [parts[i] for i in np.random.default_rng(SEED).permutation(len(parts))]


class _Reached(Exception):
    pass


def activations_at(model, hooks, tokens):
    """What the hooks show [row, pos, d] on some rows of tokens; the last hook ends the run."""
    found, handles = {}, []

    def keep(x, hook, name):
        found[name] = x
        if len(found) == len(hooks):
            raise _Reached

    points = model.hook_dict
    try:
        for name in hooks:
            points[name].add_hook(lambda x, hook, name=name: keep(x, hook, name))
            handles.append(points[name])
        with torch.no_grad():
            model.original_model(tokens.clamp(min=0), attention_mask=(tokens >= 0).long())
    except _Reached:
        pass
    finally:
        for point in handles:
            point.remove_hooks()
    return found


def counted(tokens):
    """Positions that count: all but padding and the first token, whose norm is of another order."""
    mask = torch.as_tensor(tokens) >= 0
    mask[:, 0] = False
    return mask


def collect(model, hooks, batches, work, n_tokens):
    """Activations of all batches in one float16 file a hook; goes on where it was stopped."""
    counts = [int(counted(batch).sum()) for batch in batches]
    shape = (n_tokens, model.cfg.d_model)  # room for all there might be
    state = work / "collected.json"
    done = json.loads(state.read_text()) if state.exists() else 0
    files = {
        hook: np.lib.format.open_memmap(
            work / f"{hook}.npy", mode="r+" if done else "w+", dtype=np.float16, shape=shape
        )
        for hook in hooks
    }
    at = sum(counts[:done])
    with tqdm(total=sum(counts), initial=at, unit="token", desc="activations") as bar:
        for i in range(done, len(batches)):
            tokens = torch.as_tensor(batches[i].astype(np.int64))
            found = activations_at(model, hooks, tokens)
            for hook, file in files.items():
                file[at : at + counts[i]] = found[hook][counted(tokens)].float().numpy()
            at += counts[i]
            if i % 10 == 9 or i == len(batches) - 1:
                for file in files.values():
                    file.flush()
                state.write_text(json.dumps(i + 1))
            bar.update(counts[i])
    return files


def train(x, n_features, k, epochs, batch_size, learning_rate, folder):
    """A TopK autoencoder of the rows of x: encoder and decoder in x's own units."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    sample = torch.as_tensor(x[np.sort(random.choice(len(x), 50_000, replace=len(x) < 50_000))])
    sample = sample.float()
    mean = sample.mean(0)
    scale = math.sqrt(x.shape[1]) / (sample - mean).square().sum(1).mean().sqrt().item()
    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=n_features, k=k))
    coder.b_dec.data = mean * scale
    steps = epochs * (len(x) // batch_size)
    optimizer = torch.optim.Adam(coder.parameters(), lr=learning_rate, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / 200, (steps - i) / (0.25 * steps))
    )
    silent = torch.zeros(n_features, dtype=torch.long)  # tokens since each feature fired
    path, start = folder / "checkpoint.pt", 0
    if path.exists():
        known = torch.load(path, weights_only=True)
        coder.load_state_dict(known["coder"])
        optimizer.load_state_dict(known["optimizer"])
        schedule.load_state_dict(known["schedule"])
        silent, start = known["silent"], known["step"]
    order = np.concatenate([random.permutation(len(x)) for _ in range(epochs)])
    with tqdm(range(start, steps), initial=start, total=steps, unit="step", desc="training") as bar:
        for step in bar:
            rows = np.sort(order[step * batch_size : (step + 1) * batch_size])
            out = coder(torch.as_tensor(x[rows]).float() * scale, dead_mask=silent > 200_000)
            (out.fvu + out.auxk_loss / 32).backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            coder.set_decoder_norm_to_unit_norm()
            silent += len(rows)
            silent[out.latent_indices[out.latent_acts > 0].unique()] = 0
            if step % 20 == 0:
                dead = int((silent > 200_000).sum())
                bar.set_postfix_str(f"unexplained {out.fvu.item():.3f}, {dead} dead")
            if step % 500 == 499:
                state = {"coder": coder.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {"schedule": schedule.state_dict(), "silent": silent, "step": step + 1}
                torch.save(state, path.with_suffix(".new"))
                path.with_suffix(".new").rename(path)
    state = {name: value.detach() for name, value in coder.state_dict().items()}
    return {
        "W_enc": state["encoder.weight"].T.contiguous(),
        "b_enc": state["encoder.bias"] / scale,
        "W_dec": state["W_dec"],
        "b_dec": state["b_dec"] / scale,
    }


def write(weights, k, model_name, hook, n_trained, folder):
    """The files of SAELens: cfg.json and sae_weights.safetensors, in float16."""
    d_in, d_sae = weights["W_enc"].shape
    config = {
        "architecture": "topk",
        "k": k,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float16",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": model_name, "hook_name": hook, "training_tokens": n_trained},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {name: value.half().contiguous() for name, value in weights.items()}
    save_file(halves, folder / "sae_weights.safetensors")


def main(
    model: str = "smollm2-135m",
    layers: str = "12,22",
    tokens: int = 1_500_000,
    limit: int = 950_000,
    features: int = 4096,
    k: int = 32,
    epochs: int = 3,
    batch_size: int = 1024,
    learning_rate: float = 6e-4,
    out: Path = Path("notebooks/saes"),
    work: Path = Path("_build/saes"),
):
    """Train one SAE for each of some layers, at the residual stream that enters it.

    `tokens` is how much text is prepared, `limit` how many activations are computed (0: all).
    """
    hooks = [f"blocks.{int(layer)}.hook_resid_pre" for layer in layers.split(",")]
    work = work / model
    work.mkdir(parents=True, exist_ok=True)
    bridge = load_model(model, dtype=torch.bfloat16)
    text, prompts = rows_of(bridge, tokens, work)
    batches = batches_of(text, prompts)
    counts = np.cumsum([int(counted(batch).sum()) for batch in batches])
    batches = batches[: np.searchsorted(counts, limit) if limit else len(batches)]
    n_used, n_held = int(counts[len(batches) - 1]), max(1, round(HELD_OUT * len(batches)))
    files = collect(bridge, hooks, batches, work, int(counts[-1]))
    n_train = n_used - sum(int(counted(batch).sum()) for batch in batches[-n_held:])
    about = {"n_activations": n_used, "n_training": n_train, "epochs": epochs}
    about |= {"batch_size": batch_size, "learning_rate": learning_rate}
    for hook in hooks:
        folder = work / hook
        folder.mkdir(exist_ok=True)
        kept = files[hook][:n_train]
        weights = train(kept, features, k, epochs, batch_size, learning_rate, folder)
        write(weights, k, model, hook, epochs * n_train, out / f"{model}-{hook}")
        print(report(model, out / f"{model}-{hook}", files, batches, n_held, counted, about))


if __name__ == "__main__":
    typer.run(main)
