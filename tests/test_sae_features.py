"""SAE features as components, and the files that SAEs are read from."""

import json
import pickle
from types import SimpleNamespace

import pytest
import reference
import torch
from safetensors.torch import save_file
from tiny_models import ARCHITECTURES, tiny_model, tiny_pair, tiny_task
from torch import Tensor

import hvp_utils
from hvp_utils import PatchedMetric, SAEFeatures, load_sae
from hvp_utils.saes import SAE

D, N = 32, 40
HOOKS = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out")


def random_sae(hook="blocks.1.hook_resid_pre", d=D, n=N, dtype=torch.float64, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weights = draw(d, n) / d**0.5, draw(n) / 4, draw(n, d) / d**0.5, draw(d) / 4
    return SAE(*weights, hook=hook, **options)


KINDS = {
    "relu": {},
    "relu, b_dec first": {"b_dec_first": True},
    "jumprelu": {"activation": "jumprelu", "threshold": torch.full((N,), 0.4).double()},
    "topk": {"activation": "topk", "k": 6},
    "constant norm": {"normalize_activations": "constant_norm_rescale"},
    "layer norm": {"normalize_activations": "layer_norm"},
}


class Direct:
    """The same features in a slow and obvious way: every run whole, every vector written out."""

    def __init__(self, bridge, pair, sae, per_position, direction="denoising"):
        self.problem = reference.Problem(bridge, pair, "resid", direction)
        self.sae, first = sae, len(self.problem.base_tokens)
        tokens = zip(self.problem.base_tokens, self.problem.other_tokens, strict=True)
        first = next((i for i, (a, b) in enumerate(tokens) if a != b), first - 1)
        a, b = (self._at_hook(t) for t in (self.problem.base_tokens, self.problem.other_tokens))
        shape, a, b = a.shape, a.flatten(1), b.flatten(1)
        f, g = sae.encode(a), sae.encode(b)
        self.deltas = {}  # by label, [pos, ...]
        layer = sae.hook.split(".")[1]
        explained = torch.zeros_like(a)
        for n in range(sae.n):
            active = [p for p in range(first, len(a)) if f[p, n] != 0 or g[p, n] != 0]
            if not active:
                continue
            delta = torch.zeros_like(a)
            for p in active:
                delta[p] = (g[p, n] - f[p, n]) * sae.scale(a)[p] * sae.W_dec[n]
                if per_position:
                    alone = torch.zeros_like(a)
                    alone[p] = delta[p]
                    self.deltas[f"L{layer}F{n}P{p}"] = alone.reshape(shape)
            explained += delta
            if not per_position:
                self.deltas[f"L{layer}F{n}"] = delta.reshape(shape)
        error = b - a - explained
        if per_position:
            for p in range(first, len(a)):
                alone = torch.zeros_like(a)
                alone[p] = error[p]
                self.deltas[f"L{layer}.errorP{p}"] = alone.reshape(shape)
        else:
            self.deltas[f"L{layer}.error"] = error.reshape(shape)

    def _at_hook(self, tokens):
        return self.problem._activations(tokens, [self.sae.hook])[self.sae.hook]

    def M(self, alpha: Tensor, labels) -> Tensor:
        shift = sum(a * self.deltas[label] for a, label in zip(alpha, labels, strict=True))
        return self.problem.run([(self.sae.hook, lambda live: live + shift)])


@pytest.mark.parametrize("per_position", (False, True), ids=("together", "by position"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_M_and_its_derivatives_are_those_of_plain_hooks(architecture, per_position, random):
    bridge, pair = tiny_model(architecture), tiny_pair()
    for hook in HOOKS[:1] if per_position else HOOKS:
        sae = random_sae(f"blocks.1.{hook}")
        M = PatchedMetric(bridge, pair, SAEFeatures(sae, per_position=per_position))
        direct = Direct(bridge, pair, sae, per_position)
        assert sorted(M.labels) == sorted(direct.deltas)
        alpha = random(M.n).requires_grad_()
        slow = direct.M(alpha, M.labels)
        (slope,) = torch.autograd.grad(slow, alpha, create_graph=True)
        v = random(M.n)
        (product,) = torch.autograd.grad(slope, alpha, v)
        alpha = alpha.detach()
        assert M(alpha).item() == pytest.approx(slow.item(), rel=1e-9)
        assert torch.allclose(M.gradient(alpha), slope, rtol=1e-8, atol=1e-10)
        assert torch.allclose(M.hvp(v, alpha), product, rtol=1e-7, atol=1e-8)
        norms = torch.stack([direct.deltas[label].norm() for label in M.labels])
        assert torch.allclose(M.delta_norm, norms, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ("denoising", "noising"))
def test_with_all_strengths_1_the_other_run_comes_out(kind, direction):
    features = SAEFeatures(random_sae(**KINDS[kind]))
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), features, direction)
    assert M(torch.zeros(M.n)).item() == pytest.approx(M.base, rel=1e-12)
    assert M(torch.ones(M.n)).item() == pytest.approx(M.other, rel=1e-10)
    assert M(torch.ones(M.n)).item() != pytest.approx(M.base, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sae_is_taken_apart_as_by_hand(kind, random):
    sae = random_sae(**KINDS[kind])
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(), SAEFeatures(sae))
    direct = Direct(M.model, tiny_pair(), sae, False)
    alpha = random(M.n)
    assert sorted(M.labels) == sorted(direct.deltas)
    assert M(alpha).item() == pytest.approx(direct.M(alpha, M.labels).item(), rel=1e-9)


def test_an_sae_of_head_outputs():
    bridge = tiny_model("gpt2")
    sae = random_sae("blocks.1.attn.hook_z")
    M = PatchedMetric(bridge, tiny_pair(), SAEFeatures(sae))
    direct = Direct(bridge, tiny_pair(), sae, False)
    alpha = torch.linspace(-1, 1, M.n).double()
    assert M(alpha).item() == pytest.approx(direct.M(alpha, M.labels).item(), rel=1e-9)
    # With all strengths 1 it is the layer's heads that are patched, all of them.
    heads = PatchedMetric(bridge, tiny_pair(), "heads")
    whole = heads((heads.layers == 1).double())
    assert M(torch.ones(M.n)).item() == pytest.approx(whole.item(), rel=1e-10)


def test_estimators_of_one_feature_after_another():
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair(), SAEFeatures(random_sae()))
    direct = Direct(M.model, tiny_pair(), M.components.sae, False)
    eye = torch.eye(M.n, dtype=torch.float64)
    truth = torch.stack([direct.M(axis, M.labels) for axis in eye]) - M.base
    assert torch.allclose(hvp_utils.activation_patching(M), truth, rtol=1e-8, atol=1e-10)
    slopes = M.gradient()
    curvatures = torch.stack([M.hvp(axis) @ axis for axis in eye])
    assert torch.allclose(hvp_utils.attribution_patching(M), slopes)
    assert torch.allclose(hvp_utils.hvp(M), slopes + curvatures / 2, rtol=1e-8, atol=1e-10)
    sketched = hvp_utils.curvature.diagonal(M, "xdiag", 2 * M.n)
    assert torch.allclose(sketched.values, curvatures, rtol=1e-7, atol=1e-9)
    points = hvp_utils.integrated_gradients(M, 40, "gausslegendre")
    assert torch.allclose(points, truth, rtol=1e-5, atol=1e-7)
    assert (truth - slopes).abs().max() > 1e-3  # there was something to correct
    table = hvp_utils.top_effects(M, k=3)
    assert set(table.component) <= set(M.labels)


