"""The beta distribution, without scipy, which takes longer to import than all of cnn-eval."""

from math import exp, lgamma, log, log1p

from cnnkit.evaluation import roots

#: Steps of the continued fraction; it needs about the square root of the larger parameter.
_MOST = 100_000
_TINY = 1e-300


def distribution(a: float, b: float, x: float) -> float:
    """Return the probability that a number with the distribution Beta(a, b) is at most x.

    It is also the probability of at least a successes in a + b - 1 trials that succeed with probability x.

    Source:
        Press et al., Numerical Recipes, section 6.4: the continued fraction of the incomplete beta function, by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - distribution(b, a, 1 - x)  # where the fraction converges fast
    factor = exp(a * log(x) + b * log1p(-x) + lgamma(a + b) - lgamma(a) - lgamma(b)) / a
    above, below, fraction = 1.0, 0.0, 1.0
    for step in range(_MOST):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + step - 1) * (a + step))
        else:
            term = half * (b - half) * x / ((a + step - 1) * (a + step))
        below = 1 / (_away(1 + term * below))
        above = _away(1 + term / above)
        fraction *= above * below
        if abs(1 - above * below) < 1e-15:
            break
    return factor * (fraction - 1)


def quantile(a: float, b: float, share: float) -> float:
    """Return the number up to which a share of the distribution Beta(a, b) lies."""
    return roots.brent(lambda x: distribution(a, b, x) - share, 0.0, 1.0)


def _away(value: float) -> float:
    """Keep a denominator away from zero."""
    return value if abs(value) > _TINY else _TINY
