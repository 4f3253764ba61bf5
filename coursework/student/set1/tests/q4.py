from otter.test_files import test_case

OK_FORMAT = False

name = "q4"
points = 5

@test_case(points=1, hidden=False)
def test_q4_paper(off_by_two, torch):
    truth = torch.tensor([[4.0, -3.0, 2.0, 0.1]])

    def count(*estimate, k=3):
        return int(off_by_two(truth, torch.tensor([estimate]), k=k)[0])
    got = off_by_two(truth, truth, k=3)
    assert got is not None, 'Your function returns nothing yet.'
    assert tuple(got.shape) == (1,), f'One number for each prompt: shape (1,), not {tuple(got.shape)}.'
    assert int(got[0]) == 0, 'A perfect estimate is off nowhere.'
    assert count(4.0, 3.0, 2.0, 0.1) == 1, 'Head 1 has the wrong sign, or was not chosen: take the largest in size.'
    assert count(4.0, -3.0, 2.0, 9.0) == 0, 'The fourth head is not among the three largest true effects. Choose by the truth, not by the estimate.'
    assert count(1.0, -3.0, 2.0, 0.1) == 1, '1 for 4 is off by a factor of four, downwards.'
    assert count(4.0, -9.0, 2.0, 0.1) == 1, '-9 for -3 is off by a factor of three, upwards.'
    assert count(2.0, -3.0, 2.0, 0.1) == 1, 'Exactly a factor of two counts.'

