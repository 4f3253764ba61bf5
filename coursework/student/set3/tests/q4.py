from otter.test_files import test_case

OK_FORMAT = False

name = "q4"
points = 5

@test_case(points=1, hidden=False)
def test_a_few(bill):
    import torch

    def g(t):
        return torch.exp(t)
    results = []

    def exact(g):
        with torch.no_grad():
            results.append(float(g(torch.tensor(1.0)) - g(torch.tensor(0.0))))

    def derivatives(g, order, start=0.0):
        t = torch.tensor(start, requires_grad=True)
        value = g(t)
        for _ in range(order):
            value, = torch.autograd.grad(value, t, create_graph=True)
        results.append(round(value.item(), 3))

    def count(method):
        counts = bill(method, g)
        assert counts is not None and len(counts) == 2, 'Return two numbers: runs, backward passes.'
        return tuple(counts)
    try:
        found = count(exact)
    except RuntimeError as error:
        raise AssertionError(f'Without a derivative it ends in an error: {error} Under torch.no_grad() nothing requires a gradient; look before you register a hook.') from error
    assert found == (2, 0), f'g(1) - g(0) under no_grad is two runs and no backward pass, not {found}.'
    found = count(lambda g: derivatives(g, 0))
    assert found == (1, 0), f'A run of which no derivative is taken has no backward pass; yours: {found}.'
    found = count(lambda g: derivatives(g, 1))
    assert found == (1, 1), f'A slope is one run and one backward pass, not {found}.'
    found = count(lambda g: derivatives(g, 2))
    assert found != (1, 1), 'A curvature takes a second backward pass: count that too.'
    assert found == (1, 2), f'A curvature is one run and two backward passes, not {found}.'
    assert len(results) == 4, 'Call the method once, no more and no less.'
    found = count(lambda g: [derivatives(g, 2, k / 3) for k in range(3)])
    assert found == (3, 6), f'Three curvatures are 3 runs and 6 backward passes, not {found}.'
    assert results[-1] == 1.948, "The counting changes what is computed: here g''(2/3) = e^(2/3)."

