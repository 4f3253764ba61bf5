from otter.test_files import test_case

OK_FORMAT = False

name = "q6"
points = 3

@test_case(points=0, hidden=False)
def test_q6_cubic(powers):
    got = powers(lambda t: 1 + t + t ** 2 + t ** 3, 1.0, 1.0, 2.0, [2.0 ** (-i) for i in range(6, 11)])
    assert got is not None, 'Your function returns nothing yet.'
    assert len(got) == 2, "Return two powers, the tangent's and the parabola's."
    tangent, parabola = map(float, got)
    assert abs(tangent) < 99 and abs(parabola) < 99, 'Not a finite number: some error came out as 0. Compute in float64.'
    assert abs(tangent - 1) > 0.1, "Power 1: the term s·g'(0) is missing."
    assert abs(tangent) > 0.1, "Power 0: is g(0) subtracted, and g'(0) multiplied by s?"
    assert abs(tangent - 0.5) > 0.1, 'One half: the axes are exchanged. Fit log error against log s.'
    assert tangent > 0, 'Negative: the error shrinks with s. Did you take an inverse?'
    assert abs(tangent - 2) < 0.1, f"The tangent's error falls with the power 2, not {tangent:.2f}."
    assert abs(parabola - 2) > 0.1, "The parabola's power is still 2: its last term has a wrong factor. Taylor says s²/2."
    assert abs(parabola - 3) < 0.1, f"The parabola's error falls with the power 3, not {parabola:.2f}."

