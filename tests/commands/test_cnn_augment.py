"""cnn-augment as it is used: exactly so many copies of each image, the same bytes every time, and what it refuses."""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.data import augment_notation, decode, image_grid, source, split_names
from cnnkit.data.augment import AugmentParams
from cnnkit.data.source import ImageFile
from cnnkit.engine import augment_files
from cnnkit.engine.resample import augment
from cnnkit.errors import CnnkitError
from cnnkit.formats import manifest, tsv
from cnnkit.messages import count_images

WORDS = ("--augment", "rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip, noise 0.02, fill reflect")


@pytest.fixture
def here(tmp_path, monkeypatch, images):
    """A working folder with photos/red and photos/blue, three images each."""
    images(red=3, blue=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder):
    with (Path(folder) / "augment.tsv").open("rb") as file:
        return list(tsv.parse(file, name="augment.tsv", required=["path"]))


def pixels(path):
    return torch.from_numpy(np.array(decode.load(path)))


# ---------------------------------------------------------------- what is written


def test_a_full_disk_is_named_and_left_as_it_was(shell, here):
    """A limit on the size of files is met as a full disk is: within a write, which has no name."""
    line = f"ulimit -f 8; cnn-augment photos -o more --copies 1 --size 128 --augment '{WORDS[1]}'"
    outcome = shell(line, cwd=here, status=1)
    assert outcome.err == "cnn-augment: more: File too large\n"
    assert os.listdir() == ["photos"]


def test_so_many_of_each_in_class_folders(run, here, contents):
    """Class folders are kept, subfolders too; each image has exactly n copies, named by it; the summary says so."""
    Path("photos/red/deep").mkdir()
    shutil.copy("photos/red/00.png", "photos/red/deep/00.png")
    outcome = run("cnn-augment", "photos", "-o", "more/of it", "--copies", "3", *WORDS)
    (summary,) = outcome.rows
    assert (
        summary["folder"],
        summary["pictures"],
        summary["copies"],
        summary["skipped"],
    ) == (
        "more/of it",
        "7",
        "21",
        "0",
    )
    originals = ["blue/00", "blue/01", "blue/02", "red/00", "red/01", "red/02", "red/deep/00"]
    expected = [f"{name}~{number:02d}.png" for name in originals for number in (1, 2, 3)]
    assert sorted(contents("more/of it")) == sorted([*expected, "augment.tsv"])
    assert [row["path"] for row in rows("more/of it")] == expected
    # One image under two names has the same copies
    assert filecmp.cmp("more/of it/red/00~02.png", "more/of it/red/deep/00~02.png", shallow=False)


