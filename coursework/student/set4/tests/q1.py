from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = 4

@test_case(points=1, hidden=False)
def test_corners(patched, Toy):
    import torch
    toy = Toy(lambda x: 2 * x, lambda a: a * a, lambda h: 3 * h.sum())
    base, other = (torch.tensor([1.0]), torch.tensor([2.0]))

    def M(*alpha):
        return float(patched(toy, base, other, torch.tensor(alpha)))
    none = M(0.0, 0.0, 0.0)
    assert none != 60, 'With all strengths 0 you give the other run. Which run is the base?'
    assert none == 18, f'With all strengths 0 the base run must come out, 3 (2 + 4) = 18, not {none:g}.'
    only = M(0.0, 1.0, 0.0)
    assert only != 60, 'You changed a itself, so B heard it too: that patches the node A. The edge A->out changes what the output hears, and nothing else.'
    assert only == 24, f'A->out alone must give 3 (4 + 4) = 24, not {only:g}.'
    first = M(1.0, 0.0, 0.0)
    assert first != 18, 'A->B does nothing. Does B hear what you add?'
    assert first == 54, f'A->B alone must give 3 (2 + 16) = 54, not {first:g}.'
    last = M(0.0, 0.0, 1.0)
    assert last == 54, f'B->out alone must give 3 (2 + 16) = 54, not {last:g}.'
    every = M(1.0, 1.0, 1.0)
    assert every != 96, 'All strengths 1 overshoot the other run, 96 for 60. B has changed already when B->out is patched: take the difference from what B writes now.'
    assert every == 60, f'All strengths 1 must give the other run, 3 (4 + 16) = 60, not {every:g}.'

