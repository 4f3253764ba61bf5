from otter.test_files import test_case

OK_FORMAT = False

name = "q5"
points = 6

@test_case(points=1, hidden=False)
def test_additive(missed):
    import itertools
    import torch
    effects = torch.tensor([3.0, 1.0, 0.0, -1.0], dtype=torch.double)
    rows = [[c in pair for c in range(4)] for pair in itertools.combinations(range(4), 2)]
    members = torch.tensor(rows)
    estimates, bound = missed(members, members.double() @ effects)
    found = [round(float(e), 3) for e in estimates]
    assert found != [3, 0.333, -1, -2.333], 'That is the plain difference of means. Subsets without c hold one more of the others: use the factor (k - 1) / k.'
    assert found == [3, 1, 0, -1], f'The effects are [3, 1, 0, -1], and they add up; you find {found}.'
    wrong = {5.325: 'That is the two-sided quantile: a bound from above needs the one-sided one.', 4.251: 'Variances divide by the number less 1.', 3.0: 'That is the largest estimate. Add what chance may hide: s times the quantile.'}
    assert round(float(bound), 3) not in wrong, wrong[round(float(bound), 3)]
    assert abs(bound - 4.5316) < 0.001, f'The first component has the largest bound, 4.532; you give {float(bound):.3f}.'

