"""Every family of models: it agrees with plain hooks, or is refused by name.

The table that the book shows is made here: `python tests/test_architectures.py` writes it anew.
"""

import json
import re
from pathlib import Path

import pytest
import recorded_tables
import reference
import torch
import transformers
from tiny_models import CONFIGS, D_VOCAB, FAMILIES, entropy, tiny_hf_model, tiny_pair

import hvp_utils
from hvp_utils import PatchedMetric, activation_patching, attribution_patching, hvp
from hvp_utils.architectures import require_node_kind
from hvp_utils.components import NODE_KINDS, edge_model
from hvp_utils.suffix_run import full_precision

FILE = Path(__file__).parents[1] / "book" / "_static" / "architectures.json"
KINDS = (*NODE_KINDS, "edges")
TOLERANCE = 1e-9  # of the largest
RECORDED = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def assert_close(fast, slow):
    assert fast.shape == slow.shape
    scale = slow.abs().max()
    assert scale > 0
    assert (fast - slow).abs().max() <= TOLERANCE * scale


def compare(family: str, kind: str) -> None:
    """Activation patching, AP and HVP of some components, fast and one by one."""
    bridge, pair = hvp_utils.as_bridge(tiny_hf_model(family)), tiny_pair(metric=entropy)
    M = PatchedMetric(bridge, pair, kind)
    if kind == "edges":
        compare_edges(M, reference.EdgeProblem(bridge, pair))
        return
    slow = reference.Problem(bridge, pair, kind)
    assert M.labels == tuple(component.label for component in slow.components)
    some = torch.linspace(0, M.n - 1, 6).long()
    slow.components = [slow.components[c] for c in some]
    slow.delta = [slow.delta[c] for c in some]
    slow.n = len(some)
    assert_close(activation_patching(M, some), reference.activation_patching(slow))
    assert_close(attribution_patching(M, some), reference.attribution_patching(slow))
    assert_close(hvp(M, some), reference.hvp(slow))


def compare_edges(M: PatchedMetric, slow: reference.EdgeProblem) -> None:
    assert M.labels == slow.labels
    drawn = torch.randperm(M.n, generator=torch.Generator().manual_seed(0))[:3]
    some = torch.cat([drawn, M.index(["embed->L1.mlp"])])
    expected = []
    for c in some.tolist():
        unit = torch.eye(M.n, dtype=torch.float64)[c]
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = slow.M(t * unit)
        (slope,) = torch.autograd.grad(value, t, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, t)
        effect = (slow.M(unit) - value).detach()
        expected.append(torch.stack([effect, slope.detach(), slope.detach() + curvature / 2]))
    found = torch.stack([f(M, some) for f in (activation_patching, attribution_patching, hvp)])
    for fast, one_by_one in zip(found, torch.stack(expected, dim=1), strict=True):
        assert_close(fast, one_by_one)


def refusals(family: str) -> dict:
    """For every kind of component why it is refused, or "agrees"; nothing is run for it."""
    try:
        bridge = hvp_utils.as_bridge(tiny_hf_model(family))
    except NotImplementedError as error:
        return dict.fromkeys(KINDS, str(error))
    found = {}
    for kind in KINDS:
        try:
            edge_model(bridge) if kind == "edges" else require_node_kind(bridge, kind)
            found[kind] = "agrees"
        except NotImplementedError as error:
            found[kind] = str(error)
    return found


# --- what is recorded is what is the case -----------------------------------------------------

# Every family with heads and one other kind of node, which goes round; the rest at night.
OTHERS = [kind for kind in NODE_KINDS if kind != "heads"]
SAMPLED = {(family, "heads") for family in FAMILIES}
SAMPLED |= {(family, OTHERS[i % len(OTHERS)]) for i, family in enumerate(FAMILIES)}
SAMPLED |= {("mixtral", "edges")}  # the paper's architectures are in test_edges
AGREEING = [
    pytest.param(family, kind, marks=() if (family, kind) in SAMPLED else pytest.mark.nightly)
    for family in FAMILIES
    for kind in KINDS
    if RECORDED.get(family, {}).get(kind) == "agrees"
]


