from otter.test_files import test_case

OK_FORMAT = False

name = "q5"
points = 5

@test_case(points=1, hidden=False)
def test_five_edges(recovery):
    import torch
    scores = torch.tensor([-4.0, 1.0, 3.0, 1.0, 0.0])
    members = torch.tensor([True, True, False, False, False])
    precision, auroc = recovery(scores, members, 1)
    assert precision != 0, 'The largest size is that of the first edge, a member. Did you rank by sign?'
    assert precision != 0.5, 'You divided by the number of members: that is recall. Precision divides by k.'
    assert precision == 1, f'The precision at 1 is 1, not {precision}.'
    assert recovery(scores, members, 2)[0] == 0.5, 'The precision at 2 is one half: the second largest is no member.'
    names = {4.0 / 6: 'A tie counts half: you counted it as lost.', 5.0 / 6: 'A tie counts half: you counted it as won.', 1.5 / 6: 'The AUROC must use sizes too.'}
    for wrong, why in names.items():
        assert abs(auroc - wrong) > 1e-06, why
    assert abs(auroc - 4.5 / 6) < 1e-06, f'Members win 4 of 6 pairs and tie in one: 0.75, not {auroc:.3f}.'

