from otter.test_files import test_case

OK_FORMAT = False

name = "q5"
points = 3

@test_case(points=1, hidden=False)
def test_q5_paper(top_k_error, torch):
    truth = torch.tensor([3.0, -2.0, 1.0, 0.0])
    got = top_k_error(truth, torch.tensor([2.0, -1.0, 9.0, 9.0]), k=2)
    assert got is not None, 'Your function returns nothing yet.'
    got = float(got)
    assert abs(got - 0.2) > 1e-06, 'In percent: times 100.'
    assert abs(got - 40) > 0.0001, 'Take the mean over the k heads, not the sum.'
    assert abs(got) > 0.0001, 'Errors must not cancel: take their absolute values before the mean.'
    assert abs(got - 33.3333) > 0.01, 'The range is the largest minus the smallest true effect, here 5.'
    assert abs(got - 20) < 0.0001, f'Two errors of 1, a range of 5: 20 %, not {got:.2f}.'

