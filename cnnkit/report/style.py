"""The style sheet of the page, page.css: light and dark, narrow and wide, screen and print. It needs no fonts or files from elsewhere."""

from functools import cache
from importlib import resources

#: Steps of colour in the confusion matrix: none, and the rules .h1 to .h9.
_STEPS = 10


@cache
def sheet() -> str:
    """Return the style sheet."""
    return resources.files("cnnkit.report").joinpath("page.css").read_text(encoding="utf-8")


def step(share: float) -> int:
    """Return the step of colour of a share, 0 for none. The square root decides, so that errors of a few percent are visible."""
    return 0 if share <= 0 else max(1, round(share**0.5 * (_STEPS - 1)))
