"""Exports of Label Studio as manifests. The other formats were written by label_studio_sdk 2.1.2's converter from the same tasks."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import decode, source
from cnnkit.data.search_log import SearchLog
from cnnkit.formats import manifest


def annotation(*values, number=1, cancelled=False, **more):
    result = [{"from_name": "choice", "to_name": "image", "type": "x", "value": value, **more} for value in values]
    return {"id": number, "result": result, "was_cancelled": cancelled}


def tasks(*annotations, image="/data/upload/1/0a1b2c3d-{}.png"):
    return [
        {"id": number, "data": {"image": image.format(number), "caption": "x"}, "annotations": each}
        for number, each in enumerate(annotations, start=1)
    ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder in which the export has images of 200 x 100 pixels, with and without the random number."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/images").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    for name in ("images/0a1b2c3d-1.png", "2.png", "images/3.png", "images/4.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path


def rows(here, content, name="export.json"):
    (here / "in" / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return [(row.path, row.labels if row.label is None else row.label) for row in manifest.rows(f"in/{name}")]


CHOICES = tasks(
    [annotation({"choices": ["no"]}, cancelled=True), annotation({"choices": ["cat"]}, number=2)],
    [annotation({"choices": ["dog"]}), annotation({"choices": ["cat"]}, number=2)],
    [annotation()],
    [],
)
MIN = """annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at
2,1,cat,2026-01-01,1,/data/upload/1/0a1b2c3d-1.png,3.2,2026-01-01
2,1,cat,2026-01-02,2,/data/upload/1/0a1b2c3d-2.png,3.2,2026-01-02
1,1,dog,2026-01-01,2,/data/upload/1/0a1b2c3d-2.png,3.2,2026-01-01
1,1,,2026-01-01,3,/data/upload/1/0a1b2c3d-3.png,3.2,2026-01-01
,,,,4,/data/upload/1/0a1b2c3d-4.png,,
"""
WANTED = [("images/0a1b2c3d-1.png", "cat"), ("2.png", "dog")]


def minimal(text):
    keys, *lines = (line.split(",") for line in text.splitlines())
    return [
        {key: int(value) if value.isdigit() else value or None for key, value in zip(keys, line, strict=True)}
        for line in lines
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("export.json", CHOICES),
        ("min.json", minimal(MIN)),
        ("export.csv", MIN),
        ("export.csv", "\ufeff" + MIN.replace("\n", "\r\n")),
        ("export.tsv", MIN.replace(",", "\t")),
        ("export.csv", MIN.replace(",", ";").replace("annotation_id", "Annotation_ID")),  # saved by a spreadsheet
        (
            "export.csv",
            MIN.replace("annotation_id", "brush,annotation_id")
            .replace("\n2,1", "\n,2,1")
            .replace("\n1,1", f"\n{'7' * 200_000},1,1")
            .replace("\n,,,", "\n,,,,"),
        ),
    ],
)
def test_every_format_has_the_same_rows(here, name, content, monkeypatch, run):
    """The first annotation that is not cancelled; JSON-MIN and the tables have the newest first. Also on standard input."""
    assert rows(here, content, name) == WANTED
    monkeypatch.chdir(here / "in")
    piped = run("cnn-check", "-", stdin=(here / "in" / name).read_bytes())
    assert piped.out == run("cnn-check", name).out
    assert "standard input: not read: 2 tasks without a choice" in piped.err


def test_an_export_without_annotations_lists_all_images(here):
    """To predict their classes."""
    assert [label for _, label in rows(here, tasks([], [], [annotation()]))] == [None] * 3


@pytest.mark.parametrize(("choices", "labelled"), [(["cat"], 1), (["cat", "indoor"], 2)])
def test_tasks_without_a_choice_are_there_where_labels_are_not_used(here, monkeypatch, choices, labelled):
    """As in cnn-predict, from a file and from standard input."""
    monkeypatch.chdir(here / "in")
    (here / "in/export.json").write_text(json.dumps(tasks([annotation({"choices": choices})], [annotation()], [])))
    assert len(source.find(["export.json"])) == labelled
    with open("export.json", "rb") as file:
        for word in ("export.json", "-"):
            found = source.find([word], stdin=file, search=SearchLog(labels=False))
            assert [image.path for image in found] == ["images/0a1b2c3d-1.png", "2.png", "images/3.png"]


def test_several_choices_are_labels(here):
    """Of all images; a task without an annotation is left out."""
    export = tasks([annotation({"choices": ["cat", "indoor"]})], [annotation({"choices": ["dog"]})], [annotation()], [])
    wanted = [("images/0a1b2c3d-1.png", ("cat", "indoor")), ("2.png", ("dog",)), ("images/3.png", ())]
    assert rows(here, export) == wanted
    table = MIN.replace("2,1,cat,2026-01-01", '2,1,"{""choices"":[""cat"",""indoor""]}",2026-01-01')
    assert rows(here, table, "export.csv") == wanted


SIZE = {"original_width": 200, "original_height": 100}


def rectangle(*labels, x=10.0, y=20.0, width=30.0, height=40.0, rotation=0):
    return {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": list(labels)}


def test_rectangles_are_boxes(here):
    """In percent of the image; a rotated one turns clockwise around its left top corner."""
    side = rectangle("dog", x=50, y=50, width=10, height=20, rotation=45)
    export = tasks([annotation(rectangle("cat"), side, {"choices": ["x"]}, **SIZE)], [annotation(**SIZE)], [])
    half = 20 * math.sqrt(0.5)
    turned = f"{100 - half:.2f},50,{2 * half:.2f},{2 * half:.2f}"
    one = "images/0a1b2c3d-1.png"
    assert rows(here, export) == [(f"{one}#xywh=20,20,60,40", "cat"), (f"{one}#xywh={turned}", "dog")]


def test_crops_of_an_upright_image(here):
    """Label Studio shows images upright, and so its percents are of the upright image: the crop is the half in one colour."""
    exif = Image.Exif()
    exif[274] = 6  # the file is 100 x 200, the upright image 200 x 100
    upright = Image.new("RGB", (200, 100), "red")
    upright.paste("blue", (100, 0, 200, 100))
    upright.transpose(Image.Transpose.ROTATE_90).save(here / "in/turned.png", exif=exif)
    export = tasks([annotation(rectangle("b", x=50, y=0, width=50, height=100), **SIZE)], image="turned.png")
    (here / "in/export.json").write_text(json.dumps(export))
    (row,) = manifest.rows("in/export.json")
    crop = decode.load(f"in/{row.path}")
    assert (crop.size, crop.getcolors()) == ((100, 100), [(10_000, (0, 0, 255))])


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/local-files/?d=photos/images/3.png", "images/3.png"),
        ("/data/local-files/?d=in%2Fimages%2F3.png", "images/3.png"),
        ("http://localhost:8080/data/upload/7/0a1b2c3d-3.png", "images/3.png"),
        ("images/3.png", "images/3.png"),
        ("/data/upload/7/0a1b2c3d-no.png", "0a1b2c3d-no.png"),
        ("HERE/in/2.png", "HERE/in/2.png"),
        ("/data/local-files/?d=HERE/in/2.png", "2.png"),
    ],
)
def test_addresses(here, address, path):
    """Absolute ones of local storage too; what is not there keeps its name."""
    address, path = (each.replace("HERE", str(here)) for each in (address, path))
    found = rows(here, tasks([annotation({"choices": ["cat"]})], image=address))[0][0]
    assert (here / "in" / found).resolve() == (here / "in" / path).resolve()


BAD = tasks([annotation({"choices": ["cat"]})])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            tasks([annotation({"choices": ["cat"]})], image="s3://b/a/1.png"),
            "s3://b/a/1.png: only local files are read",
        ),
        (
            tasks([], [], image="data:image/png;base64,iVBORw0KGgo="),
            "an image within the export (data:); write it to a file",
        ),
        ([], "an empty JSON array; it lists no image"),
        (tasks([], [], image="https://[x/1.png"), "only local files are read"),
        (tasks([{"result": [{"from_name": "choice", "value": {"choices": "cat"}}]}]), "labels that are not a list"),
        (tasks([{"result": [{"value": {"choices": [["cat"], {"a": 1}]}}]}]), 'task 1: {"a": 1} in place of a text'),
        (tasks([{"result": [{"value": {"choices": ["a\ud800"]}}]}]), "characters that cannot be in a text"),
        (tasks([{"result": {"a": 1}}]), "the result of its annotation is not a list"),
        (tasks(["x"]), "its annotations are not a list of objects"),
        ([{"annotations": []}], "task 1: no data with the address of its image"),
        ([{"annotations": [], "data": {"a": "x", "b": 3}}], "no field with the address of an image"),
        ([{"annotations": [], "data": {"a": "x.png", "b": "y.png"}}], "2 fields with the address of an image"),
        (tasks([annotation({"text": ["x"]})]), "no choices and no rectangles"),
        (tasks([annotation(rectangle("cat"))]), "original_width of a rectangle is null; expected a number"),
        (tasks([annotation(rectangle("cat", x="1"), **SIZE)]), 'x of a rectangle is "1"; expected a number'),
        (json.dumps(BAD).replace("[]", "[").replace('"cat"', "NaN"), "NaN is not a number of JSON"),
        (json.dumps(BAD)[:-3], "not JSON: Expecting"),
        ('[{"annotations": ' + "[" * 100_000, "nested too deeply"),
        ('[{"annotations": ' + "9" * 10_000, "a number is too long"),
        ([{"path": "a.png", "label": "x"}], "a JSON array; convert it"),
        ('[{"path": "a.png"},\n', "a JSON array; convert it"),
    ],
)
def test_broken_exports_are_refused_in_one_line(here, run, content, message):
    (here / "in/export.json").write_text(content if isinstance(content, str) else json.dumps(content))
    done = run("cnn-check", "in/export.json", status=1)
    assert done.err.startswith("cnn-check: in/export.json:")
    assert message in done.err
    assert (done.err.count("\n"), done.out) == (1, "")


def test_two_addresses_of_one_file_are_refused(here, run):
    """Images of the same name from two folders, without their random numbers."""
    export = tasks([annotation({"choices": ["cat"]})], [annotation({"choices": ["dog"]})])
    export[0]["data"]["image"], export[1]["data"]["image"] = (
        "/data/upload/1/00000000-3.png",
        "/data/upload/1/11111111-3.png",
    )
    (here / "in/export.json").write_text(json.dumps(export))
    assert "are both images/3.png; keep the images" in run("cnn-check", "in/export.json", status=1).err


def test_two_questions_need_the_name_label(here):
    """The class is the one called label or choice, if one is."""
    export = tasks([annotation({"choices": ["cat"]})])
    other = {"from_name": "quality", "value": {"choices": ["sharp"]}}
    export[0]["annotations"][0]["result"].insert(0, other)
    assert rows(here, export) == [("images/0a1b2c3d-1.png", "cat")]
