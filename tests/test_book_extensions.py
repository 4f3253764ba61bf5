"""What the site does to pages as it is built."""

import base64
import hashlib
from pathlib import Path

import figures
import parts
import pytest
import readable_types
import yaml

from studies import phone

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("Float[Tensor, '*prompt m']", "Tensor [...prompt, m]"),
        ("~jaxtyping.Int[~torch.Tensor, 'm'] | None", "integer Tensor [m] | None"),
        ("list[Bool[ndarray, 'n n']]", "list[bool ndarray [n, n]]"),
        ("Float[Tensor, '']", "Tensor [one number]"),
        ("PatchedMetric", "PatchedMetric"),
    ],
)
def test_types_are_readable(annotation, text):
    assert readable_types.readable(annotation) == text


def test_phone_versions_are_found_by_the_name_of_their_figure():
    png = b"a picture"
    data = {"image/png": base64.b64encode(png).decode() + "\n", figures.KIND: "cGhvbmU="}
    other = {"image/png": base64.b64encode(b"another").decode()}
    cells = [{"outputs": [{"data": data}, {"data": other}, {"text": "x"}]}, {}]
    names = [hashlib.sha256(picture).hexdigest() for picture in (png, b"another")]
    assert figures.pictures({"cells": cells}) == dict(zip(names, ("cGhvbmU=", ""), strict=True))


def test_notebooks_and_the_site_mean_the_same_kind_of_picture():
    assert figures.KIND == phone.KIND


def test_figures_are_links_and_phones_have_their_own():
    body = '<p><img alt="A" src="../_images/abc.png" /> <img src="../_images/def.png"></p>'
    shown = figures.with_links(body, {"abc": "cGhvbmU="}, "10.")
    assert 'srcset="../_images/abc-phone.png"' in shown and "def-phone" not in shown
    assert shown.count('<a class="figure-link" href="../_images/') == 2
    assert "<figcaption><strong>Figure 10.1.</strong> A</figcaption></figure>" in shown
    assert shown.count("<figcaption>") == 1 and 'alt="Figure 10.1, described' in shown
    linked = '<a class="reference image-reference" href="x"><img src="_images/abc.png"></a>'
    assert figures.with_links(linked, {}) == linked


@pytest.mark.parametrize(
    ("page", "number"),
    [
        ("notebooks/04_curvature_gap", "4."),
        ("notebooks/evidence/10_is_it_worth_it", "E10."),
        ("book/theory", ""),
    ],
)
def test_figures_are_numbered_by_chapter(page, number):
    assert figures.number_of(page) == number


class App:
    def __init__(self, book_parts):
        self.config = type("Config", (), {"book_parts": book_parts})


def test_links_at_the_foot_of_a_page_name_another_part():
    toc = {
        "parts": [
            {"caption": "Diagnosis", "chapters": [{"file": "notebooks/06_a"}]},
            {"caption": "Correction", "chapters": [{"file": "notebooks/07_b"}]},
            {"caption": "Evidence", "chapters": [{"file": "notebooks/evidence/06_a"}]},
        ]
    }
    app = App(parts.parts_of(toc))
    context = {"next": {"link": "07_b.html", "title": "7. B"}}
    parts.say_parts(app, "notebooks/06_a", "page.html", context, None)
    assert context["next"]["title"] == "Correction: 7. B"
    context = {
        "prev": {"link": "06_a.html", "title": "6. A"},
        "next": {"link": "evidence/06_a.html", "title": "Evidence 6. A"},
    }
    parts.say_parts(app, "notebooks/07_b", "page.html", context, None)
    assert context == {"prev": {"link": "06_a.html", "title": "Diagnosis: 6. A"}, "next": None}


def test_the_address_is_one():
    """What is shared names the published site, which follows from the repository's address."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    owner, name = config["repository"]["url"].split("/")[-2:]
    site = config["sphinx"]["config"]["ogp_site_url"]
    assert site == f"https://{owner}.github.io/{name}/"
    assert config["sphinx"]["config"]["ogp_image"].startswith(site)
