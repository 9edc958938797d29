"""Tar archives as SOURCE: every command reads them as a folder of the same images."""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LAYERS = ("--layers", "conv 4 k3 s2 same relu, pool 2", "--weights", "none", "--size", "20", "--device", "cpu")


def pack(name, *members):
    """Write an archive of pairs of a name and a content: the path of a file, or text."""
    with tarfile.open(name, "w") as archive:
        for member, content in members:
            content = content.read_bytes() if isinstance(content, Path) else content.encode()
            made = tarfile.TarInfo(member)
            made.size = len(content)
            archive.addfile(made, io.BytesIO(content))
    return name


@pytest.fixture
def photos(here):
    """The images in photos/, by their path there."""
    return {str(path.relative_to("photos")): path for path in sorted(Path("photos").rglob("*.png"))}


def labels(run, *words, source=()):
    """Return what cnn-split lists: (path, label) of each image."""
    return [(row["path"], row["label"]) for row in run("cnn-split", *source, "--ratio", "1", *words).rows]


def test_features_are_those_of_the_folder(run, here, photos):
    """Byte by byte, also of each shard; rows are in the archive's order, and paths are those in the archive."""
    run("cnn-extract", "photos", "-o", "folder.npy", *LAYERS)
    pack("photos.tar", *photos.items())
    outcome = run("cnn-extract", "photos.tar", "-o", "tar.npy", *LAYERS)
    assert "of 2 classes" in outcome.err or outcome.err == ""
    assert Path("tar.npy").read_bytes() == Path("folder.npy").read_bytes()
    assert Path("tar.json").read_bytes() == Path("folder.json").read_bytes()
    assert Path("tar.tsv").read_text() == Path("folder.tsv").read_text().replace("photos/", "photos.tar/")
    for number in (1, 2):
        run("cnn-extract", "photos.tar", "--shard", f"{number}/2", "-o", f"part-{number}.npy", *LAYERS)
    run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "joined.npy")
    assert Path("joined.npy").read_bytes() == Path("folder.npy").read_bytes()
    pack("turned.tar", *reversed(photos.items()))
    run("cnn-extract", "turned.tar", "-o", "turned.npy", *LAYERS)
    np.testing.assert_array_equal(np.load("turned.npy"), np.load("folder.npy")[::-1])


def test_every_way_to_name_archives(run, here, photos):
    """Two archives, a quoted pattern, a folder of archives, and a list of the images in them have the same images."""
    Path("shards").mkdir()
    names = list(photos)
    for number in range(2):
        pack(f"shards/photos-{number:03d}.tar", *((name, photos[name]) for name in names[number::2]))
    expected = labels(run, source=["shards/photos-000.tar", "shards/photos-001.tar"])
    assert {label for _, label in expected} == {"red", "blue"}
    assert len(expected) == 12
    assert labels(run, source=["shards/photos-{000..001}.tar"]) == expected
    outcome = run("cnn-split", "shards", "--ratio", "1")
    assert "shards: 2 tar archives and no image; read as one dataset" in outcome.err
    assert [(row["path"], row["label"]) for row in outcome.rows] == expected
    Path("list.tsv").write_text(run("cnn-split", "shards", "--ratio", "1").out)
    assert labels(run, source=["list.tsv"]) == expected
    listed = "".join(f"{path}\n" for path, _ in expected)
    rows = run("cnn-split", "-", "--ratio", "1", stdin=listed).rows
    assert [row["path"] for row in rows] == [path for path, _ in expected]


def test_files_of_an_archive_one_by_one(run, here, photos):
    """A single image, and the errors for names that are not there."""
    pack("photos.tar", *photos.items())
    (row,) = run("cnn-split", "photos.tar/red/00.png", "--ratio", "1").rows
    assert row["path"] == "photos.tar/red/00.png"
    assert "photos.tar/red: the archive photos.tar has no such file; give the archive" in (
        run("cnn-split", "photos.tar/red", "--ratio", "1", status=1).err
    )
    assert "photos-001.tar: no such image" in run("cnn-split", "photos-{001..002}.tar", "--ratio", "1", status=1).err


