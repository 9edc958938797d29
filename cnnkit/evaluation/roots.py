"""Root of a function of one number, without derivatives. No scipy, which takes longer to import than all of cnn-calibrate's work."""

from collections.abc import Callable

#: Steps before it gives up; bisection alone needs about 50.
_MOST = 100


def brent(
    function: Callable[[float], float], start: float, end: float, *, absolute: float = 2e-12, relative: float = 2**-50
) -> float:
    """Find a root of a continuous function by Brent's method, step by step as `scipy.optimize.brentq`, to the bit.

    Each step is a secant, an inverse quadratic interpolation or, where these converge slowly, a bisection.

    Args:
        function: Has opposite signs at both ends, or is zero there.
        start: One end.
        end: The other end.
        absolute: Accuracy, together with `relative`: the root is within `absolute + relative * |root|` of the result.
        relative: At least four times the float64 epsilon.

    Raises:
        ValueError: The signs are equal, or there is no convergence.

    Source:
        Brent, Algorithms for Minimization Without Derivatives, 1973, chapter 4.
    """
    before, current = start, end
    f_before, f_current = function(before), function(current)
    if f_before == 0:
        return before
    if f_current == 0:
        return current
    if (f_before < 0) == (f_current < 0):
        raise ValueError("the function has the same sign at both ends")
    across, f_across = 0.0, 0.0  # the end on the other side of the root
    last_step = step = 0.0
    for _ in range(_MOST):
        if f_before != 0 and f_current != 0 and (f_before < 0) != (f_current < 0):
            across, f_across = before, f_before
            last_step = step = current - before
        if abs(f_across) < abs(f_current):
            before, current, across = current, across, current
            f_before, f_current, f_across = f_current, f_across, f_current
        tolerance = (absolute + relative * abs(current)) / 2
        half = (across - current) / 2
        if f_current == 0 or abs(half) < tolerance:
            return current
        proposed = None
        if abs(last_step) > tolerance and abs(f_current) < abs(f_before):
            if before == across:  # secant
                proposed = -f_current * (current - before) / (f_current - f_before)
            else:  # inverse quadratic interpolation
                slope = (f_before - f_current) / (before - current)
                other = (f_across - f_current) / (across - current)
                proposed = -f_current * (f_across * other - f_before * slope) / (other * slope * (f_across - f_before))
        if proposed is not None and 2 * abs(proposed) < min(abs(last_step), 3 * abs(half) - tolerance):
            last_step, step = step, proposed
        else:
            last_step = step = half
        before, f_before = current, f_current
        if abs(step) > tolerance:
            current += step
        else:
            current += tolerance if half > 0 else -tolerance
        f_current = function(current)
    raise ValueError(f"no convergence in {_MOST} steps")
