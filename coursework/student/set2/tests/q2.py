from otter.test_files import test_case

OK_FORMAT = False

name = "q2"
points = 4

@test_case(points=1, hidden=False)
def test_two_by_two(hvp):
    import torch
    A, b = (torch.tensor([[2.0, 1.0], [1.0, -3.0]]), torch.tensor([10.0, 20.0]))
    x, v = (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]))
    product = hvp(lambda x: b @ x + x @ A @ x / 2, x, v)
    assert isinstance(product, torch.Tensor), 'Return a tensor.'
    assert not x.requires_grad and x.tolist() == [1, 1], 'You changed x itself: work on a copy.'
    assert product.shape != (), 'This is a number, v·Hv perhaps. Return the vector Hv.'
    assert product.shape == x.shape, f'Hv has the shape of x, (2,), not {tuple(product.shape)}.'
    assert not product.requires_grad, 'The result still drags its graph along: detach it.'
    found = [round(value, 4) for value in product.tolist()]
    assert found != [13, 18], 'This is the gradient. Differentiate its dot product with v.'
    assert found != [3, -2], 'This is H times x, or H times ones. Multiply the gradient by v.'
    assert found != [2, -6], 'Only the diagonal of H was used: the interactions are missing.'
    assert found != [2, -2.5], 'This is half of Hv. The half belongs to q, not to the product.'
    assert found == [4, -5], f'Hv should be [4, -5], not {found}.'
    try:
        flat = hvp(lambda x: 3 * x.sum(), x, v)
    except RuntimeError as error:
        raise AssertionError('A linear f ends in an error of autograd: its gradient does not depend on x, and Hv = 0.') from error
    assert flat.tolist() == [0, 0], 'For a linear f the product is 0.'

