from otter.test_files import test_case

OK_FORMAT = False

name = "q5"
points = 4

@test_case(points=1, hidden=False)
def test_six_pairs(auroc):
    import torch
    score = torch.tensor([0.9, 0.4, 0.4, 0.1, 0.5])
    bad = torch.tensor([True, True, False, False, False])
    area = auroc(score, bad)
    assert area is not None, 'Return a number.'
    area = float(area)

    def near(value):
        return abs(area - value) < 1e-06
    assert not near(4.5), 'You counted the pairs that are won. Divide by all pairs, 2 × 3.'
    assert not near(4 / 6), 'A tie counts half, not zero (0.4 against 0.4).'
    assert not near(5 / 6), 'A tie counts half, not one (0.4 against 0.4).'
    assert not near(1.5 / 6), 'The wrong way round: the bad one should have the higher score.'
    assert not near(4.5 / 25), 'Compare only the bad with the good: 2 × 3 pairs, not 5 × 5.'
    assert near(4.5 / 6), f'4.5 of 6 pairs are won: 0.75, not {area}.'
    perfect = float(auroc(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, False])))
    assert perfect == 1, 'Where every bad score is above every good one, it is 1.'
    nothing = auroc(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    assert nothing != nothing, "With no good component there is no pair: return float('nan')."

