"""The tasks that circuits are tested on, and whether a model can do a task: checked slowly."""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import DIGITS, FakeModel
from tiny_models import D_VOCAB, entropy, tiny_model, tiny_task

import hvp_utils
from hvp_utils.tasks import (
    CAN_DO,
    TASKS,
    PromptPair,
    TaskCheck,
    accuracy,
    arithmetic,
    check_tasks,
    country_capital,
    gender_bias,
    hypernymy,
    ioi,
    mcqa,
    mib_ioi,
    subject_verb_agreement,
)
from hvp_utils.tasks.agreement import NEIGHBOURS, SUBJECTS, VERBS
from hvp_utils.tasks.capitals import CAPITALS
from hvp_utils.tasks.gender_bias import PROFESSIONS
from hvp_utils.tasks.hypernymy import CLASSES

GENERATORS = {
    "subject_verb_agreement": subject_verb_agreement,
    "gender_bias": gender_bias,
    "gender_bias profession": lambda *a, **k: gender_bias(*a, **k, corruption="profession"),
    "country_capital": country_capital,
    "hypernymy": hypernymy,
    "mib_ioi": mib_ioi,
    "arithmetic_addition": arithmetic,
    "arithmetic_subtraction": lambda *a, **k: arithmetic(*a, **k, operation="subtraction"),
    "mcqa": mcqa,
    "mcqa_letters": lambda *a, **k: mcqa(*a, **k, corruption="letters"),
    "arithmetic without examples": lambda *a, **k: arithmetic(*a, **k, n_examples=0),
}
# At least so many different prompts exist for both of the book's models.
N = 200
FEWER = {"arithmetic without examples": 36}


@functools.cache  # pytest goes back and forth between the models
def load(name):
    return hvp_utils.load_model(name, device="cpu")


@pytest.fixture(scope="module", params=("smollm2-135m", "gemma-3-270m"))
def model(request):
    """Each of the book's two models, of which these tests use the tokenizer."""
    if request.param == "smollm2-135m":
        return request.getfixturevalue("real_model")
    return load(request.param)


@pytest.fixture(scope="module", params=GENERATORS)
def listed(request, model):
    """A list of prompts of one task."""
    task, n = GENERATORS[request.param], FEWER.get(request.param, N)
    pairs = task(model, n, seed=3)
    return SimpleNamespace(
        name=request.param,
        task=task,
        n=n,
        pairs=pairs,
        resolved=[pair.resolve(model) for pair in pairs],
    )


# --- every task ------------------------------------------------------------------------------


def test_lists_are_long_distinct_deterministic_and_prefix_stable(listed, model):
    assert len(listed.pairs) == len({pair.clean for pair in listed.pairs}) == listed.n
    assert listed.task(model, 10, seed=3) == listed.pairs[:10]
    assert listed.task(model, 10, seed=4) != listed.pairs[:10]
    assert listed.task(model, 0) == []
    assert all(pair.name.startswith(listed.name.split()[0].split("_")[0]) for pair in listed.pairs)


def test_all_prompts_have_one_shape(listed, model):
    """So that they run as one batch. (Resolving has checked equal lengths and single tokens.)"""
    shapes = {(len(pair), pair.first_difference) for pair in listed.resolved}
    # Where options change places, the first of the two can be A, B or C.
    assert len(shapes) == (3 if listed.name == "mcqa" else 1)
    assert len({length for length, _ in shapes}) == 1
    assert all(0 < first < length - 1 for length, first in shapes)
    for pair in listed.resolved:
        assert pair.clean[0] == pair.corrupted[0] == model.tokenizer.bos_token_id
        assert pair.answer_ids and pair.wrong_ids


def test_only_what_is_asked_about_changes(listed):
    most = 1
    if listed.name.startswith("arithmetic") or listed.name == "mcqa":
        most = 2
    elif listed.name == "mcqa_letters":
        most = 4
    for pair in listed.resolved:
        assert 1 <= (pair.clean != pair.corrupted).sum() <= most


