"""The command cnn-split."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cnnkit.messages import count_images

HEAVY = {"torch", "torchvision", "onnxruntime", "onnx", "sklearn", "scipy", "imagehash", "matplotlib"}


@pytest.fixture
def photos_here(images, tmp_path, monkeypatch):
    """Twelve red and eight blue images in photos/ in the current folder."""
    monkeypatch.chdir(tmp_path)
    return images(red=12, blue=8)


def counted(rows):
    return Counter((row["label"], row["split"]) for row in rows)


HALVES = {("red", "train"): 6, ("red", "val"): 3, ("red", "test"): 3} | {
    ("blue", "train"): 4,
    ("blue", "val"): 2,
    ("blue", "test"): 2,
}


@pytest.mark.parametrize("demand", [("--ratio", "0.5,0.25,0.25"), ("--ratio", "2,1,1"), ("--count", "6,3,3")])
def test_prints_a_manifest(run, photos_here, demand):
    """Every image with its label and split, ordered by name, relative to the current folder; notices are on stderr."""
    if demand[0] == "--count":
        shutil.rmtree(photos_here / "blue")
    outcome = run("cnn-split", "photos", *demand)
    assert outcome.out.startswith("path\tlabel\tsplit\n")
    assert counted(outcome.rows) == {key: n for key, n in HALVES.items() if key[0] == "red" or demand[0] == "--ratio"}
    paths = [row["path"] for row in outcome.rows]
    assert paths == sorted(paths)
    assert all(os.path.isfile(path) for path in paths)
    assert "cnn-split: no exact duplicates\n" in outcome.err
    assert "train" not in run("cnn-split", "photos", *demand, "--quiet").err


def test_folds(run, photos_here):
    """Equal splits fold0, fold1, ..."""
    outcome = run("cnn-split", "photos", "--folds", 4)
    assert counted(outcome.rows) == {
        (label, f"fold{fold}"): size for label, size in (("red", 3), ("blue", 2)) for fold in range(4)
    }


def test_names(run, photos_here):
    """By default two splits are train and val."""
    outcome = run("cnn-split", "photos", "--ratio", "3,1")
    assert {row["split"] for row in outcome.rows} == {"train", "val"}
    assert "test set" not in outcome.err
    notice = "--ratio 60,20 makes no test set (train 75%, val 25%); for a test set of 20%, give --ratio 60,20,20\n"
    assert notice in run("cnn-split", "photos", "--ratio", "60,20", "--dry-run").err
    assert {row["split"] for row in run("cnn-split", "photos", "--ratio", "3,1", "--names", "a, b").rows} == {"a", "b"}


@pytest.mark.parametrize(
    ("ratio", "notice"),
    [
        ("25,25", ""),
        ("1,50", ""),
        ("1,90", ""),
        ("80,20", ""),
        ("33,33,33", ""),
        ("90,5", "for a test set of 5%, give --ratio 90,5,5"),
        ("70,15,20", "--ratio 70,15,20 has the sum 105, not 100; the shares are train 0.667, val 0.143, test 0.19"),
    ],
)
def test_notice_on_percentages(ratio, notice, run, photos_here):
    """Plain ratios, such as 25,25, do not look like percentages."""
    errors = run("cnn-split", "photos", "--ratio", ratio, "--dry-run").err
    assert notice in errors if notice else "--ratio" not in errors


def test_folder_list_and_manifest_give_the_same_split(run, photos_here, shell, tmp_path):
    """In any order, by pipe or by name."""
    expected = {row["path"]: row["split"] for row in run("cnn-split", "photos", "--ratio", "2,1").rows}

    def splits(outcome):
        return {row["path"]: row["split"] for row in outcome.rows}

    with open("all.tsv", "w") as manifest:
        manifest.write("label\tpath\n" + "".join(f"{path.split('/')[1]}\t{path}\n" for path in reversed(expected)))
    assert splits(run("cnn-split", "all.tsv", "--ratio", "2,1")) == expected
    with open("all.tsv") as manifest:
        assert splits(run("cnn-split", "-", "--ratio", "2,1", stdin=manifest.read())) == expected
    piped = shell("find photos -name '*.png' | sort -R | cnn-split --ratio 2,1 -q", cwd=tmp_path)
    nul = shell("find photos -name '*.png' -print0 | cnn-split -0 --ratio 2,1 -q", cwd=tmp_path)
    assert piped.out == nul.out
    assert [row["path"] for row in piped.rows] == sorted(expected)


def test_json_lines(run, photos_here):
    """One object per image, with the columns of the table."""
    tsv = run("cnn-split", "photos", "--ratio", "1,1").rows
    lines = run("cnn-split", "photos", "--ratio", "1,1", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == tsv


def test_output_is_byte_identical_for_the_same_seed(run, photos_here):
    """For any number of threads; another seed gives another split."""
    words = ("cnn-split", "photos", "--ratio", "1,1", "--seed")
    assert run(*words, 7).out == run(*words, 7, "--jobs", 1).out == run(*words, 7, "--jobs", 5).out
    assert run(*words, 7).out != run(*words, 8).out


def test_manifest_in_another_folder(run, photos_here):
    """Its paths are relative to its folder, as every command reads them; stdout is empty."""
    os.makedirs("lists/deep")
    outcome = run("cnn-split", "photos", "--ratio", "1,1", "--manifest", "lists/deep/split.tsv")
    assert outcome.out == ""
    with open("lists/deep/split.tsv") as manifest:
        assert manifest.readlines()[1].startswith("../../photos/blue/00.png\tblue\t")
    again = run("cnn-split", "lists/deep/split.tsv", "--ratio", "1,1", "--dry-run")
    assert [row["total"] for row in again.rows] == ["8", "12"]


def test_one_split_can_be_split_again(run, photos_here):
    """`--split train` selects one split of a manifest."""
    run("cnn-split", "photos", "--ratio", "0.5,0.25,0.25", "--manifest", "split.tsv")
    outcome = run("cnn-split", "split.tsv", "--split", "train", "--folds", 2)
    assert counted(outcome.rows) == {
        ("red", "fold0"): 3,
        ("red", "fold1"): 3,
        ("blue", "fold0"): 2,
        ("blue", "fold1"): 2,
    }


def test_dry_run(run, photos_here):
    """Counts by class and split, as records; nothing is written, also with -o."""
    for words in ((), ("-o", "sets"), ("--manifest", "split.tsv"), ("-o", "sets", "--link", "move")):
        outcome = run("cnn-split", "photos", "--ratio", "0.5,0.25,0.25", "--dry-run", *words)
        assert outcome.out == "class\ttrain\tval\ttest\ttotal\nblue\t4\t2\t2\t8\nred\t6\t3\t3\t12\n"
        assert os.listdir() == ["photos"]
    lines = run("cnn-split", "photos", "--count", "2,1", "--dry-run", "--json").out.splitlines()
    assert json.loads(lines[0]) == {"class": "blue", "train": 2, "val": 1, "total": 3}


def test_images_left_out_are_counted(run, photos_here):
    """The number of images that --count leaves out is reported."""
    outcome = run("cnn-split", "photos", "--count", "1", "--names", "sample")
    assert len(outcome.rows) == 2
    assert f"{count_images(18)} left out by --count" in outcome.err
    assert "left out" not in run("cnn-split", "photos/red", "--count", "6,6").err


@pytest.mark.parametrize("link", ["copy", "symlink", "hardlink", "move"])
def test_writes_folders(run, photos_here, link):
    """DIR/split/class/name, and a manifest that other commands read; a second run needs --force."""
    expected = run("cnn-split", "photos", "--ratio", "1,1").rows
    outcome = run("cnn-split", "photos", "--ratio", "1,1", "-o", "sets", "--link", link)
    assert outcome.out == ""
    for row in expected:
        assert os.path.isfile(f"sets/{row['split']}/{row['path'].removeprefix('photos/')}")
        assert os.path.exists(row["path"]) == (link != "move")
    listed = run("cnn-split", "sets/split.tsv", "--ratio", "1,1", "--dry-run").rows
    assert [row["total"] for row in listed] == ["8", "12"]
    assert [
        row["total"] for row in run("cnn-split", "sets", "--split", "train", "--ratio", "1,1", "--dry-run").rows
    ] == ["4", "6"]
    if link != "move":
        refused = run("cnn-split", "photos", "--ratio", "3,1", "-o", "sets", status=1)
        assert "sets is not empty; choose another folder, or add --force" in refused.err
        run("cnn-split", "photos", "--ratio", "3,1", "-o", "sets", "--force")
        assert [
            row["total"] for row in run("cnn-split", "sets", "--split", "train", "--ratio", "1,1", "--dry-run").rows
        ] == ["6", "9"]


def test_interrupted_move_is_resumed(run, photos_here, monkeypatch):
    """The same command moves the rest, although half of the source has been moved; no image is missing."""
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == 11:
            raise KeyboardInterrupt
        rename(source, target)

    words = ("cnn-split", "photos", "--ratio", "1,1", "-o", "sets", "--link", "move")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        outcome = run(*words, status=130)
    assert "not all images are moved; run the command again to resume" in outcome.err
    there = [name for _, _, names in os.walk("photos") for name in names]
    arrived = [name for _, _, names in os.walk("sets/train") for name in names]
    arrived += [name for _, _, names in os.walk("sets/val") for name in names]
    assert len(arrived) == 10
    assert len(there) == 10
    assert not os.path.exists("sets/split.tsv")
    assert (
        "complete it with --link move"
        in run("cnn-split", "photos", "--ratio", "1,1", "-o", "sets", "--force", status=1).err
    )
    assert "resuming the interrupted move" in run(*words).err
    assert [row["total"] for row in run("cnn-split", "sets/split.tsv", "--ratio", "1,1", "--dry-run").rows] == [
        "8",
        "12",
    ]
    assert [name for _, _, names in os.walk("photos") for name in names] == []


def test_resumed_move_of_two_folders_has_no_notices_of_them(run, photos_here, monkeypatch):
    """The folders are searched again, but only for the names of their images."""
    for place in ("one", "other"):
        shutil.copytree("photos/red", f"{place}/red")
        for name in ("00", "01"):
            os.rename(f"{place}/red/{name}.png", f"{place}/red/{place}-{name}")
    words = ("cnn-split", "one", "other", "--ratio", "1,1", "-o", "sets", "--link", "move")

    def failing(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        assert run(*words, status=130).err.count("recognized as images by content") == 1
    outcome = run(*words)
    assert "resuming the interrupted move" in outcome.err
    assert "recognized as images by content" not in outcome.err


def test_bad_files_are_reported_and_skipped(run, photos_here):
    """Exit status 3; each is on a line of stderr and in the file of --errors."""
    whole = (photos_here / "red/00.png").read_bytes()
    (photos_here / "red/empty.png").touch()
    (photos_here / "red/short.PNG").write_bytes(whole[: len(whole) // 2])
    (photos_here / "red/misnamed.jpg").write_bytes(whole)
    (photos_here / "red/page.jpeg").write_text("<html>404</html>")
    (photos_here / "red/.hidden.png").touch()
    (photos_here / "red/notes.txt").touch()
    outcome = run("cnn-split", "photos", "--ratio", "1,1", "--errors", "bad.tsv", status=3)
    assert len(outcome.rows) == 21
    told = f"{count_images(1)} with the extension of another format, such as photos/red/misnamed.jpg, a PNG file with the extension .jpg"
    assert told in outcome.err
    for name, reason in [
        ("empty.png", "empty file"),
        ("page.jpeg", "not an image in a supported format"),
    ]:
        assert f"cnn-split: photos/red/{name}: {reason}" in outcome.err
    assert "3 images were skipped" in outcome.err
    with open("bad.tsv") as bad:
        assert [line.split("\t")[0] for line in bad] == [
            "path",
            "photos/red/empty.png",
            "photos/red/page.jpeg",
            "photos/red/short.PNG",
        ]
    assert "skipped" in run("cnn-split", "photos", "--ratio", "1,1", "--quiet", status=3).err


def test_duplicates_are_counted_and_their_labels_compared(run, photos_here):
    """Their number is reported; an image with two labels is named, also with --quiet."""
    shutil.copy("photos/red/00.png", "photos/red/again.png")
    shutil.copy("photos/red/01.png", "photos/blue/red one.png")
    outcome = run("cnn-split", "photos", "--ratio", "1,1")
    assert f"exact duplicates: {count_images(4)} in 2 sets, the largest of 2; each stays in one split" in outcome.err
    warning = (
        "photos/blue/red one.png (blue) and photos/red/01.png (red) are exact duplicates, but have different labels"
    )
    assert warning in outcome.err
    assert warning in run("cnn-split", "photos", "--ratio", "1,1", "-q").err
    split = {row["path"]: row["split"] for row in outcome.rows}
    assert split["photos/red/00.png"] == split["photos/red/again.png"]
    assert split["photos/red/01.png"] == split["photos/blue/red one.png"]


def test_near_duplicates(run, photos_here):
    """--near reports their number, and --near-bits sets the distance."""
    near = run("cnn-split", "photos", "--ratio", "1,1", "--near", "--dry-run")
    assert "near duplicates (up to 40 bits of 256)" in near.err
    assert (
        "near duplicates (up to 0 bits of 256)"
        in run("cnn-split", "photos", "--ratio", "1,1", "--near-bits", 0, "--dry-run").err
    )
    assert "near duplicates" not in run("cnn-split", "photos", "--ratio", "1,1", "--dry-run").err


def test_a_mistyped_hash_is_reported_where_hashes_are_used(run, photos_here):
    path = min(Path("photos").glob("*/*"))
    Path("list.tsv").write_text(f"path\tmd5\n{path}\tzz\n")
    assert "md5" not in run("cnn-split", "list.tsv", "--ratio", "1").err
    outcome = run("cnn-split", "list.tsv", "--ratio", "1", "--no-verify")
    assert f'list.tsv: 1 value of column md5 ignored, such as "zz" of {path}: not a hash' in outcome.err


def test_groups(run, photos_here):
    """Images of one group are in one split, and the manifest has the column group."""
    outcome = run("cnn-split", "photos", "--ratio", "1,1", "--group", r"/\d(\d)\.png")
    assert outcome.out.startswith("path\tlabel\tsplit\tgroup\n")
    assert {row["group"] for row in outcome.rows} == set("0123456789")
    splits = {}
    for row in outcome.rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_groups_of_a_manifest_and_folds(run, photos_here):
    """Four groups of each class in four folds; the groups are kept in the output."""
    lines = [f"photos/red/{n:02d}.png\tred\tg{n % 4}" for n in range(12)]
    lines += [f"photos/blue/{n:02d}.png\tblue\tg{n % 4}" for n in range(8)]
    outcome = run("cnn-split", "-", "--folds", 4, stdin="path\tlabel\tgroup\n" + "\n".join(lines) + "\n")
    assert counted(outcome.rows) == {
        (label, f"fold{n}"): size for label, size in (("red", 3), ("blue", 2)) for n in range(4)
    }
    assert len({(row["group"], row["split"]) for row in outcome.rows}) == 4
    assert "groups: 4, with 5 images each" in outcome.err


def test_stable_splits(run, photos_here):
    """Added images move no old ones; the actual shares are reported."""
    words = ("cnn-split", "photos", "--ratio", "1,1", "--stable")
    before = run(*words)
    assert "--stable: train 0." in before.err
    shutil.copytree("photos/red", "photos/yellow")  # copies of images whose splits are known
    after = run(*words)
    assert set(before.out.splitlines()) < set(after.out.splitlines())
    os.mkdir("photos/one")
    os.link("photos/red/00.png", "photos/one/00.png")
    shutil.rmtree("photos/red")
    shutil.rmtree("photos/yellow")
    message = run(*words, status=1).err
    assert "class one has 1 image, and none of them is in " in message
    assert message.endswith("; add images, try another --seed or drop --stable\n")


@pytest.mark.parametrize("name", ["tab\t, new\nline", "Ünïcödé 🐈 back\\slash", os.fsdecode(b"caf\xe9")])
def test_any_file_name(photos_here, shell, tmp_path, name):
    """Any name of a class and an image is kept by pipe, manifest and folders."""
    os.rename("photos/red", f"photos/{name}")
    os.rename(f"photos/{name}/00.png", f"photos/{name}/{name}.PNG")
    shell("cnn-split photos --ratio 1,1 -q > first.tsv", cwd=tmp_path)
    shell("cnn-split --ratio 1,1 -q < first.tsv | cmp - first.tsv", cwd=tmp_path)
    shell("cnn-split first.tsv --ratio 1,1 -o sets -q", cwd=tmp_path)
    assert sum(os.path.isfile(f"sets/{split}/{name}/{name}.PNG") for split in ("train", "val")) == 1
    totals = shell(
        "cnn-split sets/split.tsv --ratio 1,1 --dry-run -q | LC_ALL=C awk '{print $NF}' | sort", cwd=tmp_path
    )
    assert totals.out.split() == ["12", "8", "total"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give one of --ratio, --count and --folds"),
        (("--ratio", "1,1", "--count", "1,1"), "not --ratio and --count"),
        (("--ratio", "0.5,0.4"), "sums up to 0.9"),
        (("--ratio", "a,b"), "'a' is not a number"),
        (("--folds", "1"), "at least 2"),
        (("--ratio", "1,1", "--names", "a,b,c"), "3 names"),
        (("--ratio", "1,1", "--group", "("), "not a regular expression"),
        (("--ratio", "1,1", "--stable", "--near"), "contradict each other"),
        (("--count", "1,1", "--stable"), "contradict each other"),
        (("--ratio", "1,1", "--link", "symlink"), "add -o DIR"),
        (("--ratio", "1,1", "--force"), "add -o DIR"),
        (("--ratio", "1,1", "-o", "x", "--manifest", "y.tsv"), "exclude each other"),
        (("--ratio", "1,1", "--manifest", "y.csv"), "ends in .tsv"),
        (("--ratio", "1,1", "-o", "x", "--link", "teleport"), "teleport"),
    ],
)
def test_rejects_wrong_usage(run, photos_here, words, said):
    """Exit status 2, one line with the reason, and nothing is written."""
    outcome = run("cnn-split", "photos", *words, status=2)
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""
    assert os.listdir() == ["photos"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "--ratio", "1,1"), "nowhere: no such image"),
        (("photos", "--count", "6,3"), "class blue has 8 images, but --count 6,3 needs 9; lower it"),
        (("photos", "--folds", "9"), "class blue has 8 images, too few for fold0"),
        (("photos", "--ratio", "1,1", "-o", "photos"), "photos contains the images that are to be split"),
        (("photos", "--ratio", "1,1", "-o", "photos", "--force"), "contains the images that are to be split"),
        (
            ("photos", "--ratio", "1,1", "--manifest", "nowhere/split.tsv"),
            "nowhere: no such folder to write split.tsv into",
        ),
    ],
)
def test_rejects_impossible_splits(run, photos_here, words, said):
    """Exit status 1, the last line has the reason and the remedy; nothing is written."""
    outcome = run("cnn-split", *words, status=1)
    assert said in outcome.err.splitlines()[-1]
    assert outcome.out == ""
    assert os.listdir() == ["photos"]


def test_closed_pipe_is_not_an_error(shell, photos_here, tmp_path):
    """As with `| head`."""
    outcome = shell("set -o pipefail; cnn-split photos --ratio 1,1 -q | head -n 1; true", cwd=tmp_path)
    assert (outcome.out, outcome.err) == ("path\tlabel\tsplit\n", "")


def test_plain_split_imports_no_heavy_modules(photos_here):
    """Neither torch nor the modules for groups and near duplicates."""
    code = (
        "import sys\n"
        "from cnnkit_tools.cnn_split import main\n"
        "try:\n    main(['photos', '--ratio', '1,1', '-q'])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        f"print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert len(done.stdout.splitlines()) == 21


@pytest.mark.slow
@pytest.mark.photos
def test_cats_and_dogs(run, photos, monkeypatch, tmp_path):
    """1000, 500 and 500 of each class; the only near duplicates are two real pairs."""
    monkeypatch.chdir(photos)
    outcome = run("cnn-split", "dogs-vs-cats", "--count", "1000,500,500", "--seed", "0")
    assert counted(outcome.rows) == {
        (label, split): size
        for label in ("cat", "dog")
        for split, size in (("train", 1000), ("val", 500), ("test", 500))
    }


@pytest.mark.slow
@pytest.mark.photos
def test_near_duplicates_among_flowers(run, photos, monkeypatch):
    """One pair among 1,022 flowers; it stays together, and the shares are exact."""
    monkeypatch.chdir(photos)
    outcome = run("cnn-split", "flowers", "--ratio", "0.5,0.25,0.25", "--near")
    assert (
        f"near duplicates (up to 40 bits of 256): {count_images(2)} in 1 set, which stays in one split" in outcome.err
    )
    assert "prevent exact shares" not in outcome.err
    pair = {row["split"] for row in outcome.rows if "19177263840" in row["path"] or "19178753159" in row["path"]}
    assert len(pair) == 1


@pytest.mark.parametrize("ratio", ["80/20", "80:20", "80%,20%"])
def test_rejects_ratio_with_other_separators_with_a_remedy(run, images, ratio):
    """`80/20` is not the number 4, which would put all images into train; the proposed option works."""
    photos = images(red=5, blue=5)
    error = run("cnn-split", photos, "--ratio", ratio, status=2).err
    remedy = error.rstrip().rsplit(", such as ", 1)[1].split()
    assert run("cnn-split", photos, *remedy).out.count("\ttrain\n") == 8


@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999999999999999", "1e3", "nan"])
def test_rejects_seeds_outside_their_range(run, images, seed):
    """One line for any number; the largest allowed seed works."""
    photos = images(red=2, blue=2)
    error = run("cnn-split", photos, "--ratio", "1,1", "--seed", seed, status=2).err
    assert error.count("\n") == 1
    run("cnn-split", photos, "--ratio", "1,1", "--seed", 2**32 - 1)