def test_concatenated_archives_give_a_notice(run, here, photos):
    """`cat a.tar b.tar` is one file with two archives, of which tar also reads the first, unless it gets -i."""
    names = list(photos)
    for archive, part in (("a.tar", names[:6]), ("b.tar", names[6:])):
        pack(archive, *((name, photos[name]) for name in part))
    Path("both.tar").write_bytes(Path("a.tar").read_bytes() + Path("b.tar").read_bytes())
    outcome = run("cnn-split", "both.tar", "--ratio", "1")
    assert len(outcome.rows) == 6
    notice = "both.tar: only the first of several archives in one file is read; give them one by one"
    assert notice in outcome.err
    assert notice.removeprefix("both") not in run("cnn-split", "a.tar", "b.tar", "--ratio", "1").err


def test_the_folder_that_holds_all_classes(run, here, photos):
    """`tar -cf all.tar photos/` has one more folder, which is not a class; a notice names it."""
    with tarfile.open("all.tar", "w") as archive:
        archive.add("photos")
    outcome = run("cnn-split", "all.tar", "--ratio", "1")
    assert "all.tar: all images are in photos/, whose folders are read" in outcome.err
    assert {row["path"]: row["label"] for row in outcome.rows} == {
        f"all.tar/photos/{name}": name.split("/")[0] for name in photos
    }


def test_labels_of_webdataset(run, here, photos):
    """From .cls and .json; a name in .json goes before a number in .cls; what is doubtful is counted in one notice."""
    one, two, *_ = photos.values()
    pack(
        "w.tar",
        ("x/0.png", one),
        ("x/0.cls", "cat\n"),
        ("x/1.png", two),
        ("x/1.json", json.dumps({"class": "dog", "width": 40})),
        ("x/2.png", one),
        ("x/2.cls", "7"),
        ("x/3.png", two),
        ("x/3.cls", "3"),
        ("x/3.json", json.dumps({"label": "cow"})),
        ("x/4.png", one),
        ("x/4.cls", "cat"),
        ("x/4.json", json.dumps({"label": "dog"})),
        ("x/5.png", two),
        ("x/5.json", "[1]"),
        ("x/6.png", one),
        ("x/6.seg.png", two),
        ("x/6.json", json.dumps({"label": 5, "__url__": "s3://a"})),
    )
    outcome = run("cnn-extract", "w.tar", "-o", "f.npy", *LAYERS)
    header, *lines = Path("f.tsv").read_text().splitlines()
    assert header.split("\t")[:2] == ["path", "label"]
    found = {line.split("\t")[0].removeprefix("w.tar/x/"): line.split("\t")[1] for line in lines}
    assert found == {
        "0.png": "cat",
        "1.png": "dog",
        "2.png": "7",
        "3.png": "cow",
        "4.png": "cat",
        "5.png": "",
        "6.png": "5",
    }
    for notice in (
        "1 sample in tar archives with one label in .cls and another one in .json are read with that of .cls, such as w.tar/x/4",
        "1 .cls or .json in tar archives ignored",
        "1 image in tar archives ignored, since its sample has a main image, such as w.tar/x/6.seg.png",
    ):
        assert notice in outcome.err


def test_unusable_labels_are_counted(run, here, photos):
    """They do not switch off the labels of folders; a whole number may be written as 1.0."""
    image, *_ = photos.values()
    for name, label in (("0", True), ("1", [1]), ("2", {"id": 1}), ("3", 1.5), ("4", 1 << 70)):
        pack(f"f-{name}.tar", ("cat/0.png", image), ("cat/0.json", json.dumps({"label": label})))
    outcome = run("cnn-split", "f-{0..4}.tar", "--ratio", "1")
    assert [row["label"] for row in outcome.rows] == ["cat"] * 5
    assert (
        "5 labels in tar archives ignored, since they are neither text nor a whole number, such as f-0.tar/cat/0.json"
        in outcome.err
    )
    pack(
        "w.tar", ("cat/0.png", image), ("cat/0.json", '{"label": 1.0}'), ("1.png", image), ("1.json", '{"class": -2e0}')
    )
    outcome = run("cnn-split", "w.tar", "--ratio", "1")
    assert {row["path"]: row["label"] for row in outcome.rows} == {"w.tar/cat/0.png": "1", "w.tar/1.png": "-2"}
    assert "ignored" not in outcome.err


