from otter.test_files import test_case

OK_FORMAT = False

name = "q2"
points = 6

@test_case(points=1, hidden=False)
def test_linear(edge_scores, Toy):
    import torch
    toy = Toy(lambda x: 2 * x, lambda a: 3 * a, lambda h: 5 * h.sum())
    base, other = (torch.tensor([1.0]), torch.tensor([2.0]))
    found = [round(float(s), 3) for s in edge_scores(toy, base, other)]
    assert found != [-30, -10, -30], 'All signs are wrong: the difference is other less base.'
    assert found[1] != 40, 'A->out gets 40, where patching gives 10. The gradient at what A writes counts both edges that leave A. Take the gradient at the input of the reader.'
    assert found[0] != 10, 'A->B gets 10, where patching gives 30. What B hears is not yet the output: its gradient passes through B.'
    assert found == [30, 10, 30], f'On a linear network scores equal patching, [30, 10, 30], not {found}.'
    again = [round(float(s), 3) for s in edge_scores(toy, base, other, (0.0, 0.5, 1.0))]
    assert again != [90, 30, 90], 'Three points give three times the score: take their mean, not their sum.'
    assert again == [30, 10, 30], f'On a linear network the gradient is the same everywhere; {again} came out for three points.'

