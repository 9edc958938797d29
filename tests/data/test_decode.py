"""One image, decoded safely."""

import hashlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from cnnkit.data import decode
from cnnkit.errors import BadImageError

WRITABLE = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm"}


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_of_size(width, height):
    """Write the header of a PNG that claims a size, and nothing after it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", [*WRITABLE, "AVIF"])
def test_every_format_that_is_let_in(tmp_path, name):
    """Whatever the file's name, its content decides; what Pillow alone makes of it is what comes out."""
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    path = tmp_path / "picture"
    Image.fromarray(noise(31, 17)).save(path, name)
    with decode.opened(path) as image:
        assert image.format == name
    with Image.open(path) as expected:
        assert np.array_equal(decode.load(path), expected.convert("RGB"))


def test_a_file_of_several_jpegs(tmp_path):
    """An MPO file, as phones and stereo cameras write it, is its first image."""
    first, second = (Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)) for value in (40, 200))
    first.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[second])
    with decode.opened(tmp_path / "stereo.jpg") as image:
        assert image.format == "MPO"
    assert abs(int(np.asarray(decode.load(tmp_path / "stereo.jpg")).mean()) - 40) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb_as_torchvision_has_it(tmp_path, mode):
    """The same pixels as `convert("RGB")`, which is torchvision's loader; transparency is dropped."""
    image = Image.fromarray(noise(20, 10))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(noise(20, 10, 1, seed=1)))
    image.convert(mode).save(tmp_path / "picture.tif")
    with Image.open(tmp_path / "picture.tif") as expected:
        assert expected.mode == mode
        assert np.array_equal(decode.load(tmp_path / "picture.tif"), expected.convert("RGB"))


def test_a_palette_with_a_transparent_colour(tmp_path):
    """The colour itself comes out, without a warning from Pillow."""
    image = Image.fromarray(noise(20, 10)).convert("P")
    image.save(tmp_path / "picture.png", transparency=bytes(range(256)))
    assert np.array_equal(decode.load(tmp_path / "picture.png"), image.convert("RGB"))


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    """A 16-bit ramp from black to white comes out as one; Pillow's own conversion clips it."""
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None, :].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    loaded = np.asarray(decode.load(tmp_path / "ramp.png"))
    assert loaded.shape == (4, 256, 3)
    assert np.array_equal(loaded[0, :, 0], np.arange(256))


