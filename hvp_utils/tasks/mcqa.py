"""Multiple choice, after the benchmark MIB (Mueller et al. 2025).

A thing's colour is stated and asked for, and the answer is the letter of the option that names it.
All that has to be done is to find the colour among the options and to say its letter; this is the
data set of copied colours that MIB takes from Wiegreffe et al. Things and colours are our own.

MIB's circuit track by default corrupts a prompt by numbering its options 1 to 4 in place of A to D.
In tokenizers that split the space from a digit, as those of SmolLM2 and Gemma do, a number is not
one token after "Answer:", so letters take the numbers' place here, with ``corruption="letters"``.
A letter that the clean prompt does not have is a wrong answer that is easy to avoid; the default
therefore exchanges two options, which is another of MIB's counterfactuals.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any, Literal, get_args

from hvp_utils import _checks

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take, token_ids
from .wording import changed_positions, one_token

Corruption = Literal["position", "letters"]

THINGS = ("box", "cup", "hat", "car", "door", "chair", "ball", "shirt", "book", "lamp", "bag")
THINGS += ("house", "boat", "coat", "plate", "bird")
COLOURS = ("red", "blue", "green", "brown", "black", "white", "yellow", "pink", "purple", "orange")
LETTERS = "ABCD"
OTHER_LETTERS = "MNOP"


def mcqa(
    model: Any, n: int, seed: int = 0, corruption: Corruption = "position"
) -> list[PromptPair]:
    """Make multiple-choice pairs as MIB does (Mueller et al. 2025); metric ``logit_diff``.

    There are four options, and no examples. All prompts of one corruption have the same number of
    tokens; with ``"position"`` the first difference depends on which options are exchanged.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.
        corruption: ``"position"`` exchanges the right option with another one, whose letter becomes
            the answer of the corrupted prompt. ``"letters"`` writes M to P in place of A to D. The
            clean prompts are the same.

    Returns:
        Pairs whose ``answer`` is the letter of the right option, with a leading space, and whose
        ``wrong_answer`` is the letter that would be right in the corrupted prompt.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, the corruption is unknown, or the
            model has no tokenizer.
    """
    _checks.one_of("corruption", corruption, get_args(Corruption))
    require_tokenizer(model, "mcqa")
    things = one_token(model, THINGS)
    options = list(permutations(one_token(model, COLOURS), len(LETTERS)))

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, right = divmod(index, len(LETTERS))
        index, thing = divmod(index, len(things))
        colours = options[index]
        # Drawn in any case, so that the prompts which follow are the same for each corruption.
        other = rng.choice([i for i in range(len(LETTERS)) if i != right])
        clean = _question(things[thing], colours[right], colours, LETTERS)
        if corruption == "position":
            turned = list(colours)
            turned[right], turned[other] = turned[other], turned[right]
            corrupted = _question(things[thing], colours[right], turned, LETTERS)
            wrong, changes = LETTERS[other], 2
        else:
            corrupted = _question(things[thing], colours[right], colours, OTHER_LETTERS)
            wrong, changes = OTHER_LETTERS[right], len(LETTERS)
        if len(changed_positions(model, clean, corrupted) or ()) != changes:
            return None
        # The letter after "Answer:" must be one token there, and the same one as anywhere.
        if any(
            len(token_ids(model, f"{clean} {i}")) != len(token_ids(model, clean)) + 1
            for i in (LETTERS[right], wrong)
        ):
            return None
        return PromptPair(
            clean,
            corrupted,
            f" {LETTERS[right]}",
            f" {wrong}",
            metric="logit_diff",
            name=f"mcqa {things[thing]}, {colours[right]}: {', '.join(colours)} [{wrong}]",
        )

    total = len(options) * len(things) * len(LETTERS)
    return take(n, total, build, "mcqa", seed)


def _question(thing: str, colour: str, colours: Any, letters: str) -> str:
    listed = "\n".join(f"{i}. {option}" for i, option in zip(letters, colours, strict=True))
    return f"The {thing} is {colour}. What color is the {thing}?\n{listed}\nAnswer:"
