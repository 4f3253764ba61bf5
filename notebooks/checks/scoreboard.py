"""Checks of chapter 16."""

from . import Wrong, check, same

__all__ = ["check_judge", "check_share_holding"]

HOLDS, PARTLY, DOES_NOT, UNTESTED = (
    "holds",
    "holds partly",
    "does not hold here",
    "cannot be tested here",
)


@check
def check_judge(judge):
    """Each verdict once, and the edges of the rule."""
    cases = [
        ({"small": 2.0, "large": 1.0}, HOLDS, {}),
        (
            {"small": 12.0, "large": -1.0},
            PARTLY,
            {
                HOLDS: "a mean hides the model on which the method does harm.",
                DOES_NOT: "more in one model is *partly*: give `verdict` that too.",
            },
        ),
        ({"small": 1.0, "large": -12.0}, PARTLY, {DOES_NOT: "one model is enough for *partly*."}),
        ({"small": -2.0, "large": -1.0}, DOES_NOT, {}),
        (
            {"small": 2.0, "large": 0.0},
            PARTLY,
            {HOLDS: "no gain is not *more*: 0 does not count."},
        ),
        (
            {"small": 0.0, "large": 0.0},
            DOES_NOT,
            {HOLDS: "0 is not *more*.", PARTLY: "0 is not *more*."},
        ),
        ({"a": 1.0, "b": 1.0, "c": -1.0}, PARTLY, {HOLDS: "all models have to agree, not most."}),
    ]
    for gains, right, mistakes in cases:
        got = judge(gains)
        if got != right:
            why = mistakes.get(got, f"it says {got!r}, and {right!r} is right.")
            raise Wrong(f"for gains {list(gains.values())}: {why}")
    return "the rule was there before the numbers, so it can come out three ways."


@check
def check_share_holding(share_holding):
    """Eight claims, two of which could not be tested."""
    verdicts = [HOLDS] * 3 + [PARTLY] * 2 + [DOES_NOT] + [UNTESTED] * 2
    same(
        share_holding(verdicts),
        50.0,
        [
            (0.5, "it is a fraction. Give percent."),
            (37.5, "what could not be tested says nothing. Leave it out below too."),
            (500 / 6, "it counts what holds partly."),
            (62.5, "it counts what holds partly, and divides by what could not be tested too."),
            (100 * 6 / 8, "that is the share that could be tested."),
            (3, "that is how many hold. Give percent of those tested."),
            (100 * 3 / 4, "what holds partly was tested: it belongs to the claims below."),
        ],
        "three that hold, two partly, one that does not, two untested",
    )
    return "a claim that cannot be tested is neither for nor against."
