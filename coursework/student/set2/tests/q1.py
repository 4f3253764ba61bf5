from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = 3

@test_case(points=1, hidden=False)
def test_cubic(split):
    parts = split(lambda t: 2 + 3 * t + 4 * t ** 2 - 5 * t ** 3)
    assert parts is not None and len(parts) == 3, 'Return three numbers: f_AP, q and R3.'
    f_ap, q, rest = (float(part) for part in parts)

    def near(a, b):
        return abs(a - b) < 0.0001
    assert not near(f_ap, -4), 'This is the slope at t = 1. Attribution patching starts at 0.'
    assert not near(f_ap, 2), 'This is g(0), the value of the metric. f_AP is the slope there.'
    assert near(f_ap, 3), f'f_AP should be 3, the slope of 2 + 3t + 4t² - 5t³ at 0, not {f_ap}.'
    assert not near(q, 8), "q is 8 here: g'' itself. The quadratic term is half of it."
    assert not near(q, -11), 'This is the curvature at t = 1. q is taken at t = 0.'
    assert near(q, 4), f'q should be 4, half the second derivative at 0, not {q}.'
    assert not near(rest, -1), 'This is the whole error of AP. Take q off it too.'
    assert not near(rest, 5), 'The sign is the wrong way round: R3 is truth less estimate.'
    assert not near(rest, -3), 'Did you forget to take off g(0)? The effect is g(1) - g(0).'
    assert near(rest, -5), f'R3 should be -5, what the cubic term adds, not {rest}.'
    try:
        line = split(lambda t: 3 * t + 1)
    except RuntimeError as error:
        raise AssertionError('A straight line ends in an error of autograd: its slope does not depend on t. Look at slope.requires_grad before you differentiate it.') from error
    assert [round(float(part), 6) for part in line] == [3, 0, 0], 'On 3t + 1 it should be 3, 0, 0.'

