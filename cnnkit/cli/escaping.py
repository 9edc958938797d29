"""Make JSON with untrusted text (paths, labels) safe for a terminal, as `messages.printable` does for text."""

from cnnkit.messages import UNSAFE


def json_printable(line: str) -> str:
    """Escape the same characters in a line of JSON, whose meaning stays the same: they can only be inside strings."""
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)