def test_what_was_missed_among_features_is_bounded():
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), SAEFeatures(random_sae()))
    truth = hvp_utils.activation_patching(M)
    order = hvp_utils.attribution_patching(M).abs().argsort(descending=True)
    shown = [M.labels[c] for c in order[: M.n // 3]]
    unseen = order[M.n // 3 :]
    # Subsets of one are exact patches; in larger ones features of so bent a model interact.
    alone = hvp_utils.missed_bound(M, shown, n_subsets=200, p=0.01)
    assert alone.size == 1
    assert alone.bound == pytest.approx(truth[unseen].abs().max().item(), rel=1e-9)
    found = hvp_utils.missed_bound(M, shown, n_subsets=200, p=0.1)
    assert found.size > 1 and found.component in unseen and (found.error[unseen] > 0).all()


def test_a_perfect_dictionary_leaves_no_error():
    """Features that are the axes, both ways: any activation is explained."""
    eye = torch.eye(D, dtype=torch.float64)
    zero = torch.zeros(D, dtype=torch.float64)
    sae = SAE(
        torch.cat([eye, -eye], 1), torch.cat([zero, zero]), torch.cat([eye, -eye]), zero,
        hook="blocks.2.hook_resid_pre",
    )  # fmt: skip
    M = PatchedMetric(tiny_model("neox"), tiny_pair(), SAEFeatures(sae))
    assert M.labels[-1] == "L2.error"
    assert M.delta_norm[-1] < 1e-12 < M.delta_norm[:-1].max()
    assert M.layers.unique().tolist() == [2]


def test_inactive_features_are_no_components():
    sae = random_sae(activation="topk", k=2)
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), SAEFeatures(sae))
    assert 2 < M.n <= 1 + 2 * 2 * 5  # two a position and run, five positions, and the error


def test_features_of_many_prompts_are_those_of_any(random):
    bridge = tiny_model("llama")
    pairs = [*tiny_task(bridge, 3), tiny_pair(), tiny_pair("first")]
    features = SAEFeatures(random_sae(activation="topk", k=3))
    alone = [PatchedMetric(bridge, pair, features) for pair in pairs]
    M = PatchedMetric(bridge, pairs, features)
    every = set().union(*(one.labels for one in alone))
    assert set(M.labels) == every and len(M.batches) > 1
    assert [int(x[3:]) for x in M.labels[:-1]] == sorted(int(x[3:]) for x in M.labels[:-1])
    alpha = random(M.n)
    for one, value, slope in zip(alone, M.each(alpha[None]), M.each.gradient(), strict=True):
        own = M.index(one.labels)
        assert one(alpha[own]).item() == pytest.approx(value.item(), rel=1e-9)
        assert torch.allclose(one.gradient(), slope[own], rtol=1e-8, atol=1e-10)
        others = torch.ones(M.n, dtype=torch.bool).index_fill(0, own, False)
        assert (slope[others] == 0).all()
    assert M.gradient().allclose(M.each.gradient().mean(0), rtol=1e-10)


def test_positions_of_prompts_of_other_shapes_do_not_line_up():
    features = SAEFeatures(random_sae(), per_position=True)
    with pytest.raises(ValueError, match="SAE features are counted by position"):
        PatchedMetric(tiny_model("llama"), [tiny_pair(), tiny_pair("first")], features)


def test_zero_ablation_takes_features_to_those_of_nothing():
    pair = hvp_utils.PromptPair((1, 2, 3, 4), None, 20)
    M = PatchedMetric(tiny_model("gpt2"), pair, SAEFeatures(random_sae()), "noising")
    run = reference.Problem(M.model, pair, "resid")
    zeroed = run.run([("blocks.1.hook_resid_pre", torch.zeros_like)])
    assert M(torch.ones(M.n)).item() == pytest.approx(zeroed.item(), rel=1e-9)


def test_the_encoder_enters_no_derivative():
    """Beyond a feature's threshold nothing changes: M is smooth where the encoder jumps."""
    threshold = torch.full((N,), 0.4).double()
    sae = random_sae(activation="jumprelu", threshold=threshold)
    M = PatchedMetric(tiny_model("gemma2"), tiny_pair(), SAEFeatures(sae))
    c, t = int(M.delta_norm.argmax()), torch.tensor([0.3]).double()
    step = 1e-5
    up, down = (M.along_axes(t + e, 0, torch.tensor([c])).value for e in (step, -step))
    slope = M.along_axes(t, 1, torch.tensor([c])).slope
    assert slope.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-5)


