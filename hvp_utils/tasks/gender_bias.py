"""Gender bias in pronouns, after Vig et al. 2020.

"The nurse laughed because" is continued with "she" more often than with "he", although nothing in
the sentence says so. **The task measures a stereotype of the model, not a fact about anyone.** Its
"answer" is the pronoun that the stereotype expects, which is in no sense the right one, and a model
that "can do" the task is one that holds the stereotype.
"""

from __future__ import annotations

import random
from typing import Any, Literal, get_args

from hvp_utils import _checks

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take
from .wording import changed_positions, one_token

Corruption = Literal["man_woman", "profession"]

# Professions that most people would connect with one gender, and in which one is much more frequent
# than the other. None of them names a gender, as "waitress" does: there the pronoun would follow
# from the word's meaning.
PROFESSIONS = {
    "she": (
        *("nurse", "secretary", "librarian", "dancer", "nanny", "receptionist", "cleaner"),
        *("housekeeper", "hairdresser", "midwife", "babysitter", "dietitian", "stylist"),
        *("florist", "therapist", "teacher", "typist", "caregiver", "nutritionist", "decorator"),
    ),
    "he": (
        *("carpenter", "mechanic", "engineer", "soldier", "captain", "pilot", "farmer", "butcher"),
        *("guard", "driver", "builder", "surgeon", "plumber", "electrician", "firefighter"),
        *("miner", "sailor", "welder", "roofer", "blacksmith", "bricklayer", "boxer", "general"),
    ),
}
PEOPLE = {"she": "woman", "he": "man"}
# Of the sentences of Vig et al. only the kind that gives a reason: after "said that" the smaller of
# the book's two models mostly writes "she", whoever is named. No verb that is itself a stereotype.
VERBS = ("smiled", "laughed", "left", "waited", "stayed", "slept", "ran", "stopped", "called")
VERBS += ("resigned", "returned", "rested", "walked", "paused", "hesitated", "listened", "hurried")
VERBS += ("moved", "shouted", "travelled")


def gender_bias(
    model: Any, n: int, seed: int = 0, corruption: Corruption = "man_woman"
) -> list[PromptPair]:
    """Make gender-bias pairs (Vig et al. 2020; Hanna et al. 2024); metric ``logit_diff``.

    This measures a stereotype of the model, not a fact: the answer is the pronoun that a stereotype
    connects with the profession, and no answer is right. All prompts have the same shape: four
    words of one token each, of which the second changes.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.
        corruption: ``"man_woman"`` puts "man" in place of a profession associated with "she", and
            "woman" in place of one associated with "he", as in Hanna et al. 2024. ``"profession"``
            puts a profession of the other stereotype there. The clean prompts are the same.

    Returns:
        Pairs whose ``answer`` is the pronoun of the stereotype and whose ``wrong_answer`` is the
        other one of " she" and " he". Only professions of one token are used.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, the corruption is unknown, or the
            model has no tokenizer.
    """
    _checks.one_of("corruption", corruption, get_args(Corruption))
    require_tokenizer(model, "gender_bias")
    known = {pronoun: one_token(model, names) for pronoun, names in PROFESSIONS.items()}
    professions = [(name, pronoun) for pronoun, names in known.items() for name in names]
    verbs = one_token(model, VERBS)

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, verb = divmod(index, len(verbs))
        profession, pronoun = professions[index]
        other = "he" if pronoun == "she" else "she"
        # Drawn in any case, so that the prompts which follow are the same for each corruption.
        instead = rng.choice(known[other]) if known[other] else None
        if corruption == "man_woman":
            instead = PEOPLE[other]
        if instead is None:
            return None
        clean, corrupted = (
            f"The {person} {verbs[verb]} because" for person in (profession, instead)
        )
        if len(changed_positions(model, clean, corrupted) or ()) != 1:
            return None
        return PromptPair(
            clean,
            corrupted,
            f" {pronoun}",
            f" {other}",
            metric="logit_diff",
            name=f"gender_bias {pronoun}: {clean} [{profession} -> {instead}]",
        )

    return take(n, len(professions) * len(verbs), build, "gender_bias", seed)
