"""The column box of manifests: every command reads a crop as it would read the crop as a file of its own."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.formats import manifest, torch_model

#: A backbone that gives an image the same bits in every row of a batch.
BACKBONE = ("--layers", "conv 4 k3 relu", "--weights", "none", "--size", "16", "--device", "cpu", "--batch", "4")
BOXES = ((2, 3, 20, 18), (15, 8, 24, 24))


@pytest.fixture
def crops(here):
    """Write boxes.tsv, two crops of each image, and the same crops as files in cut/, listed by cut.tsv in the same order."""
    rows, cut = ["path\tlabel\tbox"], ["path\tlabel"]
    for path in sorted(Path("photos").rglob("*.png")):
        for number, (x, y, width, height) in enumerate(BOXES):
            rows.append(f"{path}\t{path.parent.name}\t{x},{y},{width},{height}")
            target = Path("cut", path.parent.name, f"{path.stem}-{number}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).crop((x, y, x + width, y + height)).save(target)
            cut.append(f"{target}\t{path.parent.name}")
    Path("boxes.tsv").write_text("\n".join([*rows, ""]))
    Path("cut.tsv").write_text("\n".join([*cut, ""]))
    return rows[1:]


def path_of(row):
    path, _, box = row.split("\t")
    return f"{path}#xywh={box}"


@pytest.mark.parametrize("words", [(), ("--workers", "2"), ("--views", "2", "--augment", "hflip, crop 0.5")])
def test_features_of_crops_are_those_of_cut_files(run, crops, words):
    """All crops of a file differ, and each row names its own."""
    run("cnn-extract", "boxes.tsv", "-o", "x.npy", *BACKBONE, *words)
    run("cnn-extract", "cut.tsv", "-o", "y.npy", *BACKBONE, *words)
    found, expected = np.load("x.npy"), np.load("y.npy")
    plain = slice(None, None, 3 if "--views" in words else 1)  # views are drawn from the content of files
    assert np.array_equal(found[plain], expected[plain])
    assert [row["path"] for row in listed("x.npy")][plain] == [path_of(row) for row in crops]


def listed(name):
    """Read the table next to features."""
    header, *lines = Path(name).with_suffix(".tsv").read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def test_shards_of_a_manifest_with_boxes_are_those_of_the_whole(run, crops):
    run("cnn-extract", "boxes.tsv", "-o", "x.npy", *BACKBONE)
    for number in (1, 2):
        run("cnn-extract", "boxes.tsv", "-o", f"s{number}.npy", *BACKBONE, "--shard", f"{number}/2")
    assert np.array_equal(np.concatenate([np.load("s1.npy"), np.load("s2.npy")]), np.load("x.npy"))


def test_update_keeps_crops_by_file_and_box(run, crops):
    """A moved box is extracted again, and its neighbours are not."""
    words = ("cnn-extract", "boxes.tsv", "-o", "x.npy", *BACKBONE, "--update")
    run(*words)
    digest = hashlib.sha256(Path("photos/blue/00.png").read_bytes()).digest()
    first = Path("x.sha256").read_text().splitlines()[1].split()[0]
    assert first == hashlib.sha256(digest + b"2,3,20,18").hexdigest()
    text = Path("boxes.tsv").read_text()
    Path("boxes.tsv").write_text(text.replace("15,8,24,24", "14,8,24,24", 1))
    assert run(*words).rows[0]["resumed"] == str(len(crops) - 1)


def test_predictions_match_the_truth_by_path_and_box(run, crops):
    """Each crop has a prediction of its own; a crop that the truth does not list has no true class."""
    run("cnn-extract", "boxes.tsv", "-o", "x.npy", *BACKBONE)
    run("cnn-train-head", "x.npy", "-o", "m.pt", "--solver", "lbfgs", "--device", "cpu")
    run("cnn-export", "m.pt", "-o", "m.onnx")
    found = run("cnn-predict", "-m", "m.onnx", "boxes.tsv", "--device", "cpu")
    cut = run("cnn-predict", "-m", "m.onnx", "cut.tsv", "--device", "cpu")
    assert [row["path"] for row in found.rows] == [path_of(row) for row in crops]
    assert [row["probability"] for row in found.rows] == [row["probability"] for row in cut.rows]
    measures = {row["measure"]: row["value"] for row in run("cnn-eval", "--truth", "boxes.tsv", stdin=found.out).rows}
    assert measures["n"] == str(len(crops))
    assert measures["accuracy"] == "1"
    lines = Path("boxes.tsv").read_text().replace("2,3,20,18", "2,3,20,19", 1)
    Path("other.tsv").write_text(lines)
    linked = found.out.replace("photos/red/00.png#", "link.png#")
    Path("link.png").symlink_to("photos/red/00.png")
    assert run("cnn-eval", "--truth", "boxes.tsv", stdin=linked).rows[1]["value"] == "1"
    error = run("cnn-eval", "--truth", "other.tsv", stdin=found.out, status=1).err
    assert "photos/blue/00.png#xywh=2,3,20,18" in error
    assert "has this file only with other boxes" in error
    wide = run("cnn-predict", "-m", "m.onnx", "boxes.tsv", "--margin", "0.1", "--device", "cpu")
    assert wide.rows[0]["path"] == "photos/blue/00.png#xywh=0,1,24,22"
    run("cnn-eval", "--truth", "boxes.tsv", "--margin", "0.1", stdin=wide.out)
    said = run("cnn-predict", "-m", "m.onnx", "cut.tsv", "--margin", "0.1", "--device", "cpu").err
    assert "cut.tsv: no image has a box for --margin to widen" in said
    again = run(
        "cnn-predict", "-m", "m.onnx", "-", "--device", "cpu", stdin="\n".join(f"{path_of(row)}.0" for row in crops)
    )
    assert again.out == found.out


def test_crops_of_a_file_stay_in_one_split(run, crops):
    """With their boxes in the manifest; also of two copies of a file, by their hashes alone, and by their content."""
    Path("photos/red/copy.png").write_bytes(Path("photos/red/00.png").read_bytes())
    with Path("boxes.tsv").open("a") as file:
        file.write("photos/red/copy.png\tred\t0,0,30,30\n")
    for words in ((), ("--stable", "--seed", "2"), ("--no-verify",)):
        outcome = run("cnn-split", "boxes.tsv", "--ratio", "50,50", "--manifest", "split.tsv", *words)
        assert "crops of one file stay in one split" in outcome.err
        splits = {}
        rows = list(manifest.load("split.tsv"))
        for row in rows:
            splits.setdefault(row.path.partition("#")[0], set()).add(row.split)
        assert all(len(each) == 1 for each in splits.values())
        if words != ("--no-verify",):
            assert splits["photos/red/copy.png"] == splits["photos/red/00.png"]
        assert {row.path for row in rows} == {*map(path_of, crops), "photos/red/copy.png#xywh=0,0,30,30"}
        assert Path("split.tsv").read_text().startswith("path\tlabel\tsplit\tbox\n")
    printed = run("cnn-split", "boxes.tsv", "--ratio", "50,50").rows
    assert {row["box"] for row in printed} == {"2,3,20,18", "15,8,24,24", "0,0,30,30"}
    assert "write --manifest FILE.tsv" in run("cnn-split", "boxes.tsv", "--ratio", "1,1", "-o", "d", status=2).err


def test_check_compares_crops(run, crops):
    """The same box of two copies is a duplicate, crops of one file in two splits are a leak, and broken boxes are reported."""
    Path("photos/red/copy.png").write_bytes(Path("photos/red/00.png").read_bytes())
    rows = [
        "path\tlabel\tsplit\tbox",
        "photos/red/00.png\tred\ttrain\t2,3,20,18",
        "photos/red/copy.png\tred\ttrain\t2,3,20,18",
        "photos/red/01.png\tred\ttrain\t2,3,20,18",
        "photos/red/01.png\tred\tval\t18,13,20,18",
        "photos/red/02.png\tred\tval\t100,3,20,18",
    ]
    Path("check.tsv").write_text("\n".join([*rows, ""]))
    found = {row["finding"]: row for row in run("cnn-check", "check.tsv", "--probes", "none").rows}
    assert found["identical"]["path"] == "photos/red/copy.png#xywh=2,3,20,18"
    assert found["group"]["detail"] == "crops of one file are in train and val"
    assert "is outside of the image of 40 x 32 pixels" in found["broken"]["detail"]


def test_augmented_copies_are_of_the_crop(run, crops):
    """The kept original is the crop, and the manifest names it; crops of a file are one group."""
    run("cnn-augment", "boxes.tsv", "-o", "aug", "--augment", "hflip", "--copies", "1", "--keep")
    rows = listed("aug/augment.tsv")
    assert len(rows) == 2 * len(crops)
    first = rows[0]
    assert first["path"] == "blue/00@2,3,20,18.png"
    assert first["source"] == "../photos/blue/00.png#xywh=2,3,20,18"
    kept = np.asarray(Image.open("aug/blue/00@2,3,20,18.png"))
    assert np.array_equal(kept, np.asarray(Image.open("photos/blue/00.png"))[3:21, 2:22])
    assert len({row["group"] for row in rows}) == 12


def test_columns_of_crops_are_those_of_their_rows(run, crops):
    """Of training and prediction, also with a margin; of a table of the files if that has no boxes."""
    head, *rows = Path("boxes.tsv").read_text().splitlines()
    lines = [f"{row}\t{'left' if number % 2 else 'right'}" for number, row in enumerate(rows)]
    Path("boxes.tsv").write_text("\n".join([f"{head}\tside", *lines, ""]))
    run("cnn-extract", "boxes.tsv", "-o", "x.npy", *BACKBONE)
    train = ("cnn-train-head", "x.npy", "--solver", "lbfgs", "--device", "cpu", "--use", "side")
    run(*train, "-o", "m.pt", "--columns", "boxes.tsv")
    assert torch_model.load("m.pt").header.columns[0].categories == ("left", "right")
    run("cnn-export", "m.pt", "-o", "m.onnx")
    predict = ("cnn-predict", "-m", "m.onnx", "--device", "cpu", "boxes.tsv")
    assert len(run(*predict).rows) == len(run(*predict, "--margin", "0.1").rows) == len(crops)
    Path("files.tsv").write_text("path\tside\n" + "".join(f"{path}\tup\n" for path in Path("photos").rglob("*.png")))
    assert "side: the same for all" in run(*train, "-o", "n.pt", "--columns", "files.tsv").err


def test_broken_boxes_are_skipped_and_others_clipped(run, here):
    """One notice about clipping, a line for each box that cannot be used, exit status 3; what is not a box is an error."""
    rows = [
        "path,box",
        'photos/red/00.png,"30,20,100,100"',
        'photos/red/01.png,"40,0,5,5"',
        'photos/red/02.png,"4,4,0,5"',
        "photos/red/03.png,",
    ]
    Path("odd.csv").write_text("\n".join([*rows, ""]))
    outcome = run("cnn-extract", "odd.csv", "-o", "x.npy", *BACKBONE, status=3)
    assert [row["path"] for row in listed("x.npy")] == [
        "photos/red/00.png#xywh=30,20,100,100",
        "photos/red/03.png",
    ]
    assert "box 40,0,5,5 is outside of the image of 40 x 32 pixels; correct it; skipped" in outcome.err
    assert "box 4,4,0,5 has no area; correct it; skipped" in outcome.err
    assert "2 images were skipped" in outcome.err
    Path("odd.csv").write_text("path,box\nphotos/red/00.png,left\n")
    error = run("cnn-extract", "odd.csv", "-o", "y.npy", *BACKBONE, status=1).err
    Path("list.jsonl").write_text('{"path": "photos/red/00.png", "box": [2, 3.5, 20, 18]}\n')  # as in COCO
    run("cnn-extract", "list.jsonl", "-o", "y.npy", *BACKBONE)
    assert [row["path"] for row in listed("y.npy")] == ["photos/red/00.png#xywh=2,3.5,20,18"]
    assert 'odd.csv: photos/red/00.png: box "left" is not x,y,width,height in pixels of the image; write four' in error
    Path("twice.tsv").write_text("path\tbox\nphotos/red/00.png#xywh=1,1,9,9\t2,2,9,9\n")
    error = run("cnn-extract", "twice.tsv", "-o", "y.npy", *BACKBONE, status=1).err
    assert "a box in its path and one in the column box; keep one of them" in error


def test_boxes_in_archives_and_of_paths_without_extension(run, crops):
    """Paths in a tar archive, and ids instead of file names."""
    with tarfile.open("photos.tar", "w") as archive:
        archive.add("photos/red/00.png", "red/00.png")
    Path("tar.tsv").write_text("path\tbox\nphotos.tar/red/00.png\t2,3,20,18\nphotos/red/00\t2,3,20,18\n")
    run("cnn-extract", "tar.tsv", "-o", "x.npy", *BACKBONE)
    one, other = np.load("x.npy")
    assert np.array_equal(one, other)
    run("cnn-extract", "cut/red/00-0.png", "-o", "y.npy", *BACKBONE)
    assert np.array_equal(np.load("y.npy")[0], one)
    assert [row["path"] for row in listed("x.npy")] == [
        "photos.tar/red/00.png#xywh=2,3,20,18",
        "photos/red/00.png#xywh=2,3,20,18",
    ]


def test_training_reads_crops_and_warns_of_shared_files(run, crops):
    """The training of crops is that of cut files; a validation crop of a training file makes the accuracy too high."""
    net = ("--layers", "conv 4 k3 relu, gap", "--size", "16", "--epochs", "2", "--device", "cpu")
    ours = run("cnn-train", "boxes.tsv", "-o", "m.pt", *net).rows
    theirs = run("cnn-train", "cut.tsv", "-o", "n.pt", *net).rows
    changing = {"model", "seconds"}
    assert [{k: v for k, v in row.items() if k not in changing} for row in ours] == [
        {k: v for k, v in row.items() if k not in changing} for row in theirs
    ]
    lines = Path("boxes.tsv").read_text().splitlines()
    Path("one.tsv").write_text("\n".join([lines[0], *lines[1::2], ""]))
    Path("two.tsv").write_text("\n".join([lines[0], *lines[2::2], ""]))
    said = run("cnn-train", "one.tsv", "--val", "two.tsv", "-o", "o.pt", *net).err
    assert "12 validation images are of a file of the training set, such as photos/blue/00.png#xywh=15,8,24,24" in said


def test_box_of_json_lines_may_be_a_list(run, here):
    """As Python and the annotations of COCO write it."""
    Path("boxes.jsonl").write_text('{"path": "photos/red/00.png", "label": "red", "box": [2, 3, 20, 18.5]}\n')
    (row,) = manifest.load("boxes.jsonl")
    assert row.path == "photos/red/00.png#xywh=2,3,20,18.5"
    Path("boxes.jsonl").write_text('{"path": "photos/red/00.png", "label": ["red"]}\n')
    assert "boxes.jsonl:1: label is a list" in run("cnn-check", "boxes.jsonl", status=1).err


@pytest.mark.parametrize(
    ("columns", "notice"),
    [
        ("bbox", "column bbox is not read, and images are not cropped; if it is x,y,width,height, rename it to box"),
        (
            "xmin\tymin\txmax\tymax",
            "columns xmin, ymin, xmax, ymax are not read, and images are not cropped; for that, join",
        ),
        ("width\theight", None),
        ("bbox\tbox", None),
    ],
)
def test_boxes_in_other_columns_are_not_ignored_silently(run, here, columns, notice):
    """They may be anything, such as two corners, so that they are not guessed."""
    fields = "\t".join("1,2,9,9" if name.endswith("box") else "9" for name in columns.split("\t"))
    Path("m.tsv").write_text(f"path\tlabel\t{columns}\nphotos/red/00.png\tred\t{fields}\n")
    err = run("cnn-check", "m.tsv", "--probes", "none").err
    assert notice in err if notice else "not cropped" not in err


@pytest.mark.parametrize(
    ("predicted", "true", "remedy"),
    [
        ("#xywh=2,3,20,18", "1,2,22,20", "only with other boxes: give the manifest that was predicted, and the same --margin"),
        ("#xywh=2,3,20,18", "", "without a box: give the manifest that was predicted"),
        ("", "1,2,22,20", "only as crops: give the manifest that was predicted"),
    ],
)  # fmt: skip
def test_eval_explains_other_boxes_of_a_file(run, here, predicted, true, remedy):
    """Such as those of another --margin."""
    Path("m.tsv").write_text(f"path\tlabel\tbox\nphotos/red/00.png\tred\t{true}\nphotos/blue/00.png\tblue\t\n")
    Path("p.tsv").write_text(f"path\tlabel\nphotos/red/00.png{predicted}\tred\n")
    assert run("cnn-eval", "p.tsv", "--truth", "m.tsv", status=1).err.rstrip().endswith(f"m.tsv has this file {remedy}")
