from otter.test_files import test_case

OK_FORMAT = False

name = "q5"
points = 5

@test_case(points=1, hidden=False)
def test_two_components(shake):
    import torch
    b = torch.tensor([2.0, 3.0], dtype=torch.float64)
    H = torch.tensor([[2.0, 4.0], [4.0, -4.0]], dtype=torch.float64)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    answer = shake(lambda a: b + H @ a, signs)
    assert answer is not None and len(answer) == 3, 'Return three tensors: f_ap, q and r.'
    for name, part in zip(('f_ap', 'q', 'r'), answer, strict=True):
        assert isinstance(part, torch.Tensor) and part.shape == (2,), f'{name} should be a tensor [n].'
    f_ap, q, r = ([round(x, 3) for x in part.tolist()] for part in answer)
    assert f_ap == [2, 3], f'f_ap is the gradient at 0, [2, 3], not {f_ap}.'
    assert q != [2, -4], 'The half is missing: q = H_cc / 2.'
    assert q != [1, 2], 'Multiply each product by its signs before you take the mean: w_c (Hw)_c.'
    assert q != [0.01, -0.02], 'Divide the change of the gradient by the step.'
    assert q == [1, -2], f'q should be [1, -2], half the diagonal of H, not {q}.'
    assert r != [4.472, 5.657], 'The half is missing: r is half the length of a row.'
    assert r != [1, 2], 'Square first, then take the mean: here entries of opposite sign cancel.'
    assert r != [2, 2], 'This is a mean of magnitudes. A length is the root of a mean of squares.'
    assert r != [10, 16], 'The root is missing.'
    assert r == [2.236, 2.828], f'r should be [√20, √32] / 2, not {r}.'
    assert signs.tolist() == [[1, 1], [1, -1]], 'You changed the signs themselves: work on a copy.'