def test_two_numbers_are_a_conflict(run, here, photos):
    """That of .json is read; text there is the name of a class whose number is in .cls, as cnn-split writes it."""
    image, *_ = photos.values()
    samples = {"0": ("3", 5), "1": ("3", "7"), "2": ("03", 3)}
    pack(
        "w.tar",
        *(
            each
            for name, (number, label) in samples.items()
            for each in (
                (f"{name}.png", image),
                (f"{name}.cls", number),
                (f"{name}.json", json.dumps({"label": label})),
            )
        ),
    )
    outcome = run("cnn-split", "w.tar", "--ratio", "1")
    labels = {row["path"]: row["label"] for row in outcome.rows}
    assert labels == {"w.tar/0.png": "5", "w.tar/1.png": "7", "w.tar/2.png": "3"}
    assert (
        "1 sample in tar archives with one number in .cls and another one in .json are read with that of .json, such as w.tar/0"
        in outcome.err
    )


def test_trainings_use_the_splits_of_archives(run, here, photos):
    """By the names of archives, by their folders, and by .json; --split selects one."""
    half = list(photos.items())
    pack("train-000.tar", *half[::2])
    pack("val-000.tar", *half[1::2])
    pack(
        "one.tar",
        *((f"{'train' if place % 2 == 0 else 'val'}/{name}", path) for place, (name, path) in enumerate(half)),
    )
    described = [
        each
        for place, (name, path) in enumerate(half)
        for each in (
            (f"{place:05d}.png", path),
            (
                f"{place:05d}.json",
                json.dumps({"label": name.split("/")[0], "split": ("train", "val")[place % 2]}),
            ),
        )
    ]
    pack("described.tar", *described)
    outputs = []
    for words in (["train-000.tar", "val-000.tar"], ["one.tar"], ["described.tar"]):
        outcome = run(
            "cnn-train",
            *words,
            "--layers",
            "conv 4 k3 relu, gap, dense 2 softmax",
            "--size",
            "8",
            "--epochs",
            "1",
            "-o",
            "net.pt",
            "--json",
        )
        (record,) = [json.loads(line) for line in outcome.out.splitlines()][-1:]
        outputs.append({key: value for key, value in record.items() if key not in ("seconds", "model")})
        shutil.move("net.pt", f"{words[0]}.pt")
        os.unlink("net.csv")
    assert outputs[0] == outputs[1] == outputs[2]
    for words in (["train-000.tar", "val-000.tar"], ["one.tar"], ["described.tar"]):
        assert len(run("cnn-split", *words, "--split", "val", "--ratio", "1").rows) == 6
    assert "no images with split test; it has train, val" in (
        run("cnn-split", "one.tar", "--split", "test", "--ratio", "1", status=1).err
    )


def test_a_split_of_folders_never_gives_another_one(run, here, photos):
    """Images whose archive gives another split than the folder are left out, with a notice; a synonym is the same split."""
    image, *_ = photos.values()
    Path("ds/val").mkdir(parents=True)
    Path("ds/train").mkdir()
    pack("ds/train/a.tar", ("0.png", image))
    pack(
        "ds/val/a.tar",
        *((f"{number}.png", image) for number in range(4)),
        *(
            (f"{number}.json", json.dumps({"label": "x", "split": name}))
            for number, name in enumerate(("train", "valid", None, ""))
        ),
    )
    pack("ds/val/b.tar", ("test/0.png", image), ("test/0.cls", "x"))
    outcome = run("cnn-split", "ds", "--split", "val", "--ratio", "1")
    assert [row["path"] for row in outcome.rows] == [f"ds/val/a.tar/{number}.png" for number in (1, 2, 3)]
    assert (
        "ds/val: 2 images are left out, since their archives give another split than val, such as ds/val/a.tar/0.png (train)"
        in outcome.err
    )
    Path("ds/val/a.tar").unlink()
    assert "ds/val: no image with split val; its archives have test" in (
        run("cnn-split", "ds", "--split", "val", "--ratio", "1", status=1).err
    )


def test_split_copies_out_of_an_archive(run, here, photos, contents):
    """As from a folder; nothing else than a copy is possible."""
    pack("photos.tar", *photos.items())
    run("cnn-split", "photos", "--ratio", "1,1", "-o", "a")
    run("cnn-split", "photos.tar", "--ratio", "1,1", "-o", "b")
    assert contents("a") == contents("b")
    run("cnn-split", "photos.tar", "--ratio", "1,1", "-o", "b", "--force")
    assert contents("a") == contents("b")
    refusal = run("cnn-split", "photos.tar", "--ratio", "1,1", "-o", "c", "--link", "move", status=1).err
    assert refusal.splitlines()[-1].endswith("is in a tar archive and can only be copied; use --link copy")
    assert "duplicates" not in refusal  # no image was read before
    assert not Path("c").exists()


