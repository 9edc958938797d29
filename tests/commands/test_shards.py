"""--shard and --join: the outputs of all shards together are those of one run."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cnnkit.formats import features

TEXT = "conv 5 k3 s2 same relu, pool 2, conv 7 k3 bn relu"
BACKBONE = ("--layers", TEXT, "--weights", "none", "--size", "20", "--device", "cpu")


@pytest.fixture
def here(here):
    """The working folder of all tests of commands, with one broken image."""
    Path("photos/blue/03.png").write_bytes(b"no image")
    return here


@pytest.fixture
def extract(run, here):
    """Extract shards of photos to FOLDER/part-I.npy."""

    def extract_shards(count, *words, numbers=None, folder=".", source="photos"):
        Path(folder).mkdir(exist_ok=True)
        for number in numbers or range(1, count + 1):
            part = f"{folder}/part-{number}.npy"
            layers = () if "--layers" in words else BACKBONE[:2]
            run(
                "cnn-extract",
                source,
                "--shard",
                f"{number}/{count}",
                "-o",
                part,
                *BACKBONE[2:],
                *layers,
                *words,
                status=None,
            )

    return extract_shards


# ---------------------------------------------------------------- features


#: A backbone that gives an image the same bits in every row of a batch: its maps are whole vectors.
INVARIANT = ("--layers", "conv 8 k3 s2 same relu, pool 2, conv 16 k3 relu", *BACKBONE[2:])


@pytest.mark.parametrize("count", [1, 5, 12, 14])
def test_joined_features_are_those_of_one_run(run, extract, count, content):
    """All three files, byte by byte: with a broken image, a shard of nothing else (12), shards without images (14), in any order."""
    run("cnn-extract", "photos", "-o", "all.npy", *INVARIANT, "--batch", "4", status=3)
    extract(count, *INVARIANT, "--batch", "4", folder="parts")
    parts = sorted(map(str, Path("parts").glob("*.npy")), reverse=True)
    outcome = run("cnn-extract", "--join", *parts, "-o", "joined.npy")
    (summary,) = outcome.rows
    assert (summary["features"], summary["rows"], summary["shape"], summary["shards"]) == (
        *("joined.npy", "11", "16"),
        str(count),
    )
    assert content("joined.npy") == content("all.npy")
    assert not list(Path().glob("*.part"))
    assert outcome.err == ""


def test_an_image_has_its_row_of_the_batch_in_every_shard(run, extract, content):
    """The odd sizes of this backbone's maps give it other last bits in another row; after a skipped image, a warning reports that."""
    words = ("--batch", "4", "--views", "1", "--augment", "hflip")
    extract(5, *words)
    parts = [f"part-{number}.npy" for number in range(1, 6)]
    assert not json.loads(Path("part-1.json").read_text())["training"]["shard"]["batch_invariant"]
    outcome = run("cnn-extract", "--join", *parts, "-o", "joined.npy")
    assert "1 image skipped in shards before the last: the last bits of later values can differ" in outcome.err
    assert "or extract with --batch 1" in outcome.err
    os.remove("photos/blue/03.png")
    run("cnn-extract", "photos", "-o", "all.npy", *BACKBONE, *words)
    extract(5, *words)
    assert run("cnn-extract", "--join", *parts, "-o", "joined.npy").err == ""
    assert content("joined.npy") == content("all.npy")


def test_views_dtype_and_maps_are_joined(run, extract, content):
    words = (*INVARIANT, "--views", "2", "--augment", "hflip, crop 0.5", "--dtype", "float16", "--pool", "none")
    run("cnn-extract", "photos", "-o", "all.npy", *words, status=3)
    extract(2, *words)
    run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "joined.npy")
    assert content("joined.npy") == content("all.npy")


def test_record_and_notice_of_a_shard(run, here):
    """The header says which share of which list it is; the notice, which images."""
    outcome = run("cnn-extract", "photos", "--shard", "2/3", "-o", "x.npy", *BACKBONE)
    assert "shard 2/3: images 5 to 8 of 12" in outcome.err
    assert [row.path for row in features.load("x.npy").rows] == [
        *("photos/blue/04.png", "photos/blue/05.png", "photos/red/00.png", "photos/red/01.png"),
    ]
    record = json.loads(Path("x.json").read_text())["training"]["shard"]
    assert record.pop("list_sha256")
    expected = {"number": 2, "count": 3, "images": 12, "batch": 12, "device": "cpu", "batch_invariant": False}
    assert record == expected


