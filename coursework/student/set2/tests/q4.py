from otter.test_files import test_case

OK_FORMAT = False

name = "q4"
points = 3

@test_case(points=1, hidden=False)
def test_six(judge):
    import torch
    f_ap = torch.tensor([-2.0, 1.0, -4.0, 0.001, 0.0, 0.0])
    q = torch.tensor([0.1, -0.5, -0.04, 0.0, 0.0, 0.3])
    f = torch.tensor([-1.9, 0.5, -3.0, 0.002, 0.0, 0.3])
    answer = judge(f_ap, q, f, 0.1)
    assert isinstance(answer, tuple) and len(answer) == 2, 'Return the scores and the missed.'
    R, missed = answer
    assert R.shape == (6,), f'There is a score for each component: [6], not {list(R.shape)}.'
    assert not (R < 0).any(), 'A score is negative: take magnitudes, above and below.'
    assert not R.isnan().any(), 'A score is NaN: 0/0. Where q = 0 the score is 0.'
    assert abs(float(R[1]) - 1) > 1e-06, 'Twice too large: q is the half already.'
    assert abs(float(R[0]) - 20) > 0.001, 'Upside down: |q| comes above, |f_AP| below.'
    assert R[5] == float('inf'), f'Where only f_AP is 0, R is infinite, not {float(R[5])}.'
    found = [round(float(r), 4) for r in R[:5]]
    assert found == [0.05, 0.5, 0.01, 0, 0], f'R should be [0.05, 0.5, 0.01, 0, 0, inf], not {found}.'
    numbers = torch.as_tensor(missed).tolist()
    assert 3 not in numbers, 'Number 3 is off, but too small to matter.'
    assert 1 not in numbers and 5 not in numbers, 'A component that was flagged is not missed.'
    assert numbers == [2], f'Only number 2 is missed (R = 0.01, off by 25 %), not {numbers}.'