def test_bad_images_in_an_archive_are_skipped(run, here, photos):
    """And named; a damaged archive is an error in one line."""
    pack("photos.tar", *photos.items(), ("red/99.png", "no image"), ("red/98.png", ""))
    outcome = run("cnn-extract", "photos.tar", "-o", "f.npy", "--errors", "errors.tsv", *LAYERS, status=3)
    assert "photos.tar/red/98.png: empty file" in outcome.err
    assert "photos.tar/red/99.png: not an image" in outcome.err
    with open("photos.tar", "r+b") as file:
        file.truncate(5000)
    error = run("cnn-extract", "photos.tar", "-o", "g.npy", *LAYERS, status=1).err
    assert error.startswith("cnn-extract: photos.tar: not a tar archive, damaged or truncated")
    assert error.count("\n") == 1


# ---------------------------------------------------------------- written by cnn-split


def packed(path):
    """Return the samples of an archive, by tarfile alone: for each its files by extension."""
    samples = {}
    with tarfile.open(path) as archive:
        for made in archive:
            assert (made.mtime, made.uid, made.gid, made.uname, made.mode) == (0, 0, 0, "", 0o644)
            key, _, extension = made.name.partition(".")
            samples.setdefault(key, {})[extension] = archive.extractfile(made).read()
    return samples


def test_split_writes_archives(run, here, photos, contents):
    """Each image is in one archive of its split with its label; the splits are those without archives, and are read back."""
    Path("photos/red/00.png").rename("photos/red/IMG.0.v2.png")
    Path("photos/red/01.png").rename("photos/red/01")
    run("cnn-split", "photos", "--ratio", "8,4", "--group", "(IMG|0[12345])", "-o", "plain")
    words = ("photos", "--ratio", "8,4", "--group", "(IMG|0[12345])", "--per-tar", "3")
    run("cnn-split", *words, "-o", "shards")
    archives = sorted(path.name for path in Path("shards").glob("*.tar"))
    assert archives[0] == "train-000000.tar"
    assert {name.split("-")[0] for name in archives} == {"train", "val"}
    wanted = contents("plain")
    listed = [line.split("\t") for line in wanted.pop("split.tsv").decode().splitlines()][1:]
    described = {path: (label, split, group) for path, label, split, group in listed}
    found = {}
    for archive in archives:
        samples = packed(f"shards/{archive}")
        assert 1 <= len(samples) <= 3
        for files in samples.values():
            fields = json.loads(files.pop("json"))
            assert files.pop("cls").decode() == str(["blue", "red"].index(fields["label"]))
            ((extension, content),) = files.items()
            assert extension == "png"  # also of a file without an extension
            found[f"{fields['split']}/{fields['path']}"] = content
            assert described[f"{fields['split']}/{fields['path']}"] == (
                fields["label"],
                fields["split"],
                fields["group"] or "",
            )
    assert found == wanted
    for source in ("shards", "shards/split.tsv"):
        rows = run("cnn-split", source, "--split", "val", "--ratio", "1").rows
        assert sorted((row["label"], row["group"]) for row in rows) == sorted(
            (label, group) for label, split, group in described.values() if split == "val"
        )
    run("cnn-split", *words, "-o", "again")
    assert contents("again") == contents("shards")


def test_archives_of_an_earlier_split_are_replaced(run, here, photos, contents):
    """With --force; also by folders; not if an archive has the only copy of an image."""
    words = ("photos", "--ratio", "1,1", "--per-tar", "2")
    run("cnn-split", *words, "-o", "fresh")
    run("cnn-split", *words[:-1], "1", "-o", "shards")
    assert "not empty" in run("cnn-split", *words, "-o", "shards", status=1).err
    run("cnn-split", *words, "-o", "shards", "--force")
    assert contents("shards") == contents("fresh")
    run("cnn-split", *words[:-2], "-o", "shards", "--force")
    assert sorted(os.listdir("shards")) == ["split.tsv", "train", "val"]
    run("cnn-split", *words, "-o", "shards", "--force")
    assert contents("shards") == contents("fresh")
    Path("photos/red/00.png").unlink()
    refusal = run("cnn-split", *words, "-o", "shards", "--force", status=1).err
    assert "is the only copy and would be deleted" in refusal
    assert contents("shards") == contents("fresh")


