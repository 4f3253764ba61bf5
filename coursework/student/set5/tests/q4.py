from otter.test_files import test_case

OK_FORMAT = False

name = "q4"
points = 5

@test_case(points=1, hidden=False)
def test_three_prompts(judge):
    import numpy as np
    ap = {'A': np.array([10.0, 20.0, 60.0]), 'B': np.array([1.0, 2.0, 3.0])}
    better = {'A': ap['A'] - 1, 'B': ap['B'] - 0.5}
    draws = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 1, 2]])
    intervals, said = judge(better, ap, draws)
    low, high = (round(float(x), 6) for x in intervals['A'])
    assert (low, high) != (1, 1), 'The difference is method less AP: negative where the method is better.'
    assert high - low < 1, 'The method is better by exactly 1 on every prompt, and your interval is wide. Were the two methods resampled apart? Take the difference first.'
    assert (low, high) == (-1, -1), f'The difference is -1 on every prompt, and so are both ends, not {(low, high)}.'
    assert said == 'holds', f'Both intervals lie below 0, so the claim holds; you say {said!r}.'
    assert judge({'A': ap['A'] - 1, 'B': ap['B'] + 1}, ap, draws)[1] == 'holds partly', 'Below 0 on one model only: it holds partly.'
    said = judge({'A': ap['A'] + 1, 'B': ap['B'] + 1}, ap, draws)[1]
    assert said == 'does not hold here', f'Worse on both models, and you say {said!r}.'

