"""A figure's version for a phone: all that it says, in one column."""

import base64
import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.image import imread

from hvp_utils import plots
from studies import phone


@pytest.fixture(autouse=True)
def the_books_style():
    """As on every page, whatever another test has set."""
    plots.use_style()


@pytest.fixture
def small_multiples():
    fig, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
    for i, ax in enumerate(axes.flat):
        ax.plot([0, 1], [0, i], label="AP")
        ax.set_title(f"panel {i}")
    axes[0, 0].set_ylabel("upper")
    axes[1, 0].set_ylabel("lower")
    axes[1, 1].set_xlabel("strength")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center")
    fig.suptitle("What was found, in a title that is far too long to fit on the screen of a phone")
    yield fig
    plt.close("all")


def test_panels_stand_below_each_other_in_their_order(small_multiples):
    narrow = phone.restack(small_multiples)
    narrow.canvas.draw()
    boxes = [ax.get_position() for ax in narrow.axes]
    assert [ax.get_title("left") for ax in narrow.axes] == [f"panel {i}" for i in range(6)]
    assert all(a.y0 > b.y1 for a, b in itertools.pairwise(boxes))
    assert np.ptp([box.x0 for box in boxes]) < 1e-6 and boxes[0].width > 0.6
    assert [ax.get_ylabel() for ax in narrow.axes] == ["upper"] * 3 + ["lower"] * 3
    assert [ax.get_xlabel() for ax in narrow.axes] == [""] * 5 + ["strength"]
    (legend,) = narrow.legends
    assert [text.get_text() for text in legend.get_texts()] == ["AP"]
    assert narrow.get_suptitle().count("\n") >= 1
    extent = narrow._suptitle.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= narrow.bbox.x1
    # The figure itself is as it was.
    assert small_multiples.get_figwidth() == 9 and "\n" not in small_multiples.get_suptitle()


def test_one_panel_gets_narrower():
    fig, ax = plt.subplots(figsize=(7, 4))
    ax.set_title(
        "A title of one panel that is longer than the screen of a phone is wide", loc="left"
    )
    narrow = phone.restack(fig)
    assert narrow.get_figwidth() == phone.WIDTH and "\n" in narrow.axes[0].get_title("left")
    plt.close("all")


def test_what_can_be_read_as_it_is_stays_as_it_is():
    small, _ = plt.subplots(figsize=(4, 3))
    drawing, ax = plt.subplots(figsize=(8, 3))
    ax.set_axis_off()
    assert phone.restack(small) is None and phone.restack(drawing) is None
    plt.close("all")


def test_what_a_notebook_stores_is_a_picture(small_multiples):
    pixels = imread(io.BytesIO(base64.b64decode(phone._png(small_multiples))))
    assert abs(pixels.shape[1] - phone.WIDTH * phone.DPI) <= 1 and pixels.std() > 0
