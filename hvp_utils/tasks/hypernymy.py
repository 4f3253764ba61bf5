"""Hypernymy, the word for a class of things, after Hanna et al. 2024.

"They mentioned diamonds and other" is continued with a word for what diamonds are: "gems",
"stones", "jewels". The corrupted prompt names a thing of another class.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take
from .wording import changed_positions, one_token, spaced

OPENINGS = ("They mentioned", "We like", "She studied", "He described", "They saw", "We know")


@dataclass(frozen=True)
class ThingClass:
    """A class of things: words for it, and members.

    Attributes:
        field: What it belongs to itself. Two classes of one field are never compared: a lion is no
            bird, but "animals" is no wrong word for birds.
        words: Words for the class; any of them is an answer.
        members: Things in it, in no other class.
    """

    field: str
    words: tuple[str, ...]
    members: tuple[str, ...]


# "field: words for the class: members".
_CLASSES = """
    animals: animals, creatures, mammals, beasts, wildlife: lions, tigers, elephants, bears, wolves,
        dogs, cats, horses, cows, pigs, sheep, goats, rabbits, mice, rats, monkeys, deer
    animals: birds, species: owls, eagles, ducks, chickens, pigeons, crows, geese, hawks, parrots
    animals: insects, bugs: ants, bees, flies, mosquitoes, butterflies, beetles
    food: fruits, fruit: apples, oranges, bananas, grapes, peaches, pears, lemons, strawberries,
        cherries, berries
    food: vegetables, veggies, crops: carrots, onions, potatoes, tomatoes, beans, cabbage, spinach,
        garlic, peas
    food: drinks, beverages: coffee, tea, beer, wine, milk, juice, vodka
    clothing: clothes, clothing, garments: shirts, pants, dresses, jackets, coats, socks, skirts,
        jeans, gloves
    furniture: furniture, furnishings: chairs, tables, beds, desks, sofas, shelves, couches
    vehicles: vehicles, transport, transportation: cars, trucks, buses, trains, bicycles, boats,
        motorcycles, ships, planes
    weapons: weapons, arms, weaponry: guns, swords, knives, bombs, rifles, pistols, spears
    tools: tools, equipment: hammers, drills, screws, wrenches, shovels, axes
    jewels: gems, gemstones, stones, jewels, minerals: diamonds, pearls, rubies, crystals, emeralds
    metals: metals, metal: iron, copper, gold, silver, aluminum, steel, zinc, nickel, brass
    music: instruments: violin, piano, guitar, drums, flute, guitars, pianos
    sports: sports, sport, games: football, soccer, tennis, basketball, baseball, hockey, golf,
        rugby, boxing
    family: relatives, family, relations: uncles, aunts, cousins, grandparents, sisters, brothers,
        parents
    countries: countries, nations, states: France, Germany, Italy, Spain, China, Japan, Brazil,
        India, Russia, Mexico, Canada, Egypt, Sweden, Poland
    diseases: diseases, illnesses, conditions, disorders: cancer, diabetes, malaria, flu, asthma,
        measles, pneumonia, tuberculosis
    emotions: emotions, feelings: anger, fear, joy, sadness, grief, anxiety, happiness
    sciences: sciences, subjects, disciplines, fields: physics, chemistry, biology, mathematics,
        geology, astronomy
    """


def _read(text: str) -> tuple[ThingClass, ...]:
    # A line that begins a class has two colons; the lines that go on with its members have none.
    entries: list[list[str]] = []
    for line in text.strip().splitlines():
        if ":" in line:
            entries.append(line.split(":"))
        else:
            entries[-1][-1] += line
    return tuple(
        ThingClass(
            field.strip(),
            tuple(word.strip() for word in words.split(",")),
            tuple(member.strip() for member in members.split(",") if member.strip()),
        )
        for field, words, members in entries
    )


CLASSES = _read(_CLASSES)


def hypernymy(model: Any, n: int, seed: int = 0) -> list[PromptPair]:
    """Make hypernymy pairs (Hanna et al. 2024); metric ``prob_diff``.

    All prompts have the same shape: the thing is one token, and common words are.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.

    Returns:
        Pairs whose answers are the words for the class of the clean prompt's thing and whose wrong
        answers are those for the class of the corrupted prompt's, where they are one token. The two
        classes are of different fields.

    Raises:
        ValueError: If fewer than ``n`` different prompts exist, or the model has no tokenizer.
    """
    require_tokenizer(model, "hypernymy")
    words = {kind: spaced(one_token(model, kind.words)) for kind in CLASSES}
    things = [
        (thing, kind) for kind in CLASSES if words[kind] for thing in one_token(model, kind.members)
    ]

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, opening = divmod(index, len(OPENINGS))
        thing, kind = things[index]
        others = [(other, its) for other, its in things if its.field != kind.field]
        if not others:
            return None
        other, its = rng.choice(others)
        clean, corrupted = (f"{OPENINGS[opening]} {it} and other" for it in (thing, other))
        if len(changed_positions(model, clean, corrupted) or ()) != 1:
            return None
        name = f"hypernymy: {clean} [{thing} -> {other}]"
        return PromptPair(clean, corrupted, words[kind], words[its], "prob_diff", name)

    return take(n, len(things) * len(OPENINGS), build, "hypernymy", seed)
