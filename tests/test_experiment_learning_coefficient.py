"""Learning coefficients: published values, limits and symmetries of the exact ones, sampling, the script."""

import dataclasses

import learning_coefficient
import numpy as np
import pytest
from _exact.singular_minima import Crossing, Quadratic, ReducedRank, reduced_rank_coefficient
from _lab import Lab, UsageError
from learning_coefficient import Config, findings, run, strength_of

pytestmark = pytest.mark.xdist_group("learning_coefficient")  # the tests share one run of the script


@pytest.mark.parametrize(
    ("sizes", "published", "multiplicity"), [((5, 3, 5), 6.5, 2), ((5, 4, 5), 8, 1), ((4, 3, 8), 6, 1)]
)
def test_coefficients_of_linear_networks_are_the_published_ones(sizes, published, multiplicity):
    assert reduced_rank_coefficient(*sizes) == (published, multiplicity)
    assert ReducedRank(*sizes).coefficient == (published, multiplicity)


@pytest.mark.parametrize("sizes", [(6, 3, 5), (4, 2, 9), (9, 2, 4), (2, 8, 3)])
def test_at_full_rank_half_of_what_is_not_redundant_counts(sizes):
    m, h, n = sizes
    rank = min(sizes)
    assert reduced_rank_coefficient(m, h, n, rank) == ((rank * (m + n - rank)) / 2, 1)
    assert reduced_rank_coefficient(m, h, n) == reduced_rank_coefficient(n, h, m)


@pytest.mark.parametrize(
    "minimum", [ReducedRank(5, 3, 5), ReducedRank(5, 4, 5), ReducedRank(4, 3, 8), ReducedRank(3, 5, 3), Crossing(2)]
)
def test_exact_values_tend_to_the_coefficient_as_the_law_says(minimum):
    (value, multiplicity), strength = minimum.coefficient, 1e12
    constant = np.log(strength) * (value - minimum.expectation(strength, 1.3))
    # the rest falls as one over the logarithm where the multiplicity is above one, and as a power otherwise
    assert constant == pytest.approx(multiplicity - 1, abs=0.4 if multiplicity > 1 else 0.01)


def test_exact_values_by_monte_carlo_over_the_prior():
    strength, localization, rng = 3.0, 1.5, np.random.default_rng(5)
    for minimum in (ReducedRank(3, 2, 4), ReducedRank(4, 3, 2), Crossing(4), Quadratic((0.5, 3.0))):
        draws = [rng.normal(size=(200_000, *leaf.shape)) / localization**0.5 for leaf in leaves(minimum)]
        loss = losses(minimum, draws)
        weight = np.exp(-strength * loss)
        mean = np.average(strength * loss, weights=weight)
        error = np.sqrt(np.sum((weight * (strength * loss - mean)) ** 2)) / weight.sum()
        assert abs(minimum.expectation(strength, localization) - mean) < 4 * error
        assert error < 0.02 * mean


def leaves(minimum):
    params = minimum.params
    return [params["a"], params["b"]] if isinstance(params, dict) else [params]


def losses(minimum, draws):
    if isinstance(minimum, ReducedRank):
        return np.sum((draws[1] @ draws[0]) ** 2, axis=(1, 2)) / 2
    if isinstance(minimum, Crossing):
        return draws[0][:, 0] ** 2 * draws[0][:, 1] ** minimum.power
    return draws[0] ** 2 @ np.array(minimum.curvatures) / 2


def test_exact_values_know_the_symmetries():
    strength, localization = 70.0, 1.7
    swapped = [ReducedRank(*sizes).expectation(strength, localization) for sizes in ((4, 3, 8), (8, 3, 4))]
    assert swapped[0] == pytest.approx(swapped[1], rel=1e-6)  # of integrals over 8,001 nodes
    one = ReducedRank(1, 1, 1).expectation(strength, localization)  # half of w1^2 w2^2
    assert one == pytest.approx(Crossing(2).expectation(strength / 2, localization), rel=1e-5)
    # w / 3 in place of w: the pull back is nine times as strong, the loss 81 times as small
    network = ReducedRank(3, 2, 4)
    assert network.expectation(81 * strength, 9 * localization) == pytest.approx(
        network.expectation(strength, localization), rel=1e-7
    )


def test_chains_agree_with_the_exact_values():
    config = Config((0.5, 2.5), (4,), ((2, 1, 3),), decades=2.5, crossing_decades=2.5, step=0.03, chains=40, length=12)
    result = run(config, Lab(options={"progress": False}))
    assert list(result) == ["crossing_4", "network_2_1_3", "quadratic"]
    for landscape in result.values():
        about = landscape.meta["minimum"]
        pulls = (landscape["estimate"] - about["exact"]) / landscape["sem"]
        assert np.all(np.abs(pulls) < 3.5), about["text"]
        assert np.all(landscape["sem"] < 0.15 * landscape["estimate"]), about["text"]
        assert about["step_size"] * strength_of(2.5) == pytest.approx(0.03)
        assert about["steps"] * about["step_size"] == pytest.approx(12, rel=1e-3)


def test_script(smoke):
    done, out, result = smoke
    assert {"coefficients.png", "coefficients.pdf", "findings.json"} <= {path.name for path in out.iterdir()}
    assert set(result) == {"crossing_2", "crossing_4", "network_5_3_5", "quadratic"}
    assert "linear network 5-3-5: at n = 316" in done.stdout
    assert "6.5" in done.stdout
    history = result["crossing_4"]["history"]
    assert history.shape == (3, learning_coefficient.SMOKE.chains, learning_coefficient.RECORDS)


def test_rows_count_what_is_close_and_what_diverged(smoke):
    crossing = smoke[2]["crossing_2"]
    about = crossing.meta["minimum"] | {"exact": [0.3, 0.4, 0.48]}
    history = np.array(crossing["history"])
    history[-1, 2:4, -1] = np.nan
    values = {**crossing.values, "estimate": np.array([0.3, 0.4, 0.41]), "sem": np.full(3, 0.02), "history": history}
    made = dataclasses.replace(crossing, values=values).with_meta(minimum=about)
    rows = {what: rest for what, *rest in findings({"crossing_2": made})}
    assert rows["w1^2 w2^2: at n = 1e3"] == ["0.480 (λ = 0.5)", "0.410 ± 0.020 (-18.0% from λ)"]
    assert rows["w1^2 w2^2: the same to leading order, λ - (m - 1) / log(nβ)"][0] == "0.299"
    assert rows["w1^2 w2^2: standard errors from exact, n = 1e2 ..."][1] == "+0.0, +0.0, -3.5"
    assert rows["minima within 15% of λ at their largest n"] == ["1 of 1", "0"]
    assert rows["chains that diverged"] == ["0", "2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"powers": (3,)}, r"--powers must be even, and at least 2, got \(3,\)"),
        ({"networks": ((5, 0, 2),)}, "--networks must have at least one unit in each layer"),
        ({"curvatures": (0.5, 0.0)}, "--curvatures must be positive"),
        ({"curvatures": (), "powers": (), "networks": ()}, "needs --curvatures, --powers or --networks"),
        ({"decades": 2.0}, "--decades and --crossing-decades must exceed 2, and --per-decade be at least 1"),
        ({"step": 0.0}, "--step, --length and --localization must be positive, and --chains at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        run(dataclasses.replace(Config(), **changes), Lab())