def test_asking_for_too_many_says_how_many_there_are(listed, model):
    with pytest.raises(ValueError, match=r"1000000000 prompts .* only \d+ .*at most") as error:
        listed.task(model, 1_000_000_000)
    most = int(re.search(r"at most (\d+)", str(error.value)).group(1))
    assert most >= listed.n
    if listed.n < N:
        assert most == listed.n
    with pytest.raises(ValueError, match="n must be a whole number of at least 0"):
        listed.task(model, -1)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(GENERATORS)), st.integers(0, 12), st.integers(0, 12), st.integers())
def test_a_longer_list_begins_with_the_shorter_one(name, n, more, seed):
    fake, task = FakeModel(DIGITS), GENERATORS[name]
    task(fake, 24, seed=seed)  # ids are given out in order of appearance; now they are known
    assert task(fake, n + more, seed=seed)[:n] == task(fake, n, seed=seed)


@pytest.mark.parametrize("name", GENERATORS)
def test_text_is_refused_without_a_tokenizer(name):
    fake = FakeModel(DIGITS)
    fake.tokenizer = None
    with pytest.raises(ValueError, match=r"no tokenizer"):
        GENERATORS[name](fake, 1)


@pytest.mark.parametrize(
    "task", (subject_verb_agreement, gender_bias, country_capital, hypernymy, mib_ioi)
)
def test_words_of_several_tokens_are_left_out(task):
    """Here no word has more than six letters, and longer ones fall apart."""
    short = FakeModel(r" ?[A-Za-z]{1,6}|[,.]")
    everywhere = FakeModel(DIGITS)
    for pair in task(short, 60):
        resolved = pair.resolve(short)
        changed = (resolved.clean != resolved.corrupted).nonzero()[:, 0].tolist()
        assert len(changed) == 1
    with pytest.raises(ValueError) as fewer:
        task(short, 10**9)
    with pytest.raises(ValueError) as all_of_them:
        task(everywhere, 10**9)
    few, many = (
        int(re.search(r"at most (\d+)", str(error.value)).group(1))
        for error in (fewer, all_of_them)
    )
    assert 60 <= few < many
    letters = FakeModel(r"[ A-Za-z,.]")
    with pytest.raises(ValueError, match=r"only 0 different|no verb of which both forms"):
        task(letters, 1)


# --- what is asked and what is answered ------------------------------------------------------


def test_the_verb_agrees_with_the_subject(model):
    number = {
        noun: i for nouns in (SUBJECTS, NEIGHBOURS) for both in nouns for i, noun in enumerate(both)
    }
    verbs = {f" {verb}": i for both in VERBS for i, verb in enumerate(both)}
    seen = set()
    for pair in subject_verb_agreement(model, N):
        _, subject, _, the, neighbour = pair.clean.split()
        assert the == "the"
        assert {verbs[answer] for answer in pair.answer} == {number[subject]}
        assert {verbs[answer] for answer in pair.wrong_answer} == {1 - number[subject]}
        assert {" is", " are", " was", " were"} <= {*pair.answer, *pair.wrong_answer}
        changed = pair.corrupted.split()[1]
        assert number[changed] == 1 - number[subject]
        assert (subject, changed) in SUBJECTS or (changed, subject) in SUBJECTS
        assert pair.corrupted == pair.clean.replace(subject, changed, 1)
        assert pair.metric == "prob_diff"
        seen.add((number[subject], number[neighbour]))
    assert len(seen) == 4  # the neighbour's number says nothing about the verb's


def test_no_noun_is_its_own_plural():
    for both in (*SUBJECTS, *NEIGHBOURS, *VERBS):
        assert len(set(both)) == 2
    for nouns in (SUBJECTS, NEIGHBOURS, VERBS):
        forms = [form for both in nouns for form in both]
        assert len(set(forms)) == len(forms)


