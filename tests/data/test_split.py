"""Assignment of images to splits."""

import hashlib
import os
import random
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnkit import files
from cnnkit.callbacks import SILENT, Callbacks
from cnnkit.data import allocation, duplicates, source, split
from cnnkit.data.config import SplitConfig
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import manifest
from cnnkit.messages import count_images

HALVES = SplitConfig(ratio="1,1")
ROAD = SplitConfig(ratio="0.5,0.25,0.25")


def split_folder(folder, config=ROAD, callbacks=None, **changes):
    return split.split_images(source.find([str(folder)]), replace(config, **changes), callbacks=callbacks)


def split_of(outcome, root=None):
    """Return the split of each image, by its path below root."""
    return {row.path if root is None else row.path.removeprefix(f"{root}/"): row.split for row in outcome.rows}


def drawn(images, contents, *, seed=0):
    """Assign images of which only the content is known."""
    digests = [hashlib.sha256(content.encode()).digest() for content in contents]
    return split.draw_splits(images, digests, duplicates.exact_duplicates(digests), seed=seed)


SETS = st.lists(  # label, group, content of each image: some contents and groups occur more than once
    st.tuples(st.sampled_from(["cat", "dog"]), st.none() | st.sampled_from("ABCDEFGH"), st.integers(0, 60)),
    min_size=12,
    max_size=60,
)


def listed(rows, *, grouped):
    images = [
        ImageFile(f"{number}.jpg", label, None, group if grouped else None)
        for number, (label, group, _) in enumerate(rows)
    ]
    return images, [f"{content}" for _, _, content in rows]


def undivided(images, contents, split):
    """Check that no group and no content is in two splits; images in no split are ignored."""
    for values in ([image.group for image in images], contents):
        where = defaultdict(set)
        for value, each in zip(values, split, strict=True):
            if value is not None and each is not None:
                where[value].add(each)
        assert all(len(found) == 1 for found in where.values())


@settings(max_examples=25, deadline=None)
@given(SETS, st.booleans(), st.integers(0, 3))
def test_groups_and_duplicates_are_never_divided(rows, grouped, seed):
    """With shares, counts and folds; every class is in every split, and counts are exact."""
    images, contents = listed(rows, grouped=grouped)
    given_away = drawn(images, contents, seed=seed)
    for demand in (HALVES.shares(), allocation.by_ratio("2,1"), allocation.by_folds(3)):
        try:
            assigned, exact = split.by_share(given_away, demand, seed=seed)
        except CnnkitError:
            continue
        undivided(images, contents, assigned)
        held = given_away.held(assigned, len(demand.names))
        assert min(map(min, held)) > 0
        sizes = Counter(given_away.numbers)
        due = allocation.due(demand, [(name, sizes[number]) for number, name in enumerate(given_away.classes)])
        assert exact == (held == due)
    try:
        taken = split.by_count(given_away, allocation.by_count("3,2"))
    except CnnkitError:
        return
    undivided(images, contents, taken)
    held = Counter(
        (assigned, number) for assigned, number in zip(taken, given_away.numbers, strict=True) if assigned is not None
    )
    assert held == {
        (assigned, number): size for number in set(given_away.numbers) for assigned, size in enumerate((3, 2))
    }


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 10_000), min_size=40, max_size=120), st.data())
def test_stable_splits_do_not_move(contents, data):
    """Added images with any content and at any position move none of the old ones."""
    contents = sorted(contents)
    old = data.draw(st.lists(st.sampled_from(contents), min_size=20, unique=True))
    new = data.draw(st.permutations(contents))
    try:
        before, after = (
            dict(
                zip(
                    each,
                    split.by_content(
                        drawn([ImageFile(f"{c}.jpg") for c in each], list(map(str, each))), ROAD.shares(), seed=5
                    ),
                    strict=True,
                )
            )
            for each in (old, new)
        )
    except CnnkitError:  # a split without images is an error, not a leak
        assume(False)
    assert {content: after[content] for content in old} == before


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_stable_groups_do_not_move(seed):
    """The group's name decides: new images follow their group, and new groups move no image."""
    generator = random.Random(seed)

    def draw(number, names):
        images = [ImageFile(f"{each}.jpg", None, None, generator.choice(names)) for each in range(number)]
        assigned = split.by_content(
            drawn(images, [f"{seed} {each}" for each in range(number)]), HALVES.shares(), seed=seed
        )
        return {image.group: name for image, name in zip(images, assigned, strict=True)}

    names = [f"patient {number}" for number in range(40)]
    try:
        before, after = draw(60, names[:20]), draw(300, names)
    except CnnkitError:
        assume(False)
    assert {group: after[group] for group in before if group in after} == {
        group: assigned for group, assigned in before.items() if group in after
    }


