from otter.test_files import test_case

OK_FORMAT = False

name = "q6"
points = 5

@test_case(points=1, hidden=False)
def test_cube(certificate):
    import torch
    points = torch.tensor([0.0, 0.25, 0.5])
    products = torch.tensor([[12.0], [18.0], [24.0]])
    answer = certificate(points, products, 2.0, 6.0, 12.0)
    assert answer is not None and len(answer) == 4, 'Return L_H, the bound, low and high.'
    L_H, bound, low, high = (float(number) for number in answer)

    def near(a, b):
        return abs(a - b) < 0.0001
    assert not near(L_H, 24), 'Divide by |δ|² as well: L_H is a change for each unit of length.'
    assert not near(L_H, 12), 'Divide by |δ|², not |δ|: one for the length, one for the vector Hδ.'
    assert not near(L_H, 3), 'Divide by |t_i - t_j|: the points are not 1 apart.'
    assert near(L_H, 6), f'The third derivative of a³ is 6, and so is L_H; yours is {L_H}.'
    assert not near(bound, 48), 'The 1/6 is missing from the bound.'
    assert not near(bound, 24), 'The bound has 1/6 in it, not 1/2.'
    assert not near(bound, 4), 'The bound has the cube of |δ|, not its square.'
    assert near(bound, 8), f'The bound should be 8 (and the remainder is 8), not {bound}.'
    assert not (near(low, 4) and near(high, 20)), 'Divide by |f_AP|: the error is relative.'
    assert near(high, 20 / 6), f'high should be (12 + 8)/6, the true error of AP here, not {high}.'
    assert near(low, 4 / 6), f'low should be (12 - 8)/6, not {low}.'
    *_, low, high = certificate(points, products, 2.0, -6.0, -1.0)
    assert float(low) >= 0 and float(high) >= 0, 'An error is never negative: see q = -1, f_AP = -6.'
    assert near(float(low), 0), 'With a bound above |q| the error may be 0: low is 0.'
    assert near(float(high), 9 / 6), 'With q = -1 and f_AP = -6, high is (1 + 8)/6: use magnitudes.'