@pytest.mark.parametrize("corruption", ("man_woman", "profession"))
def test_the_pronoun_is_that_of_the_stereotype(model, corruption):
    pronouns = {name: pronoun for pronoun, names in PROFESSIONS.items() for name in names}
    assert len(pronouns) == sum(map(len, PROFESSIONS.values()))
    pronouns |= {"man": "he", "woman": "she"}
    seen = set()
    for pair in gender_bias(model, N, corruption=corruption):
        who, instead = pair.clean.split()[1], pair.corrupted.split()[1]
        assert pair.answer == f" {pronouns[who]}"
        assert pair.wrong_answer == f" {pronouns[instead]}"
        assert {pair.answer, pair.wrong_answer} == {" he", " she"}
        assert (instead in ("man", "woman")) == (corruption == "man_woman")
        assert who not in ("man", "woman")
        assert pair.corrupted == pair.clean.replace(who, instead, 1)
        assert pair.metric == "logit_diff"
        seen.add(pair.answer)
    assert seen == {" he", " she"}


def test_gender_bias_asks_the_same_whatever_the_corruption(model):
    asked = [
        [pair.clean for pair in gender_bias(model, 50, corruption=corruption)]
        for corruption in ("man_woman", "profession")
    ]
    assert asked[0] == asked[1]


def test_capitals_are_those_of_the_countries(model):
    assert len(set(CAPITALS.values())) == len(CAPITALS)
    known = {"France": "Paris", "Japan": "Tokyo", "Canada": "Ottawa", "Australia": "Canberra"}
    assert known.items() <= CAPITALS.items()
    for pair in country_capital(model, N):
        country, other = (
            re.fullmatch(r"\w+ \w+ (\w+), whose capital,", text).group(1)
            for text in (pair.clean, pair.corrupted)
        )
        assert country != other
        assert pair.answer == f" {CAPITALS[country]}"
        assert pair.wrong_answer == f" {CAPITALS[other]}"
        assert pair.corrupted == pair.clean.replace(country, other)
        assert pair.metric == "logit_diff"


def test_every_thing_is_in_one_class_and_every_word_in_one_field():
    members = [member for kind in CLASSES for member in kind.members]
    assert len(set(members)) == len(members)
    fields = {}
    for kind in CLASSES:
        for word in kind.words:
            assert fields.setdefault(word, kind.field) == kind.field
        assert not set(kind.words) & set(members)
        assert len(kind.members) >= 5
    diamonds = next(kind for kind in CLASSES if "diamonds" in kind.members)
    assert (diamonds.field, "gems" in diamonds.words) == ("jewels", True)
    deer = next(kind for kind in CLASSES if "deer" in kind.members)  # from a second line
    assert "animals" in deer.words


def test_class_words_are_those_of_the_thing(model):
    classes = {member: kind for kind in CLASSES for member in kind.members}
    for pair in hypernymy(model, N):
        thing, other = (
            re.fullmatch(r"\w+ \w+ (\w+) and other", text).group(1)
            for text in (pair.clean, pair.corrupted)
        )
        kind, its = classes[thing], classes[other]
        assert kind.field != its.field
        assert set(pair.answer) <= {f" {word}" for word in kind.words}
        assert set(pair.wrong_answer) <= {f" {word}" for word in its.words}
        # None is missing that is one token.
        for word in kind.words:
            one = model.to_tokens(f" {word}", prepend_bos=False).shape[1] == 1
            assert one == (f" {word}" in pair.answer)
        assert pair.metric == "prob_diff"


def test_mib_ioi_names_the_indirect_object_once_and_the_subject_twice(model):
    orders = set()
    for pair in mib_ioi(model, N):
        io, subject = pair.answer.strip(), pair.wrong_answer.strip()
        words = re.findall(r"\w+", pair.clean)
        assert (words.count(io), words.count(subject)) == (1, 2)
        others = re.findall(r"\w+", pair.corrupted)
        assert (others.count(io), others.count(subject)) == (2, 1)
        assert pair.clean.rsplit(subject, 1) == pair.corrupted.rsplit(io, 1)
        assert pair.metric == "logit_diff"
        order = "ABBA" if words.index(io) < words.index(subject) else "BABA"
        assert pair.name.startswith(f"mib_ioi {order}: ")
        orders.add(order)
    assert orders == {"ABBA", "BABA"}


