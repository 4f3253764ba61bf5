"""Indirect object identification as the benchmark MIB asks it (Mueller et al. 2025).

The task is that of ``ioi``. What differs is the metric, a logit difference between the two people,
and the prompts: here they all have one shape, so that many run together. The corrupted prompt names
the indirect object the second time, which is the counterfactual that the public code of MIB's
circuit track uses. Names and sentences are our own.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

from .ioi import NAMES
from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take
from .wording import changed_positions, one_token

# Thirteen words and a comma each, with the three names and the comma at the same places.
TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {thing} to",
    "While {first} and {second} waited at the {place}, {subject} handed a {thing} to",
    "After {first} and {second} came from the {place}, {subject} offered a {thing} to",
    "Before {first} and {second} walked to the {place}, {subject} sold a {thing} to",
    "As {first} and {second} sat in the {place}, {subject} passed a {thing} to",
    "Once {first} and {second} arrived at the {place}, {subject} brought a {thing} to",
)
PLACES = ("park", "school", "office", "garden", "hotel", "store", "station", "museum", "house")
THINGS = ("book", "cup", "letter", "ticket", "key", "ring", "map", "phone", "coat", "drink")


def mib_ioi(model: Any, n: int, seed: int = 0) -> list[PromptPair]:
    """Make IOI pairs as MIB's circuit track does (Mueller et al. 2025); metric ``logit_diff``.

    All prompts have the same shape where common words are one token each, as names, places and
    things have to be. Either person may be named first.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.

    Returns:
        Pairs whose ``answer`` is the indirect object and whose ``wrong_answer`` is the subject.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, or the model has no tokenizer.
    """
    require_tokenizer(model, "mib_ioi")
    people = list(permutations(one_token(model, NAMES), 2))
    places, things = one_token(model, PLACES), one_token(model, THINGS)

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, template = divmod(index, len(TEMPLATES))
        index, place = divmod(index, len(places))
        index, thing = divmod(index, len(things))
        index, order = divmod(index, 2)
        io, subject = people[index]
        first, second = (io, subject) if order == 0 else (subject, io)
        clean, corrupted = (
            TEMPLATES[template].format(
                first=first,
                second=second,
                subject=named_again,
                place=places[place],
                thing=things[thing],
            )
            for named_again in (subject, io)
        )
        if len(changed_positions(model, clean, corrupted) or ()) != 1:
            return None
        name = f"mib_ioi {('ABBA', 'BABA')[order]}: {clean}"
        return PromptPair(clean, corrupted, f" {io}", f" {subject}", "logit_diff", name)

    total = len(people) * len(TEMPLATES) * len(places) * len(things) * 2
    return take(n, total, build, "mib_ioi", seed)
