"""The command cnn-augment: number of copies, reproducibility, and errors."""

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
from cnnkit.data.augment_policies import Operation, PolicyStep
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


# ---------------------------------------------------------------- copies


def test_full_disk_changes_nothing(shell, here):
    """Simulated by a limit on the size of files, which also fails within a write, without a file name."""
    line = f"ulimit -f 8; cnn-augment photos -o more --copies 1 --size 128 --augment '{WORDS[1]}'"
    outcome = shell(line, cwd=here, status=1)
    assert outcome.err == "cnn-augment: more: File too large\n"
    assert os.listdir() == ["photos"]


def test_copies_of_each_image_in_class_folders(run, here, contents):
    """Class folders and subfolders are kept; each image has exactly N copies, named after it; the summary has the numbers."""
    Path("photos/red/deep").mkdir()
    shutil.copy("photos/red/00.png", "photos/red/deep/00.png")
    outcome = run("cnn-augment", "photos", "-o", "more/of it", "--copies", "3", *WORDS)
    (summary,) = outcome.rows
    assert (summary["folder"], summary["images"], summary["copies"], summary["skipped"]) == (
        "more/of it",
        "7",
        "21",
        "0",
    )
    originals = ["blue/00", "blue/01", "blue/02", "red/00", "red/01", "red/02", "red/deep/00"]
    expected = [f"{name}~{number:02d}.png" for name in originals for number in (1, 2, 3)]
    assert sorted(contents("more/of it")) == sorted([*expected, "augment.tsv"])
    assert [row["path"] for row in rows("more/of it")] == expected
    # The same image under two names has the same copies
    assert filecmp.cmp("more/of it/red/00~02.png", "more/of it/red/deep/00~02.png", shallow=False)


def test_manifest_reproduces_each_copy(run, here):
    """A copy can be made again, bit-identical, from the source and parameters in its row; every command reads the manifest."""
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
    # Copies of one image stay in one split, and so do those of a group, such as a patient
    lines = ["path\tlabel\tgroup", *(f"photos/red/{n:02d}.png\tred\t{group}" for n, group in enumerate("aab"))]
    Path("grouped.tsv").write_text("\n".join(lines) + "\n")
    run("cnn-augment", "grouped.tsv", "-o", "grouped", "--copies", "2", *WORDS)
    assert [row["group"] for row in rows("grouped")] == ["a"] * 4 + ["b"] * 2
    run("cnn-split", "more/augment.tsv", "--ratio", "0.5,0.5", "--manifest", "again.tsv")
    splits = {}
    for row in manifest.load("again.tsv"):
        splits.setdefault(row.group, set()).add(row.split)
    assert [len(each) for each in splits.values()] == [1] * 6


def test_manifest_has_the_operations_of_policies_and_erased_copies(run, here):
    """A copy can be made again from its row: operations with their levels, and the seed of the rectangle."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "3", "--augment", "randaugment 2 20, erase 0.5")
    found = rows("more")
    assert list(found[0])[6:] == ["randaugment", "erase", "erase_seed"]
    assert {row["erase"] for row in found} == {"true", "false"}
    for row in found:
        steps = [step.split() for step in row["randaugment"].split(", ")]
        assert len(steps) == 2
        draw = AugmentParams(
            randaugment=tuple(PolicyStep(Operation(name), int(level[0]) if level else 0) for name, *level in steps),
            erase=row["erase"] == "true",
            erase_seed=int(row["erase_seed"]),
        )
        again = augment(pixels(f"more/{row['source']}")[None], [draw])[0]
        assert torch.equal(again, pixels(f"more/{row['path']}"))


def test_copies_do_not_depend_on_jobs_names_and_other_images(run, here, monkeypatch, contents):
    """Nor on the current folder; another seed gives other copies."""
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


def test_keep_includes_the_originals(run, here, contents):
    """They come first, byte-identical under their own names; with --size they are squares too, with the number 0."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", "--keep", *WORDS)
    assert tuple(rows("more")[0][name] for name in ("path", "copy", "rotate")) == ("blue/00.png", "0", "0.0")
    assert filecmp.cmp("more/blue/00.png", "photos/blue/00.png", shallow=False)
    assert len(contents("more")) == 13
    run("cnn-augment", "photos", "-o", "square", "--copies", "1", "--keep", "--size", "16", "--fit", "pad", *WORDS)
    assert sorted(contents("square"))[1:3] == ["blue/00~00.png", "blue/00~01.png"]
    with Image.open("square/blue/00~00.png") as first, Image.open("square/blue/00~01.png") as second:
        assert first.size == second.size == (16, 16)


def test_formats_and_names_of_copies(run, here):
    """Formats are kept, with high JPEG quality; other formats become PNG; copies of a.jpg, a.png and a.gif do not collide."""
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
    run(
        "cnn-augment", "odd", "-o", "same", "--copies", "1", "--augment", "brightness 0.0005"
    )  # rounded, it changes nothing
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


