"""Roots by Brent's method, compared with scipy's."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import brentq

from cnnkit.evaluation import roots

FUNCTIONS = {
    "linear": (lambda x: 3 * x - 1, -2.0, 5.0),
    "cubic": (lambda x: x**3 - 2 * x - 5, 2.0, 3.0),
    "flat": (lambda x: (x - 0.3) ** 3 + 1e-4 * (x - 0.3), -1.0, 1.0),
    "steep": (lambda x: math.atan(1e6 * (x - 1e-3)), -1.0, 7.0),
    "exponential": (lambda x: math.exp(-x) - 1e-8, 0.0, 64.0),
    "jump": (lambda x: 1.0 if x > 2 / 3 else -1.0, 0.0, 1.0),
    "at the start": (lambda x: x, 0.0, 1.0),
    "at the end": (lambda x: x - 1, 0.0, 1.0),
    "descending ends": (lambda x: math.cos(x) - x, 1.0, 0.0),
    "large": (lambda x: x - 1e12 / 7, 0.0, 1e13),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("absolute", "relative"), [(2e-12, 2**-50), (1e-12, 1e-10), (1e-3, 1e-3)])
def test_roots_and_steps_are_those_of_scipy(name, absolute, relative):
    """The same numbers, to the bit, at which the function is evaluated, and the same result."""
    function, start, end = FUNCTIONS[name]
    asked = {"ours": [], "scipy's": []}

    def watched(whose):
        return lambda x: asked[whose].append(x) or function(x)

    theirs = brentq(watched("scipy's"), start, end, xtol=absolute, rtol=relative)
    assert roots.brent(watched("ours"), start, end, absolute=absolute, relative=relative) == theirs
    assert Counter(asked["ours"]) == Counter(asked["scipy's"])


def test_roots_of_random_polynomials_are_those_of_scipy():
    """Of degree 5, which have one root or several between the ends."""
    generator = np.random.default_rng(0)
    found = 0
    for coefficients in generator.normal(size=(200, 6)).tolist():

        def polynomial(x, coefficients=coefficients):
            return sum(factor * x**power for power, factor in enumerate(coefficients))

        if polynomial(-2.0) * polynomial(2.0) < 0:
            found += 1
            assert roots.brent(polynomial, -2.0, 2.0) == brentq(polynomial, -2.0, 2.0)
    assert found > 50


def test_equal_signs_and_missing_convergence_are_errors():
    """As in scipy, which raises a RuntimeError for the second."""
    with pytest.raises(ValueError, match="same sign"):
        roots.brent(lambda x: x * x + 1, -1.0, 1.0)
    with pytest.raises(RuntimeError, match="100 iterations"):
        brentq(lambda x: (x - 0.3) ** 9, -1.0, 1.0)
    with pytest.raises(ValueError, match="no convergence in 100 steps"):
        roots.brent(lambda x: (x - 0.3) ** 9, -1.0, 1.0)
