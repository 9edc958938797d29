"""cnn-extract --update: only images with new content are run, and the files are those of a full run."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from cnnkit.formats import features

#: A backbone that gives an image the same bits in every row of a batch.
TEXT = "conv 8 k3 s2 same relu, pool 2, conv 16 k3 relu"
BACKBONE = ("--layers", TEXT, "--weights", "none", "--size", "20", "--device", "cpu", "--batch", "4")


@pytest.fixture
def update(run, here, content):
    """Update x.npy and return the number of rows that are kept; the files have to be those of a full run."""

    def updated(*words, status=0):
        kept = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, *words, "--update", status=status).rows
        run("cnn-extract", "photos", "-o", "full.npy", *BACKBONE, *words, status=status)
        assert content("x.npy") == content("full.npy")
        assert not Path("full.sha256").exists()
        return int(kept[0]["resumed"])

    return updated


@pytest.mark.parametrize("words", [(), ("--views", "2", "--augment", "hflip, crop 0.5", "--dtype", "float16")])
def test_updated_features_are_those_of_a_full_run(update, words):
    """After images are added, removed, renamed, moved to another class and changed; broken images are tried again."""
    rows = 3 if words else 1
    assert update(*words) == 0
    assert update(*words) == 12 * rows
    shutil.copy("photos/red/00.png", "photos/blue/00a.png")  # known content
    os.rename("photos/red/01.png", "photos/blue/zz.png")
    os.remove("photos/red/02.png")
    os.replace("photos/red/03.png", "photos/red/04.png")  # known content under another name
    image = Path("photos/blue/05.png")
    image.write_bytes(image.read_bytes() + b"\0")  # the same pixels, but other content
    Path("photos/blue/broken.png").write_bytes(b"no image")
    assert update(*words, status=3) == 10 * rows
    assert update(*words, status=3) == 11 * rows


def test_digests_are_those_of_sha256sum(update, shell, here):
    """Which also checks them; the comment is not a line to check."""
    os.rename("photos/red/05.png", "photos/red/5\\n.png")
    update()
    first, *lines = Path("x.sha256").read_text().splitlines()
    assert first.startswith("# cnn-extract {")
    digest = hashlib.sha256(Path("photos/blue/00.png").read_bytes()).hexdigest()
    assert lines[0] == f"{digest}  photos/blue/00.png"
    assert len(shell("sha256sum --check --strict x.sha256", cwd=here).out.splitlines()) == 12


def test_rows_of_other_settings_or_files_are_not_kept(run, update):
    """Another backbone, and features written without --update since: their images may have been others."""
    update()
    other = ("--pool", "max")
    assert update(*other) == 0
    assert update(*other) == 12
    run("cnn-extract", "photos/red", "-o", "x.npy", *BACKBONE, *other)
    assert update(*other) == 0
    lines = Path("x.sha256").read_text().splitlines()
    for broken in (lines[:-1], ['# cnn-extract {"values": 1}', *lines[1:]], ["# cnn-extract {", *lines[1:]]):
        Path("x.sha256").write_text("\n".join(broken) + "\n")
        assert update(*other) == 0


def test_rows_are_not_kept_if_their_place_in_a_batch_matters(run, update):
    words = ("--layers", "conv 5 k3 s2 same relu, pool 2, conv 7 k3 bn relu")
    update(*words)
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, *words, "--update")
    assert outcome.rows[0]["resumed"] == "0"
    assert "all images are extracted again, because this backbone" in outcome.err
    update(*words, "--batch", "1")
    assert update(*words, "--batch", "1") == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "1/2"], "--update needs all images, and --shard reads a share of them"),
        (["--resume"], "--update keeps rows of a complete run, --resume those of an interrupted one"),
    ],
)
def test_rejects_contradicting_options(run, here, words, message):
    assert message in run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--update", *words, status=2).err


def test_another_file_is_not_overwritten(run, here):
    """Checksums of something else, next to the features."""
    Path("x.sha256").write_text(f"{'0' * 64}  other\n")
    outcome = run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE, "--update", status=2)
    assert "x.sha256 would be overwritten, and is not from cnn-extract; choose another name" in outcome.err
    assert Path("x.sha256").read_text().endswith("other\n")
    run("cnn-extract", "photos", "-o", "x.npy", *BACKBONE)
    assert len(features.load("x.npy").rows) == 12


def test_unchanged_files_keep_their_times(run, here):
    """With --skip-unchanged, also of --update and --join; if one of the three files changes, all are written."""
    words = ("photos", "-o", "x.npy", *BACKBONE, "--skip-unchanged", "--update")
    names = ("x.npy", "x.tsv", "x.json", "x.sha256")

    def times():
        return [os.stat(name).st_mtime_ns for name in names]

    def age():
        for name in names:
            os.utime(name, ns=(10**9, 10**9))

    run("cnn-extract", *words)
    age()
    assert "x.npy is unchanged" in run("cnn-extract", *words).err
    assert times() == [10**9] * 4
    assert sorted(os.listdir()) == ["photos", *sorted(names)]
    run("cnn-extract", *words[:-2])
    assert 10**9 not in times()[:3]
    age()
    os.rename("photos/red/05.png", "photos/red/06.png")  # the values are the same
    run("cnn-extract", *words)
    assert 10**9 not in times()
    run("cnn-extract", *words[:-2], "--shard", "1/1")
    os.rename("x.npy", "part.npy")
    for suffix in (".tsv", ".json"):
        os.rename(f"x{suffix}", f"part{suffix}")
    run("cnn-extract", "--join", "part.npy", "-o", "x.npy", "--skip-unchanged")
    age()
    run("cnn-extract", "--join", "part.npy", "-o", "x.npy", "--skip-unchanged")
    assert times() == [10**9] * 4
