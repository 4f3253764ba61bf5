from otter.test_files import test_case

OK_FORMAT = False

name = "q3"
points = 5

@test_case(points=1, hidden=False)
def test_square_and_cube(straight, parts):
    import torch
    x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    y = straight(lambda u: u ** 2)(x)
    assert isinstance(y, torch.Tensor), 'straight(op) must return a function of a tensor.'
    value = float(y.detach())
    assert abs(value - 9) < 1e-09, f'The value has changed: 3² is 9, not {value}. Take the tangent at x itself, not at 0.'
    assert y.requires_grad, 'All derivatives are gone. Only x0 is a constant; x is not.'
    slope, = torch.autograd.grad(y, x, create_graph=True)
    tilt = float(slope.detach())
    assert abs(tilt - 6) < 1e-09, f'The slope has changed: at 3 it is 6, not {tilt}. Is x0 = x.detach()?'
    bend = 0.0
    if slope.requires_grad:
        bend = float(torch.autograd.grad(slope, x, materialize_grads=True)[0])
    assert abs(bend) < 1e-09, 'There is still curvature: J must be taken at x.detach().'
    q, of = parts([lambda t: 1 + 2 * t, lambda u: u ** 2, lambda w: w ** 3])
    assert abs(float(q) - 120) > 1e-06, "This is g''. The quadratic term is half of it."
    assert abs(float(q) - 60) < 1e-06, f'(1 + 2t)⁶ has q = 60, not {float(q)}.'
    of = [round(float(part), 6) for part in of]
    assert of != [60, 48, 12], 'This is what is left. The contribution is q less what is left.'
    assert of != [0, 24, 96], "These are contributions to g''. Halve them."
    assert of == [0, 12, 48], f'The contributions should be [0, 12, 48], not {of}.'
    assert abs(sum(of) - float(q)) < 1e-06, 'The contributions must add up to q.'