def test_list_on_standard_input_is_divided(run, here):
    names = "".join(f"photos/red/0{number}.png\n" for number in range(5))
    run("cnn-extract", "-", "--shard", "2/2", "-o", "x.npy", *BACKBONE, stdin=names)
    assert [row.path[-6:] for row in features.load("x.npy").rows] == ["02.png", "03.png", "04.png"]


def test_a_shard_is_resumed(run, extract):
    """A complete shard is not extracted again, also if it has no rows; one of another list is refused."""
    extract(12)
    for number in (4, 5):  # the broken image, and a sound one
        words = ("--shard", f"{number}/12", "-o", f"part-{number}.npy", *BACKBONE, "--resume")
        assert "is complete; nothing to do" in run("cnn-extract", "photos", *words, status=None).err
    os.remove("part-5.npy")  # its other files are not enough
    run("cnn-extract", "photos", *words)
    assert len(features.load("part-5.npy").rows) == 1


def test_auto_takes_the_shard_of_a_launcher(run, here, monkeypatch):
    """Under torchrun, each process writes its own table of skipped images."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    Path("photos/red/03.png").write_bytes(b"no image")
    run("cnn-extract", "photos", "--shard", "auto", "-o", "x.npy", *BACKBONE, "--errors", "errors.tsv", status=3)
    assert [row.label for row in features.load("x.npy").rows] == ["red"] * 5
    assert "photos/red/03.png" in Path("errors.tsv").read_text()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("1 3", "shard 2/3 is missing; extract it with --shard 2/3"),
        ("2", "shards 1/3, 3/3 are missing; extract each with --shard, such as --shard 1/3"),
        ("1 2 3 again", "part-1.npy and again.npy are both shard 1/3; drop one of them"),
        ("1 2 3 plain", "plain.npy: not a shard; give files from cnn-extract --shard I/N"),
        ("1 2 grown", "grown.npy is a shard of another run than part-1.npy: images 13 and 12"),
        ("1 2 renamed", "renamed.npy is a shard of another run than part-1.npy: list of images, with digest"),
        ("1 2 wider", "wider.npy is a shard of another run than part-1.npy: batch 5 and 12"),
        ("1 2 other", "other.npy is a shard of another run than part-1.npy: layer conv1 and bn1"),
        ("1 2 half", "half.npy is a shard of another run than part-1.npy: dtype float16 and float32"),
        ("1 2 coarse", "coarse.npy is a shard of another run than part-1.npy: shards 2 and 3"),
        ("1 2 absent", "absent.npy: no such file"),
    ],
)
def test_names_the_shard_that_does_not_fit(run, extract, parts, message):
    """In one line; nothing is written."""
    extract(3)
    *_, last = parts.split()
    third = {"--shard": "3/3"}
    match last:
        case "again":
            for suffix in (".npy", ".tsv", ".json"):
                shutil.copy(f"part-1{suffix}", f"again{suffix}")
        case "plain":
            third = {}
        case "grown":
            shutil.copy("photos/red/00.png", "photos/red/99.png")
        case "renamed":
            Path("photos/red/00.png").rename("photos/red/000.png")
        case "wider":
            third["--batch"] = "5"
        case "other":
            third["--layers"] = "conv 7 k3 relu"
        case "half":
            third["--dtype"] = "float16"
        case "coarse":
            third["--shard"] = "2/2"
    if last not in ("absent", "again", "1", "2", "3"):
        words = [word for pair in third.items() for word in pair]
        run("cnn-extract", "photos", "-o", f"{last}.npy", *BACKBONE, *words, status=None)
    named = [f"part-{part}.npy" if part.isdecimal() else f"{part}.npy" for part in parts.split()]
    outcome = run("cnn-extract", "--join", *named, "-o", "all.npy", status=1)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not [name for name in os.listdir() if name.startswith("all.")]


def test_rejects_unfinished_and_wrong_files(run, extract):
    extract(2)
    Path("part-2.npy.part").touch()
    outcome = run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "all.npy", status=1)
    assert "part-2.npy: not complete; run the same command again with --resume" in outcome.err
    Path("part-2.npy.part").unlink()
    outcome = run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "part-1.npy", status=2)
    assert "both a shard and the output" in outcome.err
    outcome = run("cnn-extract", "--join", "part-1.npy", "photos", "-o", "all.npy", status=2)
    assert "photos: not a features file" in outcome.err
    assert "give the features of all shards" in run("cnn-extract", "--join", "-o", "all.npy", status=2).err
    assert "give the file to write" in run("cnn-extract", "--join", "part-1.npy", status=2).err
    outcome = run("cnn-extract", "--join", "part-1.npy", "-o", "all.npy", "--batch", "4", status=2)
    assert outcome.err == "cnn-extract: --join puts existing features together; drop --batch\n"


def test_training_on_a_shard_is_reported(run, extract):
    """It is probably not intended: the other shards were not joined."""
    Path("mixed.tsv").write_text(
        "path\tlabel\n"
        + "".join(f"photos/{label}/0{n}.png\t{label}\n" for n in (0, 1, 2, 4) for label in ("red", "blue"))
    )
    extract(2, source="mixed.tsv")
    outcome = run("cnn-train-head", "part-1.npy", "-o", "head.pt", "--solver", "lbfgs", "--device", "cpu")
    assert "part-1.npy: only shard 1 of 2; join all with cnn-extract --join" in outcome.err


def test_rejects_a_broken_record(run, extract):
    extract(2)
    described = Path("part-2.json")
    for broken in ('"number": 3', '"number": "x"'):
        described.write_text(described.read_text().replace('"number": 2', broken))
        outcome = run("cnn-extract", "--join", "part-1.npy", "part-2.npy", "-o", "all.npy", status=1)
        assert "part-2.npy: broken record of its shard" in outcome.err
        described.write_text(described.read_text().replace(broken, '"number": 2'))


# ---------------------------------------------------------------- other commands


@pytest.fixture
def head(run, here):
    """A network trained on the features of photos."""
    run("cnn-extract", "photos", "-o", "all.npy", *BACKBONE, status=3)
    run("cnn-train-head", "all.npy", "-o", "head.pt", "--solver", "lbfgs", "--device", "cpu")
    run("cnn-export", "head.pt", "-o", "head.onnx", "--device", "cpu")


@pytest.mark.usefixtures("head")
def test_predictions_of_shards_are_those_of_one_run(run, shell, here):
    """Joined by the command of the documentation, in numerical order; a shard of one broken image has only the header row."""
    words = ("-m", "head.onnx", "photos", "--device", "cpu", "--top", "2")
    os.rename("photos/blue/03.png", "photos/red/99.png")  # at the end: an image after it is in another row of a batch
    whole = run("cnn-predict", *words, status=3)
    for count in (5, 12):
        for number in range(1, count + 1):
            outcome = run("cnn-predict", *words, "--shard", f"{number}/{count}", status=None)
            Path(f"part-{number}.tsv").write_text(outcome.out)
        joined = shell("awk 'FNR > 1 || NR == 1' $(ls -v part-*.tsv)", cwd=here)
        assert joined.out == whole.out
    assert Path("part-12.tsv").read_text() == "path\trank\tlabel\tprobability\n"
    whole = run("cnn-predict", *words[:-2], "--labels-only", status=3)
    parts = [
        run("cnn-predict", *words[:-2], "--labels-only", "--shard", f"{number}/2", status=None) for number in (1, 2)
    ]
    assert parts[0].out + parts[1].out == whole.out


def test_shards_are_of_images_not_of_features(run, here):
    outcome = run("cnn-predict", "-m", "absent.onnx", "all.npy", "--shard", "1/2", status=2)
    assert "--shard is for images, not for .npy files of features; drop it" in outcome.err


def test_copies_of_shards_are_those_of_one_run(run, here):
    """The same names and bytes, and the same rows; images without a label lie below the common folder of all."""
    names = "".join(f"photos/{path}.png\n" for path in ("blue/00", "blue/03", "red/00", "red/01"))
    words = ("--augment", "rotate 40", "--copies", "2")
    for label, source, stdin in (("labels", "photos", None), ("none", "-", names)):
        Path(label).mkdir()
        run("cnn-augment", source, "-o", f"{label}/all", *words, stdin=stdin, status=3)
        listed = run("cnn-augment", source, "-o", "-", *words, stdin=stdin, status=3).out
        rows, printed, made = [], "", {}
        for number in (1, 2, 3, 4):
            part = Path(label, f"part-{number}")
            share = ("--shard", f"{number}/4")
            run("cnn-augment", source, "-o", part, *words, *share, stdin=stdin, status=None)
            out = run("cnn-augment", source, "-o", "-", *words, *share, stdin=stdin, status=None).out
            header, *lines = out.splitlines(keepends=True)
            printed += header * (number == 1) + "".join(lines)
            rows += (part / "augment.tsv").read_text().splitlines()[1:]
            made |= {path.relative_to(part): path.read_bytes() for path in part.rglob("*.png")}
        whole = Path(label, "all")
        assert (whole / "augment.tsv").read_text().splitlines()[1:] == rows
        assert printed == listed
        assert {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*.png")} == made


def test_contact_sheet_of_a_shard(run, here):
    """Its images alone are shown and skipped; without an image, no sheet is written."""
    words = ("photos", "--augment", "hflip", "--copies", "1")
    outcome = run("cnn-augment", *words, "--sheet", "sheet.png", "--shard", "2/2")
    assert "skipped" not in outcome.err  # the broken image is in the first shard
    run("cnn-augment", "photos/red", *words[1:], "--sheet", "red.png")
    assert Path("sheet.png").read_bytes() == Path("red.png").read_bytes()
    outcome = run("cnn-augment", *words, "-o", "part", "--sheet", "none.png", "--shard", "1/99")
    assert "none.png is not written: the shard has no image to show" in outcome.err
    assert Path("part/augment.tsv").exists()
    assert not Path("none.png").exists()


def test_checks_of_shards_find_every_broken_image(run, here):
    """And duplicates within a shard; nothing about the set as a whole, such as classes that a shard has no or few images of."""
    shutil.copy("photos/red/04.png", "photos/red/05.png")
    Path("photos/red/notes.txt").touch()
    found = []
    for number in (1, 2, 3):
        outcome = run("cnn-check", "photos", "--shard", f"{number}/3", "--table", "findings")
        assert "not checked in a shard: classes, splits, groups, leaks" in outcome.err
        assert "next:" not in outcome.err
        found += [(number, row["level"], row["finding"], row["path"]) for row in outcome.rows]
    assert found == [
        (1, "error", "broken", "photos/blue/03.png"),
        (1, "note", "ignored", ""),
        (3, "note", "identical", "photos/red/05.png"),
    ]
    assert run("cnn-check", "photos", "--shard", "4/12").rows[0]["finding"] == "broken"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fix", "x.tsv"], "--fix needs all images, and --shard reads a share of them; drop one of the two"),
        (["--table", "probes"], "--table probes needs all images"),
        (["--probes", "width"], "--probes compares all images"),
        (["--features", "x.npy"], "--features compares all images"),
    ],
)
def test_rejects_options_of_a_whole_check(run, here, words, message):
    assert message in run("cnn-check", "photos", "--shard", "1/2", *words, status=2).err


@pytest.mark.parametrize("name", ["cnn-extract", "cnn-predict", "cnn-check", "cnn-augment"])
def test_every_command_rejects_a_shard_0(run, here, name):
    words = {
        "cnn-extract": ("-o", "x.npy"),
        "cnn-predict": ("-m", "head.onnx"),
        "cnn-augment": ("-o", "x", "--augment", "hflip"),
    }
    outcome = run(name, "photos", *words.get(name, ()), "--shard", "0/2", status=2)
    assert "shards are 1/2 to 2/2; for a rank, which counts from 0, add 1" in outcome.err
