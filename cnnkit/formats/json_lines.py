"""JSON Lines: one object per line, whose values are the fields of a row."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cnnkit import messages
from cnnkit.errors import FormatError
from cnnkit.formats import label_sets, table_columns
from cnnkit.formats.listed_paths import Backslashes
from cnnkit.formats.table_columns import Aliases, Check


def rows(
    lines: Iterable[tuple[int, str]],
    name: str,
    required: Sequence[str],
    aliases: Aliases,
    backslashes: Backslashes,
    check: Check | None,
) -> Iterator[dict[str, str]]:
    """Yield the rows of numbered lines, as `tables.parse` does; each object may have other keys.

    Raises:
        FormatError: A line is not an object, lacks a required key, or a value is not a field.
    """
    renamed: dict[tuple[str, ...], list[str]] = {}
    for number, text in lines:
        if not text.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"{where}: {_about_json(error, text, name)}") from error
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: not a JSON object; expected one per line (JSON Lines)") from error
        if not isinstance(row, dict):
            raise FormatError(f"{where}: expected an object with {' and '.join(required)}")
        keys = tuple(row)
        if keys not in renamed:
            renamed[keys] = table_columns.named(keys, name, (), aliases)
            if not set(required) <= set(renamed[keys]):
                found = messages.excerpt(", ".join(keys[:8]))
                raise FormatError(f"{where}: expected an object with {' and '.join(required)}; found {found}")
            if check is not None:
                check(renamed[keys])
        fields = {
            column: _labels(value, f"{where}: {column}")
            if column == "labels" and column in aliases and "label" not in renamed[keys]
            else _word(
                value, f"{where}: {column}", needed=column in aliases and column not in ("box", "labels")
            )  # a list of four numbers
            for column, value in zip(renamed[keys], row.values(), strict=True)
        }
        if "\\" in fields.get("path", ""):
            fields["path"] = backslashes.path(fields["path"], written=fields["path"])
        yield fields


def _about_json(error: json.JSONDecodeError, text: str, name: str) -> str:
    """Explain why a line is not a JSON object."""
    if error.msg == "Extra data":
        return f'"{messages.excerpt(text[error.pos :], 20)}" after the object; expected one per line (JSON Lines)'
    if text.strip() == "{" or text.rstrip().endswith((",", ": {", ": [")):
        return f"an object over several lines; convert it to one object per line (JSON Lines): jq -c . {messages.shell_word(name)}"
    return "not a JSON object; expected one per line (JSON Lines)"


def _labels(value: Any, where: str) -> str:  # noqa: ANN401 - any JSON value
    """Return the labels of an image, a list or one text, as a field of the column `labels`.

    Raises:
        FormatError: One is not a name.
    """
    if not isinstance(value, list):
        return _word(value, where, needed=True)
    try:
        return label_sets.joined(_word(label, f"{where}: a label", needed=True) for label in value)
    except FormatError as error:
        raise FormatError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from error


def _word(value: Any, where: str, *, needed: bool) -> str:  # noqa: ANN401 - any JSON value
    """Return a JSON value as a field of a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if "\0" in value or any(
            "\ud800" <= letter <= "\udfff" and not "\udc80" <= letter <= "\udcff" for letter in value
        ):
            raise FormatError(
                f'{where} "{messages.excerpt(value)}" contains characters that cannot be in a text or a file name'
            )
        return value
    if isinstance(value, list | dict):
        if needed:
            raise FormatError(f"{where} is {'a list' if isinstance(value, list) else 'an object'}; expected one word")
        return json.dumps(value)
    return str(value)