def test_stable_shares_are_met_on_average():
    """Ten thousand images are in splits of 80, 10 and 10 % within the limits of chance."""
    images = [ImageFile(f"{number}.jpg") for number in range(10_000)]
    assigned = split.by_content(
        drawn(images, [str(number) for number in range(10_000)]), allocation.by_ratio("8,1,1"), seed=0
    )
    for number, share in enumerate((0.8, 0.1, 0.1)):
        assert abs(assigned.count(number) / 10_000 - share) < 4 * (share * (1 - share) / 10_000) ** 0.5


def test_stable_splits_of_real_files(images):
    """New images, a new class and a copy move none of the old ones."""
    root = images(red=30, blue=30)
    before = split_of(split_folder(root, stable=True))
    images(green=30)
    shutil.copy(root / "red/00.png", root / "red/copy of 00.png")
    after = split_of(split_folder(root, stable=True))
    assert {path: after[path] for path in before} == before
    assert after[f"{root}/red/copy of 00.png"] == after[f"{root}/red/00.png"]
    assert len(after) == 91


def test_stable_rejects_duplicates_in_groups_of_different_splits(images):
    """A copy in another patient's folder leaks, and moving either would move an old image: the error has both names."""
    root = images(**{f"patient{number}": 6 for number in range(8)})

    def flat():
        return [ImageFile(image.path, "xray") for image in source.find([str(root)])]

    outcome = split.split_images(flat(), replace(HALVES, stable=True, group="patient."))
    one, other = {row.split: row.group for row in outcome.rows}.values()
    shutil.copy(root / one / "00.png", root / other / "99.png")
    with pytest.raises(
        CnnkitError, match=r"are exact duplicates, but their groups are in (train and val|val and train)"
    ):
        split.split_images(flat(), replace(HALVES, stable=True, group="patient."))


def test_another_seed_gives_another_split(images):
    """The same seed gives the same split, with --stable and without."""
    root = images(red=20, blue=20)
    for stable in (False, True):
        first, again, other = (split_of(split_folder(root, HALVES, seed=seed, stable=stable)) for seed in (3, 3, 4))
        assert first == again
        assert first != other


def test_split_does_not_depend_on_order_names_and_jobs(images, tmp_path):
    """It depends only on the content of all images, not on their paths or on the order of reading."""
    root = images(red=13, blue=9)
    expected = split_of(split_folder(root), root)
    found = source.find([str(root)])
    random.Random(0).shuffle(found)
    shuffled = split.split_images(iter(found), replace(ROAD, jobs=1))
    assert split_of(shuffled, root) == expected
    assert [row.path for row in shuffled.rows] == sorted(row.path for row in shuffled.rows)

    for label in ("red", "blue"):
        (tmp_path / "elsewhere" / label).mkdir(parents=True)
        for path in (root / label).iterdir():
            shutil.copy(path, tmp_path / "elsewhere" / label / f"{100 - int(path.stem)} renamed.png")
    renamed = split_of(split_folder(tmp_path / "elsewhere", jobs=5), tmp_path / "elsewhere")
    assert {
        re.sub(r"(\d+) renamed", lambda name: f"{100 - int(name[1]):02d}", path): split
        for path, split in renamed.items()
    } == expected