EQUATION = re.compile(r"(\d+) ([+-]) (\d+) =(?: (\d+))?")


def solved(equation):
    """An equation as text: its operands and result, worked out, and the result it shows or None."""
    a, sign, b, shown = equation
    result = int(a) + int(b) if sign == "+" else int(a) - int(b)
    return (int(a), int(b)), result, int(shown) if shown else None


def check_sum(pair, model, n_examples):
    """Check an arithmetic pair by reading its tokens back."""
    resolved = pair.resolve(model)
    decode = model.tokenizer.decode
    results, asked = [], []
    for which, token in (("clean", resolved.answer_ids), ("corrupted", resolved.wrong_ids)):
        text = "".join(resolved.str_tokens(which)[1:])
        *examples, question = map(solved, EQUATION.findall(text))
        assert len(examples) == n_examples
        assert all(result == shown for _, result, shown in examples)
        assert question[2] is None and text.rstrip().endswith("=")
        assert decode([*token]).strip() == str(question[1])
        results.append(question[1])
        asked.append(question[0])
        assert question[1] > 0
        assert results[0] not in [result for _, result, _ in examples]
        assert question[0] not in [operands for operands, _, _ in examples]
    assert results[0] != results[1] and asked[0][0] != asked[1][0]
    assert pair.metric == "logit_diff"
    assert pair.name.split(" [")[0].split(": ")[1] in "".join(resolved.str_tokens())
    return asked


@pytest.mark.parametrize("operation", ("addition", "subtraction"))
@pytest.mark.parametrize("n_examples", (0, 1, 3))
def test_results_are_right(model, operation, n_examples):
    pairs = arithmetic(model, 30, operation=operation, n_examples=n_examples)
    operands = [pair for one in pairs for pair in check_sum(one, model, n_examples)]
    assert {len(str(a)) for both in operands for a in both} == {1}  # these models split numbers


@pytest.mark.parametrize("operation", ("addition", "subtraction"))
def test_operands_have_two_digits_where_such_numbers_are_tokens(operation):
    whole = FakeModel(r" ?\d{1,3}| ?[-+=]|,")
    pairs = arithmetic(whole, 40, operation=operation)
    operands = [pair for one in pairs for pair in check_sum(one, whole, 2)]
    assert {len(str(a)) for both in operands for a in both} == {2}
    # Where hundreds are split, sums above 99 are left out.
    for pair in arithmetic(FakeModel(r" ?\d{1,2}| ?[-+=]|,"), 100):
        ((a, b),) = re.findall(r"(\d\d) \+ (\d\d) = \[", pair.name)
        assert int(a) + int(b) < 100


def test_arithmetic_refuses_what_it_cannot_ask(model):
    with pytest.raises(ValueError, match=r"operation must be one of addition, sub"):
        arithmetic(model, 1, operation="division")
    with pytest.raises(
        ValueError, match=r"n_examples must be a whole number of at least 0, not -1"
    ):
        arithmetic(model, 1, n_examples=-1)
    # A tokenizer that glues a number to what stands before it has no token for the number.
    glued = FakeModel(r"(?:= )?\d{1,2}| ?[-+](?= )|[, ]")
    with pytest.raises(ValueError, match=r"not even a number of one digit as one token: .*= 7"):
        arithmetic(glued, 1)


OPTION = re.compile(r"([A-Z])\. (\w+)")