def test_archives_are_written_completely_or_not_at_all(run, here, photos, monkeypatch):
    """Nothing remains after a failure."""
    from cnnkit.formats import tar_shards

    def fail(fields, classes):
        if fields["split"] == "val":
            raise OSError(28, "No space left on device")
        return []

    monkeypatch.setattr(tar_shards, "_described", fail)
    assert (
        "No space left" in run("cnn-split", "photos", "--ratio", "1,1", "--per-tar", "2", "-o", "shards", status=1).err
    )
    assert not Path("shards").exists()


def test_images_with_one_name_are_samples_of_their_own(run, here, photos):
    """As 1.jpeg and 1.jpg in scraped data, for split and copies; the `.json` of a split has the names of the files."""
    Path("photos/red/00.png").rename("photos/red/a.1.png")
    Path("photos/red/01.png").rename("photos/red/a_1.png")
    Path("photos/red/02.png").rename("photos/red/a_1~2.png")
    run("cnn-split", "photos", "--ratio", "1", "--per-tar", "20", "-o", "shards")
    inside = {}
    with tarfile.open("shards/train-000000.tar") as archive:
        for name in archive.getnames():
            if name.endswith(".json"):
                inside[name] = json.load(archive.extractfile(name))["path"]
        for name, path in inside.items():
            image = archive.extractfile(name.replace(".json", ".png")).read()
            assert image == Path("photos", path).read_bytes()
    assert len(inside) == 12
    assert {name: path for name, path in inside.items() if "_" in name} == {
        "red/a_1.json": "red/a.1.png",
        "red/a_1~2.json": "red/a_1.png",
        "red/a_1~2~2.json": "red/a_1~2.png",
    }
    copies = run("cnn-augment", "photos", *AUGMENT, "--per-tar", "20", "-o", "copies")
    with tarfile.open("copies/images-000000.tar") as archive:
        assert {"red/a_1~01.png", "red/a_1~01~2.png"} < set(archive.getnames()), copies.err


def test_rejects_archives_without_a_folder(run, here, photos):
    """Options that contradict each other."""
    for words, message in (
        (["--per-tar", "2"], "--per-tar needs an output folder; add -o DIR"),
        (["--per-tar", "2", "-o", "a", "--link", "symlink"], "--per-tar copies the images into archives; drop --link"),
    ):
        assert message in run("cnn-split", "photos", "--ratio", "1", *words, status=2).err


def test_images_without_a_label_have_none_in_an_archive(run, here, photos):
    """Although they are in a folder there."""
    Path("list.txt").write_text("".join(f"{path}\n" for path in photos.values()))
    run("cnn-split", "list.txt", "--ratio", "1", "--per-tar", "5", "-o", "shards")
    assert {row["label"] for row in run("cnn-split", "shards", "--ratio", "1").rows} == {""}


def test_split_by_names_is_that_of_the_folder(run, here, photos):
    """With --no-verify, the path from the class folder on decides, in an archive too."""
    pack("photos.tar", *photos.items())
    one, other = (run("cnn-split", source, "--ratio", "1,1", "--no-verify").out for source in ("photos", "photos.tar"))
    assert one.replace("photos/", "photos.tar/") == other


def test_archives_are_divided_again(run, here, photos, contents):
    """Into folders and archives, as the images of the folder are; of equal names in two archives, both are there."""
    run("cnn-split", "photos", "--ratio", "1,1", "--per-tar", "5", "-o", "shards")
    for words in ([], ["--per-tar", "2"]):
        run("cnn-split", "photos", "--ratio", "2,1", *words, "-o", f"a{len(words)}")
        run("cnn-split", "shards", "--ratio", "2,1", *words, "-o", f"b{len(words)}")
        one, other = contents(f"a{len(words)}"), contents(f"b{len(words)}")
        rows = [sorted(each.pop("split.tsv").splitlines()) for each in (one, other)]
        assert rows[0] == rows[1]  # in the order of the names given
        assert one == other
    names = list(photos)
    for number in range(2):
        pack(f"w-{number}.tar", ("0.png", photos[names[number]]), ("0.cls", "red"))
    run("cnn-split", "w-{0..1}.tar", "--ratio", "1", "-o", "c")
    assert sorted(contents("c")) == ["split.tsv", "train/red/w-0/0.png", "train/red/w-1/0.png"]