def test_the_manifest_tells_what_made_each_copy(run, here):
    """From a row's numbers and its source the copy can be made again, to the bit; every command reads it as a manifest."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "2", *WORDS)
    found = rows("more")
    assert list(found[0]) == [
        *("path", "label", "split", "group", "source", "copy"),
        *("rotate", "shift_x", "shift_y", "shear", "zoom_x", "zoom_y", "hflip", "noise", "noise_seed"),
    ]
    for row in found[::3]:
        draw = AugmentParams(
            **{
                name: float(row[name])
                for name in ("rotate", "shift_x", "shift_y", "shear", "zoom_x", "zoom_y", "noise")
            },
            hflip=row["hflip"] == "true",
            noise_seed=int(row["noise_seed"]),
        )
        again = augment(pixels(f"more/{row['source']}")[None], [draw], fill=augment_notation.Fill.REFLECT)[0]
        assert torch.equal(again, pixels(f"more/{row['path']}"))
    assert found[1]["source"] == "../photos/blue/00.png"
    assert found[1]["copy"] == "2"
    listed = source.find(["more/augment.tsv"])
    assert [image.label for image in listed] == ["blue"] * 6 + ["red"] * 6
    assert listed[0].group == listed[1].group != listed[2].group
    # Copies of one image stay in one split, and so do those of a group: a patient's, say
    lines = ["path\tlabel\tgroup", *(f"photos/red/{n:02d}.png\tred\t{group}" for n, group in enumerate("aab"))]
    Path("grouped.tsv").write_text("\n".join(lines) + "\n")
    run("cnn-augment", "grouped.tsv", "-o", "grouped", "--copies", "2", *WORDS)
    assert [row["group"] for row in rows("grouped")] == ["a"] * 4 + ["b"] * 2
    run("cnn-split", "more/augment.tsv", "--ratio", "0.5,0.5", "--manifest", "again.tsv")
    splits = {}
    for row in manifest.load("again.tsv"):
        splits.setdefault(row.group, set()).add(row.split)
    assert [len(each) for each in splits.values()] == [1] * 6


def test_jobs_names_and_neighbours_change_no_byte(run, here, monkeypatch, contents):
    """One thread or four, some of the images or all, other names, another working folder: the same copies; another seed: others."""
    run("cnn-augment", "photos", "-o", "one", *WORDS, "--jobs", "1")
    run("cnn-augment", "photos", "-o", "four", *WORDS, "--jobs", "4")
    assert contents("one") == contents("four")
    assert len(contents("one")) == 31
    Path("few/red").mkdir(parents=True)
    shutil.copy("photos/red/01.png", "few/red/zebra.png")
    monkeypatch.chdir("few")
    run("cnn-augment", ".", "-o", "../few-more", *WORDS)
    monkeypatch.chdir(here)
    assert Path("few-more/red/zebra~04.png").read_bytes() == Path("one/red/01~04.png").read_bytes()
    run("cnn-augment", "photos", "-o", "fewer", *WORDS, "--copies", "2")
    assert Path("fewer/red/01~02.png").read_bytes() == Path("one/red/01~02.png").read_bytes()
    run("cnn-augment", "photos", "-o", "seed", *WORDS, "--seed", "1")
    assert not set(contents("seed").values()) & set(contents("one").values())


def test_the_originals_with_keep(run, here, contents):
    """With --keep they come first, byte for byte under their own names; with --size they are squares as well, with the number 0."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", "--keep", *WORDS)
    assert tuple(rows("more")[0][name] for name in ("path", "copy", "rotate")) == ("blue/00.png", "0", "0.0")
    assert filecmp.cmp("more/blue/00.png", "photos/blue/00.png", shallow=False)
    assert len(contents("more")) == 13
    run("cnn-augment", "photos", "-o", "square", "--copies", "1", "--keep", "--size", "16", "--fit", "pad", *WORDS)
    assert sorted(contents("square"))[1:3] == ["blue/00~00.png", "blue/00~01.png"]
    with Image.open("square/blue/00~00.png") as first, Image.open("square/blue/00~01.png") as second:
        assert first.size == second.size == (16, 16)


def test_formats_and_names_of_all_kinds(run, here):
    """A format stays, JPEG at its best; what cannot be written so becomes PNG; a.jpg, a.png and a.gif of one folder stay apart."""
    folder = Path("odd/red")
    folder.mkdir(parents=True)
    with Image.open("photos/red/00.png") as image:
        for name in ("a.jpg", "a.png", "a.gif", "b.BMP", "b.webp", "b.tif", "c.ppm"):
            image.save(folder / name)
        image.convert("L").save(folder / "c.pgm")
        image.save(folder / "really a png.jpg", "PNG")
    run("cnn-augment", "odd", "-o", "more", "--copies", "1", "--augment", "hflip")
    expected = ["a.gif~01.png", "a~01.jpg", "a~01.png", "b~01.BMP", "b~01.tif", "b~01.webp", "c.pgm~01.png", "c~01.ppm"]
    assert sorted(os.listdir("more/red")) == [*expected, "really a png.jpg~01.png"]
    run("cnn-augment", "odd", "-o", "same", "--copies", "1", "--augment", "brightness 0.0005")  # rounded, it is nothing
    for copy, original in (
        ("b~01.BMP", "b.BMP"),
        ("b~01.tif", "b.tif"),
        ("c.pgm~01.png", "c.pgm"),
        ("c~01.ppm", "c.ppm"),
    ):
        assert torch.equal(pixels(f"same/red/{copy}"), pixels(f"odd/red/{original}"))
    assert (pixels("same/red/a~01.jpg").int() - pixels("odd/red/a.jpg").int()).abs().float().mean() < 3
    for path in Path("more/red").iterdir():
        with Image.open(path) as image:
            assert decode.misnamed(path, image.format) is None


