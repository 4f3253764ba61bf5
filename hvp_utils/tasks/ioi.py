"""Indirect object identification (IOI), after Wang et al. 2022.

Two people are named; one of them, the subject, is named again; the other, the indirect object,
should come next. The corrupted prompt names the indirect object the second time, so that the
model should say the other name. Exactly one token differs between the two prompts.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, single_token, take, token_ids

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


def ioi(model: Any, n: int, seed: int = 0) -> list[PromptPair]:
    """Make IOI prompt pairs with the name-swap corruption (Wang et al. 2022; paper, section 4).

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all different.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.

    Returns:
        Pairs as text. ``answer`` is the indirect object, ``wrong_answer`` the subject, the metric
        is ``log_prob``. Only names that are one token in this model are used.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, or the model has no tokenizer.
    """
    require_tokenizer(model, "ioi")
    ids = {name: single_token(model, f" {name}") for name in NAMES}
    people = list(permutations([name for name in NAMES if ids[name] is not None], 2))

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, template = divmod(index, len(TEMPLATES))
        index, order = divmod(index, len(ORDERS))
        index, place = divmod(index, len(PLACES))
        index, thing = divmod(index, len(THINGS))
        io, subject = people[index]
        pair = _pair(template, ORDERS[order], io, subject, PLACES[place], THINGS[thing])
        # The name must be that one token here too, beside this comma and this verb.
        clean, corrupted = token_ids(model, pair.clean), token_ids(model, pair.corrupted)
        if len(clean) != len(corrupted):
            return None
        changed = [(a, b) for a, b in zip(clean, corrupted, strict=True) if a != b]
        return pair if changed == [(ids[subject], ids[io])] else None

    total = len(people) * len(TEMPLATES) * len(ORDERS) * len(PLACES) * len(THINGS)
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