def test_every_class_has_its_exact_share(images):
    """Twenty-three and eight images in halves and quarters, exact to one image."""
    outcome = split_folder(images(red=23, blue=8))
    assert outcome.table() == [
        {"class": "blue", "train": 4, "val": 2, "test": 2, "total": 8},
        {"class": "red", "train": 11, "val": 6, "test": 6, "total": 23},
    ]
    assert outcome.remarks[-1] == "train 15, val 8, test 8 images of 2 classes"


def test_folder_without_classes_is_one_class(images):
    """Without labels all images are one class without a name."""
    outcome = split_folder(images(red=8) / "red", HALVES)
    assert outcome.table() == [{"class": None, "train": 4, "val": 4, "total": 8}]


def test_rejects_image_without_a_class_among_others(images):
    """The error names the image."""
    root = images(red=4, blue=4)
    shutil.copy(root / "red/00.png", root / "cover.png")
    with pytest.raises(CnnkitError, match=r"cover.png has no class, but other images have one"):
        split_folder(root, HALVES)


def test_file_listed_twice_is_used_once(images, monkeypatch):
    """With any spelling of its folder; two different labels are an error."""
    root = images(red=4, blue=4)
    monkeypatch.chdir(root)
    (root.parent / "link").symlink_to(root)
    twice = source.find([".", str(root.parent / "link")])
    assert len(split.split_images(twice, HALVES).rows) == 8
    with pytest.raises(CnnkitError, match="is listed twice, with classes red and "):
        split.split_images([*source.find(["."]), ImageFile("red/../red/00.png", "rose")], HALVES)


def test_duplicates_stay_together_and_counts_are_exact(images):
    """With copies of a fifth of the images: each is in the split of its original, and every split has its exact number."""
    root = images(red=20, blue=20)
    for label in ("red", "blue"):
        for number in range(4):
            shutil.copy(root / label / f"{number:02d}.png", root / label / f"copy {number}.png")
    for config in (ROAD, SplitConfig(count="10,4,4"), SplitConfig(folds=4)):
        demand, outcome = config.shares(), split_folder(root, config)
        where = split_of(outcome, root)
        for label in ("red", "blue"):
            for number in range(4):
                ends = {where.get(f"{label}/{number:02d}.png"), where.get(f"{label}/copy {number}.png")} - {None}
                assert len(ends) <= 1
        assert (
            f"exact duplicates: {count_images(16)} in 8 sets, the largest of 2; each stays in one split"
            in outcome.remarks
        )
        if demand.counts:
            assert [record["train"] for record in outcome.table()] == [10, 10]
            assert f"{count_images(12)} left out by --count" in outcome.remarks
        else:
            sizes = [(record["class"], record["total"]) for record in outcome.table()]
            due = allocation.due(demand, sizes)
            assert [[record[name] for record in outcome.table()] for name in demand.names] == due
            assert not any("prevent exact shares" in remark for remark in outcome.remarks)


def test_rejects_count_that_would_divide_duplicates(images):
    """Five pairs do not give five and five: the error has the numbers."""
    root = images(red=5)
    for number in range(5):
        shutil.copy(root / f"red/{number:02d}.png", root / f"red/copy {number}.png")
    with pytest.raises(
        CnnkitError,
        match=r"class red: --count asks for 5 images in (train|val), but only 4 fit without dividing",
    ):
        split_folder(root, SplitConfig(count="5,5"))
    assert [record["total"] for record in split_folder(root, SplitConfig(count="5,4")).table()] == [9]


def test_warns_of_duplicates_with_different_labels(images, caplog):
    """With both paths and both labels; they stay in one split."""
    root = images(red=6, blue=6)
    shutil.copy(root / "red/00.png", root / "blue/99.png")
    outcome = split_folder(root, HALVES)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert f"{root}/blue/99.png (blue) and {root}/red/00.png (red) are exact duplicates" in warning
    assert len({row.split for row in outcome.rows if row.path.endswith(("blue/99.png", "red/00.png"))}) == 1