def test_grey_images_and_profiles_stay_what_they_are(run, here):
    """Grey comes out grey, with noise without colours; a colour profile goes with the copy where it means its colours."""
    folder = Path("odd")
    folder.mkdir()
    profiles = {space: bytes(16) + space.encode() + bytes(120) for space in ("RGB ", "GRAY", "CMYK")}
    with Image.open("photos/red/00.png") as image:
        for name, mode, space in (
            *(("a.png", "RGB", "RGB "), ("b.jpg", "L", "GRAY"), ("c.png", "LA", "RGB ")),
            ("d.jpg", "CMYK", "CMYK"),
        ):
            image.convert(mode).save(folder / name, icc_profile=profiles[space])
    run("cnn-augment", "odd", "-o", "more", "--copies", "1", "--keep", "--augment", "noise 0.1, hue 0.2")
    found = {}
    for name in ("a~01.png", "b~01.jpg", "c~01.png", "d~01.jpg"):
        with Image.open(f"more/{name}") as image:
            found[name[0]] = (image.mode, image.info.get("icc_profile"))
    assert found == {
        "a": ("RGB", profiles["RGB "]),
        "b": ("L", profiles["GRAY"]),
        "c": ("L", None),
        "d": ("RGB", None),
    }
    assert (pixels("more/c.png").float() - pixels("more/c~01.png")).std() > 15
    assert filecmp.cmp("odd/b.jpg", "more/b.jpg", shallow=False)


def test_numbers_grow_with_the_copies(run, here):
    """As many digits as the last copy needs, two at least."""
    run("cnn-augment", "photos/red/00.png", "-o", "more", "--copies", "100", "--augment", "hflip")
    names = sorted(os.listdir("more"))
    assert (names[0], names[99], len(names)) == ("00~001.png", "00~100.png", 101)


def test_a_list_keeps_its_folders(run, here, contents):
    """Images without labels from standard input lie below the folders they were named with, so that no two meet."""
    names = "photos/red/00.png\nphotos/blue/00.png\n"
    run("cnn-augment", "-", "-o", "more", "--copies", "1", *WORDS, stdin=names)
    assert sorted(contents("more")) == ["augment.tsv", "photos/blue/00~01.png", "photos/red/00~01.png"]
    assert rows("more")[0]["label"] == ""


# ---------------------------------------------------------------- what is shown


def test_draws_without_writing(run, here):
    """`-o - --json` prints what would be made, as the manifest has it, and writes nothing; without torch."""
    before = sorted(os.listdir())
    outcome = run("cnn-augment", "photos", "-o", "-", "--json", "--copies", "2", *WORDS)
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert sorted(os.listdir()) == before
    run("cnn-augment", "photos", "-o", "more", "--copies", "2", *WORDS)
    for record, row in zip(records, rows("more"), strict=True):
        assert record["source"] == row["source"].removeprefix("../")
        assert record["hflip"] is (row["hflip"] == "true")
        assert all(str(record[name]) == row[name] for name in ("path", "copy", "rotate", "zoom_y", "noise_seed"))
    assert (
        run("cnn-augment", "photos", "-o", "-", "--copies", "2", *WORDS).rows[0]["rotate"] == rows("more")[0]["rotate"]
    )
    words = ["photos", "-o", "-", "--augment", "hflip"]
    program = "import sys, cnnkit_tools.cnn_augment as t\ntry: t.main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


def test_a_contact_sheet(run, here):
    """One row an image, the original first, then its copies as they are written; alone, or beside the copies."""
    run("cnn-augment", "photos", "--sheet", "look.png", "--copies", "2", *WORDS)
    assert sorted(os.listdir()) == ["look.png", "photos"]
    run("cnn-augment", "photos", "-o", "more", "--sheet", "again.png", "--copies", "2", *WORDS)
    assert Path("look.png").read_bytes() == Path("again.png").read_bytes()
    sheet = pixels("look.png")
    side, gap = image_grid.SIDE, image_grid.GAP
    row = 3  # behind three blue ones
    for column, path in enumerate(("photos/red/00.png", "more/red/00~01.png", "more/red/00~02.png")):
        left = gap + column * (side + gap) + (2 * gap if column else 0)
        top = gap + row * (side + gap)
        tile = sheet[top : top + side, left : left + side]
        assert torch.equal(tile[48:80, 44:84], pixels(path))  # 40 x 32, in the middle of its place
    assert (sheet[0] == 255).all()


