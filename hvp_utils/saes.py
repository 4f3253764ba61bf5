"""Reading sparse autoencoders (SAEs) from the files of SAELens and Gemma Scope 2.

Only safetensors are read: a pickle can run any code when it is opened. What a file says that is not
understood here is an error, since an SAE that is run in another way than it was trained gives
numbers that look right and are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import errors as hub_errors
from huggingface_hub import snapshot_download
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.models import explain_hub_error, require_on_hub

__all__ = ["SAE", "load_sae"]

Activation = Literal["relu", "jumprelu", "topk"]
Normalisation = Literal["none", "constant_norm_rescale", "layer_norm"]


@dataclass(frozen=True, eq=False, repr=False)
class SAE:
    """A sparse autoencoder of one hidden layer.

    With x as it is or normalised, ``encode(x) = act((x - b_dec) W_enc + b_enc)``, where b_dec is
    taken off only if ``b_dec_first``, and ``decode(a) = a W_dec + b_dec``.

    Attributes:
        W_enc: Encoder ``[d, n]``.
        b_enc: Its bias ``[n]``.
        W_dec: Decoder ``[n, d]``: the direction of each feature.
        b_dec: Its bias ``[d]``.
        hook: TransformerLens name of the activation that it reads; None if the file does not say.
        activation: ReLU, ReLU above a threshold of each feature's own (JumpReLU), or ReLU of the k
            largest.
        threshold: Of ``"jumprelu"``, ``[n]``.
        k: Of ``"topk"``.
        b_dec_first: Whether b_dec is taken off the input.
        normalize_activations: ``"constant_norm_rescale"`` scales each input to the norm sqrt(d),
            ``"layer_norm"`` to mean 0 and standard deviation 1; outputs are scaled back.
        about: What the file says beside, such as the model.
    """

    W_enc: Float[Tensor, "d n"]
    b_enc: Float[Tensor, " n"]
    W_dec: Float[Tensor, "n d"]
    b_dec: Float[Tensor, " d"]
    hook: str | None = None
    activation: Activation = "relu"
    threshold: Float[Tensor, " n"] | None = None
    k: int | None = None
    b_dec_first: bool = False
    normalize_activations: Normalisation = "none"
    about: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"SAE({self.n} features of {self.hook}, {self.activation})"

    @property
    def n(self) -> int:
        """Number of features."""
        return len(self.W_dec)

    def scale(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
        """What outputs for these inputs are multiplied by."""
        if self.normalize_activations == "constant_norm_rescale":
            return x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        if self.normalize_activations == "layer_norm":
            return x.std(dim=-1, keepdim=True) + _EPSILON
        return torch.ones_like(x[..., :1])

    def _shift(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
        mean = x.mean(dim=-1, keepdim=True)
        return mean if self.normalize_activations == "layer_norm" else torch.zeros_like(mean)

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """Activations of the features."""
        x = (x - self._shift(x)) / self.scale(x)
        before = (x - self.b_dec if self.b_dec_first else x) @ self.W_enc + self.b_enc
        if self.activation == "topk":
            values, indices = before.topk(cast("int", self.k), dim=-1)
            return torch.zeros_like(before).scatter(-1, indices, values.relu())
        if self.activation == "jumprelu":
            return before.relu() * (before > cast("Tensor", self.threshold).relu())
        return before.relu()

    def reconstruct(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """What the features and the bias make of x; the rest is the error."""
        return (self.encode(x) @ self.W_dec + self.b_dec) * self.scale(x) + self._shift(x)


# Of SAELens' layer norm, which divides by std + eps.
_EPSILON = 1e-5


def load_sae(
    where: str | Path,
    folder: str | Path = "",
    hook: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> SAE:
    """Read an SAE.

    Args:
        where: A folder on disk, or a repository on the Hugging Face hub.
        folder: Folder within it; Gemma Scope has one for each SAE, as in the example.
        hook: The activation that it reads, if the files do not say, as a TransformerLens name.
        dtype: Of the weights, whatever is stored.
        device: Where they go.
        revision: Of the repository.

    Returns:
        The SAE, for ``SAEFeatures(sae)``.

    Raises:
        OSError: The repository is out of reach, gated or unknown, or a file is missing.
        ValueError: A broken file, or an SAE of a kind that is not read here (the message says
            which are).

    Example:
        >>> folder = "resid_post/layer_12_width_16k_l0_medium"
        >>> sae = load_sae("google/gemma-scope-2-270m-pt", folder)
        >>> M = PatchedMetric(load_model("gemma-3-270m"), pair, SAEFeatures(sae))
    """
    _checks.instance("where", where, str | Path, "a folder, or a repository on the hub")
    _checks.instance("folder", folder, str | Path, "a folder within it, or empty")
    _checks.instance("dtype", dtype, torch.dtype, "a type such as torch.float32")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be one of floating-point numbers, not {dtype}.")
    root = Path(where)
    if not root.is_dir():
        root = _from_hub(str(where), Path(folder), revision)
    root = root / folder
    for reader, (config, weights) in {
        _sae_lens: ("cfg.json", "sae_weights.safetensors"),
        _gemma_scope: ("config.json", "params.safetensors"),
    }.items():
        if (root / weights).exists():
            return _made(root / weights, reader, _json(root / config), hook, dtype, device)
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    pickles = [name for name in there if name.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt"))]
    if pickles:
        raise ValueError(
            f"{root} holds only a pickle ({pickles[0]}), which can run any code when it is opened "
            "and so is not read. Ask its authors for safetensors, or convert it where that does "
            "no harm."
        )
    raise FileNotFoundError(
        f"There is no SAE in {root}: neither sae_weights.safetensors with cfg.json (SAELens) nor "
        "params.safetensors with config.json (Gemma Scope 2). "
        f"Found: {', '.join(there) or 'nothing'}."
    )


def _from_hub(repository: str, folder: Path, revision: str | None) -> Path:
    """A copy of the files in the local cache, fetched if need be."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise FileNotFoundError(
            f"There is no folder {repository!r}, and it is no repository on the Hugging Face hub "
            'either, such as "google/gemma-scope-2-270m-pt".'
        )
    files = ["cfg.json", "sae_weights.safetensors", "config.json", "params.safetensors"]
    options = {
        "allow_patterns": [(folder / file).as_posix() for file in files],
        "revision": revision,
    }
    try:
        try:
            found = Path(snapshot_download(repository, local_files_only=True, **options))
        except OSError:
            found = None
        if found is None or not list((found / folder).glob("*.safetensors")):
            require_on_hub(repository)
            found = Path(snapshot_download(repository, **options))
    except (OSError, hub_errors.HfHubHTTPError, hub_errors.HFValidationError) as error:
        raise OSError(explain_hub_error(repository, repository, error, "SAE")) from None
    return found