def test_near_duplicates_stay_together_with_near(images):
    """Smaller copies are found only with `near`, and a notice has their number."""
    from PIL import Image

    root = images(red=12, blue=12, size=(120, 90))
    for number in range(6):
        with Image.open(root / f"red/{number:02d}.png") as image:
            image.resize((80, 60)).save(root / f"red/small {number}.png")
    outcome = split_folder(root, near=True)
    where = split_of(outcome, root)
    assert all(where[f"red/{number:02d}.png"] == where[f"red/small {number}.png"] for number in range(6))
    assert any(
        re.fullmatch(r"near duplicates \(up to 40 bits of 256\): \d+ \w+ in \d+ sets?, .*", each)
        for each in outcome.remarks
    )
    assert not any("near duplicates" in remark for remark in split_folder(root).remarks)


def test_groups_from_the_path(images):
    """The match is the group, or its first parenthesized group; an image without a match is in no group."""
    root = images(red=10)
    found = source.find([str(root)])
    named = split.with_groups(found, re.compile(r"/(0|1)\d*[0-7]\.png"))
    assert [image.group for image in named] == ["0"] * 8 + [None] * 2
    assert {image.group for image in split.with_groups(found, re.compile(r"red/\d"))} == {"red/0"}
    assert split.with_groups(found, None) == found
    with pytest.raises(UsageError, match=r"--group \(: not a regular expression"):
        replace(HALVES, group="(").checked()
    with pytest.raises(UsageError, match=r"matches no path, for example not .*00\.png"):
        split.with_groups(found, re.compile("patient"))


@pytest.mark.parametrize("config", [HALVES, ROAD, SplitConfig(folds=4), SplitConfig(count="9,5")])
def test_groups_stay_together(images, config):
    """Thirty-two images of eight patients, each in one split; shares that cannot be met are reported."""
    root = images(**{f"patient{number}": 4 for number in range(8)})
    flat = [ImageFile(image.path, "xray") for image in source.find([str(root)])]
    outcome, demand = split.split_images(flat, replace(config, group=r"patient\d")), config.shares()
    where = defaultdict(set)
    for row in outcome.rows:
        where[row.group].add(row.split)
    assert all(len(found) == 1 for found in where.values())
    assert outcome.remarks[0] == "groups: 8, with 4 images each"
    held = Counter(row.split for row in outcome.rows)
    if demand.counts:
        assert (held["train"], held["val"]) == (9, 5)
    else:
        assert held == {name: share * 32 for name, share in zip(demand.names, demand.shares, strict=True)}


def test_reports_shares_that_groups_prevent(images):
    """Groups of 4 images do not give thirds of 20: the notice has the requested and the actual shares."""
    root = images(**{f"patient{number}": 4 for number in range(5)})
    flat = [ImageFile(image.path, "xray") for image in source.find([str(root)])]
    outcome = split.split_images(flat, SplitConfig(ratio="1,1,1", group=r"patient\d"))
    held = sorted(Counter(row.split for row in outcome.rows).values())
    assert held == [4, 8, 8]
    assert any(
        re.match(r"groups and duplicates prevent exact shares: train 0\.[24]00 \(requested 0\.333\)", each)
        for each in outcome.remarks
    )


def test_rejects_class_that_groups_keep_out_of_a_split(images):
    """All images of red are of one patient: the error has the class, its numbers and the split."""
    root = images(red=6, blue=6)
    with pytest.raises(
        CnnkitError,
        match=r"class red has 6 images in 1 set that stays together, and none of them is in (train|val)",
    ):
        split_folder(root, HALVES, group="red")