@pytest.mark.parametrize("corruption", ("position", "letters"))
def test_the_letter_is_that_of_the_colour(model, corruption):
    letters = []
    for pair in mcqa(model, N, corruption=corruption):
        answers = []
        for text in (pair.clean, pair.corrupted):
            thing, colour, again = re.match(
                r"The (\w+) is (\w+)\. What color is the (\w+)\?\n", text
            ).groups()
            assert thing == again
            (letter,) = [letter for letter, named in OPTION.findall(text) if named == colour]
            answers.append(f" {letter}")
            assert len({named for _, named in OPTION.findall(text)}) == 4
            assert text.endswith("\nAnswer:")
        assert answers == [pair.answer, pair.wrong_answer]
        assert answers[0] != answers[1]
        assert pair.metric == "logit_diff"
        (clean, corrupted) = (OPTION.findall(text) for text in (pair.clean, pair.corrupted))
        assert [letter for letter, _ in clean] == list("ABCD")
        if corruption == "letters":
            assert [named for _, named in clean] == [named for _, named in corrupted]
            assert [letter for letter, _ in corrupted] == list("MNOP")
        else:
            assert [letter for letter, _ in corrupted] == list("ABCD")
            assert sum(one != other for one, other in zip(clean, corrupted, strict=True)) == 2
        letters.append(pair.answer)
    assert set(letters) == {" A", " B", " C", " D"}


def test_mcqa_asks_the_same_whatever_the_corruption(model):
    asked = [[p.clean for p in mcqa(model, 50, corruption=c)] for c in ("position", "letters")]
    assert asked[0] == asked[1]


@pytest.mark.parametrize(("task", "known"), ((gender_bias, "man_woman"), (mcqa, "position")))
def test_unknown_corruptions_are_refused(task, known):
    with pytest.raises(ValueError, match=f"corruption must be one of {known}, "):
        task(FakeModel(DIGITS), 1, corruption="noise")


# --- whether a model can do it ---------------------------------------------------------------


def slow_check(model, pair):
    """(right, first, turned) of one prompt, by probabilities."""
    resolved = pair.resolve(model)
    found = {}
    for which in ("clean", "corrupted"):
        tokens = getattr(resolved, which)
        if tokens is not None:
            with torch.no_grad():
                p = model(tokens[None], return_type="logits")[0, -1].double().softmax(-1)
            best = int(p.argmax()) in resolved.answer_ids
            sides = [p[list(ids)].sum() for ids in (resolved.answer_ids, resolved.wrong_ids)]
            found[which] = best, bool(sides[0] > sides[1])
    wrong = bool(resolved.wrong_ids)
    right = found["clean"][wrong]
    turned = None if pair.corrupted is None or not wrong else not found["corrupted"][1]
    return right, found["clean"][0], turned


def mixed_pairs():
    """Prompts of several lengths, in no order, of every form that answers can have."""
    generator = torch.Generator().manual_seed(5)
    pairs = []
    for i in range(60):
        length = int(torch.randint(2, 7, (), generator=generator))
        ids = torch.randint(1, D_VOCAB, (2, length), generator=generator).tolist()
        tokens = torch.randperm(D_VOCAB, generator=generator).tolist()
        answer = tokens[0] if i % 2 else tuple(tokens[:20])
        wrong = (None, tokens[20], tuple(tokens[20:23]))[i % 3]
        metric = ("log_prob", entropy)[i % 5 == 0]
        pairs.append(PromptPair(ids[0], ids[1] if i % 7 else None, answer, wrong, metric))
    return pairs


@pytest.mark.parametrize("architecture", ("gpt2", "gemma2"))
def test_accuracy_is_what_one_prompt_after_the_other_gives(architecture):
    model, pairs = tiny_model(architecture), mixed_pairs()
    check = accuracy(model, pairs)
    slow = [slow_check(model, pair) for pair in pairs]
    assert check.right.tolist() == [right for right, _, _ in slow]
    assert check.first.tolist() == [first for _, first, _ in slow]
    assert check.asked.tolist() == [turned is not None for _, _, turned in slow]
    assert check.turned.tolist() == [bool(turned) for _, _, turned in slow]
    asked = [turned for _, _, turned in slow if turned is not None]
    assert check.n == 60
    assert check.accuracy == pytest.approx(np.mean([right for right, _, _ in slow]))
    assert check.corrupted_accuracy == pytest.approx(np.mean(asked))
    # Nothing above is all the same, so nothing passes by chance.
    for verdicts in (check.right, check.first, check.asked, check.turned[check.asked]):
        assert 0 < verdicts.mean() < 1
    assert accuracy(model, pairs[::-1]).right.tolist() == check.right.tolist()[::-1]