def test_the_sheet_has_rows_of_every_class():
    """As many of each as of the others, from its first image to its last; the others fill up where a class is small."""

    def chosen(**classes):
        listed = [ImageFile(f"{label}{n}", label) for label, count in classes.items() for n in range(count)]
        return [image.path for image in image_grid.choose(listed)]

    assert chosen(a=1, b=2) == ["a0", "b0", "b1"]
    assert chosen(a=1000, b=4, c=1) == [
        *(f"a{n}" for n in (0, 166, 333, 499, 666, 832, 999)),
        "b0",
        "b1",
        "b2",
        "b3",
        "c0",
    ]
    many = chosen(**{f"class{n:02d}": 3 for n in range(40)})
    assert len(set(many)) == len({path[:-1] for path in many}) == 12
    assert (many[0], many[-1]) == ("class000", "class390")


def test_a_long_list_is_shown_evenly(run, here, images):
    """Of many images a dozen are shown, and it is said; of a list on standard input the first, and none is lost for the work."""
    images("many", red=20, blue=20)
    outcome = run("cnn-augment", "many", "--sheet", "look.png", "--copies", "30", "--augment", "hflip")
    assert "look.png shows 12 of 40 pictures" in outcome.err
    assert "look.png shows 9 of 30 copies of each" in outcome.err
    assert max(pixels("look.png").shape) < 2000
    names = "\n".join(sorted(str(path) for path in Path("many").rglob("*.png")))
    outcome = run(
        "cnn-augment", "-", "-o", "-", "--sheet", "list.png", "--copies", "1", "--augment", "hflip", stdin=names
    )
    assert len(outcome.rows) == 40


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def split(here):
    """A manifest of the images: of each class one in train, val and test."""
    lines = ["path\tlabel\tsplit"]
    lines += [
        f"photos/{label}/0{index}.png\t{label}\t{split}"
        for label in ("red", "blue")
        for index, split in enumerate(("train", "val", "test"))
    ]
    Path("split.tsv").write_text("\n".join(lines) + "\n")
    return here


@pytest.mark.parametrize("way", [[], ["--split", "test"]])
def test_splits_that_measure_are_refused(run, split, way):
    """One line that names the image, its split and the remedy; nothing is written; --force insists, --split train is the way."""
    outcome = run("cnn-augment", "split.tsv", "-o", "more", *way, *WORDS, status=2)
    name = "test" if way else "val"
    assert f"belongs to {name}" in outcome.err
    assert "--split train" in outcome.err
    assert outcome.err.count("\n") == 1
    for other in (["-o", "-"], ["--sheet", "look.png"]):
        assert run("cnn-augment", "split.tsv", *other, *way, *WORDS, status=2).out == ""
    assert not Path("more").exists()
    assert not Path("look.png").exists()
    insisted = run("cnn-augment", "split.tsv", "-o", "more", "--sheet", "look.png", "--force", *way, *WORDS)
    told = f"{count_images(2)} of test" if way else f"{count_images(4)} of test, val"
    assert insisted.err.count(f"{told} augmented because of --force") == 1
    run("cnn-augment", "split.tsv", "-o", "train", "--split", "train", *WORDS)
    assert {row["split"] for row in rows("train")} == {"train"}


