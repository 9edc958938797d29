"""Exact and near duplicates."""

import io
import random

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from cnnkit.data import duplicates
from cnnkit.data.duplicates import LOOK_SIDE, examine


def connected(number, pairs):
    """Find the sets of two or more by definition: merge two sets as long as a pair connects them."""
    sets = [{item} for item in range(number)]
    for one, other in pairs:
        joined = {item for each in sets if one in each or other in each for item in each}
        sets = [each for each in sets if not each & joined] + [joined]
    return sorted(sorted(each) for each in sets if len(each) > 1)


def bits_of(look):
    return np.unpackbits(np.frombuffer(look, dtype=np.uint8)).reshape(LOOK_SIDE, LOOK_SIDE).astype(bool)


def look_of(bits):
    return np.packbits(np.asarray(bits, dtype=bool)).tobytes()


def flipped(look, places):
    bits = bits_of(look).ravel()
    bits[list(places)] ^= True
    return look_of(bits)


def mirrored(look):
    return look_of(bits_of(look) ^ (np.arange(LOOK_SIDE) % 2 == 1))


def clusters(seed, *, number=6, size=5, spread=30):
    """Make hashes in chains around some centres, some of them mirrored."""
    generator = random.Random(seed)
    looks = []
    for _ in range(number):
        look = generator.randbytes(LOOK_SIDE * LOOK_SIDE // 8)
        for _ in range(generator.randint(1, size)):
            look = flipped(look, generator.sample(range(LOOK_SIDE * LOOK_SIDE), generator.randint(0, spread)))
            looks.append(mirrored(look) if generator.random() < 0.3 else look)
    generator.shuffle(looks)
    return looks


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=30))
def test_disjoint_sets_are_connected_components(number, pairs):
    """For any order of unions; every item is in exactly one set."""
    pairs = [(one % number, other % number) for one, other in pairs]
    together = duplicates.DisjointSets(number)
    for one, other in pairs:
        together.unite(one, other)
    sets = together.sets()
    assert sorted(item for members in sets for item in members) == list(range(number))
    assert sorted(members for members in sets if len(members) > 1) == connected(number, pairs)


def test_unite_equal_ignores_none():
    """Items with the value None stay apart."""
    together = duplicates.DisjointSets(6)
    together.unite_equal(["a", None, "b", "a", None, "a"])
    assert together.sets() == [[0, 3, 5], [1], [2], [4]]


def test_exact_duplicates_have_equal_digests():
    """Sets of two or more, by position."""
    assert duplicates.exact_duplicates([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]
    assert duplicates.exact_duplicates([b"a", b"b"]) == duplicates.exact_duplicates([]) == []


@pytest.mark.parametrize("block", [1, 3, 1024])
@pytest.mark.parametrize("distance", [0, 12, 30, 60])
def test_near_duplicates_agree_with_pairwise_comparison(monkeypatch, block, distance):
    """With imagehash's own difference, mirrored and not."""
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    for seed in range(8):
        looks = clusters(seed)
        hashes = [imagehash.ImageHash(bits_of(look)) for look in looks]
        turned = [imagehash.ImageHash(bits_of(mirrored(look))) for look in looks]
        pairs = [
            (one, other)
            for other in range(len(looks))
            for one in range(other)
            if min(hashes[one] - hashes[other], turned[one] - hashes[other]) <= distance
        ]
        assert sorted(duplicates.near_duplicates(looks, distance=distance)) == connected(len(looks), pairs)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_near_duplicates_do_not_depend_on_the_order(seed, shuffler):
    """The same hashes in another order give the same sets."""
    looks = clusters(seed)
    order = list(range(len(looks)))
    shuffler.shuffle(order)
    shuffled = duplicates.near_duplicates([looks[place] for place in order], distance=25)
    assert sorted(sorted(order[place] for place in members) for members in shuffled) == sorted(
        duplicates.near_duplicates(looks, distance=25)
    )


def test_no_near_duplicates():
    """Of no images, one image, and two different ones."""
    assert duplicates.near_duplicates([]) == duplicates.near_duplicates([b"\0" * 32]) == []
    assert duplicates.near_duplicates([b"\0" * 32, b"\xff" * 32]) == []


def encoded(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


CHANGES = {
    "encoded again": lambda image: encoded(image, 40),
    "a third of the size": lambda image: image.resize((image.width // 3, image.height // 3)),
    "squashed": lambda image: image.resize((224, 224)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "grey": lambda image: image.convert("L"),
    "mirrored": ImageOps.mirror,
    "mirrored and encoded again": lambda image: encoded(ImageOps.mirror(image), 60),
}


@pytest.mark.photos
@pytest.mark.parametrize(
    "change",
    [pytest.param(each, marks=[] if each in ("squashed", "mirrored") else pytest.mark.slow) for each in CHANGES],
)
def test_changed_copies_of_photographs_are_found(photos, tmp_path, change):
    """Thirty photographs and their changed copies are thirty pairs."""
    paths = sorted((photos / "dogs-vs-cats/cat").iterdir())[:15] + sorted((photos / "flowers/rose").iterdir())[:15]
    looks = []
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            CHANGES[change](image.convert("RGB")).save(tmp_path / f"{number}.png")
        looks += [examine(str(path), look=True).look, examine(str(tmp_path / f"{number}.png"), look=True).look]
    assert duplicates.near_duplicates(looks) == [[2 * number, 2 * number + 1] for number in range(len(paths))]


@pytest.mark.slow
@pytest.mark.photos
def test_different_photographs_are_not_near_duplicates(photos):
    """The only near duplicates among the flowers are one photograph with and without a colour filter."""
    paths = sorted((photos / "flowers").glob("*/*"))
    looks = [examine(str(path), look=True).look for path in paths]
    assert [[paths[place].name for place in members] for members in duplicates.near_duplicates(looks)] == [
        ["19177263840_6a316ea639.jpg", "19178753159_a471bf4b6b.jpg"]
    ]


def test_distance_is_the_smaller_of_plain_and_mirrored():
    """Counted bit by bit."""
    look = look_of(np.random.default_rng(0).integers(0, 2, (LOOK_SIDE, LOOK_SIDE)))
    assert duplicates.distance(look, look) == 0
    assert duplicates.distance(look, flipped(look, range(7))) == 7
    assert duplicates.distance(mirrored(look), flipped(look, range(9))) == 9
    assert (
        duplicates.distance(look, look_of(~bits_of(look))) == LOOK_SIDE * LOOK_SIDE // 2
    )  # half of the bits, mirrored