def test_groups_of_a_manifest_are_kept(images):
    """An expression overrides them."""
    root = images(red=8)
    found = [
        ImageFile(each.path, "red", None, str(number // 2)) for number, each in enumerate(source.find([str(root)]))
    ]
    outcome = split.split_images(found, HALVES)
    for number in range(0, 8, 2):
        assert outcome.rows[number].split == outcome.rows[number + 1].split
    assert [row.group for row in split.split_images(found, replace(HALVES, group=r"\d\.png")).rows][:2] == [
        "0.png",
        "1.png",
    ]


def test_rejects_contradictions():
    """With the reason."""
    with pytest.raises(UsageError, match="--stable and --count contradict each other"):
        SplitConfig(count="1,1", stable=True).checked()
    with pytest.raises(UsageError, match="--stable and --near contradict each other"):
        replace(HALVES, stable=True, near_bits=40).checked()


def test_bad_files_are_skipped_and_reported(images):
    """Broken and empty files and a broken link, with the reason; progress counts them, too."""
    root = images(red=8)
    whole = (root / "red/00.png").read_bytes()
    (root / "red/empty.png").write_bytes(b"")
    (root / "red/short.png").write_bytes(whole[: len(whole) // 2])
    (root / "red/named.jpg").write_bytes(whole)
    (root / "red/away.png").symlink_to(root / "nowhere.png")
    skipped, steps = {}, []
    outcome = split_folder(
        root,
        HALVES,
        Callbacks(
            skip=lambda path, reason: skipped.update({path.removeprefix(f"{root}/red/"): reason}),
            progress=lambda done, total: steps.append((done, total)),
        ),
    )
    assert sorted(skipped) == ["away.png", "empty.png", "short.png"]
    assert skipped["empty.png"] == "empty file"
    assert len(outcome.rows) == 9
    assert any("red/named.jpg, a PNG file with the extension .jpg" in remark for remark in outcome.remarks)
    assert steps == [(done, 12) for done in range(1, 13)]


def test_rejects_folder_without_usable_images(images):
    """If every file is bad."""
    root = images(red=2)
    for path in (root / "red").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CnnkitError, match="none of the images can be used"):
        split_folder(root, callbacks=SILENT)


# ---------------------------------------------------------------- files that are not opened


def test_without_verification_no_file_is_opened(images, monkeypatch):
    """Not even broken ones, which stay in a split; missing and empty files are skipped."""
    folder = images(red=4, blue=4)
    (folder / "red/00.png").write_bytes(b"no image")
    (folder / "blue/00.png").write_bytes(b"")
    found = [*source.find([str(folder)]), ImageFile(str(folder / "red/none.png"), "red")]
    skipped = {}
    monkeypatch.setattr(split, "examine", None)
    monkeypatch.setattr(files, "open_regular", None)
    outcome = split.split_images(
        found,
        replace(HALVES, no_verify=True),
        callbacks=Callbacks(skip=lambda path, reason: skipped.update({path: reason})),
    )
    assert skipped == {
        str(folder / "blue/00.png"): "empty file",
        str(folder / "red/none.png"): "no such file or directory",
    }
    assert str(folder / "red/00.png") in {row.path for row in outcome.rows}
    assert outcome.digests is None
    assert outcome.remarks[0] == "--no-verify: broken files and duplicates were not looked for"


@pytest.mark.parametrize("stable", [False, True])
def test_without_verification_the_names_from_the_class_folder_on_decide(images, tmp_path, stable):
    """The same split in another folder, from a list, and with other content; another one with another seed."""
    config = replace(HALVES, no_verify=True, stable=stable)
    folder = images(red=12, blue=12)
    moved = tmp_path / "elsewhere" / "set"
    for path in folder.glob("*/*"):
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        (moved / path.parent.name / path.name).write_bytes(b"other")

    def splits(found, **changes):
        rows = split.split_images(found, replace(config, **changes)).rows
        return {(row.label, os.path.basename(row.path)): row.split for row in rows}

    here = splits(source.find([str(folder)]))
    assert here == splits(source.find([str(moved)]))
    assert here == splits(ImageFile(str(path), path.parent.name) for path in sorted(folder.glob("*/*"), reverse=True))
    assert here != splits(source.find([str(folder)]), seed=5)


def test_without_verification_groups_stay_together(images):
    """As with verification."""
    folder = images(red=12, blue=12)
    outcome = split.split_images(
        source.find([str(folder)]), SplitConfig(ratio="1,1", group=r"(red|blue)/0", no_verify=True)
    )
    of_groups = {(row.group, row.split) for row in outcome.rows if row.group}
    assert len(of_groups) == len({group for group, _ in of_groups}) == 2


def with_hashes(folder, table, column="sha256", function=hashlib.sha256, leave_out=()):
    """Write a manifest of a folder with a hash of each file's content."""
    lines = [
        f"{os.path.relpath(path, table.parent)}\t{path.parent.name}\t"
        f"{'' if path.name in leave_out else function(path.read_bytes()).hexdigest()}\n"
        for path in sorted(folder.glob("*/*"))
    ]
    table.write_text(f"path\tlabel\t{column}\n" + "".join(lines))
    return str(table)


@pytest.mark.parametrize("stable", [False, True])
def test_with_sha256_in_the_manifest_the_split_is_that_of_the_contents(images, tmp_path, monkeypatch, stable):
    """Without opening a file: the same split, duplicates and rows as with verification, and the column is kept."""
    folder = images(red=12, blue=12)
    for name in ("red/copy.png", "red/other.png"):
        shutil.copy(folder / "red/03.png", folder / name)
    verified = split_folder(folder, HALVES, stable=stable)
    table = with_hashes(folder, tmp_path / "all.tsv")
    found = source.find([table])
    with monkeypatch.context() as patched:
        patched.setattr(files, "open_regular", None)
        listed = split.split_images(found, replace(HALVES, no_verify=True, stable=stable))
    assert split_of(listed) == split_of(verified)
    assert listed.remarks[:2] == [
        "--no-verify: broken files were not looked for; duplicates are those of the manifest's hashes",
        "exact duplicates: 3 images in 1 set, which stays in one split",
    ]
    assert {row.path: row.digest for row in listed.rows} == verified.digests
    assert manifest.columns(listed.rows) == ("path", "label", "split", "sha256")
    manifest.save(tmp_path / "split.tsv", listed.rows, columns=manifest.columns(listed.rows))
    assert manifest.load(tmp_path / "split.tsv") == listed.rows


@pytest.mark.parametrize(("column", "function"), [("md5", hashlib.md5), ("SHA1", hashlib.sha1)])
def test_images_with_one_hash_of_the_manifest_stay_together(images, tmp_path, column, function):
    """Whatever the function; images without a hash are counted."""
    folder = images(red=12, blue=12)
    for number in range(8):
        shutil.copy(folder / "red/03.png", folder / f"red/copy{number}.png")
    table = with_hashes(folder, tmp_path / "all.tsv", column, function, leave_out=("copy7.png", "00.png"))
    outcome = split.split_images(source.find([table]), SplitConfig(folds=3, no_verify=True))
    alike = {row.split for row in outcome.rows if row.digest == function((folder / "red/03.png").read_bytes()).digest()}
    assert len(alike) == 1
    assert outcome.remarks[1] == "3 images without a hash: their duplicates were not looked for"
    assert manifest.columns(outcome.rows) == ("path", "label", "split", column.lower())


def test_verification_does_not_rely_on_the_hashes_of_the_manifest(images, tmp_path):
    """Files are read, and the column is not kept."""
    folder = images(red=12, blue=12)
    table = with_hashes(folder, tmp_path / "all.tsv", function=lambda content: hashlib.sha256(b"wrong"))
    outcome = split.split_images(source.find([table]), HALVES)
    assert split_of(outcome) == split_of(split_folder(folder, HALVES))
    assert manifest.columns(outcome.rows) == ("path", "label", "split")


def test_two_hashes_of_one_file_are_refused_if_hashes_are_used(images, tmp_path):
    """The manifest is out of date; files that are read need no hashes."""
    folder = images(red=4, blue=4)
    table = tmp_path / "all.tsv"
    with_hashes(folder, table)
    path = os.path.relpath(folder / "red/00.png", tmp_path)
    table.write_text(table.read_text() + f"{path}\tred\t{'0' * 64}\n")
    found = source.find([str(table)])
    with pytest.raises(CnnkitError, match=r"00\.png is listed twice, with two hashes of its content"):
        split.split_images(found, replace(HALVES, no_verify=True))
    assert split_of(split.split_images(found, HALVES)) == split_of(split_folder(folder, HALVES))
