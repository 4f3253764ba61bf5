from otter.test_files import test_case

OK_FORMAT = False

name = "q6"
points = 7

@test_case(points=1, hidden=False)
def test_six(find_misjudged):
    import torch
    slopes, bends = (torch.tensor([2.0, 1.0, 0.0, 3.0, -4.0, 5.0]), torch.tensor([0.1, 0.3, 0.4, 0.1, -3.0, 0.2]))
    patched, products = ([], [])

    def patch(c):
        patched.append(int(c))
        return float(slopes[int(c)] + bends[int(c)])

    def product(v):
        products.append(v)
        return 2 * bends * v
    c, error = find_misjudged(slopes, product, patch, 3)
    assert len(patched) <= 3, f'You may patch 3 components, and patched {len(patched)}.'
    assert len(products) <= 4, f'You may call product four times, and called it {len(products)} times.'
    assert int(c) in patched, 'The error of a component that was not patched is not known. Return one that you patched.'
    assert int(c) == 4, f'With 3 patches number 4 can be found, which has the second largest slope and the longest row; you return number {int(c)}.'
    assert abs(error - 7) > 0.0001 and abs(error + 7) > 0.0001, 'That is the exact effect. The error is the effect less the estimate.'
    assert abs(error - 3) > 0.0001, 'The error is the exact effect less the estimate: yours has the other sign.'
    assert abs(error + 3) < 0.0001, f'The effect is -7 and the estimate -4: the error is -3, not {error:g}.'

@test_case(points=0, hidden=False)
def test_pair(my_pair):
    assert my_pair is not None, 'my_pair is still None: give a PromptPair of your own.'

