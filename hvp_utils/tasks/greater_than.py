"""Greater-Than, after Hanna et al. 2023.

"The war lasted from the year 1732 to the year 17": a war does not end before it begins, so the
number that follows should be greater than 32. How the metric is read depends on the tokenizer:

* **Two-digit numbers are single tokens** (GPT-2, Pythia). The answers are all two-digit numbers
  above the start, the wrong answers all others. Start years that the tokenizer does not split
  after the century (GPT-2 has a token " 1700") are left out.
* **Numbers are split into digits** (SmolLM2, Gemma, Qwen). The model's next token is only the
  tens digit. The answers are the digits above the start's tens digit, the wrong answers those
  below it. The equal digit is in neither set: after "1732 to the year 17", a 3 may become 31 or
  38, so it does not decide. This is not the same measure as the two-digit one; do not compare
  their values across models.

Tokenizers that do neither (Llama-3 makes "173|2" of 1732) are refused.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

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

NOUNS = ("war", "siege", "conflict", "campaign", "dispute", "trial", "project", "journey")
NOUNS += ("voyage", "expedition", "famine", "drought", "plague", "rebellion", "revolt", "strike")
NOUNS += ("reign", "alliance", "marriage", "partnership", "program", "study", "construction")
NOUNS += ("occupation", "debate", "struggle", "festival", "crisis", "treaty", "fight")
CENTURIES = tuple(range(11, 18))

Corruption = Literal["random_token", "year_01"]


def greater_than(
    model: Any, n: int, seed: int = 0, corruption: Corruption = "random_token"
) -> list[PromptPair]:
    """Make Greater-Than prompt pairs (Hanna et al. 2023; paper, section 4).

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.
        corruption: ``"random_token"`` replaces the token at position 3 (a prepended
            beginning-of-sequence token is position 0) by a uniformly drawn token, as in the paper;
            prompts are then token ids, with the text in ``name``. ``"year_01"`` sets the start
            year's last two digits to 01, as Hanna et al. do; prompts are text.

    Returns:
        Pairs with metric ``prob_diff``: summed probability of the numbers above the start minus
        that of the numbers which are not (see the module's text for tokenizers that split digits).

    Raises:
        ValueError: If the tokenizer writes years in neither of the two ways above, fewer than
            ``n`` different prompts exist, the corruption is unknown, or there is no tokenizer.
    """
    _checks.one_of("corruption", corruption, get_args(Corruption))
    require_tokenizer(model, "greater_than")
    numbers = _number_tokens(model)
    nouns = [noun for noun in NOUNS if single_token(model, f" {noun}") is not None]
    # From 02, so that a start differs from the year 01 which corrupts it and from the century.
    starts = [
        (century, year)
        for century, year in numbers.starts
        if year >= 2 and all(numbers.sides(year))
    ]
    if corruption == "year_01":
        starts = [(century, year) for century, year in starts if (century, 1) in numbers.starts]
    ordinary = ordinary_tokens(model)

    def build(index: int, rng: random.Random) -> PromptPair | None:
        noun = nouns[index % len(nouns)]
        century, year = starts[index // len(nouns)]
        text = _text(noun, century, year)
        if corruption == "year_01":
            clean, corrupted = text, _text(noun, century, 1)
            name = f"greater_than: {text} [{year:02d} -> 01]"
        else:
            clean, corrupted, change = with_random_token(model, text, ordinary, rng)
            name = f"greater_than: {change}"
        above, not_above = numbers.sides(year)
        return PromptPair(clean, corrupted, above, not_above, metric="prob_diff", name=name)

    return take(n, len(nouns) * len(starts), build, "greater_than", seed)


def _text(noun: str, century: int, year: int) -> str:
    return f"The {noun} lasted from the year {century}{year:02d} to the year {century}"


@dataclass(frozen=True)
class _Numbers:
    """How a tokenizer continues a century: which start years work, which tokens are scored."""

    by_digit: bool
    ids: dict[int, int]  # two-digit number -> token id, or digit -> token id
    starts: list[tuple[int, int]]  # (century, year) that the tokenizer splits as it must

    def sides(self, year: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of (the right, the wrong) next tokens after a start in ``year``."""
        value = year // 10 if self.by_digit else year
        above = tuple(i for number, i in self.ids.items() if number > value)
        # A full number equal to the start is wrong; an equal tens digit does not decide.
        limit = value if self.by_digit else value + 1
        return above, tuple(i for number, i in self.ids.items() if number < limit)


def _number_tokens(model: Any) -> _Numbers:
    """Find out by trying how this tokenizer writes a year after its century."""
    continuations: dict[tuple[int, int], list[int]] = {}
    for century in CENTURIES:
        context = _text("war", century, 0).removesuffix(f"00 to the year {century}")
        stem = token_ids(model, context)
        for year in range(100):
            ids = token_ids(model, f"{context}{year:02d}")
            # If the year merges with the century, the prompt's end "... to the year 17" is not
            # the beginning of a year at all, and nothing that follows it can be scored.
            if ids[: len(stem)] == stem:
                continuations[century, year] = ids[len(stem) :]

    def spells(ids: list[int], text: str) -> bool:
        return model.tokenizer.decode(ids).strip() == text

    whole = {
        (century, year): ids[0]
        for (century, year), ids in continuations.items()
        if len(ids) == 1 and spells(ids, f"{year:02d}")
    }
    if whole:
        by_year = {year: i for (_, year), i in sorted(whole.items(), reverse=True)}
        # Some numbers may merge with every century (GPT-2 has tokens " 1100" to " 1700"), yet the
        # model can still answer "00". Where a bare number is the same token as one that follows
        # a century, look the missing ones up bare.
        bare = {year: single_token(model, f"{year:02d}") for year in range(100)}
        if all(bare[year] == i for year, i in by_year.items()):
            by_year |= {year: i for year, i in bare.items() if i is not None}
        return _Numbers(False, dict(sorted(by_year.items())), sorted(whole))

    digits = {
        (century, year): ids[0]
        for (century, year), ids in continuations.items()
        if len(ids) == 2 and spells(ids[:1], str(year // 10)) and spells(ids[1:], str(year % 10))
    }
    if digits:
        by_digit = {year // 10: i for (_, year), i in sorted(digits.items(), reverse=True)}
        return _Numbers(True, dict(sorted(by_digit.items())), sorted(digits))

    shown = "|".join(model.tokenizer.decode([i]) for i in token_ids(model, _text("war", 17, 32)))
    raise ValueError(
        f"task 'greater_than' needs a tokenizer that, after a century, writes the two last digits "
        f"of a year as one token or as two digits. This one does neither: {shown}"
    )