def test_copies_of_images_in_archives(run, here, photos, contents):
    """They are those of the images in folders; the originals are kept, and replaced with --force."""
    pack("photos.tar", *photos.items())
    words = ("--augment", "hflip, brightness 0.2", "--copies", "1", "--keep")
    run("cnn-augment", "photos", "-o", "a", *words)
    run("cnn-augment", "photos.tar", "-o", "b", *words)
    one, other = contents("a"), contents("b")
    assert one.pop("augment.tsv").replace(b"../photos/", b"../photos.tar/") == other.pop("augment.tsv")
    assert one == other
    run("cnn-augment", "photos.tar", "-o", "b", *words, "--force")
    pack("w-0.tar", ("0.png", photos["red/00.png"]), ("0.cls", "cow"))
    run("cnn-augment", "w-0.tar", "-o", "c", *words)
    assert sorted(contents("c")) == ["augment.tsv", "cow/0.png", "cow/0~01.png"]


def test_predictions_and_heat_maps(run, here, photos, contents):
    """Those of the folder, with the paths in the archive; cnn-eval takes the labels of the archive."""
    pack("photos.tar", *photos.items())
    net = "conv 4 k3 relu, gap, dense 2 softmax"
    run(
        "cnn-train",
        "photos.tar",
        "--layers",
        net,
        "--size",
        "8",
        "--epochs",
        "1",
        "-o",
        "net.pt",
    )
    run("cnn-export", "net.pt", "-o", "net.onnx")
    one, other = (run("cnn-predict", "-m", "net.onnx", source).out for source in ("photos", "photos.tar"))
    assert one.replace("photos/", "photos.tar/") == other
    scores = [
        run("cnn-eval", "-", "--truth", source, "--complete", "--json", stdin=out).out
        for source, out in (("photos", one), ("photos.tar", other))
    ]
    assert scores[0] == scores[1]
    run("cnn-cam", "-m", "net.pt", "photos.tar/red/00.png", "-o", "maps")
    run("cnn-cam", "-m", "net.pt", "photos/red/00.png", "-o", "of-folder")
    assert list(contents("maps").values()) == list(contents("of-folder").values()) != []


# ---------------------------------------------------------------- written by cnn-augment


AUGMENT = ("--augment", "rotate 20, hflip, brightness 0.2", "--copies", "2")