@pytest.mark.parametrize(
    "values", [np.linspace(0, 255, 64, dtype=np.float32), np.linspace(0, 65535, 64, dtype=np.float32)]
)
def test_floating_point_grey(tmp_path, values):
    """A TIFF of floats fills the range, whether it was meant for 8 bits or for 16."""
    Image.fromarray(values[None, :].repeat(4, axis=0)).save(tmp_path / "ramp.tif")
    loaded = np.asarray(decode.load(tmp_path / "ramp.tif"))[0, :, 0]
    assert np.abs(loaded.astype(float) - np.linspace(0, 255, 64)).max() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_image_is_turned_as_its_exif_says(tmp_path, orientation):
    """All eight orientations come out as the image that was meant."""
    image = Image.fromarray(noise(8, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    turns = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
    if orientation > 1:
        image = image.transpose(Image.Transpose[turns[orientation - 2]])
    assert np.array_equal(decode.load(tmp_path / "turned.png"), image)


def test_a_broken_exif_block_does_no_harm(tmp_path):
    """The image beside it is still an image."""
    image = Image.fromarray(noise(8, 5))
    image.save(tmp_path / "odd.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert np.array_equal(decode.load(tmp_path / "odd.png"), image)


def test_the_first_frame_of_an_animation(tmp_path):
    """The others do not matter."""
    frames = [Image.fromarray(np.full((6, 6, 3), value, dtype=np.uint8)) for value in (10, 200, 90)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.unique(decode.load(tmp_path / "moving.gif")).tolist() == [10]


def bad_files():
    """Yield a name, the content of a file that is no good image, and what is said of it."""
    whole = {}
    for name in WRITABLE:
        buffer = io.BytesIO()
        Image.fromarray(noise(64, 64)).save(buffer, name)
        whole[name] = buffer.getvalue()
    yield "empty.jpg", b"", "empty file"
    yield "text.jpg", b"<html>404</html>" * 20, "no picture, or none of JPEG"
    yield "short.jpg", whole["JPEG"][: len(whole["JPEG"]) // 2], "truncated"
    yield "short.png", whole["PNG"][: len(whole["PNG"]) // 2], ""
    yield "short.webp", whole["WEBP"][: len(whole["WEBP"]) // 2], ""
    yield "short.bmp", whole["BMP"][: len(whole["BMP"]) // 2], "truncated"
    yield "short.tif", whole["TIFF"][: len(whole["TIFF"]) // 2], ""
    yield "head.jpg", whole["JPEG"][:4], ""
    yield "flipped.png", whole["PNG"][:60] + b"\xff" * 40 + whole["PNG"][100:], ""
    yield "bomb.png", png_of_size(20_000, 20_000), "decompression bomb"
    yield "script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture, or none of"
    yield "photoshop.psd", b"8BPS\0\1" + b"\0" * 40, "no picture, or none of"


@pytest.mark.parametrize(
    ("name", "content", "said"), list(bad_files()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_no_whole_image(tmp_path, name, content, said):
    """It is refused as a bad image, with one line that says why; decoders that are not let in are not reached."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadImageError) as caught:
        decode.load(path)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_there(tmp_path):
    """A missing file and a folder are bad images too, with the system's reason."""
    with pytest.raises(BadImageError, match="no such file or directory"):
        decode.load(tmp_path / "nowhere.jpg")
    with pytest.raises(BadImageError, match="is a directory"):
        decode.load(tmp_path)


def test_content_that_was_read_already(tmp_path):
    """From bytes comes what comes from the file."""
    path = tmp_path / "picture.png"
    Image.fromarray(noise(9, 7)).save(path)
    with decode.opened("elsewhere.png", path.read_bytes()) as image:
        assert np.array_equal(decode.upright_rgb(image), decode.load(path))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jpg", "JPEG"),
        ("a.JPEG", "JPEG"),
        ("a.jfif", "JPEG"),
        ("a.jpg", "MPO"),
        ("a.TIF", "TIFF"),
        ("a.apng", "PNG"),
        ("a.JPE", "JPEG"),
        ("a.mpo", "JPEG"),
        ("a.heic", "HEIF"),
    ]
    + [(f"a{suffix}", kind) for kind, suffix in WRITABLE.items()],
)
def test_names_that_claim_nothing_wrong(name, kind):
    """Every extension of a format, in any case of letters."""
    assert decode.misnamed(name, kind) is None


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "PNG"), ("a.PNG", "JPEG"), ("b.c.gif", "WEBP"), ("a.bmp", "PPM")])
def test_names_that_claim_another_format(name, kind):
    """The message names both."""
    assert decode.misnamed(name, kind) == f"a {kind} file that is named {os.path.splitext(name)[1].lower()}"
    assert decode.misnamed("a", "PNG") == "a PNG file without an extension"


@pytest.mark.photos
def test_real_images_as_pillow_reads_them(photos):
    """JPEG, JFIF, PNG and BMP files from several cameras and programs."""
    paths = sorted((photos / "pictures").iterdir())
    assert len(paths) > 8
    for path in paths:
        with Image.open(path) as image:
            assert np.array_equal(decode.load(path), ImageOps.exif_transpose(image).convert("RGB")), path


def test_an_image_and_its_fingerprint_through_one_opening(tmp_path):
    """The image that `load` gives and the sha256 of its file; of what is no image, no more than the beginning is read."""
    path = tmp_path / "one.png"
    Image.effect_noise((20, 10), 50).save(path)
    found = decode.read(path)
    assert found.image.tobytes() == decode.load(path).tobytes()
    assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.format, found.grey, found.profile) == ("PNG", True, None)
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # a tebibyte of nothing
    with pytest.raises(BadImageError, match="no picture, or none of"):
        decode.read(large)
    for other, reason in (("/dev/zero", "not a regular file"), (tmp_path, "directory"), (tmp_path / "none", "no such")):
        with pytest.raises(BadImageError, match=reason):
            decode.read(other)