def test_float32_model_and_half_precision_weights():
    sae = random_sae(dtype=torch.float16)
    M = PatchedMetric(tiny_model("llama", torch.float32), tiny_pair(), SAEFeatures(sae))
    assert M(torch.ones(M.n)).item() == pytest.approx(M.other, rel=1e-4)


# --- what cannot be used ---------------------------------------------------------------------


def external(**changes):
    """An SAE of other people's making, in the manner of SAELens."""
    sae = random_sae(hook=None)
    cfg = SimpleNamespace(
        normalize_activations="none", metadata=SimpleNamespace(hook_name="blocks.1.hook_resid_pre")
    )
    made = SimpleNamespace(W_dec=sae.W_dec, encode=sae.encode, cfg=cfg)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_any_object_with_an_encoder_and_a_decoder_will_do():
    bridge, pair = tiny_model("llama"), tiny_pair()
    M = PatchedMetric(bridge, pair, SAEFeatures(external()))
    own = PatchedMetric(bridge, pair, SAEFeatures(random_sae()))
    assert M.labels == own.labels
    assert torch.equal(M.gradient(), own.gradient())


@pytest.mark.parametrize(
    ("sae", "options", "error", "message"),
    [
        (object(), {}, TypeError, "object has not"),
        (external(encode=None), {}, TypeError, "method encode"),
        (external(W_dec=None), {}, TypeError, "decoder W_dec"),
        (external(W_dec=torch.ones(N, D, dtype=torch.int8)), {}, TypeError, "int8"),
        (external(W_dec=torch.ones(N)), {}, TypeError, "must be a matrix"),
        (external(W_dec=torch.full((N, D), torch.nan)), {}, ValueError, "W_dec.*NaN"),
        (external(cfg=None), {}, ValueError, "does not say which activation"),
        (external(), {"hook": "hook_embed"}, ValueError, "'hook_embed'.*no activation inside"),
        (
            external(
                cfg=SimpleNamespace(hook_name="blocks.1.x", normalize_activations="layer_norm")
            ),
            {},
            ValueError,
            "layer_norm.*no method scale.*load_sae",
        ),
    ],
)
def test_what_is_no_sae_is_refused(sae, options, error, message):
    if getattr(sae, "encode", True) is None:
        del sae.encode
    with pytest.raises(error, match=message):
        SAEFeatures(sae, **options)


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (random_sae("blocks.7.hook_resid_pre"), "3 layers.*no hook 'blocks.7.hook_resid_pre'"),
        (random_sae(d=48), "width 48, but blocks.1.hook_resid_pre of this model has width 32"),
        (external(encode=lambda x: x.new_full((*x.shape[:-1], N), torch.nan)), "NaN or infinite"),
        (external(encode=lambda x: x), "a number for each of the 40 features"),
    ],
)
def test_an_sae_that_does_not_fit_the_model_is_refused(sae, message):
    with pytest.raises(ValueError, match=message):
        PatchedMetric(tiny_model("llama"), tiny_pair(), SAEFeatures(sae))


