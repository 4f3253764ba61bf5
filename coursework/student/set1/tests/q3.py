from otter.test_files import test_case

OK_FORMAT = False

name = "q3"
points = 6

@test_case(points=1, hidden=False)
def test_q3_toy(attribution, toy, torch):
    base, other = (torch.tensor([[0, 0, 1]]), torch.tensor([[2, 0, 1]]))
    got = attribution(toy, base, other, 0)
    assert got is not None, 'Your function returns nothing yet.'
    assert tuple(got.shape) == (4,), f'One number for each of the 4 heads, not a tensor of shape {tuple(got.shape)}.'
    got = got.detach()
    want = torch.tensor([0.0467, 0.0233, 0.0035, -0.0018])
    assert not torch.allclose(got, -want, atol=0.0003), 'Every sign is turned: the difference is other minus base.'
    assert not torch.allclose(got, want / 3, atol=0.0003), 'Sum over the positions; you seem to take their mean.'
    assert not torch.allclose(got, torch.tensor([0.036, 0.018, 0.0028, -0.0014]), atol=0.0003), 'The gradient seems to come from the `other` run. The tangent starts at `base`.'
    assert torch.allclose(got, want, atol=0.0003), f'Expected {want.tolist()}, got {[round(x, 4) for x in got.tolist()]}.'

