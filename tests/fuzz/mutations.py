"""Random damage to valid inputs: bytes, fields of a JSON document, lines of text, file names."""

import copy
import json
import math

#: Numbers at the limits of 8 to 32 bits, as in damaged or hostile binary files.
_EXTREMES = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]

#: Replacements for a field of a header.
_VALUES = [
    None,
    True,
    0,
    -1,
    5,
    10**9,
    2**63,
    10**400,
    0.5,
    math.nan,
    math.inf,
    "",
    "x",
    "../x",
    "conv 99999999 k3, gap",
    "\0",
    "\x1b]0;x\x07",
    "\ud800",
    [],
    [1],
    ["a"],
    ["a", "a"],
    [[[]]],
    {},
    {"x": 1},
    "x" * 100_000,
]

#: Separators, quotes, line ends and other special strings of text formats.
_TEXT = [b"\t", b"\n", b"\r", b"\0", b",", b";", b'"', b"'", b"\\", b"\\n", b"\xff", b"\xef\xbb\xbf", b"nan", b"-1"]
_TEXT += [b"1e999", b"\x1b[2J", b"\xe2\x80\xae", b"../", b"{", b"}", b" ", b"=cmd()", b"%s", b"9" * 400]


def damage_bytes(data, rng):
    """Change some bytes, truncate, remove or repeat a block, or write an extreme number somewhere."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not changed:
            break
        place = int(rng.integers(len(changed)))
        length = int(rng.integers(1, 1 + min(64, len(changed))))
        match int(rng.integers(6)):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place : place + length] = rng.bytes(length)
            case 2:
                del changed[place:]
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                order = "big" if rng.integers(2) else "little"
                changed[place : place + 4] = _EXTREMES[int(rng.integers(len(_EXTREMES)))].to_bytes(4, order)
    return bytes(changed)


def flip_bit(data, rng):
    """Flip one bit."""
    changed = bytearray(data)
    changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def damage_text(data, rng):
    """Insert, replace or remove a few special characters, or damage bytes."""
    if rng.integers(4) == 0:
        return damage_bytes(data, rng)
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(changed) + 1))
        length = int(rng.integers(0, 3))
        changed[place : place + length] = _TEXT[int(rng.integers(len(_TEXT)))]
    return bytes(changed)


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value[:3])  # only the first few of a long list
    else:
        return
    for key, child in children:
        yield from _places(child, (*path, key))


def damage_json(document, rng):
    """Replace, remove or rename one field at any depth.

    Args:
        document: A result of json.loads.
        rng: The random generator.

    Returns:
        JSON with NaN and lone surrogates as written by Python's json.
    """
    changed = copy.deepcopy(document)
    places = list(_places(changed))
    *parents, last = places[int(rng.integers(1, len(places)))]
    holder = changed
    for key in parents:
        holder = holder[key]
    match int(rng.integers(8)):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder["x" + str(last)] = holder.pop(last)
        case 2 if isinstance(holder[last], list) and holder[last]:
            holder[last] = holder[last] * int(rng.integers(2, 2000))
        case 3:
            depth = int(rng.choice([10, 1000, 100_000]))
            return json.dumps(changed).encode() if depth == 10 else _nested(changed, holder, last, depth)
        case _:
            holder[last] = _VALUES[int(rng.integers(len(_VALUES)))]
    return json.dumps(changed).encode()


def _nested(document, holder, key, depth):
    """Put a deeply nested list into a field, deeper than json.dumps allows."""
    holder[key] = "DEEP"
    return json.dumps(document).encode().replace(b'"DEEP"', b"[" * depth + b"]" * depth)


def hostile_name(rng):
    """Make a file name (bytes, without extension) from strings that are special to shells, terminals, TSV or paths."""
    parts = [
        b"a",
        b" ",
        b"\n",
        b"\t",
        b"\\",
        b"..",
        b"-",
        b"--",
        b"$(touch x)",
        b"`x`",
        b"'",
        b'"',
        b"*",
        b"%00",
        b"%s",
    ]
    parts += [
        b"\x1b]0;owned\x07",
        b"\x1b[2J",
        b"\x07",
        b"\r",
        b"\x7f",
        b"\xff\xfe",
        b"\xe2\x80\xae",
        b"[red]",
        b":",
        b"|",
    ]
    parts += [b"\xc3\xa9", b"e\xcc\x81", b"#", b";", b"&", b"~", b"@", b"{}", b"CON", b"x" * 200, b".", b"\xc2\x85"]
    chosen = rng.integers(len(parts), size=int(rng.integers(1, 5)))
    return b"".join(parts[each] for each in chosen)[:250].strip(b"/") or b"_"
