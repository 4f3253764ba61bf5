from otter.test_files import test_case

OK_FORMAT = False

name = "q6"
points = 5

@test_case(points=1, hidden=False)
def test_five(spend):
    import torch
    f_ap = torch.tensor([1.0, -5.0, 0.5, 2.0, 0.0])
    r = torch.tensor([0.1, 0.5, 4.0, 1.0, 0.0])
    exact, calls = (torch.tensor([1.5, -4.0, 3.0, 2.5, 0.0]), [])

    def patch(components):
        calls.append(components)
        return exact[components]
    answer = spend(f_ap, r, patch, 5, 2.2)
    assert answer is not None and len(answer) == 2, 'Return the effects, and what was patched.'
    effects, chosen = answer
    chosen = torch.as_tensor(chosen).tolist()
    assert f_ap.tolist() == [1, -5, 0.5, 2, 0], 'You changed f_ap itself: work on a copy.'
    assert len(calls) == 1, f'Call patch once, with all components; you called it {len(calls)} times.'
    assert len(chosen) != 5, 'The screen has to be paid too: 5 runs less 2.2 leave 2 patches.'
    assert len(chosen) != 4, 'The screen has to be paid too: 5 runs less 2.2 leave 2 patches.'
    assert len(chosen) != 3, '2.8 runs pay for 2 patches in full: round down.'
    assert len(chosen) == 2, f'5 runs less 2.2 leave 2 patches, not {len(chosen)}.'
    assert sorted(chosen) != [1, 3], 'Chosen by |f_ap| alone: component 2 has a long row.'
    assert 4 not in chosen, 'Component 4 is the same in both runs: it is never patched. (r / |f_ap| is NaN there; the sum is asked for.)'
    assert sorted(chosen) != [2, 3], 'Chosen by r, by r / |f_ap|, or by f_ap with its sign. The size is |f_ap| + r, and -5 is large.'
    assert chosen != [2, 1], 'The largest first: component 1 (5.5) before component 2 (4.5).'
    assert chosen == [1, 2], f'Components 1 (5.5) and 2 (4.5) are the largest, not {chosen}.'
    found = [round(x, 4) for x in effects.tolist()]
    assert found == [1, -4, 3, 2, 0], f'Exact for 1 and 2, f_ap elsewhere: [1, -4, 3, 2, 0], not {found}.'
    _, chosen = spend(f_ap, r, patch, 100, 2.2)
    assert torch.as_tensor(chosen).tolist() == [1, 2, 3, 0], 'With runs to spare, all are patched but component 4, which is the same in both runs.'