def table(path):
    """Return the rows of a table, as dictionaries of text."""
    header, *lines = [line.split("\t") for line in Path(path).read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_augment_writes_archives(run, here, photos, contents):
    """The images are those of the folder, the fields of .json those of augment.tsv; the bytes do not depend on --jobs."""
    Path("photos/red/00.png").rename("photos/red/IMG.0.v2.png")
    Path("photos/red/01.png").rename("photos/red/01")
    words = ("photos", *AUGMENT, "--keep")
    run("cnn-augment", *words, "-o", "plain")
    (summary,) = run("cnn-augment", *words, "--per-tar", "10", "-o", "tars", "--jobs", "1").rows
    assert (summary["images"], summary["copies"]) == ("12", "36")
    assert sorted(os.listdir("tars")) == ["augment.tsv", *(f"images-00000{number}.tar" for number in range(4))]
    expected, rows, found = contents("plain"), table("tars/augment.tsv"), {}
    expected.pop("augment.tsv")
    for (archive, samples), count in zip(
        ((path.name, packed(path)) for path in sorted(Path("tars").glob("*.tar"))), (10, 10, 10, 6), strict=True
    ):
        assert len(samples) == count
        assert {key.split("/")[0] for key in samples} == {"red", "blue"}
        for key, files in samples.items():
            fields = json.loads(files.pop("json"))
            assert files.pop("cls").decode() == str(["blue", "red"].index(fields["label"]))
            ((extension, content),) = files.items()
            assert extension == "png"
            found[fields["path"]] = content
            (row,) = [row for row in rows if row["path"] == f"{archive}/{key}.{extension}"]
            texts = {name: "" if value is None else str(value) for name, value in fields.items()}
            del texts["path"]
            wanted = {name: value for name, value in row.items() if name not in ("path", "source")}
            assert texts | {"hflip": texts["hflip"].lower()} == wanted
    assert found == expected
    run("cnn-augment", *words, "--per-tar", "10", "-o", "again", "--jobs", "4")
    assert contents("again") == contents("tars")


def test_archived_copies_are_read_as_those_of_the_folder(run, here, photos):
    """Features and trainings are the same, in the order of augment.tsv; the archives alone have the same labels and groups."""
    run("cnn-split", "photos", "--ratio", "2,1", "--manifest", "split.tsv")
    words = ("split.tsv", "--split", "train", *AUGMENT)
    run("cnn-augment", *words, "-o", "plain")
    run("cnn-augment", *words, "-o", "tars", "--per-tar", "6")
    assert sorted(os.listdir("tars"))[1:] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    run("cnn-split", "split.tsv", "--split", "val", "--ratio", "1", "--names", "val", "--manifest", "val.tsv")
    plain, tars = table("plain/augment.tsv"), table("tars/augment.tsv")
    assert [row | {"path": row["path"].partition("/")[2]} for row in tars] == plain
    scores = []
    for name in ("plain", "tars"):
        run("cnn-extract", f"{name}/augment.tsv", "-o", f"{name}.npy", *LAYERS)
        layers = ("--layers", "conv 4 k3 relu, gap, dense 2 softmax", "--size", "8", "--epochs", "1", "--seed", "3")
        run("cnn-train", f"{name}/augment.tsv", "val.tsv", *layers, "-o", f"{name}.pt")
        scores.append(Path(f"{name}.csv").read_text().splitlines()[-1].split(",")[:-1])
    assert Path("tars.npy").read_bytes() == Path("plain.npy").read_bytes()
    assert scores[0] == scores[1]
    rows = run("cnn-split", "tars", "--ratio", "1").rows
    assert sorted((row["path"], row["label"], row["group"]) for row in rows) == sorted(
        (f"tars/{row['path']}", row["label"], row["group"]) for row in tars
    )


def test_archives_of_shards_go_into_one_folder(run, here, photos, contents):
    """Their names are different; together they have the copies of one run. A shard without images has no archive."""
    run("cnn-augment", "photos", *AUGMENT, "-o", "plain")
    Path("all").mkdir()
    for number in range(1, 17):
        run("cnn-augment", "photos", *AUGMENT, "-o", "part", "--per-tar", "1", "--shard", f"{number}/16")
        for archive in Path("part").glob("*.tar"):
            assert archive.name.startswith(f"images-{number:02d}of16-00000")
            assert not Path("all", archive.name).exists()
            archive.rename(Path("all", archive.name))
        shutil.rmtree("part")
    found, numbers = {}, set()
    for archive in Path("all").iterdir():
        ((key, files),) = packed(archive).items()
        found[f"{key}.png"] = files["png"]
        numbers.add((json.loads(files["json"])["label"], files["cls"]))
    expected = contents("plain")
    expected.pop("augment.tsv")
    assert found == expected
    assert numbers == {("blue", b"0"), ("red", b"1")}


def test_copies_in_archives_of_shards_have_the_names_of_one_run(run, here):
    """Also if only their images' extensions differ, which WebDataset would take for one sample; a broken one has no copies."""
    Path("two/c").mkdir(parents=True)
    for name in ("1.jpeg", "1.jpg", "1.png", "1.gif", "2.png"):
        Image.new("RGB", (8, 8), (len(name) * 30, 9, 200)).save(Path("two/c", name))
    Path("two/c/1.bmp").write_bytes(b"broken")
    words = ("cnn-augment", "two", *AUGMENT, "--per-tar", "100", "-o")
    run(*words, "one", status=3)
    expected = packed("one/images-000000.tar")
    assert {"c/1~01", "c/1~01~2", "c/1~01~3", "c/1_gif~01"} < expected.keys()
    found = []
    for number in range(1, 4):
        run(*words, f"part-{number}", "--shard", f"{number}/3", status=3 if number == 1 else 0)
        for archive in Path(f"part-{number}").glob("*.tar"):
            found += packed(archive).items()
    assert len(found) == len(expected)
    assert dict(found) == expected


def test_earlier_archives_of_copies_are_replaced(run, here, photos, contents):
    """With --force, by archives and by folders; other files stay, and archives with originals that are nowhere else."""
    words = ("cnn-augment", "photos", *AUGMENT, "-o", "more")
    tars = ("--per-tar", "20")
    run(*words, *tars)
    first = contents("more")
    assert "not empty" in run(*words, *tars, status=1).err
    run(*words, "--force")
    assert sorted(os.listdir("more")) == ["augment.tsv", "blue", "red"]
    run(*words, *tars, "--force", "--keep")
    assert sorted(os.listdir("more")) == ["augment.tsv", "images-000000.tar", "images-000001.tar"]
    run(*words, *tars, "--force")
    assert contents("more") == first
    run(*words, *tars, "--force", "--keep")
    before = contents("more")
    Path("photos/red/00.png").unlink()
    refusal = run(*words, *tars, "--force", status=1).err
    assert "already exists; move it away or choose another folder" in refusal
    assert contents("more") == before
    Path("other").mkdir()
    Path("other/images-000001.tar").write_text("mine")
    refusal = run(*words[:-1], "other", *tars, "--force", status=1).err
    assert "other/images-000001.tar already exists; move it away or choose another folder" in refusal
    assert contents("other") == {"images-000001.tar": b"mine"}


def test_failed_archives_of_copies_leave_nothing(run, shell, here, photos):
    """Neither a full disk, simulated by a limit on the size of files, nor a failure in the second archive."""
    from cnnkit.formats import tar_shards

    words = ("cnn-augment", "photos", *AUGMENT, "-o", "tars", "--per-tar", "5")
    line = f"ulimit -f 8; cnn-augment photos -o tars --per-tar 5 --size 128 --augment '{AUGMENT[1]}'"
    assert shell(line, cwd=here, status=1).err == "cnn-augment: tars: File too large\n"
    assert os.listdir() == ["photos"]
    with pytest.MonkeyPatch.context() as patched:
        described, calls = tar_shards._described, []

        def fail(fields, classes):
            calls.append(fields)
            if len(calls) > 7:
                raise OSError(28, "No space left on device")
            return described(fields, classes)

        patched.setattr(tar_shards, "_described", fail)
        assert "No space left" in run(*words, status=1).err
    assert os.listdir() == ["photos"]


def test_killed_archives_of_copies_leave_nothing(run, commands, wait_for, here, images):
    """After Ctrl-C nothing is left; after a kill the next run starts over."""
    images("many", size=(100, 100), red=40)
    words = ["many", "-o", "more", "--per-tar", "7", "--copies", "20", *AUGMENT[:2]]
    for number, left in ((signal.SIGINT, False), (signal.SIGKILL, True)):
        with subprocess.Popen([commands / "cnn-augment", *words], stderr=subprocess.PIPE) as process:
            wait_for(Path("more/.augmenting/augment.tsv").exists)
            process.send_signal(number)
            process.communicate()
        assert Path("more").exists() is left
    assert os.listdir("more") == [".augmenting"]
    run("cnn-augment", "many/red/00.png", "-o", "more", "--per-tar", "7", *AUGMENT)
    assert sorted(os.listdir("more")) == ["augment.tsv", "images-000000.tar"]


def test_rejects_copies_that_no_archive_can_hold(run, here, photos):
    """Two copies with one name, and splits that are no names of files; nothing is written."""
    for words in (["-o", "-"], ["--sheet", "sheet.png"]):
        error = run("cnn-augment", "photos", *AUGMENT, "--per-tar", "2", *words, status=2).err
        assert "--per-tar needs an output folder; add -o DIR" in error
    words = (*AUGMENT, "--per-tar", "2", "-o", "tars")
    for split in (".hidden", "a/b"):
        Path("list.tsv").write_text(f"path\tsplit\nphotos/red/00.png\t{split}\n")
        error = run("cnn-augment", "list.tsv", *words, status=1).err
        assert f"split '{split}' cannot be the name of an archive; rename it in the manifest" in error
    shutil.copytree("photos/red", "others/red")
    Path("both.tsv").write_text("path\tlabel\nphotos/red/02.png\tred\nothers/red/02.png\tred\n")
    error = run("cnn-augment", "both.tsv", *words, status=1).err
    assert "and another image would both become red/02~01.png" in error
    assert not Path("tars").exists()
