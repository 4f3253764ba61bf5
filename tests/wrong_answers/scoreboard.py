"""Wrong answers to the exercises of chapter 16, and what the checks say to them."""

from hvp_utils.claims import UNTESTED, VERDICTS, verdict

WRONG = {
    "check_judge": [
        (
            lambda gains: verdict(sum(gains.values()) > 0, any(g > 0 for g in gains.values())),
            "a mean hides the model on which the method does harm",
        ),
        (lambda gains: verdict(all(g > 0 for g in gains.values())), "give `verdict` that too"),
        (
            lambda gains: verdict(min(gains.values()) >= 0, max(gains.values()) > 0),
            "no gain is not *more*",
        ),
    ],
    "check_share_holding": [
        (lambda verdicts: 100 * verdicts.count(VERDICTS[0]) / len(verdicts), "Leave it out below"),
        (
            lambda verdicts: (
                verdicts.count(VERDICTS[0]) / (len(verdicts) - verdicts.count(UNTESTED))
            ),
            "it is a fraction",
        ),
        (lambda verdicts: verdicts.count(VERDICTS[0]), "Give percent of those tested"),
    ],
}
