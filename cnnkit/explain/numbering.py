"""Numbers of channels and filters as users write them: 0-63, or 3,7,12-20."""

import re

from cnnkit.errors import UsageError


def parse(text: str | None, count: int, *, option: str, of: str) -> list[int]:
    """Read which of some numbered things are meant.

    Args:
        text: Numbers and ranges, both ends included; None for all.
        count: How many there are, numbered from 0.
        option: Where the text stood, for messages.
        of: What has them, likewise.

    Returns:
        In the order given, each once; a range may go further than there are.

    Raises:
        UsageError: It is something else, or there is no such number.
    """
    if text is None:
        return list(range(count))
    found: list[int] = []
    for word in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
        if match is None:
            raise UsageError(f'{option} "{text}": give numbers and ranges, as in 0-63 or 3,7,12-20')
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UsageError(f"{option} {word}: a range goes upwards; give {last}-{first}")
        if first >= count or (match[2] is None and last >= count):
            raise UsageError(f"{option} {word}: {of} has {count}, numbered 0 to {count - 1}")
        found += range(first, min(last + 1, count))
    return list(dict.fromkeys(found))