def test_batches_do_not_change_the_verdicts(monkeypatch):
    model, pairs = tiny_model("llama"), mixed_pairs()
    at_once = accuracy(model, pairs)
    monkeypatch.setattr("hvp_utils.tasks.checks._TOKENS_PER_BATCH", 1)  # still one prompt a run
    assert accuracy(model, pairs).right.tolist() == at_once.right.tolist()


def test_can_do_begins_at_the_threshold():
    no = np.zeros(4, dtype=bool)
    three = np.array([True, True, False, True])
    assert CAN_DO == 0.75
    assert TaskCheck(three, no, no, no).can_do
    assert not TaskCheck(three & (np.arange(4) > 0), no, no, no).can_do
    assert np.isnan(TaskCheck(three, no, no, no).corrupted_accuracy)
    assert TaskCheck(three, three, three, three).corrupted_accuracy == 1
    assert TaskCheck(no, three, no, no).first_accuracy == 0.75


def test_accuracy_says_what_is_wrong_with_a_list():
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="no prompts to check"):
        accuracy(model, [])
    with pytest.raises(TypeError, match="prompt 1 must be a PromptPair, not 'text'"):
        accuracy(model, [PromptPair([1, 2], [1, 3], 4), "text"])
    nothing = PromptPair([1, 2], [1, 3], None, metric=entropy, name="mine")
    with pytest.raises(ValueError, match=r"prompt 0 \(mine\) has no answer, only a metric"):
        accuracy(model, [nothing])
    with pytest.raises(ValueError, match=r"outside the vocabulary"):
        accuracy(model, [PromptPair([1, D_VOCAB], [1, 3], 4)])


def test_a_table_has_a_row_for_each_task():
    model = tiny_model("gpt2")
    table = check_tasks(model, [tiny_task, lambda model, n, seed: tiny_task(model, n, seed)], n=8)
    assert list(table.index) == ["tiny_task", "<lambda>"]
    check = accuracy(model, tiny_task(model, 8))
    row = table.loc["tiny_task"]
    assert (row.n_prompts, row.n_tokens, row.n_shapes) == (8, 6, 1)
    assert (row.accuracy, row.first_accuracy) == (check.accuracy, check.first_accuracy)
    assert row.can_do == check.can_do
    assert np.isnan(row.corrupted_accuracy)
    other = check_tasks(model, [tiny_task], n=8, seed=1)
    assert (other.n_prompts == 8).all()


def test_the_real_model_can_do_what_the_book_asks_of_it(real_model):
    pairs = country_capital(real_model, 3) + ioi(real_model, 3)
    check = accuracy(real_model, pairs)
    slow = [slow_check(real_model, pair) for pair in pairs]
    assert check.right.tolist() == [right for right, _, _ in slow]
    assert check.first.tolist() == [first for _, first, _ in slow]
    assert check.can_do
    swapped = [PromptPair(p.clean, p.corrupted, p.wrong_answer, p.answer) for p in pairs]
    assert accuracy(real_model, swapped).accuracy == pytest.approx(1 - check.accuracy)
    assert hvp_utils.tasks.accuracy is accuracy


def test_the_tasks_have_names(model):
    assert {name for name in GENERATORS if " " not in name} <= set(TASKS)
    named = TASKS["arithmetic_subtraction"](model, 5, seed=2)
    assert named == arithmetic(model, 5, 2, "subtraction")