def test_what_features_have_not():
    features = SAEFeatures(random_sae())
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), features)
    for asked in (M.hessian_delta, lambda: M.sites, lambda: M.deltas):
        with pytest.raises(ValueError, match="Only nodes have activations.*SAE features"):
            asked()
    with pytest.raises(ValueError, match="SAE features"):
        hvp_utils.estimators.local_quadratic_term(M)
    with pytest.raises(ValueError, match="SAE features"):
        hvp_utils.eap_ig(M)
    with pytest.raises(TypeError, match="kind by name.*SAE features"):
        hvp_utils.sweep(tiny_model("llama"), tiny_task, components=features)
    with pytest.raises(TypeError, match="name of a kind.*SAEFeatures"):
        PatchedMetric(tiny_model("llama"), tiny_pair(), 7)


# --- files -----------------------------------------------------------------------------------


def write_sae_lens(folder, weights=None, **config):
    sae = random_sae(dtype=torch.float32)
    own = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    save_file(own | (weights or {}), folder / "sae_weights.safetensors")
    default = {"architecture": "standard", "hook_name": "blocks.1.hook_resid_pre"}
    default |= {"apply_b_dec_to_input": False}
    (folder / "cfg.json").write_text(json.dumps(default | config))
    return sae


def write_gemma_scope(folder, weights=None, **config):
    sae = random_sae(dtype=torch.float32)
    own = {"w_enc": sae.W_enc, "w_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    own["threshold"] = torch.full((N,), 0.3)
    save_file(own | (weights or {}), folder / "params.safetensors")
    point = "model.layers.1.output"
    default = {"hf_hook_point_in": point, "hf_hook_point_out": point, "width": N, "type": "sae"}
    default |= {"architecture": "jump_relu", "model_name": "google/gemma-3-270m", "l0": 7}
    (folder / "config.json").write_text(json.dumps(default | config))
    return sae


X = torch.randn(5, D, generator=torch.Generator().manual_seed(3))


def test_sae_lens_standard(tmp_path):
    written = write_sae_lens(tmp_path)
    sae = load_sae(tmp_path)
    assert torch.equal(sae.encode(X), (X @ written.W_enc + written.b_enc).relu())
    assert sae.hook == "blocks.1.hook_resid_pre" and sae.n == N
    assert repr(sae) == "SAE(40 features of blocks.1.hook_resid_pre, relu)"
    error = X - sae.reconstruct(X)
    assert torch.allclose(X, sae.encode(X) @ written.W_dec + written.b_dec + error, atol=1e-6)


def test_sae_lens_of_version_6_keeps_its_hook_in_the_metadata(tmp_path):
    write_sae_lens(
        tmp_path, hook_name=None, metadata={"hook_name": "blocks.0.hook_mlp_out"}, k=4,
        architecture="topk", apply_b_dec_to_input=True,
    )  # fmt: skip
    sae = load_sae(tmp_path)
    assert sae.hook == "blocks.0.hook_mlp_out"
    before = (X - sae.b_dec) @ sae.W_enc + sae.b_enc
    found = sae.encode(X)
    for row, pre in zip(found, before, strict=True):
        kept = pre.argsort(descending=True)[:4]
        assert torch.equal(row[kept], pre[kept].relu())
        assert row.count_nonzero() <= 4


def test_sae_lens_jumprelu(tmp_path):
    threshold = torch.rand(N)
    written = write_sae_lens(tmp_path, {"threshold": threshold}, architecture="jumprelu")
    before = X @ written.W_enc + written.b_enc
    expected = torch.where(before > threshold, before, torch.zeros_like(before))
    assert torch.allclose(load_sae(tmp_path).encode(X), expected)


def test_activations_that_were_rescaled_by_the_norm_of_the_decoder(tmp_path):
    written = write_sae_lens(tmp_path, architecture="topk", k=5, rescale_acts_by_decoder_norm=True)
    sae = load_sae(tmp_path)
    norm = written.W_dec.norm(dim=-1)
    before = (X @ written.W_enc + written.b_enc) * norm
    values, indices = before.topk(5)
    expected = torch.zeros_like(before).scatter(-1, indices, values.relu())
    assert torch.allclose(sae.encode(X), expected, atol=1e-6)
    made = (expected / norm) @ written.W_dec + written.b_dec
    assert torch.allclose(sae.reconstruct(X), made, atol=1e-5)


def test_normalised_inputs(tmp_path):
    write_sae_lens(tmp_path, normalize_activations="constant_norm_rescale")
    sae = load_sae(tmp_path)
    assert torch.allclose(sae.encode(3 * X), sae.encode(X), atol=1e-5)
    assert torch.allclose(sae.reconstruct(3 * X), 3 * sae.reconstruct(X), atol=1e-4)
    write_sae_lens(tmp_path, normalize_activations="layer_norm")
    sae = load_sae(tmp_path)
    assert torch.allclose(sae.encode(3 * X + 2), sae.encode(X), atol=1e-3)
    assert torch.allclose(sae.reconstruct(3 * X + 2), 3 * sae.reconstruct(X) + 2, atol=1e-2)


def test_gemma_scope(tmp_path):
    folder = tmp_path / "resid_post" / "layer_1_width_16k_l0_medium"
    folder.mkdir(parents=True)
    written = write_gemma_scope(folder)
    sae = load_sae(tmp_path, "resid_post/layer_1_width_16k_l0_medium", dtype=torch.float64)
    assert sae.hook == "blocks.1.hook_resid_post" and sae.W_enc.dtype == torch.float64
    before = X @ written.W_enc + written.b_enc
    expected = torch.where(before > 0.3, before, torch.zeros_like(before))
    assert torch.allclose(sae.encode(X.double()), expected.double(), atol=1e-6)
    M = PatchedMetric(tiny_model("gemma3"), tiny_pair(), SAEFeatures(sae))
    assert M(torch.ones(M.n)).item() == pytest.approx(M.other, rel=1e-10)


@pytest.mark.parametrize(
    ("point", "hook"),
    [
        ("model.layers.4.output", "blocks.4.hook_resid_post"),
        ("model.language_model.layers.4.output", "blocks.4.hook_resid_post"),
        ("model.layers.4.self_attn.o_proj.input", "blocks.4.attn.hook_z"),
        ("model.layers.4.post_feedforward_layernorm.output", "blocks.4.hook_mlp_out"),
        ("model.layers.4.something_new", None),
    ],
)
def test_hooks_of_gemma_scope(tmp_path, point, hook):
    write_gemma_scope(tmp_path, hf_hook_point_in=point, hf_hook_point_out=point)
    assert load_sae(tmp_path).hook == hook
    assert load_sae(tmp_path, hook="blocks.2.hook_mlp_out").hook == "blocks.2.hook_mlp_out"


def replaced(**weights):
    return lambda folder: write_sae_lens(folder, weights)


def configured(**config):
    return lambda folder: write_sae_lens(folder, **config)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (replaced(W_dec=torch.ones(N, D + 1)), r"W_dec must have shape \(40, 32\).*\(40, 33\)"),
        (replaced(W_enc=torch.ones(D)), "W_enc must be a matrix"),
        (replaced(b_dec=torch.full((D,), torch.nan)), "b_dec has entries that are NaN"),
        (replaced(scaling_factor=torch.full((N,), 2.0)), "scaling_factor"),
        (replaced(W_gate=torch.ones(2)), "not used here: W_gate"),
        (configured(architecture="gated"), "architecture 'gated'.*jumprelu"),
        (configured(activation_fn="tanh-relu"), "activation 'tanh-relu'"),
        (configured(architecture="jumprelu"), "lacks threshold"),
        (configured(architecture="topk", k=0), "k must be a whole number from 1 to 40, not 0"),
        (configured(architecture="topk"), "not None"),
        (configured(normalize_activations="other"), "normalize_activations 'other'"),
        (configured(hook_name_out="blocks.1.hook_mlp_out"), "transcoder"),
        (lambda folder: write_gemma_scope(folder, type="transcoder"), "a transcoder, not an SAE"),
        (lambda folder: write_gemma_scope(folder, architecture="relu"), "architecture 'relu'"),
        (lambda folder: write_gemma_scope(folder, {"extra": torch.ones(1)}), "used here: extra"),
    ],
)
def test_files_that_are_no_sae_of_a_known_kind(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)


