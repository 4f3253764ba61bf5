"""Factual completion: a subject, a relation, and an answer that is one token.

Every relation's wording puts the subject at position 3 where a beginning-of-sequence token is
prepended ("<bos>|The|nation|France|has ..."). The paper's corruption replaces the token at
position 3; with this wording it destroys the subject, and so the fact, not just the grammar.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hvp_utils import _checks

from .prompt_pair import PromptPair
from .sampling import (
    RANDOM_TOKEN_POSITION,
    ordinary_tokens,
    require_tokenizer,
    single_token,
    take,
    token_ids,
    with_random_token,
)

Corruption = Literal["random_token", "subject_swap", "resample", "zero"]


@dataclass(frozen=True)
class Fact:
    """One prompt of a relation: ``text`` ends just before ``answer`` (no leading space)."""

    relation: str
    subject: str
    answer: str

    @property
    def text(self) -> str:
        """The prompt."""
        return RELATIONS[self.relation].format(self.subject)


RELATIONS = {
    "capital": "The nation {} has its capital in the city of",
    "language": "People in {} mostly speak the language called",
    "continent": "The country {} lies on the continent of",
    "landmark": "The landmark {} can be seen in the city of",
    "symbol": "The element {} is represented by the symbol",
    "opposite": "The word {} is the opposite of the word",
    "author": "The book {} was written by a famous author named",
    "sport": "The athlete {} became famous playing the sport of",
    "maker": "The product {} is a registered trademark of",
    "birthplace": "The artist {} was born in the country of",
    "month": "The month {} ends, and the next month is",
}

# "subject>answer", subjects separated by semicolons.
_FACTS = {
    "capital": """
        France>Paris; Germany>Berlin; Italy>Rome; Spain>Madrid; Russia>Moscow; Japan>Tokyo;
        China>Beijing; England>London; Egypt>Cairo; Austria>Vienna; Ireland>Dublin; Greece>Athens;
        Poland>Warsaw; Hungary>Budapest; Norway>Oslo; Sweden>Stockholm; Iraq>Baghdad; Iran>Tehran;
        Syria>Damascus; Belgium>Brussels; Denmark>Copenhagen; Portugal>Lisbon;
        Turkey>Ankara; Canada>Ottawa; Lebanon>Beirut; Kenya>Nairobi; Finland>Helsinki
        """,
    "language": """
        France>French; Germany>German; Italy>Italian; Spain>Spanish; Russia>Russian;
        Japan>Japanese; China>Chinese; Portugal>Portuguese; Greece>Greek; Turkey>Turkish;
        Poland>Polish; Sweden>Swedish; Mexico>Spanish; Brazil>Portuguese; Egypt>Arabic;
        Austria>German; Israel>Hebrew; Denmark>Danish; Finland>Finnish; Norway>Norwegian;
        Hungary>Hungarian; Iran>Persian; England>English; Cuba>Spanish; Iraq>Arabic
        """,
    "continent": """
        Kenya>Africa; France>Europe; Japan>Asia; Nigeria>Africa; China>Asia; Germany>Europe;
        Egypt>Africa; India>Asia; Poland>Europe; Spain>Europe; Thailand>Asia; Ghana>Africa;
        Vietnam>Asia; Italy>Europe; Sweden>Europe; Ethiopia>Africa; Nepal>Asia
        """,
    "landmark": """
        Eiffel Tower>Paris; Colosseum>Rome; Brandenburg Gate>Berlin; Big Ben>London;
        Louvre>Paris; Kremlin>Moscow; Acropolis>Athens; Tower Bridge>London; Trevi Fountain>Rome;
        Hagia Sophia>Istanbul; Notre Dame>Paris; Buckingham Palace>London
        """,
    "symbol": """
        hydrogen>H; oxygen>O; carbon>C; nitrogen>N; iron>Fe; gold>Au; silver>Ag; sodium>Na;
        potassium>K; calcium>Ca; helium>He; copper>Cu; lead>Pb; zinc>Zn; magnesium>Mg; iodine>I;
        phosphorus>P; uranium>U; sulfur>S; aluminum>Al
        """,
    "opposite": """
        hot>cold; up>down; big>small; black>white; left>right; good>bad; day>night; fast>slow;
        rich>poor; happy>sad; light>dark; high>low; wet>dry; hard>soft; war>peace; strong>weak;
        love>hate; north>south; east>west; male>female; positive>negative; early>late; true>false;
        inside>outside; open>closed; young>old
        """,
    "author": """
        Hamlet>William; Macbeth>William; Frankenstein>Mary; Dracula>Bram; Animal Farm>George;
        The Hobbit>J; Pride and Prejudice>Jane; A Christmas Carol>Charles; Romeo and Juliet>William
        """,
    "sport": """
        Michael Jordan>basketball; Babe Ruth>baseball; Tiger Woods>golf; Roger Federer>tennis;
        Wayne Gretzky>hockey; Serena Williams>tennis; LeBron James>basketball; Tom Brady>football;
        Kobe Bryant>basketball; Mickey Mantle>baseball; Pele>football; Derek Jeter>baseball;
        Jackie Robinson>baseball; Larry Bird>basketball
        """,
    "maker": """
        iPhone>Apple; Windows>Microsoft; PlayStation>Sony; Gmail>Google; Kindle>Amazon;
        Photoshop>Adobe; Xbox>Microsoft; Macintosh>Apple; Android>Google; Prius>Toyota; iPad>Apple;
        Walkman>Sony; Game Boy>Nintendo
        """,
    "birthplace": """
        Mozart>Austria; Beethoven>Germany; Chopin>Poland; Verdi>Italy; Debussy>France;
        Picasso>Spain; Rembrandt>Holland; Monet>France; Michelangelo>Italy; Goya>Spain;
        Leonardo da Vinci>Italy; Frida Kahlo>Mexico; Bach>Germany
        """,
    "month": """
        January>February; February>March; March>April; April>May; May>June; June>July; July>August;
        August>September; September>October; October>November; November>December; December>January
        """,
}
FACTS = tuple(
    Fact(relation, *entry.strip().split(">"))
    for relation, entries in _FACTS.items()
    for entry in entries.split(";")
)


def factual(
    model: Any, n: int, seed: int = 0, corruption: Corruption = "random_token"
) -> list[PromptPair]:
    """Make factual completion pairs (paper, section 4 and appendix E.4); metric ``log_prob``.

    Whether the model knows the answer is not checked: a list must not depend on what the model
    happens to get right, or models could not be compared on it.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.
        corruption: ``"random_token"`` replaces the token at position 3 (a prepended
            beginning-of-sequence token is position 0) by a uniformly drawn token, as in the paper;
            prompts are then token ids, with the text in ``name``. ``"subject_swap"`` asks the same
            relation of another subject with as many tokens and another answer, which becomes
            ``wrong_answer``; prompts are text. ``"resample"`` takes any other prompt with as many
            tokens and another answer, of whatever relation. ``"zero"`` is zero ablation: no
            corrupted prompt at all. All but ``"subject_swap"`` make the same clean prompts.

    Returns:
        Pairs whose answers are one token, with a leading space, in this model.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, the corruption is unknown, or the
            model has no tokenizer.
    """
    _checks.one_of("corruption", corruption, get_args(Corruption))
    require_tokenizer(model, "factual")
    lengths = {
        fact: len(token_ids(model, fact.text))
        for fact in FACTS
        if single_token(model, f" {fact.answer}") is not None
    }
    if corruption == "subject_swap":
        return _subject_swap_pairs(lengths, n, seed)
    return _anything_else_pairs(model, lengths, n, seed, corruption)


def _anything_else_pairs(
    model: Any, lengths: dict[Fact, int], n: int, seed: int, corruption: Corruption
) -> list[PromptPair]:
    # The last position is where the answer is read; corrupting it would be another question.
    facts = [fact for fact, length in lengths.items() if length > RANDOM_TOKEN_POSITION + 1]
    ordinary = ordinary_tokens(model)

    def build(index: int, rng: random.Random) -> PromptPair | None:
        fact = facts[index]
        # Drawn in any case, so that the prompts which follow are the same for each corruption.
        clean, corrupted, change = with_random_token(model, fact.text, ordinary, rng)
        others = [
            other.text
            for other in facts
            if lengths[other] == lengths[fact] and other.answer != fact.answer
        ]
        if not others:  # left out of every list, for the same reason
            return None
        if corruption == "random_token":
            name = f"factual {fact.relation}: {change}"
            return PromptPair(clean, corrupted, f" {fact.answer}", name=name)
        name, other = f"factual {fact.relation}: {fact.text}", None
        if corruption == "resample":
            other = random.Random(f"factual resample/{seed}/{index}").choice(others)
            name += f" [{other}]"
        return PromptPair(fact.text, other, f" {fact.answer}", name=name)

    return take(n, len(facts), build, "factual", seed)


def _subject_swap_pairs(lengths: dict[Fact, int], n: int, seed: int) -> list[PromptPair]:
    partners = {
        fact: [
            other
            for other in lengths
            if other.relation == fact.relation
            and other.answer != fact.answer
            and lengths[other] == lengths[fact]
        ]
        for fact in lengths
    }
    facts = [fact for fact in lengths if partners[fact]]

    def build(index: int, rng: random.Random) -> PromptPair:
        fact = facts[index]
        other = rng.choice(partners[fact])
        name = f"factual {fact.relation}: {fact.text} [{fact.subject} -> {other.subject}]"
        return PromptPair(fact.text, other.text, f" {fact.answer}", f" {other.answer}", name=name)

    return take(n, len(facts), build, "factual_swap", seed)
