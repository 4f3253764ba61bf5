"""tools/train_sae.py: the text, the activations, a dictionary that is known, and going on."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from hvp_utils import load_sae
from hvp_utils.saes import SAE

TOOLS = str(Path(__file__).parents[1] / "tools")
sys.path.insert(0, TOOLS)
import sae_corpus  # noqa: E402
import sae_report  # noqa: E402
import train_sae  # noqa: E402

sys.path.remove(TOOLS)

BAR = SimpleNamespace(update=lambda n: None)


class Words:
    """A tokenizer: a number for each letter."""

    bos_token_id = 0

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [ord(letter) for letter in text]}


def test_documents_are_packed_without_a_gap_or_a_repeat():
    texts = ["one", "twenty-two", "three hundred and thirty-three", "four"]
    rows = sae_corpus.packed(texts, Words(), 10_000, 8, BAR)
    assert all(len(row) == 8 and row[0] == 0 for row in rows)
    joined = "".join(chr(t) for row in rows for t in row[1:])
    whole = "".join(text + "\n\n" for text in texts)
    assert whole.startswith(joined) and len(whole) - len(joined) < 7
    assert len(sae_corpus.packed(texts, Words(), 16, 8, BAR)) == 2


def test_wordnet_and_fortunes_are_read_as_they_are_stored(tmp_path):
    lines = ["  1 This is the licence.", "00001740 03 n 01 cow_pony 0 000 | a light saddle horse; "]
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("\n".join(lines if part == "noun" else lines[:1]))
    assert list(sae_corpus.wordnet(tmp_path)) == ["cow pony: a light saddle horse;"]
    assert list(sae_corpus.wordnet(tmp_path / "nowhere")) == []
    (tmp_path / "fortunes").mkdir()
    (tmp_path / "fortunes" / "wise").write_text("One\n  line.\n%\nAnother.\n%\n")
    (tmp_path / "fortunes" / "wise.dat").write_bytes(b"\xff\x00")
    assert list(sae_corpus.fortunes(tmp_path / "fortunes")) == ["One line.", "Another."]


def test_prompts_of_all_tasks_are_padded_and_never_those_that_are_studied(real_model):
    rows = sae_corpus.prompts(real_model, 3000, 32, BAR)
    lengths = [sum(t >= 0 for t in row) for row in rows]
    assert {len(row) for row in rows} == {32} and sum(lengths) >= 3000
    assert all(row[n:] == [-1] * (32 - n) for row, n in zip(rows, lengths, strict=True))
    assert len({tuple(row) for row in rows}) == len(rows)


def test_activations_are_those_of_whole_runs_of_each_row():
    bridge = tiny_model("llama", torch.float32)
    tokens = torch.randint(0, 53, (3, 8), generator=torch.Generator().manual_seed(0))
    tokens[1, 5:] = -1
    hooks = ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"]
    found = train_sae.activations_at(bridge, hooks, tokens)
    for row, length in zip(range(3), (8, 5, 8), strict=True):
        _, cache = bridge.run_with_cache(tokens[row, None, :length], names_filter=hooks)
        for hook in hooks:
            assert torch.allclose(found[hook][row, :length], cache[hook][0], atol=1e-5)
    assert train_sae.counted(tokens).sum(1).tolist() == [7, 4, 7]
    _, again = bridge.run_with_cache(tokens[:1], names_filter=hooks)  # no hook is left behind
    assert torch.equal(again[hooks[1]][0], bridge.run_with_cache(tokens[:1])[1][hooks[1]][0])


def test_collecting_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    bridge, hook = tiny_model("llama", torch.float32), "blocks.1.hook_resid_pre"
    random = np.random.default_rng(0)
    batches = [random.integers(0, 53, (2, 6)).astype(np.int32) for _ in range(15)]
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = np.array(train_sae.collect(bridge, [hook], batches, whole, 150)[hook])
    runs, real = [], train_sae.activations_at

    def stopped(*args):
        runs.append(1)
        if len(runs) == 13:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train_sae, "activations_at", stopped)
    part = tmp_path / "part"
    part.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_sae.collect(bridge, [hook], batches, part, 150)
    runs.clear()
    found = train_sae.collect(bridge, [hook], batches, part, 150)[hook]
    assert len(runs) == 5  # ten of fifteen were stored
    assert np.array_equal(found, expected) and expected.any(1).all()


@pytest.fixture(scope="module")
def known():
    """Rows that are sums of three of twenty-four known directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    strengths = torch.rand(4000, 24, generator=generator) + 0.5
    active = torch.rand(4000, 24, generator=generator).argsort(1) < 3
    return directions, ((strengths * active) @ directions).half().numpy()


def test_known_directions_are_found(known, tmp_path):
    directions, x = known
    weights = train_sae.train(x, 48, 3, 30, 200, 3e-3, tmp_path)
    train_sae.write(weights, 3, "tiny", "blocks.1.hook_resid_pre", len(x), tmp_path / "sae")
    sae = load_sae(tmp_path / "sae")
    assert sae.hook == "blocks.1.hook_resid_pre" and sae.activation == "topk" and sae.k == 3
    x = torch.as_tensor(x).float()
    (explained, _), (l0, ever) = sae_report.explained(sae, x), sae_report.firing(sae, x)
    assert explained > 0.9 and 1 < l0 <= 3
    nearest = (directions @ sae.W_dec[ever].T).amax(1)
    assert nearest.median() > 0.9
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["metadata"]["model_name"] == "tiny"


def test_training_goes_on_where_it_was_stopped(known, tmp_path, monkeypatch):
    _, x = known
    arguments = (x, 32, 3, 30, 200, 3e-3)  # 600 steps; a checkpoint after 500
    whole = train_sae.train(*arguments, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()
    resumed = train_sae.train(*arguments, tmp_path)  # from step 500
    for name, value in whole.items():
        assert torch.allclose(value, resumed[name], atol=1e-5), name


def test_the_loss_of_a_perfect_sae_is_the_model_s_own():
    bridge = tiny_model("llama", torch.float32)
    eye, zero = torch.eye(32), torch.zeros(32)
    perfect = SAE(
        torch.cat([eye, -eye], 1), torch.cat([zero, zero]), torch.cat([eye, -eye]), zero,
        hook="blocks.1.hook_resid_pre",
    )  # fmt: skip
    rows = np.random.default_rng(0).integers(0, 53, (4, 10)).astype(np.int32)
    clean, spliced, ablated = sae_report.losses(bridge, perfect, rows)
    assert spliced == pytest.approx(clean, rel=1e-4)
    assert abs(ablated - clean) > 0.01
    tokens = torch.as_tensor(rows.astype(np.int64))
    logits = bridge(tokens)[:, 1:-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten())
    assert clean == pytest.approx(expected.item(), rel=1e-4)
