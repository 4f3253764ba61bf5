"""Checks of chapter 1: what one curve says."""

from checks import Wrong, check, parts, same


def _curve(t):
    return t**3 + t**2 + 2 * t  # slope 2 at 0 and 7 at 1; gains 4


@check
def check_other_direction(other_direction):
    """Effect and tangent when the base run is the end of the curve."""
    names = ("the effect", "its estimate")
    effect, estimate = parts(other_direction(_curve), names)
    case = "g(t) = t³ + t² + 2t"
    same(
        effect,
        -4,
        [(4, "the effect has the wrong sign. You start at t = 1 now, and end at t = 0.")],
        f"{case}, the effect,",
    )
    same(
        estimate,
        -7,
        [
            (7, "the estimate has the wrong sign: the way from 1 to 0 is −1 long."),
            (-2, "this is the tangent at t = 0. The base run, where it is taken, is t = 1 now."),
            (2, "this is the tangent of the old direction. The base run is t = 1 now."),
        ],
        f"{case}, the estimate,",
        1e-5,
    )
    return (
        "the effect only changes its sign, and the estimate is another number: −7, where it was 2."
    )


@check
def check_both_ends(both_ends):
    """The mean of the slopes at both ends."""
    got = both_ends(_curve)
    same(
        got,
        4.5,
        [
            (9, "this is the sum of the two slopes. Take half of it."),
            (2, "this is the slope at 0 alone, attribution patching."),
            (7, "this is the slope at 1 alone."),
            (3, "this is HVP: slope and curvature at 0. Here, take two slopes."),
            (4, "this is the true effect, g(1) − g(0). Estimate it from two slopes."),
            (2.5, "this is half the difference of the two slopes. Take half of their sum."),
        ],
        "g(t) = t³ + t² + 2t",
        1e-5,
    )
    if abs(float(both_ends(lambda t: 5 * t)) - 5) > 1e-5:
        raise Wrong("for a straight line, g(t) = 5t, it should return 5.")
    return (
        "on this cubic it misses the effect by −½, and HVP by 1. Both are exact for every parabola."
    )
