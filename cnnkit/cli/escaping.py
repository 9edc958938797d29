"""JSON of unknown origin (paths, labels) made safe for a terminal, as `messages.printable` makes text."""

from cnnkit.messages import UNSAFE


def json_printable(line: str) -> str:
    """Escape the same characters in a line of JSON, where they stand for themselves inside strings; its meaning stays."""
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)
