"""Wrong answers to the exercises of chapter 8, and what the checks say to them."""

WRONG = {
    "check_extrapolated": [
        (lambda f5, f10: 2 * f10 - f5, "this cancels an error in 1/K"),
        (lambda f5, f10: (f5 + f10) / 2, "a mean keeps most of the error"),
        (lambda f5, f10: (4 * f5 - f10) / 3, "you swapped the two"),
        (lambda f5, f10: 4 * f10 - f5, "the weights must add up to 1"),
    ],
    "check_repaired": [
        (lambda slope, c, s, w: (w * (1 - s) * c).sum(), "the slope, is missing"),
        (lambda slope, c, s, w: slope - (w * s * s.log() * c).sum(), "this is the old weight"),
        (lambda slope, c, s, w: slope + (w * s * c).sum(), "the weight is 1 − s"),
        (lambda slope, c, s, w: slope + (w * c).sum(), "this is the slope at the end"),
        (lambda slope, c, s, w: slope + ((1 - s) * c).sum(), "the weights of the rule are missing"),
        (lambda slope, c, s, w: slope - (w * (1 - s) * c).sum(), "the correction is added"),
    ],
}
