"""The beta distribution, compared with scipy's."""

import pytest
from scipy.special import betainc, betaincinv

from cnnkit.evaluation import beta

PARAMETERS = [(1, 1), (1, 40), (5, 1), (12, 3), (301, 350), (343, 18), (500_000, 500_001), (0.5, 0.5)]


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_probabilities_and_quantiles_are_those_of_scipy(a, b):
    shares = (0.0, 0.025, 0.5, 0.975, 1.0)
    assert [beta.distribution(a, b, x) for x in shares] == pytest.approx(betainc(a, b, shares), rel=1e-8, abs=1e-15)
    assert [beta.quantile(a, b, share) for share in shares[1:4]] == pytest.approx(
        betaincinv(a, b, shares[1:4]), rel=1e-9
    )
