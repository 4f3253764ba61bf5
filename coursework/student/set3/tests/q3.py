from otter.test_files import test_case

OK_FORMAT = False

name = "q3"
points = 5

@test_case(points=1, hidden=False)
def test_cubic(by_rule):

    def g(t):
        return 2 + 3 * t + 4 * t ** 2 - 5 * t ** 3

    def near(a, b):
        return a is not None and abs(float(a) - b) < 0.0001
    left = by_rule(g, 2, 'left')
    assert left is not None, 'Return a number.'
    assert not near(left, -0.375), 'These are right ends. The pieces start at 0 and at 1/2.'
    assert not near(left, -0.5), 'These are the ends of the whole way. Take the left end of each piece.'
    assert not near(left, 6.25), 'Each of n pieces is 1/n long: a mean of slopes, not their sum.'
    assert near(left, 3.125), f'left, n = 2: (3 + 3.25)/2 = 3.125, not {left}.'
    assert near(by_rule(g, 1, 'left'), 3), 'left with one point is attribution patching: 3.'
    middle = by_rule(g, 1, 'midpoint')
    assert near(middle, 3.25), f'midpoint, n = 1: the slope at 1/2, which is 3.25, not {middle}.'
    middle = by_rule(g, 2, 'midpoint')
    assert not near(middle, 3.25), 'midpoint, n = 2: the points are 1/4 and 3/4.'
    assert near(middle, 2.3125), f'midpoint, n = 2: (4.0625 + 0.5625)/2, not {middle}.'
    gauss = by_rule(g, 2, 'gauss')
    assert not near(gauss, 4), 'The weights of leggauss add up to 2, the length of [-1, 1]. Yours is 1.'
    assert not near(gauss, -4), 'leggauss is made for [-1, 1]: map points and weights to [0, 1].'
    assert not near(gauss, -2), 'leggauss is made for [-1, 1]: map the points too, by t = (x + 1)/2.'
    assert near(gauss, 2), f'Two Gauss points are exact on a cubic: 2, not {gauss}.'
    assert near(by_rule(lambda t: 3 * t + 1, 3, 'gauss'), 3), 'On 3t + 1 every rule gives 3.'
    try:
        by_rule(g, 2, 'simpson')
    except ValueError:
        return
    raise AssertionError('A rule that is not among the three gets a ValueError.')

