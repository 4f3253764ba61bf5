from otter.test_files import test_case

OK_FORMAT = False

name = "q2"
points = 5

@test_case(points=1, hidden=False)
def test_cubic(in_steps):

    def g(t):
        return 2 + 3 * t + 4 * t ** 2 - 5 * t ** 3

    def near(a, b):
        return abs(a - b) < 0.0001
    one, two = (in_steps(g, 1), in_steps(g, 2))
    assert one is not None and two is not None, 'Return a number.'
    one, two = (float(one), float(two))
    assert not near(one, 11), 'The half is missing: a parabola gains s h + b h² / 2.'
    assert not near(one, 9), 'The effect is g(1) - g(0): do not add g(0) to it.'
    assert not near(one, -15), 'This starts at the end of the piece. Steps start at k/K, from 0.'
    assert near(one, 7), f'One step is the correction f_AP + q: 3 + 4 = 7, not {one}.'
    assert not near(two, 5), 'Take slope and curvature anew at each step, at t = k/K.'
    assert not near(two, 3.125), 'These are slopes only: the curvatures are missing.'
    assert not near(two, 3.375), 'The curvature is weighted by h² / 2, and h = 1/K: 1/8 for K = 2.'
    assert not near(two, 6.75), 'A step is 1/K long: slopes count 1/K, and curvatures 1/(2K²).'
    assert not near(two, -4), 'These are the ends of the pieces. Steps start at k/K, from 0.'
    assert not near(two, 0.5625), 'These are the middles of the pieces. Steps start at k/K, from 0.'
    assert near(two, 3.25), f'Two steps should give 2 + 5/4 (the error of a cubic falls as 1/K²), not {two}.'
    assert near(float(in_steps(g, 5)), 2.2), 'Five steps should give 2 + 5/25.'
    try:
        line = float(in_steps(lambda t: 3 * t + 1, 2))
    except RuntimeError as error:
        raise AssertionError('A straight line ends in an error of autograd: its slope depends on nothing. Look at slope.requires_grad before you differentiate it.') from error
    assert near(line, 3), f'On 3t + 1 any number of steps gives 3, not {line}.'

