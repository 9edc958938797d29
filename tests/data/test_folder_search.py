"""Search of folders: images, ignored files, splits and classes."""

import io
import os
import subprocess
import sys
import unicodedata

import pytest
from PIL import Image

from cnnkit.choices import FolderReading
from cnnkit.data import decode, folder_search, source
from cnnkit.data.search_log import SearchLog
from cnnkit.errors import CnnkitError

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in names:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "wb"):
            pass


def draw(*names, kind="PNG"):
    for name in names:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        Image.new("RGB", (8, 8)).save(name, kind)


def found(*sources, **words):
    """Return path, label and split of each image, and the notices."""
    search = SearchLog()
    images = source.find(sources, search=search, **words)
    return [(each.path, each.label, each.split) for each in images], list(search.lines())


# ---------------------------------------------------------------- ignored files


def test_one_notice_counts_ignored_files(here):
    """By extension as written, the most frequent first; each class without an image is named."""
    touch("p/cat/1.jpg", "p/cat/a.txt", "p/dog/1.jpg", "p/dog/b.txt", "p/dog/c.TXT", "p/dog/nothing", "p/dog/x.xcf")
    touch("p/frog/notes.pdf")
    images, lines = found("p")
    assert [label for _, label, _ in images] == ["cat", "dog"]
    assert lines == [
        "ignored 3 .txt, 1 without an extension, 1 .xcf, 1 .pdf in p; "
        "unsupported image format: convert them to PNG or JPEG",
        "no image in p/frog: not read as a class",
    ]


def test_one_notice_for_several_folders(here):
    """It names each."""
    touch("p/cat/1.jpg", "p/cat/a.bin", "q/cat/1.jpg", "q/cat/b.bin")
    assert found("p", "q")[1] == ["ignored 2 .bin in p, q"]


def test_files_that_are_not_meant_to_be_images_are_not_counted(here):
    """Hidden and system files, sidecars, and documents next to class folders."""
    touch(
        "p/cat/1.jpg",
        "p/cat/1.txt",
        "p/cat/1.jpg.json",
        "p/cat/1.xmp",
        "p/cat/1.mov",
        "p/cat/Thumbs.db",
        "p/cat/.DS_Store",
    )
    touch(
        "p/cat/desktop.ini",
        "p/__MACOSX/cat/1.jpg",
        "p/cat/@eaDir/1.jpg/T.jpg",
        "p/README.md",
        "p/labels.csv",
        "p/LICENSE",
    )
    touch("p/split.tsv", "p/augment.tsv", "p/.git/x.jpg")
    assert found("p") == ([("p/cat/1.jpg", "cat", None)], [])


def test_tar_archives_next_to_images_are_counted(here):
    """Also directly in the folder, where tables and text are not: a stray image must not hide archives of images."""
    touch("in/cover.jpg", "in/cat.tar", "in/a.txt", "in/dog/x.tar", "in/dog/1.jpg")
    search = SearchLog()
    assert len(source.find(["in"], search=search)) == 2
    (notice,) = search.lines()
    remedy = "tar archives next to images are not read: move them to a folder of their own, or give each as a source"
    assert notice == f"ignored 2 .tar in in; {remedy}"
    assert search.unread == [("in/cat.tar", remedy), ("in/dog/x.tar", remedy)]


def test_content_decides_in_class_folders(here):
    """For files without an image extension, with a notice. Outside of class folders they are ignored, with the remedy."""
    draw("p/cat/1.jpg.download", "p/cat/noext", kind="JPEG")
    draw("p/cat/2.png", "p/loose")
    images, lines = found("p")
    assert [path for path, _, _ in images] == ["p/cat/1.jpg.download", "p/cat/2.png", "p/cat/noext"]
    assert lines == [
        "recognized as images by content: 1 .download, 1 without an extension, such as p/cat/1.jpg.download; "
        "ignored 1 without an extension in p; "
        "files without an image extension are read in class folders, or when given one by one"
    ]


@pytest.mark.parametrize("name", ["a.apng", "a.dib", "a.pnm", "a.mpo", "a.JPE", "a.jfif", "a.pgm", "a.avif"])
def test_every_extension_of_a_format_is_found(here, name):
    """Every file that can be read by name is found in a folder."""
    touch(f"p/cat/{name}")
    assert found("p") == ([(f"p/cat/{name}", "cat", None)], [])