def test_splits_are_seen_in_lists_and_folders_too(run, split, monkeypatch):
    """In a manifest on standard input, where nothing is left of what was begun; and in folders of splits, taken for classes."""
    text = Path("split.tsv").read_text()
    outcome = run("cnn-augment", "-", "-o", "more", *WORDS, stdin=text, status=2)
    assert "belongs to val" in outcome.err
    assert not Path("more").exists()
    run("cnn-split", "photos", "--ratio", "1,1,1", "-o", "parts")
    assert "belongs to test" in run("cnn-augment", "parts", "-o", "more", *WORDS, status=2).err
    run("cnn-augment", "parts", "--split", "train", "-o", "more", "--copies", "1", *WORDS)
    assert sorted(os.listdir("more")) == ["augment.tsv", "blue", "red"]
    # A split is one by its folder's name as well, from wherever it is seen; a class that is called like one is, if a split is given
    assert "belongs to val" in run("cnn-augment", "parts/val", "-o", "x", *WORDS, status=2).err
    shutil.copytree("parts/val/red", "flat/Validation")
    assert "belongs to Validation" in run("cnn-augment", "flat/Validation", "-o", "x", *WORDS, status=2).err
    monkeypatch.chdir("parts/test")
    assert "belongs to test" in run("cnn-augment", ".", "-o", "x", *WORDS, status=2).err
    assert not Path("x").exists()
    assert split_names.held_out_split(ImageFile("photos/test/1.jpg", "test", "train")) is None
    assert split_names.held_out_split(ImageFile("/home/dev/photos/cat/1.jpg", "cat")) is None


def test_a_folder_that_holds_something(run, here, contents):
    """It needs --force; an earlier run's copies are then replaced, everything else stays and is never written over."""
    run("cnn-augment", "photos", "-o", "more", "--keep", *WORDS)
    assert "not empty" in run("cnn-augment", "photos", "-o", "more", *WORDS, status=1).err
    Path("more/red/mine.txt").write_text("mine")
    shutil.copy("photos/red/00.png", "more/red/00 of mine.png")
    shutil.rmtree("photos/blue")
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", "--force", *WORDS)
    kept = ["blue/00.png", "blue/01.png", "blue/02.png"]  # originals that lie nowhere else
    copies = [f"red/0{number}~01.png" for number in range(3)]
    assert sorted(contents("more")) == ["augment.tsv", *kept, "red/00 of mine.png", *copies, "red/mine.txt"]
    Path("other/red").mkdir(parents=True)
    shutil.copy("photos/red/00.png", "other/red/00~01.png")
    before = contents("other")
    assert "already exists" in run("cnn-augment", "photos", "-o", "other", "--force", *WORDS, status=1).err
    assert contents("other") == before
    assert "contains the images" in run("cnn-augment", "photos", "-o", "photos", "--force", *WORDS, status=1).err


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_nothing_is_lost_while_copies_are_replaced(run, here, monkeypatch, stop, contents):
    """Stopped at any move, each earlier copy is there, old or new; the next run goes on, without --force, as if undisturbed."""
    shutil.rmtree("photos/blue")
    run("cnn-augment", "photos", "-o", "more", "--copies", "2", "--keep", "--augment", "hflip, rotate 9")
    Path("photos/red/02.png").unlink()
    new = ("--copies", "1", "--keep", "--augment", "vflip, rotate 9")
    run("cnn-augment", "photos", "-o", "clean", *new)
    before, clean = contents("more"), contents("clean")
    calls, replace = [], Path.replace

    def stopping(self, target):
        calls.append(target)
        if len(calls) == stop:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stopping)
        outcome = run("cnn-augment", "photos", "-o", "more", "--force", *new, status=1)
    assert "run the command again to resume" in outcome.err
    left = contents("more")
    gone = {"red/02~01.png", "red/02~02.png", "red/00~02.png", "red/01~02.png"} if stop == 5 else set()
    for path in before.keys() - gone:
        assert left[path] in (before[path], clean.get(path))
    run("cnn-augment", "photos", "-o", "more", *new)
    kept = {"red/02.png": before["red/02.png"]}  # its original is gone
    assert contents("more") == clean | kept