def _made(
    path: Path,
    reader: Any,
    config: dict[str, Any],
    hook: str | None,
    dtype: torch.dtype,
    device: str | torch.device,
) -> SAE:
    """An SAE of what is in a file, checked."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is broken or truncated ({error}). Fetch it again.") from None
    weights = {name: value.to(device, dtype) for name, value in weights.items()}
    kept, options = reader(weights, config, path)
    if missing := {"W_enc", "b_enc", "W_dec", "b_dec"} - set(kept):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. It has {', '.join(weights)}.")
    if kept["W_enc"].ndim != 2:
        raise ValueError(f"{path}: W_enc must be a matrix, not {tuple(kept['W_enc'].shape)}.")
    d, n = kept["W_enc"].shape
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), "threshold": (n,)}
    for name, value in kept.items():
        if value.shape != shapes[name]:
            raise ValueError(
                f"{path}: {name} must have shape {shapes[name]}, as W_enc has {(d, n)}, but has "
                f"{tuple(value.shape)}."
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} has entries that are NaN or infinite.")
    if options.get("activation") == "jumprelu" and "threshold" not in kept:
        raise ValueError(f"{path} lacks threshold, which a JumpReLU SAE needs.")
    k = options.get("k")
    if options.get("activation") == "topk" and not (isinstance(k, int) and 1 <= k <= n):
        raise ValueError(f"{path}: k must be a whole number from 1 to {n}, not {k!r}.")
    options["hook"] = hook or options.get("hook")
    return SAE(**kept, **options)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it says what kind of SAE this is.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON ({error}).") from None


def _sae_lens(
    weights: dict[str, Tensor], config: dict[str, Any], path: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The format of SAELens, version 6 and earlier."""
    about = {**config, **config.get("metadata", {})}
    scaling = weights.pop("scaling_factor", None)
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        raise ValueError(f"{path}: features rescaled by finetuning (scaling_factor) are not read.")
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    kind = config.get("architecture", "standard")
    activation = {"standard": "relu", "jumprelu": "jumprelu", "topk": "topk"}.get(kind)
    function = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    if kind == "standard" and function == "topk":
        activation = "topk"
    if activation is None or function not in ("relu", "topk"):
        raise ValueError(
            f"{path}: an SAE of architecture {kind!r} with activation {function!r} is not read "
            'here. Known are "standard" (ReLU), "jumprelu" and "topk".'
        )
    if config.get("hook_name_out") or about.get("hook_name_out"):
        raise ValueError(f"{path} is a transcoder: it predicts another activation than it reads.")
    if extra := set(weights) - {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}:
        raise ValueError(f"{path} has weights that are not used here: {', '.join(sorted(extra))}.")
    normalised = config.get("normalize_activations") or "none"
    if normalised in (False, "expected_average_only_in"):  # folded into the weights when stored
        normalised = "none"
    if normalised not in ("none", "constant_norm_rescale", "layer_norm"):
        raise ValueError(f"{path}: normalize_activations {normalised!r} is not known here.")
    if config.get("rescale_acts_by_decoder_norm"):
        norm = weights["W_dec"].norm(dim=-1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norm, weights["b_enc"] * norm
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    if activation != "jumprelu":
        weights.pop("threshold", None)
    return weights, {
        "hook": about.get("hook_name", about.get("hook_point")),
        "activation": activation,
        "k": k if activation == "topk" else None,
        "b_dec_first": bool(config.get("apply_b_dec_to_input", True)),
        "normalize_activations": normalised,
        "about": about,
    }


_GEMMA_HOOKS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_attention_layernorm.output": "hook_attn_out",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}


def _gemma_scope(
    weights: dict[str, Tensor], config: dict[str, Any], path: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The format of Gemma Scope 2, whose hooks have Hugging Face's names."""
    reads, writes = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    other = config.get("type", "sae") != "sae" or (writes is not None and writes != reads)
    if other or "affine_skip_connection" in weights:
        raise ValueError(f"{path} is a {config.get('type', 'transcoder')}, not an SAE.")
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise ValueError(f"{path}: architecture {config['architecture']!r} is not known here.")
    names = {"w_enc": "W_enc", "w_dec": "W_dec"}
    weights = {names.get(name, name): value for name, value in weights.items()}
    if extra := set(weights) - {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}:
        raise ValueError(f"{path} has weights that are not used here: {', '.join(sorted(extra))}.")
    hook, match = None, re.fullmatch(r"(?:\w+\.)*layers\.(\d+)\.(.+)", reads or "")
    if match and match[2] in _GEMMA_HOOKS:
        hook = f"blocks.{match[1]}.{_GEMMA_HOOKS[match[2]]}"
    return weights, {"hook": hook, "activation": "jumprelu", "about": config}
