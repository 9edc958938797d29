"""Text of unknown origin (paths, labels, messages) made safe for a terminal: control characters are shown, never sent."""

import re

#: C0 and C1 control characters and DEL, which terminals obey; marks that reorder text; line separators; bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def printable(text: str) -> str:
    r"""Show what a terminal would obey as an escape: ESC as \x1b, a byte that is not UTF-8 as \xff."""
    return _UNSAFE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as surrogateescape reads it
        code -= 0xDC00
    return _SHORT.get(letter) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def json_printable(line: str) -> str:
    """Escape the same characters in a line of JSON, where they stand for themselves inside strings; its meaning stays."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)