def test_a_place_that_cannot_be_taken_is_seen_before_anything_goes(run, here, contents):
    """A file where a class must go, a listed copy that is a folder, a link out of the folder: one line, and every file as it was."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", *WORDS)
    again = ("cnn-augment", "photos", "-o", "more", "--copies", "1", "--force", *WORDS)
    listed = Path("more/augment.tsv").read_text()
    with Path("more/augment.tsv").open("a") as file:
        file.write("\t".join(["red", "red", "", "", "../photos/red/02.png", "1", *["0"] * 9]) + "\n")
    before = contents("more")
    assert "lists red, which is not a file" in run(*again, status=1).err
    assert contents("more") == before
    Path("more/augment.tsv").write_text(listed)
    shutil.move("more/red", "elsewhere")
    Path("more/red").write_text("mine")
    before = contents("more")
    assert "more/red exists and is not a folder" in run(*again, status=1).err
    assert contents("more") == before
    Path("more/red").unlink()
    Path("more/red").symlink_to(here / "elsewhere")
    before = contents("elsewhere")
    assert "link that leads out of more" in run(*again, status=1).err
    run("cnn-augment", "photos/blue", "-o", "more", "--force", *WORDS)  # its rows name files behind the link
    assert contents("elsewhere") == before


def test_an_edited_manifest_removes_nothing_outside(run, here, contents):
    """Paths that lead out of the folder are none of ours, whoever wrote them into augment.tsv."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", *WORDS)
    with Path("more/augment.tsv").open("a") as file:
        for path in ("../photos/red/00.png", str(here / "photos/red/01.png")):
            file.write("\t".join([path, "red", "", "", "../photos/red/02.png", "1", *["0"] * 9]) + "\n")
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", "--force", *WORDS)
    assert len(contents("photos")) == 6


def test_broken_images_are_skipped(run, here):
    """Named, with the reason in the file of errors and status 3; without any good one nothing is written."""
    Path("photos/red/00.png").write_bytes(Path("photos/red/00.png").read_bytes()[:200])
    Path("photos/red/note.jpg").write_text("not an image")
    outcome = run("cnn-augment", "photos", "-o", "more", "--errors", "bad.tsv", *WORDS, "--sheet", "look.png", status=3)
    assert [line.split("\t")[0] for line in Path("bad.tsv").read_text().splitlines()[1:]] == [
        "photos/red/00.png",
        "photos/red/note.jpg",
    ]
    assert outcome.err.count("photos/red/note.jpg") == 1
    assert len(rows("more")) == 25
    for way in (["-o", "none"], ["-o", "-"], ["--sheet", "none.png"]):
        outcome = run("cnn-augment", "photos/red/note.jpg", *way, *WORDS, status=1)
        assert "could be used" in outcome.err
    assert not Path("none").exists()
    assert not Path("none.png").exists()


def test_images_too_large_to_change_are_skipped_and_the_advice_helps(run, here, monkeypatch):
    """One of 169 megapixels took 5.8 GB."""
    monkeypatch.setattr(augment_files, "_MOST_PIXELS", 10_000)
    Image.new("RGB", (200, 60)).save("photos/red/large.png")
    words = ("cnn-augment", "photos", "-o", "more", "--copies", "1", "--augment", "rotate 20")
    done = run(*words, status=3)
    assert (
        "photos/red/large.png: too large to augment: 200 x 60, at most 10,000 pixels; give --size, or reduce it"
        in done.err
    )
    run(*words, "--size", "16", "--force")
    assert list(Path("more/red").glob("large*"))


def test_two_that_would_have_one_name(run, here):
    """Both are named, and nothing is written, or all of it printed."""
    Path("list.tsv").write_text("path\tlabel\nphotos/red/00.png\twarm\nwarm/photos/red/00.png\twarm\n")
    shutil.copytree("photos", "warm/photos")
    outcome = run("cnn-augment", "list.tsv", "-o", "more", *WORDS, status=1)
    assert "would both become warm/photos/red/00~01.png" in outcome.err
    assert not Path("more").exists()
    outcome = run("cnn-augment", "list.tsv", "-o", "-", *WORDS, status=1)
    assert "would both become warm/photos/red/00~01.png" in outcome.err


