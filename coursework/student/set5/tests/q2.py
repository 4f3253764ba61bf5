from otter.test_files import test_case

OK_FORMAT = False

name = "q2"
points = 6

@test_case(points=1, hidden=False)
def test_kinds(verdict):
    import torch

    def leaves(t):
        return torch.sigmoid(4.6 * (1 - 2 * t))

    def stays(t):
        return 0.5 + 0 * t
    found = verdict(lambda t, p: 3 * t, leaves, lambda t: 3 * t)
    assert found == 'well judged', f'On a straight path AP is exact, whatever the pattern does; you say {found!r}.'
    found = verdict(lambda t, p: 1 - p, leaves, lambda t: 1 - leaves(t))
    assert found != 'zero gradient', 'It has a zero gradient, and a cause for it: saturation comes first.'
    assert found == 'attention saturation', f'All of this error comes from a pattern that leaves 0.99; you say {found!r}.'
    found = verdict(lambda t, p: t + t ** 2 + 0.01 * (1 - p), leaves, lambda t: t + t ** 2)
    assert found != 'attention saturation', 'The pattern is saturated and leaves, but the error is that of t**2. A symptom is not a cause: put the tangent in.'
    assert found == 'none of the three', f'This error comes from t**2: none of the three; you say {found!r}.'
    found = verdict(lambda t, p: 5 * t - 5.1 * t + 0.3 * t ** 2, stays, lambda t: 5 * t)
    assert found == 'effect cancellation', f'+5 and -4.8 are cancellation; you say {found!r}.'
    found = verdict(lambda t, p: torch.sigmoid(20 * t - 10), stays, lambda t: torch.sigmoid(20 * t - 10))
    assert found == 'zero gradient', f'A step without saturation or cancellation is a zero gradient; you say {found!r}.'

