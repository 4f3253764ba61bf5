from otter.test_files import test_case

OK_FORMAT = False

name = "q6"
points = 6

@test_case(points=1, hidden=False)
def test_two_features(feature_effects):
    import torch
    W = torch.tensor([[1.0, 0.0], [1.0, 1.0]])

    def encode(x):
        return torch.relu(x - 1)
    x, y = (torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 1.0]]))
    found = feature_effects(lambda h: (h * torch.tensor([1.0, 10.0])).sum(), x, y, encode, W)
    found = [round(float(v), 4) for v in found]
    assert len(found) == 3, 'Two features and the error are three components.'
    assert found[:2] != [-3, 22], 'All signs are wrong: the patch goes from x to y.'
    assert found[:2] != [2, 0], 'That is encode(y - x). An encoder is not linear: take encode(y) - encode(x).'
    assert found[:2] != [4, 0], "You patched with what the features are in y. Their change is y's less x's."
    assert found[:2] == [3, -22], f'The features change by 3 (1, 0) and -2 (1, 1): effects 3 and -22, not {found[:2]}.'
    assert found[2] != -17, 'The last effect is that of all of y - x. The error component is what the features leave of it.'
    assert found[2] == 2, f'The features leave (2, 0) of y - x, with the effect 2, not {found[2]}.'

