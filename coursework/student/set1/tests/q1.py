from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = 5

@test_case(points=1, hidden=False)
def test_q1_toy(metric_at, toy, torch):
    base, other = (torch.tensor([[0, 0, 1]]), torch.tensor([[2, 0, 1]]))
    start = metric_at(toy, base, other, 0, 0, 0, 0.0)
    assert start is not None, 'Your function returns nothing yet.'
    assert getattr(start, 'shape', ()) == (), f'Return one number, not a tensor of shape {tuple(start.shape)}.'
    start = float(start)
    assert abs(start - 0.7741) > 0.002, 'That is a probability. Take its logarithm.'
    assert abs(start - 1.2318) > 0.002, 'That is a logit. Take log_softmax over the vocabulary first.'
    assert abs(start - -0.1943) > 0.002, 'At t = 0 this is the run on `other`. Start from `base`.'
    assert abs(start - -0.256) < 0.002, f'At t = 0 nothing is patched: expected -0.2560, got {start:.4f}.'
    end = float(metric_at(toy, base, other, 0, 0, 0, 1.0))
    assert abs(end - start) > 0.0001, 't = 1 changes nothing. Does your hook return the new activation?'
    assert abs(end - -0.1943) > 0.0003, 'That is what patching the whole layer gives. Patch only [:, :, head].'
    assert abs(end - -0.2131) < 0.0003, f'At t = 1 expected -0.2131, got {end:.4f}.'
    half = float(metric_at(toy, base, other, 0, 0, 0, 0.5))
    assert abs(half - -0.2337) < 0.0003, 't = 1 is right and t = 0.5 is not: add t times the difference.'
    t = torch.zeros((), requires_grad=True)
    assert getattr(metric_at(toy, base, other, 0, 0, 0, t), 'requires_grad', False), 'Your result cannot be differentiated by t: no float(), no .item(), no no_grad() around the last run.'