def test_stereo_pairs_are_found_and_read(here):
    """An MPO file is a JPEG file of two images."""
    os.makedirs("p/cat")
    pair = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pair[0].save("p/cat/stereo.mpo", "MPO", save_all=True, append_images=pair[1:])
    ((path, label, _),), lines = found("p")
    assert (label, lines, decode.load(path).getpixel((4, 4))) == ("cat", [], (254, 0, 0))


def test_camera_raw_is_not_read_as_its_preview(here):
    """Although it is a TIFF file; it is listed with the remedy."""
    draw("p/cat/1.NEF", kind="TIFF")
    draw("p/cat/2.png")
    search = SearchLog()
    assert len(source.find(["p"], search=search)) == 1
    assert search.unread == [
        ("p/cat/1.NEF", "camera raw and scanner files are not supported: convert them to PNG or JPEG")
    ]


def test_only_files_without_image_extension_are_opened(here, monkeypatch):
    """Images are not read, and of other files only a few bytes."""
    draw("p/cat/1.png", "p/cat/2.png")
    draw("p/cat/noext")
    opened = []
    content = folder_search._content
    monkeypatch.setattr(folder_search, "_content", lambda path: opened.append(path) or content(path))
    found("p")
    assert opened == ["p/cat/noext"]


def test_error_for_a_folder_without_images_lists_its_files(here):
    """With the remedy, not only the supported extensions."""
    touch("p/cat/1.xcf")
    with pytest.raises(CnnkitError, match=r"^p: no images found \(ignored 1 \.xcf; unsupported image format: convert"):
        source.find(["p"])


def test_ignored_files_of_other_folders_are_not_listed(here):
    """The name photos2 begins with photos, but is another folder."""
    touch("photos/cat/1.xcf", "photos/cat/2.png", "photos2/cat/1.pdf")
    with pytest.raises(CnnkitError, match=r"^photos2: no images found \(ignored 1 \.pdf\)"):
        source.find(["photos", "photos2"])


def test_link_to_itself_is_a_bad_image(here):
    """It does not end the search."""
    touch("p/cat/1.jpg")
    os.symlink("2.jpg", "p/cat/2.jpg")
    os.symlink("loop", "p/cat/loop")
    assert [path for path, _, _ in found("p")[0]] == ["p/cat/1.jpg", "p/cat/2.jpg"]


# ---------------------------------------------------------------- splits or classes


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "valid"), ("train", "dev", "holdout"), ("test",)]
)
def test_split_dataset_has_classes_in_its_splits(here, names):
    """With every known name of a split; unambiguous, so without a notice."""
    touch(*(f"p/{split}/{label}/1.jpg" for split in names for label in ("cat", "dog")))
    expected = sorted((f"p/{split}/{label}/1.jpg", label, split) for split in names for label in ("cat", "dog"))
    assert found("p") == (expected, [])


def test_notice_for_splits_with_synonymous_names(here):
    """Training commands combine val/ and dev/; the same for a manifest, except with --split."""
    touch(*(f"p/{split}/{label}/1.jpg" for split in ("train", "val", "dev", "test", "holdout") for label in "ab"))
    images, lines = found("p")
    assert {split for _, _, split in images} == {"train", "val", "dev", "test", "holdout"}
    told = "are both read as validation splits, and training commands validate with both; if one is not, rename it"
    assert lines == [f"p: dev/ and val/ {told}"]
    rows = [f"p/{split}/a/1.jpg\ta\t{split}" for split in ("train", "training", "val", "dev", "test", "holdout")]
    table = "\n".join(["path\tlabel\tsplit", *rows, ""])
    with open("m.tsv", "w") as file:
        file.write(table)
    assert found("m.tsv")[1] == [
        "m.tsv: train and training are both read as training splits, and training commands train on both; if one is not, rename it",
        f"m.tsv: dev and val {told}",
    ]
    assert found("m.tsv", split="val")[1] == []
    search = SearchLog()
    list(source.find(["-"], stdin=io.BytesIO(table.encode()), search=search))
    assert f"standard input: dev and val {told}" in search.lines()


def test_folds_are_splits(here):
    """As written by cnn-split --folds -o."""
    touch(*(f"p/fold{fold}/cat/{fold}.jpg" for fold in range(3)))
    assert {(label, split) for _, label, split in found("p")[0]} == {("cat", f"fold{fold}") for fold in range(3)}


