"""Statistics against few-line definitions, and the pictures that show them."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from aesthetic_guidance.charts import calibration_svg, distributions_svg
from aesthetic_guidance.statistics import compare, compare_pairs, r_squared, ranks, rmse, spearman

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    a, b = random.normal(5, 1, 60), random.normal(5.8, 1.5, 45)
    return a.round(1), b.round(1)  # rounded: there are ties


def test_ranks_share_ties_and_spearman_follows_them():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
    assert spearman(a, b) == pytest.approx(1 - 6 * 4 / (5 * 24))  # without ties: 1 - 6 sum d2 / ...
    assert spearman(a, np.exp(3 * a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert np.isnan(spearman(a, np.ones(5)))


def test_errors():
    predicted, actual = np.array([1.0, 2, 4]), np.array([1.0, 3, 5])
    assert rmse(predicted, actual) == pytest.approx(np.sqrt(2 / 3))
    assert r_squared(predicted, actual) == pytest.approx(1 - 2 / 8)


def test_effect_sizes_are_their_definitions(samples):
    a, b = samples
    found = compare(a, b, resamples=200)
    above = np.mean([[(y > x) + (y == x) / 2 for y in b] for x in a])
    delta = np.mean([[np.sign(y - x) for y in b] for x in a])
    assert found.auc == pytest.approx(above) and found.cliffs_delta == pytest.approx(delta)
    pooled = np.sqrt((59 * np.var(a, ddof=1) + 44 * np.var(b, ddof=1)) / 103)
    assert found.cohens_d == pytest.approx((b.mean() - a.mean()) / pooled)
    assert found.difference == pytest.approx(b.mean() - a.mean())
    back = compare(b, a, resamples=200)
    assert back.cliffs_delta == pytest.approx(-delta) and back.cohens_d == -found.cohens_d


def test_the_interval_is_the_known_one_and_the_seeds(samples):
    a, b = samples
    found = compare(a, b, seed=3)
    # For means of such samples the normal approximation is good.
    error = np.sqrt(a.var() / len(a) + b.var() / len(b))
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.1 * error)
    assert compare(a, b, seed=3) == found
    assert compare(a, b, seed=4).low != found.low


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        a, b = random.normal(0, 1, 40), random.normal(0.5, 2, 40)
        found = compare(a, b, seed=trial, resamples=400)
        covered += found.low < 0.5 < found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_pairs_are_compared_within_and_their_groups_drawn():
    random = np.random.default_rng(2)
    a = random.normal(5, 2, 40)
    b = (a + random.normal(0.3, 0.5, 40)).round(1)
    a[:3] = b[:3]
    found = compare_pairs(a, b, seed=3)
    d = b - a
    assert (found.pairs, found.groups) == (40, 40)
    assert found.difference == pytest.approx(d.mean()) == compare(a, b).difference
    assert found.cohens_dz == pytest.approx(d.mean() / d.std(ddof=1))
    assert found.share_above == pytest.approx(np.mean([(x > 0) + (x == 0) / 2 for x in d]))
    error = d.std() / np.sqrt(40)
    assert found.low == pytest.approx(d.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(d.mean() + 1.96 * error, abs=0.1 * error)
    assert found.high - found.low < (compare(a, b).high - compare(a, b).low) / 3
    # Groups of different sizes, by the definition: draw groups, take all their pairs.
    groups = ["one", *["two"] * 9, *["three"] * 10, *["four"] * 20]
    found = compare_pairs(a, b, groups, resamples=4000)
    members = [d[[g == name for g in groups]] for name in dict.fromkeys(groups)]
    drawn = [
        np.concatenate([members[k] for k in random.integers(0, 4, 4)]).mean() for _ in range(4000)
    ]
    assert found.groups == 4
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)


def test_the_interval_of_pairs_covers_the_truth_where_groups_share_a_difference():
    random = np.random.default_rng(4)
    covered = np.zeros(2)
    groups = np.repeat(np.arange(25), 6).tolist()
    for trial in range(150):
        a = random.normal(0, 1, 150)
        b = a + 0.2 + np.repeat(random.normal(0, 0.5, 25), 6) + random.normal(0, 0.2, 150)
        for at, names in enumerate((groups, None)):
            found = compare_pairs(a, b, names, seed=trial, resamples=300)
            covered[at] += found.low < 0.2 < found.high
    assert 0.88 <= covered[0] / 150 <= 0.99
    assert covered[1] / 150 < 0.75  # what taking every image for itself would claim


def test_too_few_scores_are_refused():
    with pytest.raises(ValueError, match="got 1 and 2"):
        compare(np.array([1.0]), np.array([1.0, 2.0]))
    one, two = np.array([1.0]), np.array([1.0, 2.0])
    for arguments, words in (
        ((one, two), "got 1 and 2"),
        ((two, two, ["a"]), "as many"),
        ((two, two, ["a", "a"]), "needs two groups of pairs, got 1"),
        ((one, one), "needs two groups"),
    ):
        with pytest.raises(ValueError, match=words):
            compare_pairs(*arguments)
    equal = compare(np.array([5.0, 5.0]), np.array([5.0, 5.0]), resamples=10)
    assert (equal.difference, equal.low, equal.high, equal.auc) == (0, 0, 0, 0.5)
    assert np.isnan(equal.cohens_d)


def test_the_distributions_are_drawn_to_scale(samples):
    a, b = samples
    text = distributions_svg((a, b), ("one <1>", "two & 2"), "Scores", ["a note"], "head")
    root = ElementTree.fromstring(text)
    words = "".join(element.text or "" for element in root.iter(f"{SVG}text"))
    assert "A: one <1> (n = 60" in words and "B: two & 2 (n = 45" in words and "a note" in words
    bars = [e for e in root.iter(f"{SVG}rect") if e.get("fill-opacity")]
    for colour in {bar.get("fill") for bar in bars}:
        areas = sum(float(bar.get("height")) for bar in bars if bar.get("fill") == colour)
        assert areas > 0
    # Heights are shares: both samples' bars add up to the same, whatever their sizes.
    heights = {
        colour: sum(float(bar.get("height")) for bar in bars if bar.get("fill") == colour)
        for colour in {bar.get("fill") for bar in bars}
    }
    one, other = heights.values()
    assert one == pytest.approx(other, rel=0.01)
    rugs = [e.get("d") for e in root.iter(f"{SVG}path") if e.get("stroke-opacity")]
    assert sorted(rug.count("M") for rug in rugs) == [45, 60]
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_pictures_of_equal_and_of_many_scores(samples):
    same = np.full(5, 4.2)
    ElementTree.fromstring(distributions_svg((same, same), ("a", "b"), "t", [], "h"))
    many = np.random.default_rng(0).normal(size=200_000)
    text = distributions_svg((many, many + 1), ("a", "b"), "t", [], "h")
    assert len(text) < 200_000
    text = calibration_svg(many, many, "t", [])
    assert len(text) < 400_000
    ElementTree.fromstring(calibration_svg(same, same, "t", []))


def test_the_calibration_line_has_the_means_of_the_tenths():
    predicted = np.arange(100.0)
    actual = predicted * 0.5 + 10
    root = ElementTree.fromstring(calibration_svg(predicted, actual, "t", ["n"]))
    points = [e for e in root.iter(f"{SVG}circle") if e.get("r") == "4"]
    assert len(points) == 10
    few = ElementTree.fromstring(calibration_svg(predicted[:29], actual[:29], "t", []))
    assert sum(e.get("r") == "4" for e in few.iter(f"{SVG}circle")) == 2  # of ten or more each
    x = np.array([float(point.get("cx")) for point in points])
    y = np.array([float(point.get("cy")) for point in points])
    diagonal = next(e.get("d") for e in root.iter(f"{SVG}path") if e.get("stroke-dasharray"))
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in diagonal[1:].split("L"))
    slope = np.polyfit((x - x0) / (x1 - x0), (y - y0) / (y1 - y0), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.001)
