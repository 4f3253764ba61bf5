from otter.test_files import test_case

OK_FORMAT = False

name = "q2"
points = 4

@test_case(points=1, hidden=False)
def test_q2_parabola(readings):
    got = readings(lambda t: 5 + 3 * t + 2 * t * t)
    assert got is not None, 'Your function returns nothing yet.'
    assert len(got) == 3, 'Return three numbers: effect, tangent, parabola.'
    effect, tangent, parabola = map(float, got)
    assert abs(effect - 10) > 1e-06, 'That is g(1). The effect is what is gained: subtract g(0).'
    assert abs(effect - 5) < 1e-06, f'5 + 3t + 2t² gains 5 from 0 to 1, not {effect:.4f}.'
    assert abs(tangent - 7) > 1e-06, 'That is the slope at t = 1. Take it at t = 0.'
    assert abs(tangent - 3) < 1e-06, f'The slope of 5 + 3t + 2t² at 0 is 3, not {tangent:.4f}.'
    assert abs(parabola - 7) > 1e-06, "Taylor's second term is HALF the second derivative."
    assert abs(parabola - 4) > 1e-06, "That is g''(0) alone. The parabola's estimate is g'(0) + g''(0) / 2."
    assert abs(parabola - 5) < 1e-06, f'A parabola describes a parabola exactly: 5, not {parabola:.4f}.'
    try:
        line = readings(lambda t: 3 * t + 1)
    except RuntimeError as error:
        raise AssertionError('A straight line ends in an error of autograd: its slope does not depend on t. Look at slope.requires_grad before you differentiate it.') from error
    assert [round(float(x), 6) for x in line] == [3, 3, 3], 'On the straight line 3t + 1 all three are 3.'

