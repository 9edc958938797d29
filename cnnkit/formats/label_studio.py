"""Exports of Label Studio as manifests: JSON, JSON-MIN, CSV and TSV of projects about images.

    [{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-1.jpg"},
      "annotations": [{"was_cancelled": false, "result": [{"from_name": "choice", "value": {"choices": ["cat"]}}]}]}]

`choices` are the label of an image; where a task has several, of all images `labels`. `rectanglelabels`, in percent of the upright image,
are boxes: one row for each. Of several annotations of a task, the first one that is not cancelled is read. Exports have addresses of the
server in place of paths: see `_Places`.

Source: https://labelstud.io/guide/export and label_studio_sdk.converter
"""

import contextlib
import csv
import io
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from cnnkit import files, messages
from cnnkit.errors import FormatError
from cnnkit.formats import delimited, image_formats, text_lines
from cnnkit.formats.box import Box

log = logging.getLogger("cnnkit")

#: Columns that Label Studio adds to those of a task.
_OWN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
_MARKS = frozenset({"annotator", "annotation_id", "lead_time"})
#: Names of the question whose answer is the class, if there are several.
_CLASS = ("label", "choice", "class", "category")
#: Characters in which an export that is broken has the first of its keys.
_BEGINNING = 100_000
_REMOTE = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_RANDOM = re.compile("[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the name of an uploaded file


@dataclass(frozen=True, slots=True)
class Example:
    """One image, or one box in it, with its labels; None if no task of the export has an annotation."""

    path: str
    labels: tuple[str, ...] | None
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """The images of an export; `several` if one has several labels."""

    examples: list[Example]
    several: bool


@dataclass(frozen=True, slots=True)
class _Task:
    """What one task says: the address of its image, and the answers of its annotation by the name of the question."""

    where: str
    image: str
    answers: Mapping[str, Sequence[Mapping[str, Any]]] | None


def is_export(lines: Sequence[bytes]) -> bool:
    """Return whether the lines of a file are an export, by its beginning: a JSON array of tasks, or the columns of a table."""
    first = next((text for text in map(text_lines.first_line, lines[:100]) if text.strip()), "").strip()
    if re.match(r"\[\s*(\{|$)", first):
        return True
    return {name.strip().lower() for name in delimited.header_fields(first)} >= _MARKS


def parse(lines: Sequence[bytes], *, name: str, folder: str, labels: bool = True) -> Export | None:
    """Read an export; None for another JSON array.

    Args:
        lines: The lines of the file.
        name: The file, for messages.
        folder: Its folder, in which the images are looked for.
        labels: The labels are used; otherwise tasks without a choice have an image like all others.

    Raises:
        FormatError: It is broken, its images are not files, or it has no choices and no rectangles.
    """
    text = "\n".join(text_lines.decoded(lines, name))
    if not text.lstrip().startswith("["):
        tasks = list(_of_table(text, name))
    else:
        records = _loaded(text, name)
        if all(isinstance(each, dict) and {"annotations", "completions"} & {*each} for each in records) and records:
            tasks = [_of_json(record, f"{name}: task {number}") for number, record in enumerate(records, start=1)]
        elif all(isinstance(each, dict) and {*each} >= _MARKS for each in records) and records:
            tasks = list(_of_records(records, name))
        else:
            return None
    return _examples(tasks, name, _Places(name, folder), labels=labels)


def _loaded(text: str, name: str) -> list[Any]:
    """Return the elements of a JSON array; none if it is broken and has no annotations."""

    def refused(constant: str) -> NoReturn:
        raise FormatError(f"{name}: {constant} is not a number of JSON")

    try:
        found = json.loads(text, parse_constant=refused)
    except json.JSONDecodeError as error:
        if '"annotation' not in text[:_BEGINNING]:
            return []
        raise FormatError(f"{name}:{error.lineno}: not JSON: {error.msg}; export it again") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: not JSON that can be read: nested too deeply, or a number is too long") from error
    return list(found)


def _of_json(record: Mapping[str, Any], where: str) -> _Task:
    """Read a task of the format JSON."""
    data = record.get("data")
    if not isinstance(data, dict):
        raise FormatError(f"{where}: no data with the address of its image")
    annotations = record.get("annotations", record.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        raise FormatError(f"{where}: its annotations are not a list of objects")
    kept = [each for each in annotations if not (each.get("was_cancelled") or each.get("skipped"))]
    answers: dict[str, list[Mapping[str, Any]]] | None = None
    if kept:
        answers = {}
        results = kept[0].get("result") or []
        if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
            raise FormatError(f"{where}: the result of its annotation is not a list of objects")
        for each in results:
            value = each.get("value")
            if isinstance(value, dict):  # a relation has none
                size = {
                    key: each[key] for key in ("original_width", "original_height", "image_rotation") if key in each
                }
                answers.setdefault(str(each.get("from_name")), []).append({**size, **value})
    return _Task(where, _image(data, where), answers)


def _of_table(text: str, name: str) -> Iterator[_Task]:
    """Read the format CSV or TSV, also if a spreadsheet has saved it with semicolons: values that are not words are JSON."""
    beginning = next(line for line in text.splitlines() if line.strip())
    rows = csv.DictReader(io.StringIO(text.lstrip()), delimiter=delimited.separator_of(beginning))
    records = []
    try:
        with _long_fields():
            columns = [column.strip() for column in rows.fieldnames or ()]
            rows.fieldnames = [column.lower() if column.lower() in _OWN else column for column in columns]
            for row in rows:
                if None in row or None in row.values():
                    raise FormatError(
                        f"{name}:{rows.line_num}: another number of fields than the header row; export it again"
                    )
                records.append(
                    {key: _decoded(value, name) if value[:1] in ("{", "[") else value for key, value in row.items()}
                )
    except csv.Error as error:
        raise FormatError(f"{name}:{rows.line_num}: {error}") from error
    yield from _of_records(records, name)


@contextlib.contextmanager
def _long_fields() -> Generator[None]:
    """Let csv read fields of any length: a brush has millions of characters, and the limit of the process is 131,072."""
    before = csv.field_size_limit(files.MOST - 1)  # the largest C long of Windows
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _decoded(value: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return a field that is JSON; another one as it is."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: a field is nested too deeply, or a number in it is too long") from error


def _of_records(records: Sequence[Mapping[str, Any]], name: str) -> Iterator[_Task]:
    """Read the format JSON-MIN: a record for each annotation, the newest first; and one for a task without any."""
    firsts: dict[str, tuple[tuple[int, int], int]] = {}  # the first annotation of each task
    for place, record in enumerate(records):
        identity = str(record["id"]) if "id" in record else f"row {place}"
        word = str(record["annotation_id"])
        age = (0, int(word)) if re.fullmatch("[0-9]{1,18}", word) else (1, place)
        firsts[identity] = min(firsts.get(identity, (age, place)), (age, place))
    for _, place in firsts.values():
        record, where = records[place], f"{name}: record {place + 1}"
        words = {key: value for key, value in record.items() if key not in _OWN}
        image = _image(words, where)
        answers: dict[str, list[Mapping[str, Any]]] = {}
        for key, value in words.items():
            if isinstance(value, dict):
                answers[key] = [value]
            elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
                answers[key] = value
            elif isinstance(value, list):  # choices of several lists
                answers[key] = [each if isinstance(each, dict) else {"choices": [each]} for each in value]
            elif isinstance(value, str) and value and value != image:
                answers[key] = [{"choices": [value], "word": True}]  # or further data of the task
        yield _Task(where, image, answers if record["annotation_id"] not in (None, "") else None)


def _image(data: Mapping[str, Any], where: str) -> str:
    """Return the address of a task's image: the field `image`, else the only one that is the name of an image file.

    Raises:
        FormatError: There is none, or several.
    """
    if isinstance(data.get("image"), str):
        return _text(data["image"], where)
    found = [value for value in data.values() if isinstance(value, str) and _is_image(value)]
    if len(found) != 1:
        raise FormatError(
            f"{where}: {'no field' if not found else f'{len(found)} fields'} with the address of an image; expected image"
        )
    return _text(found[0], where)


def _is_image(address: str) -> bool:
    path = address.partition("?d=")[2] or address.partition("?")[0]
    return image_formats.extension_of(path) in image_formats.EXTENSIONS


def _text(value: Any, where: str) -> str:  # noqa: ANN401 - any JSON value
    """Return a value that is a text which can be written to a file.

    Raises:
        FormatError: It is not.
    """
    if not isinstance(value, str):
        raise FormatError(f"{where}: {messages.excerpt(json.dumps(value))} in place of a text")
    if _NO_TEXT.search(value):
        raise FormatError(
            f'{where}: "{messages.excerpt(value)}" contains characters that cannot be in a text or a file name'
        )
    return value


def _names(value: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the labels in a value: choices, or those of a rectangle."""
    found: Any = next((value[key] for key in ("choices", "rectanglelabels", "labels") if value.get(key)), [])
    if not isinstance(found, list):
        raise FormatError(f"{where}: labels that are not a list")
    names = (each[-1] if isinstance(each, list) and each else each for each in found)  # a path in a taxonomy
    return tuple(dict.fromkeys(_text(each, where) for each in names))


def _is_rectangle(value: Mapping[str, Any]) -> bool:
    return {"x", "y", "width", "height"} <= {*value} and ("rectanglelabels" in value or "labels" in value)


def _examples(tasks: Sequence[_Task], name: str, places: "_Places", *, labels: bool) -> Export:
    """Make the rows of a manifest from tasks, and log what is not read."""
    kinds = Counter(_kind(value) for task in tasks for values in (task.answers or {}).values() for value in values)
    examples: list[Example] = []
    left: Counter[str] = Counter()
    boxes = kinds["rectangles"] > 0
    question = None if boxes else _question(tasks, name)
    for task in tasks:
        path = places.path(task.image, task.where)
        if task.answers is None:
            if boxes:
                left["tasks without an annotation"] += 1
            else:
                examples.append(Example(path, None))
        elif boxes:
            rectangles = [value for values in task.answers.values() for value in values if _is_rectangle(value)]
            for value in rectangles:
                if value.get("image_rotation"):
                    left["rectangles drawn on a rotated image"] += 1
                    continue
                examples.append(Example(path, _names(value, task.where), _box(value, task.where)))
            left["images without a box"] += not rectangles
        else:
            chosen = [_names(value, task.where) for value in task.answers.get(question or "", ()) if "choices" in value]
            examples.append(Example(path, tuple(dict.fromkeys(label for labels in chosen for label in labels))))
    several = any(each.labels is not None and len(each.labels) > 1 for each in examples)
    if labels and several:
        left["tasks without an annotation"] += sum(each.labels is None for each in examples)
        examples = [each for each in examples if each.labels is not None]
    elif labels and not boxes and any(each.labels for each in examples):
        left["tasks without a choice"] += sum(not each.labels for each in examples)
        examples = [each for each in examples if each.labels]
    left["regions of other kinds"] += kinds["regions"]
    if boxes:
        left["choices next to boxes"] += kinds["choices"]
    if gone := [_counted(count, what) for what, count in left.items() if count]:
        log.info("%s: not read: %s", name, ", ".join(gone))
    what = "boxes" if boxes else f"choices of {messages.excerpt(str(question))}"
    log.info("%s: export of Label Studio: %s of %s", name, what, _counted(len(tasks), "tasks"))
    return Export(examples, several)


def _counted(count: int, what: str) -> str:
    """Return a count with its noun, whose plural is the first word."""
    noun, _, rest = what.partition(" ")
    return f"1 {noun.removesuffix('s')} {rest}".rstrip() if count == 1 else f"{count:,} {what}"


def _kind(value: Mapping[str, Any]) -> str:
    if _is_rectangle(value):
        return "rectangles"
    if "word" in value:
        return "others"
    return "choices" if "choices" in value else "regions" if any(key.endswith("labels") for key in value) else "others"


def _question(tasks: Sequence[_Task], name: str) -> str:
    """Return the name of the choices that are the class.

    Raises:
        FormatError: There are none, or several.
    """
    found = dict.fromkeys(
        key
        for task in tasks
        for key, values in (task.answers or {}).items()
        if any("choices" in each for each in values)
    )
    named = [key for key in _CLASS if key in found]
    if len(found) > 1 and len(named) != 1:
        raise FormatError(
            f"{name}: several answers for each image: {messages.excerpt(', '.join(found))}; call the class label, or make a table "
            "with the columns path and label"
        )
    if not found and any(task.answers for task in tasks):
        raise FormatError(f"{name}: no choices and no rectangles in its annotations; these are the ones that are read")
    return named[0] if named else next(iter(found), "label")


def _box(value: Mapping[str, Any], where: str) -> Box:
    """Return a rectangle in pixels of the upright image, to a hundredth; of a rotated one, the smallest box around it.

    Raises:
        FormatError: A number or the size of the image is missing.
    """
    numbers = {}
    for key in ("x", "y", "width", "height", "original_width", "original_height", "rotation"):
        number = value.get(key, 0 if key == "rotation" else None)
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e9:
            raise FormatError(
                f"{where}: {key} of a rectangle is {messages.excerpt(json.dumps(number))}; expected a number"
            )
        numbers[key] = float(number)
    across, down = numbers["original_width"] / 100, numbers["original_height"] / 100
    left, top = numbers["x"] * across, numbers["y"] * down
    width, height = numbers["width"] * across, numbers["height"] * down
    angle = math.radians(numbers["rotation"])  # clockwise, around the left top corner
    corners = [
        (
            left + right * math.cos(angle) - below * math.sin(angle),
            top + right * math.sin(angle) + below * math.cos(angle),
        )
        for right in (0, width)
        for below in (0, height)
    ]
    xs, ys = zip(*corners, strict=True)
    edges = (min(xs), min(ys), max(xs), max(ys)) if angle else (left, top, left + width, top + height)
    left, top, right, below = edges
    return Box(round(left, 2), round(top, 2), round(right - left, 2), round(below - top, 2))


class _Places:
    """Files on this machine for the addresses of a Label Studio server.

    `/data/upload/1/0a1b2c3d-cat.jpg` is looked for next to the export under this path, its end, in `images/`, and without the random
    number; `/data/local-files/?d=photos/cat.jpg` under the path, and without its first folders. Other paths are as in any manifest.
    """

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder
        self._paths: dict[str, str] = {}
        self._addresses: dict[str, str] = {}

    def path(self, address: str, where: str) -> str:
        """Return the path of an image, relative to the export.

        Raises:
            FormatError: It is on another machine, or is also that of another address.
        """
        if address in self._paths:
            return self._paths[address]
        candidates = list(self._candidates(address, where))
        found = next((path for path in candidates if files.exists(os.path.join(self._folder, path))), candidates[0])
        other = self._addresses.setdefault(os.path.normpath(found), address)
        if other != address:
            raise FormatError(
                f"{where}: {messages.excerpt(address)} and {messages.excerpt(other)} are both {messages.excerpt(found)}; "
                "keep the images under the names that Label Studio gave them"
            )
        self._paths[address] = found
        return found

    def _candidates(self, address: str, where: str) -> Iterator[str]:
        """Yield paths under which an image may be found."""
        local = address
        if address.startswith("data:"):
            raise FormatError(
                f"{where}: an image within the export (data:); write it to a file, and its name in its place"
            )
        if _REMOTE.match(address):
            try:
                parts = urlsplit(address)
            except ValueError:
                parts = urlsplit("")
            if parts.scheme not in ("http", "https", "file") or (
                parts.scheme != "file" and not parts.path.startswith("/data/")
            ):
                above = messages.shell_word(f"s|{address[: address.rfind('/') + 1]}|images/|")
                raise FormatError(
                    f"{where}: {messages.excerpt(address)}: only local files are read; download the images, and replace the folder "
                    f"in their addresses: sed -i {above} {messages.shell_word(self._name)}"
                )
            local = unquote(parts.path) if parts.scheme == "file" else address[address.index("/data/") :]
        if local.startswith("/data/local-files/"):
            below = "".join(parse_qs(local.partition("?")[2]).get("d", [])) or unquote(local)
            _text(below, where)
            parts_of = below.lstrip("/").split("/")
            yield "/".join(parts_of)
            yield f"/{'/'.join(parts_of)}"
            for first in range(1, len(parts_of)):
                yield "/".join(parts_of[first:])
        elif local.startswith("/data/"):
            inside = _text(unquote(local.partition("?")[0].removeprefix("/data/")), where)
            file = os.path.basename(inside)
            yield from (file, local, inside, f"media/{inside}", inside.removeprefix("upload/"), f"images/{file}")
            plain = _RANDOM.sub("", file, count=1)
            yield from (plain, f"images/{plain}")
        else:
            yield local