def test_names_as_long_as_the_disk_takes(run, here):
    """A copy's name that would be too long is cut, and told apart by a hash; the same names are the same every time."""
    Path("long").mkdir()
    names = ["n" * 251 + ".png", "n" * 250 + "m.png", "ü" * 125 + "x.png"]
    for name in names:
        shutil.copy("photos/red/00.png", f"long/{name}")
    run("cnn-augment", "long", "-o", "more", "--augment", "hflip", "--copies", "2")
    copies = sorted(row["path"] for row in rows("more"))
    assert len(copies) == 6
    assert sorted(os.listdir("more")) == sorted(["augment.tsv", *copies])
    assert all(len(os.fsencode(name)) > 240 and name.endswith(("~01.png", "~02.png")) for name in copies)
    run("cnn-augment", "long", "-o", "again", "--augment", "hflip", "--copies", "2")
    assert sorted(os.listdir("again")) == sorted(os.listdir("more"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "more"], "--augment"),
        (["--augment", "hflip"], "-o DIR"),
        (
            ["-o", "more", "--augment", "hflop"],
            'augmentation word 1: "hflop" is not an augmentation; did you mean "hflip"?',
        ),
        (["-o", "more", "--augment", ""], '--augment "" changes nothing'),
        (["-o", "more", "--augment", "hflip", "--fit", "pad"], "--size"),
        (["-o", "more", "--augment", "hflip", "--sheet", "look.jpg"], ".png"),
    ],
)
def test_words_that_do_not_fit(run, here, words, message):
    """Status 2, one line, nothing written."""
    outcome = run("cnn-augment", "photos", *words, status=2)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert os.listdir() == ["photos"]


def test_devices_and_pipes_are_no_images(run, here):
    """What has no end is named and passed over, not read; a sheet is not begun where the copies cannot go."""
    os.mkfifo("pipe.png")
    Path("endless.png").symlink_to("/dev/zero")
    names = "endless.png\npipe.png\nphotos/red/00.png\n"
    outcome = run("cnn-augment", "-", "-o", "-", "--copies", "1", *WORDS, stdin=names, status=3)
    assert "endless.png: not a regular file" in outcome.err
    assert "pipe.png: not a regular file" in outcome.err
    assert len(outcome.rows) == 1
    for folder in ("photos", "pipe.png"):
        run("cnn-augment", "photos/red", "-o", folder, "--sheet", "look.png", *WORDS, status=1)
        assert not Path("look.png").exists()


def test_a_killed_run_leaves_no_half(run, commands, wait_for, here, images, contents):
    """While it runs no other one writes there; stopped with Ctrl-C it leaves nothing; killed, the next run begins anew."""
    images("many", size=(100, 100), red=60)
    name = commands / "cnn-augment"
    for number, left in ((signal.SIGINT, False), (signal.SIGKILL, True)):
        with subprocess.Popen(
            [name, "many", "-o", "more", "--copies", "20", *WORDS], stderr=subprocess.PIPE
        ) as process:
            wait_for(Path("more/.augmenting/red").exists)
            outcome = run("cnn-augment", "photos", "-o", "more", "--force", *WORDS, status=1)
            assert "another run is writing into it" in outcome.err
            process.send_signal(number)
            process.communicate()  # until nobody holds the other end any more
        assert Path("more").exists() is left
    assert not Path("more/augment.tsv").exists()
    with pytest.raises(CnnkitError, match="more: no images found"):
        source.find(["more"])
    run("cnn-augment", "many", "-o", "more", "--copies", "1", "--augment", "hflip")
    assert len(contents("more")) == 61


@pytest.mark.slow
@pytest.mark.photos
def test_real_photographs(run, here, photos):
    """JPEGs of many sizes: every copy is what its row's numbers make of its source, but for what JPEG loses."""
    folder = here / "real" / "daisy"
    folder.mkdir(parents=True)
    for path in sorted((photos / "flowers" / "daisy").iterdir())[:4]:
        shutil.copy(path, folder)
    run("cnn-augment", "real", "-o", "more", "--copies", "2", "--augment", "rotate 40, zoom 0.2, hflip, brightness 0.2")
    for row in rows("more"):
        copy, original = pixels(f"more/{row['path']}"), pixels(f"more/{row['source']}")
        numbers = {name: float(row[name]) for name in ("rotate", "zoom_x", "zoom_y", "brightness")}
        expected = augment(original[None], [AugmentParams(**numbers, hflip=row["hflip"] == "true")])[0]
        assert copy.shape == expected.shape
        assert (copy.float() - expected.float()).abs().mean() < 3