def test_grey_images_and_colour_profiles_are_kept(run, here):
    """Grey images stay grey, also with noise; a colour profile is kept if it fits the copy's colour space."""
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


def test_copy_numbers_have_equal_length(run, here):
    """The number of digits of the last copy, at least two."""
    run("cnn-augment", "photos/red/00.png", "-o", "more", "--copies", "100", "--augment", "hflip")
    names = sorted(os.listdir("more"))
    assert (names[0], names[99], len(names)) == ("00~001.png", "00~100.png", 101)


def test_copies_of_a_list_keep_its_folders(run, here, contents):
    """Images without labels from standard input keep the folders of their paths, so that no two collide."""
    names = "photos/red/00.png\nphotos/blue/00.png\n"
    run("cnn-augment", "-", "-o", "more", "--copies", "1", *WORDS, stdin=names)
    assert sorted(contents("more")) == ["augment.tsv", "photos/blue/00~01.png", "photos/red/00~01.png"]
    assert rows("more")[0]["label"] == ""


# ---------------------------------------------------------------- parameters and contact sheet


def test_prints_parameters_without_writing(run, here):
    """`-o - --json` prints the rows of the manifest and writes nothing; torch is not imported."""
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


def test_contact_sheet(run, here):
    """One row per image, the original first, then its copies as written; with -o and without."""
    run("cnn-augment", "photos", "--sheet", "look.png", "--copies", "2", *WORDS)
    assert sorted(os.listdir()) == ["look.png", "photos"]
    run("cnn-augment", "photos", "-o", "more", "--sheet", "again.png", "--copies", "2", *WORDS)
    assert Path("look.png").read_bytes() == Path("again.png").read_bytes()
    sheet = pixels("look.png")
    side, gap = image_grid.SIDE, image_grid.GAP
    row = 3  # after three blue ones
    for column, path in enumerate(("photos/red/00.png", "more/red/00~01.png", "more/red/00~02.png")):
        left = gap + column * (side + gap) + (2 * gap if column else 0)
        top = gap + row * (side + gap)
        tile = sheet[top : top + side, left : left + side]
        assert torch.equal(tile[48:80, 44:84], pixels(path))  # 40 x 32, in the middle of its cell
    assert (sheet[0] == 255).all()


def test_sheet_has_rows_of_every_class():
    """The same number of each, from its first image to its last; other classes fill the rows of a small one."""

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


def test_sheet_of_many_images(run, here, images):
    """Twelve images are shown, with a notice; of a list on standard input the first ones, and all are augmented."""
    images("many", red=20, blue=20)
    outcome = run("cnn-augment", "many", "--sheet", "look.png", "--copies", "30", "--augment", "hflip")
    assert "look.png shows 12 of 40 images" in outcome.err
    assert "look.png shows 9 of 30 copies of each" in outcome.err
    assert max(pixels("look.png").shape) < 2000
    names = "\n".join(sorted(str(path) for path in Path("many").rglob("*.png")))
    outcome = run(
        "cnn-augment", "-", "-o", "-", "--sheet", "list.png", "--copies", "1", "--augment", "hflip", stdin=names
    )
    assert len(outcome.rows) == 40


# ---------------------------------------------------------------- errors


@pytest.fixture
def split(here):
    """A manifest with one image of each class in train, val and test."""
    lines = ["path\tlabel\tsplit"]
    lines += [
        f"photos/{label}/0{index}.png\t{label}\t{split}"
        for label in ("red", "blue")
        for index, split in enumerate(("train", "val", "test"))
    ]
    Path("split.tsv").write_text("\n".join(lines) + "\n")
    return here


@pytest.mark.parametrize("way", [[], ["--split", "test"]])
def test_rejects_images_of_val_and_test(run, split, way):
    """One line with the image, its split and the remedy; nothing is written; --force and --split train work."""
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


def test_rejects_images_of_test_in_lists_and_folders(run, split, monkeypatch):
    """In a manifest on standard input, after which nothing remains; and in folders of splits that are read as classes."""
    text = Path("split.tsv").read_text()
    outcome = run("cnn-augment", "-", "-o", "more", *WORDS, stdin=text, status=2)
    assert "belongs to val" in outcome.err
    assert not Path("more").exists()
    run("cnn-split", "photos", "--ratio", "1,1,1", "-o", "parts")
    assert "belongs to test" in run("cnn-augment", "parts", "-o", "more", *WORDS, status=2).err
    run("cnn-augment", "parts", "--split", "train", "-o", "more", "--copies", "1", *WORDS)
    assert sorted(os.listdir("more")) == ["augment.tsv", "blue", "red"]
    # Folder names count from any current folder; a class named like a split is not a split, if a split is given
    assert "belongs to val" in run("cnn-augment", "parts/val", "-o", "x", *WORDS, status=2).err
    shutil.copytree("parts/val/red", "flat/Validation")
    assert "belongs to Validation" in run("cnn-augment", "flat/Validation", "-o", "x", *WORDS, status=2).err
    monkeypatch.chdir("parts/test")
    assert "belongs to test" in run("cnn-augment", ".", "-o", "x", *WORDS, status=2).err
    assert not Path("x").exists()
    assert split_names.held_out_split(ImageFile("photos/test/1.jpg", "test", "train")) is None
    assert split_names.held_out_split(ImageFile("/home/dev/photos/cat/1.jpg", "cat")) is None


