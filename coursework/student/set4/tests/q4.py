from otter.test_files import test_case

OK_FORMAT = False

name = "q4"
points = 5

@test_case(points=1, hidden=False)
def test_three_circuits(areas):
    import numpy as np
    full, empty = (np.array([11.0, 3.0]), np.array([1.0, 1.0]))
    values = np.array([[1.0, 13.0, 11.0], [1.0, 7.0, 3.0]])
    f, cpr, cmd = areas(values, full, empty, np.array([0.0, 0.2, 1.0]))
    f = np.round(np.asarray(f, dtype=float), 6).tolist()
    assert len(f) == 3, 'One faithfulness for each circuit: the mean goes over prompts.'
    assert f[1] != 2.1, "That is the mean of each prompt's ratio. Take the ratio of the means."
    assert f[0] == 0, 'The first circuit keeps nothing, so its faithfulness is 0. Did you subtract that of the corrupted run?'
    assert f == [0, 1.5, 1], f'The faithfulness is [0, 1.5, 1], not {f}.'
    assert abs(cpr - 2.5 / 3) > 1e-06, 'CPR is the mean height. The circuits are not equidistant: use the trapezoidal rule.'
    assert abs(cpr - 1.15) < 1e-06, f'CPR is 0.2 * 0.75 + 0.8 * 1.25 = 1.15, not {cpr:g}.'
    assert abs(cmd + 0.15) > 1e-06, 'CMD came out as 1 - CPR. The curve is above 1 for a while: what lies above counts too.'
    assert abs(cmd - 0.35) < 1e-06, f'CMD is 0.2 * 0.75 + 0.8 * 0.25 = 0.35, not {cmd:g}.'

