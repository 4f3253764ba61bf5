from otter.test_files import test_case

OK_FORMAT = False

name = "q3"
points = 4

@test_case(points=1, hidden=False)
def test_dead_ends(on_a_path):
    path = {('embed', 'A'), ('A', 'D'), ('D', 'logits')}
    unheard, unfed = (('A', 'B'), ('C', 'D'))
    found = on_a_path([('D', 'logits'), unheard, unfed, ('A', 'D'), ('embed', 'A')])
    assert found is not None and (not isinstance(found, list)), 'Return a set.'
    assert unheard not in found, 'A->B was kept, but nobody hears B. Did you look forwards only?'
    assert unfed not in found, 'C->D was kept, but C hears nothing. Did you look backwards only?'
    assert found == path, f'{sorted(path)} lie on the path; {sorted(found)} came out.'
    longer = on_a_path([*path, ('A', 'E'), ('E', 'F')])
    assert ('A', 'E') not in longer, 'A->E was kept. Its reader E has a reader of its own, F, but nobody hears F. One round is not enough: repeat until nothing changes.'
    assert longer == path
    assert on_a_path([('A', 'B')]) == set(), 'Without a path nothing is left.'

