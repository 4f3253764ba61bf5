"""Countries and their capitals, after Hanna et al. 2024.

"They left France, whose capital," is continued with "Paris". The corrupted prompt names another
country, so that the capital of that one is its answer. The few words before the country give it the
token that it has in the middle of a text, and there can be more prompts than countries.
"""

from __future__ import annotations

import random
from typing import Any, cast

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take
from .wording import changed_positions, one_token

OPENINGS = ("They left", "We visited", "She loves", "He knows", "They crossed", "We reached")
OPENINGS += ("She described", "He missed")
# "country>capital": one word each, no country that takes an article, no disputed capital.
_CAPITALS = """
    Afghanistan>Kabul; Albania>Tirana; Algeria>Algiers; Angola>Luanda; Armenia>Yerevan;
    Australia>Canberra; Austria>Vienna; Bahrain>Manama; Bangladesh>Dhaka; Belgium>Brussels;
    Bulgaria>Sofia; Canada>Ottawa; Chile>Santiago; China>Beijing; Croatia>Zagreb; Cuba>Havana;
    Cyprus>Nicosia; Denmark>Copenhagen; Ecuador>Quito; Egypt>Cairo; England>London;
    Estonia>Tallinn; Finland>Helsinki; France>Paris; Georgia>Tbilisi; Germany>Berlin; Ghana>Accra;
    Greece>Athens; Hungary>Budapest; Iceland>Reykjavik; Iran>Tehran; Iraq>Baghdad; Ireland>Dublin;
    Italy>Rome; Jamaica>Kingston; Japan>Tokyo; Jordan>Amman; Kenya>Nairobi; Latvia>Riga;
    Lebanon>Beirut; Libya>Tripoli; Lithuania>Vilnius; Morocco>Rabat; Nepal>Kathmandu;
    Nigeria>Abuja; Norway>Oslo; Pakistan>Islamabad; Peru>Lima; Poland>Warsaw; Portugal>Lisbon;
    Qatar>Doha; Romania>Bucharest; Russia>Moscow; Rwanda>Kigali; Scotland>Edinburgh; Senegal>Dakar;
    Serbia>Belgrade; Slovakia>Bratislava; Slovenia>Ljubljana; Spain>Madrid; Sudan>Khartoum;
    Sweden>Stockholm; Switzerland>Bern; Syria>Damascus; Thailand>Bangkok; Tunisia>Tunis;
    Turkey>Ankara; Uganda>Kampala; Ukraine>Kyiv; Uruguay>Montevideo; Venezuela>Caracas;
    Vietnam>Hanoi; Wales>Cardiff; Zambia>Lusaka; Zimbabwe>Harare
    """
CAPITALS = dict(cast("list[str]", entry.strip().split(">")) for entry in _CAPITALS.split(";"))


def country_capital(model: Any, n: int, seed: int = 0) -> list[PromptPair]:
    """Make country-capital pairs (Hanna et al. 2024); metric ``logit_diff``.

    All prompts have the same shape: the country is one token, and common words are.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.

    Returns:
        Pairs whose ``answer`` is the country's capital and whose ``wrong_answer`` is that of the
        country in the corrupted prompt, each one token, with a leading space.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, or the model has no tokenizer.
    """
    require_tokenizer(model, "country_capital")
    countries = [c for c in CAPITALS.items() if len(one_token(model, c)) == 2]

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, opening = divmod(index, len(OPENINGS))
        country, capital = countries[index]
        if len(countries) < 2:
            return None
        other, wrong = rng.choice([c for c in countries if c[0] != country])
        clean, corrupted = (
            f"{OPENINGS[opening]} {name}, whose capital," for name in (country, other)
        )
        if len(changed_positions(model, clean, corrupted) or ()) != 1:
            return None
        name = f"country_capital: {clean} [{country} -> {other}]"
        return PromptPair(clean, corrupted, f" {capital}", f" {wrong}", "logit_diff", name)

    return take(n, len(countries) * len(OPENINGS), build, "country_capital", seed)