@pytest.mark.parametrize(("family", "kind"), AGREEING)
def test_agrees_with_plain_hooks(family, kind):
    compare(family, kind)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_says_what_is_refused(family):
    assert set(RECORDED) == set(FAMILIES)
    assert refusals(family) == {kind: RECORDED[family][kind] for kind in KINDS}


def test_the_books_page_shows_what_is_recorded():
    text, (file,) = recorded_tables.architectures(Path(__file__).parents[1])
    assert file == FILE
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{found['class']}`" for found in RECORDED.values()]
    notes = re.findall(r"^\d+\. .+$", text, re.MULTILINE)
    for row, found in zip(rows, RECORDED.values(), strict=True):
        for cell, kind in zip(row[1:], ("heads", "queries", "neurons_post", "edges"), strict=True):
            assert (cell == "yes") == (found[kind] == "agrees")
            assert cell == "yes" or int(cell[4:-1]) <= len(notes)


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.startswith("mamba")])
def test_the_bridge_computes_what_the_model_did(family):
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    hf_model = tiny_hf_model(family)
    if hasattr(hf_model, "set_experts_implementation"):
        hf_model.set_experts_implementation("eager")  # the other ways lack float64
    with torch.no_grad(), full_precision(torch.float64):
        before = hf_model(tokens).logits
        after = hvp_utils.as_bridge(hf_model).original_model(tokens).logits
    assert_close(after, before)


# --- refusals ----------------------------------------------------------------------------------


def small(config_class, **changes):
    return config_class(
        vocab_size=D_VOCAB,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        **changes,
    )


REFUSED = {
    "an encoder and a decoder": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=D_VOCAB, d_model=32, d_ff=16, num_layers=1, num_heads=4)
    ),
    "no next token": lambda: transformers.BertForMaskedLM(small(transformers.BertConfig)),
    "no next token, or": lambda: transformers.LlamaModel(CONFIGS["llama"]()),
    "state-space": lambda: tiny_hf_model("mamba"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_models_that_cannot_be_patched_are_refused_by_name(why):
    model = REFUSED[why]()
    with pytest.raises(NotImplementedError, match=f"{type(model).__name__} .*{why}"):
        hvp_utils.as_bridge(model)


def test_a_model_of_several_modalities_is_refused():
    text = CONFIGS["gemma3"]().to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    with pytest.raises(
        NotImplementedError, match="Gemma3ForConditionalGeneration .*more than text"
    ):
        hvp_utils.load_model(model)


def test_packed_weights_are_refused():
    model = tiny_hf_model("llama")
    weight = model.model.layers[0].mlp.down_proj.weight
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(
        weight.to(torch.uint8), requires_grad=False
    )
    model.quantization_method = "bitsandbytes"
    with pytest.raises(NotImplementedError, match="by bitsandbytes .*down_proj.weight is packed"):
        hvp_utils.as_bridge(model)


def test_the_width_of_an_mlp_is_that_of_its_weights():
    """OPT's and Falcon's configurations have names for it that TransformerLens does not know."""
    for family in ("opt", "falcon", "gpt2"):
        assert hvp_utils.as_bridge(tiny_hf_model(family)).cfg.d_mlp == 5


# --- the table ---------------------------------------------------------------------------------


def table() -> dict:
    """For every family its class, and for every kind "agrees" or the reason of the refusal."""
    from tqdm.auto import tqdm

    found = {}
    for family in tqdm(FAMILIES, desc="families"):
        kinds = refusals(family)
        for kind in tqdm(KINDS, desc=family, leave=False):
            if kinds[kind] == "agrees":
                compare(family, kind)
        found[family] = {"class": type(tiny_hf_model(family)).__name__, **kinds}
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(table(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
