"""Indirect object identification (IOI), after Wang et al. 2022.

Two people are named; one of them, the subject, is named again; the other, the indirect object,
should come next. The corrupted prompt usually names the indirect object the second time, so that
the model should say the other name; exactly one token then differs between the two prompts.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations
from typing import Any, Literal, cast, get_args

from hvp_utils import _checks

from .prompt_pair import PromptPair
from .sampling import (
    ordinary_tokens,
    require_tokenizer,
    single_token,
    take,
    token_ids,
    with_random_token,
)

Corruption = Literal["name_swap", "random_token", "resample", "zero"]

# {first} and {second} introduce the two people, {subject} is named again. Names always follow a
# space and never open the sentence: there most tokenizers would use another token.
TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {thing} to",
    "After {first} and {second} met at the {place}, {subject} handed a {thing} to",
    "While {first} and {second} were waiting outside the {place}, {subject} passed a {thing} to",
    "Yesterday {first} and {second} walked to the {place}, and {subject} gave a {thing} to",
    "Before {first} and {second} left the {place}, {subject} gave a {thing} to",
    "Later {first} and {second} sat down near the {place}, and {subject} gave a {thing} to",
    "Once {first} and {second} had found the {place}, {subject} offered a {thing} to",
    "On the bus from the {place} sat {first} and {second}, and {subject} offered a {thing} to",
)
# "ABBA" introduces the indirect object first, "BABA" the subject.
ORDERS = ("ABBA", "BABA")
NAMES = (
    *("Mary", "John", "Alice", "Bob", "Tom", "James", "Robert", "Michael", "David", "Sarah"),
    *("Richard", "Joseph", "Thomas", "Charles", "Daniel", "Matthew", "Anthony", "Paul", "Steven"),
    *("Andrew", "Kevin", "Brian", "George", "Edward", "Jason", "Jeff", "Ryan", "Jacob", "Gary"),
    *("Eric", "Jonathan", "Stephen", "Larry", "Scott", "Benjamin", "Samuel", "Peter", "Simon"),
    *("Henry", "Adam", "Martin", "Philip", "Patrick", "Linda", "Elizabeth", "Barbara", "Susan"),
    *("Jessica", "Karen", "Nancy", "Lisa", "Margaret", "Emily", "Michelle", "Laura", "Rebecca"),
    *("Anna", "Emma", "Rachel", "Maria", "Kate", "Jane", "Julia", "Helen", "Diana", "Amy"),
)
PLACES = ("store", "market", "library", "park", "museum", "school", "garden", "station")
PLACES += ("beach", "hospital", "office", "theater", "hotel", "restaurant", "church", "farm")
THINGS = ("drink", "book", "letter", "ticket", "present", "key", "camera", "map")
THINGS += ("coat", "ball", "flower", "phone", "ring", "picture", "cup", "toy")


def ioi(
    model: Any,
    n: int,
    seed: int = 0,
    corruption: Corruption = "name_swap",
    template: int | None = None,
) -> list[PromptPair]:
    """Make IOI prompt pairs (Wang et al. 2022; paper, section 4 and appendix E.3).

    The clean prompts are the same whatever the corruption, so corruptions can be compared prompt
    by prompt.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all different.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.
        corruption: ``"name_swap"`` names the indirect object the second time, as Wang et al. do.
            ``"random_token"`` puts a uniformly drawn token there instead; prompts are then token
            ids. (At position 3, where the paper puts random tokens, IOI prompts mostly say "and".)
            ``"resample"`` takes another prompt with as many tokens; about one in sixty has the
            same answer. ``"zero"`` is zero
            ablation: no corrupted prompt at all.
        template: Only the template of this number, in the order ABBA and with places and things
            of one token, so that all prompts have the same length.

    Returns:
        Pairs whose ``answer`` is the indirect object, ``wrong_answer`` the subject, and whose
        metric is ``log_prob``. Only names that are one token in this model are used.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, the corruption or the template is
            unknown, or the model has no tokenizer.
    """
    _checks.one_of("corruption", corruption, get_args(Corruption))
    if template is not None:
        _checks.whole("template", template, 0, len(TEMPLATES) - 1)
    require_tokenizer(model, "ioi")
    ids = {name: single_token(model, f" {name}") for name in NAMES}
    people = list(permutations([name for name in NAMES if ids[name] is not None], 2))
    templates, orders = tuple(range(len(TEMPLATES))), ORDERS
    places, things = PLACES, THINGS
    ordinary = ordinary_tokens(model) if corruption == "random_token" else []
    if template is not None:
        templates, orders = (template,), ORDERS[:1]
        places, things = (
            tuple(word for word in words if single_token(model, f" {word}") is not None)
            for words in (PLACES, THINGS)
        )

    def prompt(index: int) -> PromptPair:
        index, chosen = divmod(index, len(templates))
        index, order = divmod(index, len(orders))
        index, place = divmod(index, len(places))
        index, thing = divmod(index, len(things))
        io, subject = people[index]
        return _pair(templates[chosen], orders[order], io, subject, places[place], things[thing])

    def build(index: int, rng: random.Random) -> PromptPair | None:
        pair = prompt(index)
        # The name must be that one token here too, beside this comma and this verb.
        clean, corrupted = (
            token_ids(model, cast("str", pair.clean)),
            token_ids(model, cast("str", pair.corrupted)),
        )
        if len(clean) != len(corrupted):
            return None
        changed = [i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b]
        expected = tuple(
            ids[name.strip()] for name in cast("tuple[str, str]", (pair.wrong_answer, pair.answer))
        )
        if [(clean[i], corrupted[i]) for i in changed] != [expected]:
            return None
        # A stream of its own: what is drawn here must not change which prompts come next.
        rng = random.Random(f"ioi {corruption}/{seed}/{index}")
        return corrupt(pair, clean, changed[0], rng)

    def corrupt(
        pair: PromptPair, clean: list[int], decisive: int, rng: random.Random
    ) -> PromptPair | None:
        if corruption == "zero":
            return replace(pair, corrupted=None)
        if corruption == "random_token":
            _, other, change = with_random_token(
                model, cast("str", pair.clean), ordinary, rng, decisive
            )
            return replace(pair, clean=tuple(clean), corrupted=other, name=f"ioi: {change}")
        if corruption == "resample":
            others = (cast("str", prompt(rng.randrange(total)).clean) for _ in range(1000))
            lengths = ((other, len(token_ids(model, other))) for other in others)
            found = (o for o, length in lengths if length == len(clean) and o != pair.clean)
            other = next(found, None)
            return cast("PromptPair | None", other and replace(pair, corrupted=other))
        return pair

    total = len(people) * len(templates) * len(orders) * len(places) * len(things)
    return take(n, total, build, "ioi", seed)


def reference_pair() -> PromptPair:
    """The one IOI pair that runs through the book.

    Clean "When Mary and John went to the store, John gave a drink to", corrupted with the second
    "John" replaced by "Mary"; the metric is log p(" Mary").
    """
    return _pair(0, "ABBA", io="Mary", subject="John", place="store", thing="drink")


def _pair(template: int, order: str, io: str, subject: str, place: str, thing: str) -> PromptPair:
    first, second = (io, subject) if order == "ABBA" else (subject, io)

    def text(named_again: str) -> str:
        return TEMPLATES[template].format(
            first=first, second=second, subject=named_again, place=place, thing=thing
        )

    return PromptPair(
        clean=text(subject),
        corrupted=text(io),
        answer=f" {io}",
        wrong_answer=f" {subject}",
        name=f"ioi {order} template {template}: {io}, {subject}, {place}, {thing}",
    )
