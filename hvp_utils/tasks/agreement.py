"""Subject-verb agreement, after Linzen et al. 2016 and Newman et al. 2021.

"The keys near the table" goes on with "are", not with "is": the verb agrees with the subject, not
with the noun beside it, whose number is drawn independently of the subject's. The corrupted prompt
has the subject in the other number, so exactly one token differs.

Words and wording are our own. In the data of Hanna et al. 2024, which circuits are usually tested
on, a prepositional phrase is one of several things that may stand between subject and verb.
"""

from __future__ import annotations

import random
from typing import Any

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take
from .wording import changed_positions, one_token, spaced

# (singular, plural). No noun whose two forms are alike, and no proper names.
SUBJECTS = (
    *(("key", "keys"), ("book", "books"), ("cup", "cups"), ("letter", "letters")),
    *(("picture", "pictures"), ("plant", "plants"), ("box", "boxes"), ("car", "cars")),
    *(("dog", "dogs"), ("cat", "cats"), ("boy", "boys"), ("girl", "girls"), ("bird", "birds")),
    *(("horse", "horses"), ("teacher", "teachers"), ("doctor", "doctors"), ("map", "maps")),
    *(("farmer", "farmers"), ("artist", "artists"), ("student", "students"), ("toy", "toys")),
    *(("player", "players"), ("writer", "writers"), ("phone", "phones"), ("bag", "bags")),
    *(("camera", "cameras"), ("boat", "boats"), ("bottle", "bottles"), ("coin", "coins")),
    *(("lamp", "lamps"), ("hat", "hats"), ("ball", "balls"), ("child", "children")),
    *(("man", "men"), ("woman", "women")),
)
PREPOSITIONS = ("near", "behind", "beside")
NEIGHBOURS = (
    *(("table", "tables"), ("house", "houses"), ("tree", "trees"), ("door", "doors")),
    *(("window", "windows"), ("chair", "chairs"), ("wall", "walls"), ("bridge", "bridges")),
)
VERBS = (
    *(("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"), ("seems", "seem")),
    *(("looks", "look"), ("appears", "appear"), ("belongs", "belong"), ("makes", "make")),
    *(("goes", "go"), ("comes", "come"), ("takes", "take"), ("gives", "give")),
    *(("needs", "need"), ("stands", "stand"), ("remains", "remain")),
)


def subject_verb_agreement(model: Any, n: int, seed: int = 0) -> list[PromptPair]:
    """Make agreement pairs (Linzen et al. 2016; Newman et al. 2021; Hanna et al. 2024).

    All prompts have the same shape: five words of one token each, of which the second changes.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.

    Returns:
        Pairs whose answers are the verbs in the subject's number, whose wrong answers are the same
        verbs in the other number, and whose metric is ``prob_diff``, as in Hanna et al. 2024. A
        verb counts if both of its forms are one token in this model.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, no verb has two forms of one token,
            or the model has no tokenizer.
    """
    require_tokenizer(model, "subject_verb_agreement")
    verbs = [verb for verb in VERBS if len(one_token(model, verb)) == 2]
    if not verbs:
        raise ValueError(
            "task 'subject_verb_agreement' compares verbs in the singular and the plural, but this "
            "model's tokenizer has no verb of which both forms are one token."
        )
    forms = tuple(spaced(verb[number] for verb in verbs) for number in (0, 1))
    subjects = [noun for noun in SUBJECTS if len(one_token(model, noun)) == 2]
    prepositions = one_token(model, PREPOSITIONS)
    neighbours = one_token(model, (form for noun in NEIGHBOURS for form in noun))

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, number = divmod(index, 2)
        index, preposition = divmod(index, len(prepositions))
        index, neighbour = divmod(index, len(neighbours))
        phrase = f"{prepositions[preposition]} the {neighbours[neighbour]}"
        clean = f"The {subjects[index][number]} {phrase}"
        corrupted = f"The {subjects[index][1 - number]} {phrase}"
        if len(changed_positions(model, clean, corrupted) or ()) != 1:
            return None
        return PromptPair(
            clean,
            corrupted,
            forms[number],
            forms[1 - number],
            metric="prob_diff",
            name=f"subject_verb_agreement {('singular', 'plural')[number]}: {clean}",
        )

    total = len(subjects) * len(neighbours) * len(prepositions) * 2
    return take(n, total, build, "subject_verb_agreement", seed)
