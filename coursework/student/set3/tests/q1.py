from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = 4

@test_case(points=1, hidden=False)
def test_two_components(second_order):
    import torch

    def metric(a):
        return 7 + 2 * a[0] + 3 * a[1] + a[0] ** 2 - 2 * a[1] ** 2 + 4 * a[0] * a[1]
    estimate = second_order(metric, 2)
    assert isinstance(estimate, torch.Tensor), 'Return a tensor.'
    assert estimate.shape == (2,), f'Return one number a component: shape (2,), not {tuple(estimate.shape)}.'
    assert not estimate.requires_grad, 'The result still drags its graph along: detach it.'
    found = [round(value, 3) for value in estimate.tolist()]
    assert found != [2, 3], 'This is attribution patching: the quadratic terms are missing.'
    assert found != [1, -2], 'These are the quadratic terms alone. Add them to the gradient.'
    assert found != [4, -1], 'The half is missing: q = H_cc / 2.'
    assert found != [5, 3], 'These are sums over rows of H: the interactions do not belong here.'
    assert found != [8, 3], 'Rows of H were summed (no interactions, please), and without a half.'
    assert found != [10, 8], 'These are effects with M(0) in them. An effect is a difference.'
    assert found == [3, 1], f'It should be [2 + 1, 3 - 2] = [3, 1], not {found}.'
    try:
        line = second_order(lambda a: 2 * a[0] - a[1], 2)
    except RuntimeError as error:
        raise AssertionError('A linear metric ends in an error of autograd: its gradient depends on nothing. Look at gradient.requires_grad first.') from error
    assert line.tolist() == [2, -1], 'Of a linear metric the gradient is the whole effect.'