def test_splits_without_class_folders(here):
    """The images have no class; the notice tells how to read the folders as classes."""
    touch("p/train/1.jpg", "p/test/2.jpg")
    images, lines = found("p")
    assert [(label, split) for _, label, split in images] == [(None, "test"), (None, "train")]
    assert lines == [
        "p: test/ and train/ are read as splits, and the images there have no class; to read the folders as classes, add --folders classes"
    ]
    images, lines = found("p", folders=FolderReading.CLASSES)
    assert ([(label, split) for _, label, split in images], lines) == ([("test", None), ("train", None)], [])


def test_class_named_like_a_split(here):
    """Next to other classes it is a class, with a notice."""
    touch("p/car/1.jpg", "p/plane/1.jpg", "p/train/1.jpg")
    images, lines = found("p")
    assert [(label, split) for _, label, split in images] == [("car", None), ("plane", None), ("train", None)]
    assert lines == ["p: train/ is read as a class, like car/ and plane/; to read splits, add --folders splits"]


def test_folder_next_to_splits_is_ignored(here):
    """The notice names it, except when it has no images."""
    touch("p/train/cat/1.jpg", "p/val/cat/1.jpg", "p/wolf/1.jpg", "p/annotations/1.xml")
    images, lines = found("p")
    assert [(label, split) for _, label, split in images] == [("cat", "train"), ("cat", "val")]
    assert lines == [
        "p: train/ and val/ are read as splits, and wolf/ ignored; to read all as classes, add --folders classes"
    ]
    images, _ = found("p", folders=FolderReading.SPLITS)
    assert {split for _, _, split in images} == {"train", "val", "wolf"}


def test_image_next_to_splits_is_kept(here):
    """It is in no split and has no class."""
    touch("p/train/cat/1.jpg", "p/val/cat/1.jpg", "p/loose.jpg")
    assert found("p")[0][0] == ("p/loose.jpg", None, None)


def test_notice_for_nested_class_folders(here):
    """If sites are read as classes, the notice has the remedy, and it works."""
    touch(*(f"p/site{site}/{label}/1.jpg" for site in (1, 2) for label in ("elm", "oak")))
    _, lines = found("p")
    assert lines == [
        "p: the classes are its direct subfolders site1, site2; to use the folders in them (elm, oak) as classes, give p/*/ as sources"
    ]
    images, lines = found("p/site1/", "p/site2/")
    assert ({label for _, label, _ in images}, lines) == ({"elm", "oak"}, [])
    touch(*(f"p/site1/{number}.jpg" for number in range(5)))
    assert found("p")[1] == []  # some deeper folders do not matter


# ---------------------------------------------------------------- names


def test_labels_of_folder_and_manifest_are_normalized(here):
    """macOS writes NFD, an editor NFC; blanks around a label are removed, with a notice."""
    touch(f"p/{NFD}/1.jpg", "p/new/1.jpg")
    with open("l.tsv", "w", encoding="utf-8") as file:
        file.write(f"path\tlabel\na.jpg\t{NFC}\nb.jpg\tnew \nc.jpg\t \n")
    images, lines = found("p", "l.tsv")
    assert [label for _, label, _ in images] == [NFC, "new", NFC, "new", None]
    assert lines == [
        f'class {NFC} has 2 spellings: "{NFD}" (NFD), "{NFC}"',
        'class new has 2 spellings: "new", "new "',
    ]


def test_notice_for_classes_that_differ_in_case(here):
    """They stay two classes."""
    touch("p/Cat/1.jpg", "p/cat/1.jpg")
    images, lines = found("p")
    assert [label for _, label, _ in images] == ["Cat", "cat"]
    assert lines == [
        'class names that differ only in case, Unicode form or zeros: "Cat", "cat"; if they are the same class, use one name'
    ]


def test_notice_for_a_split_without_classes(here):
    """Such as an unlabelled test set of a competition; without a remedy, since --folders would not help."""
    touch("p/train/cat/1.jpg", "p/train/dog/1.jpg", "p/test/1.jpg")
    assert found("p")[1] == ["p: test/ is read as a split, and the images there have no class"]


def test_folders_may_be_nested_deeply(here):
    """Deeper than Python's recursion limit; the test removes its tree with rm, which does not recurse either."""
    before = sys.getrecursionlimit()
    depth = 1000  # other tests raise the limit, since torch.compile does, and a path of twice the depth is too long for the system
    path = "p/cat" + "/d" * depth
    try:
        sys.setrecursionlimit(depth)
        subprocess.run(["mkdir", "-p", path], check=True)
        touch(f"{path}/1.jpg")
        assert found("p")[0] == [(f"{path}/1.jpg", "cat", None)]
    finally:
        sys.setrecursionlimit(before)
        subprocess.run(["rm", "-rf", "p"], check=True)