def test_a_truncated_file(tmp_path):
    write_sae_lens(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="sae_weights.safetensors is broken or truncated"):
        load_sae(tmp_path)


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was opened",)

    (tmp_path / "sae.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="only a pickle .sae.pt."):
        load_sae(tmp_path)
    # Neither is one that has the name of a safetensors file.
    write_sae_lens(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="broken or truncated"):
        load_sae(tmp_path)


def test_files_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no SAE in .*Found: nothing"):
        load_sae(tmp_path)
    with pytest.raises(FileNotFoundError, match="no SAE in .*no-such"):
        load_sae(tmp_path, "no-such")
    write_sae_lens(tmp_path)
    (tmp_path / "cfg.json").write_text("{broken")
    with pytest.raises(ValueError, match="cfg.json is not readable as JSON"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match="cfg.json is missing"):
        load_sae(tmp_path)


def test_the_hub_is_out_of_reach():
    with pytest.raises(OSError, match="gemma-scope-2-270m-pt must be fetched.*cannot be reached"):
        load_sae("google/gemma-scope-2-270m-pt", "resid_post/layer_12_width_16k_l0_medium")
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere at all'"):
        load_sae("nowhere at all")
    with pytest.raises(ValueError, match="dtype must be"):
        load_sae(".", dtype=torch.int8)


def test_from_the_hub(tmp_path, monkeypatch):
    """What the hub's client has fetched is read like a folder."""
    folder = tmp_path / "resid_post"
    folder.mkdir()
    write_gemma_scope(folder)
    asked = {}

    def snapshot(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("hvp_utils.saes.snapshot_download", snapshot)
    sae = load_sae("google/gemma-scope-2-270m-pt", "resid_post", revision="main")
    assert sae.hook == "blocks.1.hook_resid_post"
    assert asked["repository"] == "google/gemma-scope-2-270m-pt" and asked["revision"] == "main"
    assert all(pattern.startswith("resid_post/") for pattern in asked["allow_patterns"])
    assert not any("*" in pattern or ".pt" in pattern for pattern in asked["allow_patterns"])


def test_plan_prices_features_by_their_layers():
    sizes = hvp_utils.model_sizes("smollm2-135m")
    late = hvp_utils.plans.pass_flops(sizes, torch.full((300,), 22), 15, 5, 32)
    early = hvp_utils.plans.pass_flops(sizes, torch.full((300,), 0), 15, 5, 32)
    assert late["forward"] < early["forward"] and late["gradient"] < early["gradient"]
    heads = torch.arange(sizes.n_layers).repeat_interleave(sizes.n_heads)
    assert hvp_utils.plans.pass_flops(sizes, heads, 15, 5, 32) == hvp_utils.plans.pass_flops(
        sizes, "heads", 15, 5, 32
    )
    (plan,) = hvp_utils.plan(sizes, torch.full((300,), 22), ["activation_patching"], 15, 5, 1, 1.0)
    assert plan.forward_equivalents == pytest.approx(300)