def test_folder_that_is_not_empty_needs_force(run, here, contents):
    """An earlier run's copies are then replaced; all other files stay and are never overwritten."""
    run("cnn-augment", "photos", "-o", "more", "--keep", *WORDS)
    assert "not empty" in run("cnn-augment", "photos", "-o", "more", *WORDS, status=1).err
    Path("more/red/mine.txt").write_text("mine")
    shutil.copy("photos/red/00.png", "more/red/00 of mine.png")
    shutil.rmtree("photos/blue")
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", "--force", *WORDS)
    kept = ["blue/00.png", "blue/01.png", "blue/02.png"]  # originals without another copy
    copies = [f"red/0{number}~01.png" for number in range(3)]
    assert sorted(contents("more")) == ["augment.tsv", *kept, "red/00 of mine.png", *copies, "red/mine.txt"]
    Path("other/red").mkdir(parents=True)
    shutil.copy("photos/red/00.png", "other/red/00~01.png")
    before = contents("other")
    assert "already exists" in run("cnn-augment", "photos", "-o", "other", "--force", *WORDS, status=1).err
    assert contents("other") == before
    assert "contains the images" in run("cnn-augment", "photos", "-o", "photos", "--force", *WORDS, status=1).err


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_interrupted_replacement_is_resumed(run, here, monkeypatch, stop, contents):
    """Stopped at any move, each copy exists, old or new; the next run resumes without --force, with the same result."""
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
    kept = {"red/02.png": before["red/02.png"]}  # its original is missing
    assert contents("more") == clean | kept


def test_rejects_occupied_places_before_any_change(run, here, contents):
    """A file in place of a class, a listed copy that is a folder, a link out of the folder: one line, and no file changes."""
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
    run("cnn-augment", "photos/blue", "-o", "more", "--force", *WORDS)  # its rows list files in the linked folder
    assert contents("elsewhere") == before


def test_edited_manifest_removes_nothing_outside(run, here, contents):
    """Paths in augment.tsv that lead out of the folder are ignored."""
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", *WORDS)
    with Path("more/augment.tsv").open("a") as file:
        for path in ("../photos/red/00.png", str(here / "photos/red/01.png")):
            file.write("\t".join([path, "red", "", "", "../photos/red/02.png", "1", *["0"] * 9]) + "\n")
    run("cnn-augment", "photos", "-o", "more", "--copies", "1", "--force", *WORDS)
    assert len(contents("photos")) == 6


def test_broken_images_are_skipped(run, here):
    """With the reason in the file of --errors and exit status 3; without any good image nothing is written."""
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


def test_skips_images_too_large_to_augment_with_a_remedy(run, here, monkeypatch):
    """An image of 169 megapixels took 5.8 GB."""
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


def test_rejects_two_copies_with_one_path(run, here):
    """The message has both images; nothing is written, or with -o - all of it printed."""
    Path("list.tsv").write_text("path\tlabel\nphotos/red/00.png\twarm\nwarm/photos/red/00.png\twarm\n")
    shutil.copytree("photos", "warm/photos")
    outcome = run("cnn-augment", "list.tsv", "-o", "more", *WORDS, status=1)
    assert "would both become warm/photos/red/00~01.png" in outcome.err
    assert not Path("more").exists()
    outcome = run("cnn-augment", "list.tsv", "-o", "-", *WORDS, status=1)
    assert "would both become warm/photos/red/00~01.png" in outcome.err


def test_long_names_are_shortened(run, here):
    """A name that is too long is truncated and distinguished by a hash; the names are reproducible."""
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
def test_rejects_wrong_usage(run, here, words, message):
    """Exit status 2, one line, nothing written."""
    outcome = run("cnn-augment", "photos", *words, status=2)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert os.listdir() == ["photos"]


def test_devices_and_pipes_are_skipped(run, here):
    """Without reading them; no sheet is drawn if the copies cannot be written."""
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


def test_killed_run_leaves_no_incomplete_copies(run, commands, wait_for, here, images, contents):
    """During a run no other run can write there; Ctrl-C leaves nothing; after a kill the next run starts over."""
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
            process.communicate()  # until the other end is closed
        assert Path("more").exists() is left
    assert not Path("more/augment.tsv").exists()
    with pytest.raises(CnnkitError, match="more: no images found"):
        source.find(["more"])
    run("cnn-augment", "many", "-o", "more", "--copies", "1", "--augment", "hflip")
    assert len(contents("more")) == 61


@pytest.mark.slow
@pytest.mark.photos
def test_real_photographs(run, here, photos):
    """JPEGs of many sizes: every copy agrees with its source and parameters, up to JPEG compression."""
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
