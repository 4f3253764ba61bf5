from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = 4

@test_case(points=1, hidden=False)
def test_paths(saturated, cancelling, stepped):
    import torch

    def at(path, t, *how):
        return round(float(path(torch.tensor(t, dtype=torch.double), *how)), 4)
    assert at(saturated, 0.0, 0.9, 10.0) != 9, 'At t = 0 the head reads A, which is worth nothing. Are A and B interchanged?'
    assert at(saturated, 0.0, 0.9, 10.0) == 1, 'At t = 0 B is read with probability 0.1 and worth 10: that makes 1.'
    assert at(saturated, 1.0, 0.9, 10.0) == 9, 'At t = 1 B is read with probability 0.9 and worth 10: that makes 9.'
    quarter = at(saturated, 0.25, 0.9, 10.0)
    assert quarter != 3, 'At t = 1/4 you give 3: the probability moves in a straight line. Move the difference of the scores.'
    assert quarter == 2.5, f'At t = 1/4 the odds of A are 9 to the power 1/2, so B has probability 1/4: 2.5, not {quarter}.'
    assert at(cancelling, 1.0, 5.0, -4.8, 0.1) == 0.2, 'At t = 1 the effects are 5 and -4.8, whatever the slope was at first.'
    half = at(cancelling, 0.5, 5.0, -4.0, 0.5)
    assert half != 0.5, 'At t = 1/2 the indirect effect is on its chord: the slope at 0 must be (1 + over) times indirect.'
    assert half == 0, f'At t = 1/2 the effects are 2.5 and -4 (1.5/2 - 0.5/4) = -2.5: 0, not {half}.'
    assert at(stepped, 0.5, 0.1) == 0.5, 'The middle of the step is at t = 1/2.'
    assert at(stepped, 0.0, 0.1) != round(1 / (1 + 2.718281828 ** 0.05), 4), 'Divide by the width; do not multiply.'
    assert at(stepped, 0.0, 0.1) == 0.0067, 'At t = 0 and width 0.1 the argument is -5.'

