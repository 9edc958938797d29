"""One image, decoded safely."""

import hashlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from cnnkit.data import decode, reader
from cnnkit.data.source import ImageFile
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


def tiff(path, values, tags=None, *, channels=1):
    """Write a TIFF of one row, byte by byte: Pillow would choose the tags itself."""
    formats = {"u": 1, "i": 2, "f": 3}
    fields = {
        256: len(values) // channels,
        257: 1,
        258: 8 * values.itemsize,
        259: 1,
        262: 2 if channels == 3 else 1,
        273: 400,
        277: channels,
        278: 1,
        279: values.nbytes,
        339: formats[values.dtype.kind],
        **(tags or {}),
    }
    entries = b"".join(
        struct.pack("<HHIf", tag, 11, 1, value) if isinstance(value, float) else struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in sorted(fields.items())
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
    path.write_bytes(head.ljust(400, b"\0") + values.tobytes())


def grey(path, values, tags=None, *, most=65535):
    """Write a grey TIFF, PNG or PGM, and read its first row as cnnkit does: (columns,)."""
    if path.suffix == ".tif":
        tiff(path, values, tags)
    elif path.suffix == ".pgm":
        pixels = values.astype(">u2" if most > 255 else "u1").tobytes()
        path.write_bytes(b"P5\n%d 1\n%d\n" % (len(values), most) + pixels)
    else:
        Image.fromarray(values[None]).save(path)
    return np.asarray(decode.load(path))[0, :, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize("top", [0, 1, 250, 260, 4095, 65535])
def test_the_bit_depth_sets_the_scale_of_16_bit_grey(tmp_path, suffix, top):
    """Never the brightest value: images of 0 to 250 and of 0 to 260 look alike, and 65535 alone is white."""
    values = np.linspace(0, top, 64).round().astype(np.uint16)
    loaded = grey(tmp_path / f"grey{suffix}", values)
    assert np.abs(loaded - values / 65535 * 255).max() <= 0.5001


@pytest.mark.parametrize("most", [1, 15, 100, 255, 1000, 4095, 65535])
def test_the_greatest_value_of_a_pgm_is_white(tmp_path, most):
    """Its head names it; a dark image stays dark."""
    values = np.array([0, most // 3, most])
    assert np.abs(grey(tmp_path / "grey.pgm", values, most=most) - values / most * 255).max() <= 0.51


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([0, 50, 127], np.int8), 127),
        (np.array([0, 100, 32767], np.int16), 32767),
        (np.array([0, 1000, 2**31 - 1], np.int32), 2**31 - 1),
        (np.array([0, 255, 65535], np.int32), 2**31 - 1),
        (np.array([0, 0.25, 1], np.float32), 1),
        (np.array([0, 0.001, 0.002], np.float32), 1),
        (np.array([-1e-6, 0.5, 1 + 1e-6], np.float32), 1),
    ],
    ids=["int8", "int16", "int32", "dark int32", "floats", "dark floats", "rounding"],
)
def test_signed_integers_and_floats_have_one_scale(tmp_path, values, white):
    """The largest number of their bits is white, and of floats 1."""
    loaded = grey(tmp_path / "grey.tif", values)
    assert np.abs(loaded - np.clip(values.astype(float) / white, 0, 1) * 255).max() <= 0.5001


def test_32_bits_without_a_sign(tmp_path):
    """Pillow keeps them as signed numbers: what is above the half must not become black."""
    values = np.array([0, 2**31 - 1, 2**31 + 5, 2**32 - 1], np.uint32)
    loaded = grey(tmp_path / "grey.tif", values)
    assert np.abs(loaded - values / (2**32 - 1) * 255).max() <= 0.5001


def test_twelve_bits_of_a_tiff(tmp_path):
    """Two values in three bytes, of which 4095 is white."""
    values = np.array([0, 1000, 4095, 250])
    packed = bytes(
        byte
        for one, two in values.reshape(-1, 2).tolist()
        for byte in (one >> 4, (one & 15) << 4 | two >> 8, two & 255)
    )
    tiff(tmp_path / "grey.tif", np.frombuffer(packed, np.uint8), {256: 4, 258: 12})
    loaded = np.asarray(decode.load(tmp_path / "grey.tif"))[0, :, 0]
    assert np.abs(loaded - values / 4095 * 255).max() <= 0.5001


def test_white_is_zero(tmp_path):
    """A TIFF whose photometric interpretation says so is inverted, with 16 bits and in floats as with 8."""
    assert grey(tmp_path / "a.tif", np.array([0, 65535], np.uint16), {262: 0}).tolist() == [255, 0]
    assert grey(tmp_path / "b.tif", np.array([0, 1], np.float32), {262: 0}).tolist() == [255, 0]


def test_floats_with_a_range_of_their_own(tmp_path):
    """The tags SMinSampleValue and SMaxSampleValue name black and white."""
    loaded = grey(tmp_path / "grey.tif", np.array([-1, 0, 1], np.float32), {340: -1.0, 341: 1.0})
    assert loaded.tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            np.array([-1, 0, 1], np.float32),
            "floats from -1 to 1; expected values from 0 to 1: rescale the image",
        ),
        (np.array([0, 128, 255], np.float32), "floats from 0 to 255; expected values from 0 to 1"),
        (np.array([0, np.nan, 1], np.float32), "floats from 0 to 1, some of them NaN"),
        (np.array([0, np.inf], np.float32), "floats from 0 to inf"),
        (np.array([np.nan, np.nan], np.float32), "floats that are all NaN"),
        (
            np.array([-128, 127], np.int8),
            "8-bit signed integers from -128 to 127; expected values from 0 to 127",
        ),
        (np.array([-1, 0], np.int16), "16-bit signed integers from -1 to 0; expected values from 0 to 32767"),
        (np.array([-1, 0], np.int32), "32-bit signed integers from -1 to 0"),
    ],
    ids=["-1 to 1", "0 to 255", "nan", "inf", "nothing", "int8", "int16", "int32"],
)
def test_values_that_are_no_brightness_are_refused(tmp_path, values, said):
    """What the file does not say is not guessed from its values."""
    with pytest.raises(BadImageError, match=said):
        grey(tmp_path / "grey.tif", values)


def test_a_tiff_of_colour_in_floats_says_what_to_do(tmp_path):
    """Pillow has no reader for it."""
    path = tmp_path / "colour.tif"
    tiff(path, np.full(6, 0.5, np.float32), channels=3)
    with pytest.raises(BadImageError, match=r"unsupported kind of TIFF.* save it with 8 or 16 bits"):
        decode.load(path)


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


@pytest.mark.parametrize("size", [(7, 50), (50, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_deep_grey_is_the_same_in_strips(tmp_path, monkeypatch, size, dtype):
    """A large image is converted strip by strip, and comes out as it does whole."""
    values = np.random.default_rng(0).random(size[::-1])
    values = values.astype(dtype) if dtype is np.float32 else (values * 65535).astype(dtype)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    whole = np.asarray(decode.load(tmp_path / "deep.tif"))
    monkeypatch.setattr(decode, "_PIXELS_AT_ONCE", 20)
    assert np.array_equal(decode.load(tmp_path / "deep.tif"), whole)


def many_scans(count):
    """Make a progressive JPEG whose last scan is there many times."""
    file = io.BytesIO()
    Image.fromarray(noise(64, 48)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + (count - content.count(b"\xff\xda")) * content[last:-2] + content[-2:]


def test_scans_of_a_progressive_jpeg_are_bounded(tmp_path):
    """Each costs as much time as the whole image; an encoder's own ten are fine."""
    path = tmp_path / "scans.jpg"
    for count in (12, decode.MOST_SCANS):
        path.write_bytes(many_scans(count))
        assert decode.load(path).size == (64, 48)
    path.write_bytes(many_scans(2000))
    with pytest.raises(BadImageError, match="a progressive JPEG of more than 100 scans; save it again"):
        decode.load(path)


def test_scans_that_are_not_the_images_do_not_count(tmp_path):
    """A moving photograph has a film behind it, and segments hold whatever they like."""
    content = many_scans(decode.MOST_SCANS)
    marks = b"\xff\xda" * 5000
    segment = b"\xff\xec" + struct.pack(">H", 2 + len(marks)) + marks
    path = tmp_path / "moving.jpg"
    path.write_bytes(content[:2] + segment + content[2:] + marks)
    assert decode.load(path).size == decode.upright_size(path) == (64, 48)
    path.write_bytes(content[:2] + segment + many_scans(decode.MOST_SCANS + 1)[2:])
    with pytest.raises(BadImageError, match="more than 100 scans"):
        decode.load(path)


@pytest.mark.parametrize("shift", range(3))
def test_a_marker_on_the_border_of_two_blocks_counts(tmp_path, shift):
    """The file is looked through in blocks; filling bytes are part of a marker."""
    content = many_scans(decode.MOST_SCANS + 1)
    last = content.rindex(b"\xff\xda")
    path = tmp_path / "scans.jpg"
    path.write_bytes(content[:last] + b"\0" * ((1 << 16) - 200) + b"\xff" * (200 + shift) + content[last:])
    with pytest.raises(BadImageError, match="more than 100 scans"):
        decode.load(path)


def tiff_with_tile(side):
    """Write a TIFF of 8 x 8 pixels in one tile of another size, compressed by libtiff."""
    data = zlib.compress(bytes(64))
    tags = [
        (256, 8),
        (257, 8),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 8),
        (325, len(data)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tiles_much_larger_than_their_image_are_refused(tmp_path):
    """A decoder asks for a whole tile's memory; tiles of the usual sizes hang over small images, and are fine."""
    (tmp_path / "tile.tif").write_bytes(tiff_with_tile(32_768))
    with pytest.raises(BadImageError, match=r"its tiles of 32,768 x 32,768 pixels are larger than the image"):
        decode.load(tmp_path / "tile.tif")
    Image.fromarray(noise(8, 8)).save(tmp_path / "small.tif", compression="tiff_lzw", tiffinfo={322: 256, 323: 256})
    assert decode.load(tmp_path / "small.tif").size == (8, 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(1, 170_000_000), (170_000_000, 1), (1, 1_000_001)])
def test_strips_that_are_too_long_are_refused(tmp_path, size):
    """They have few enough pixels, but to resize them would take gigabytes."""
    (tmp_path / "strip.png").write_bytes(png_of_size(*size))
    with pytest.raises(
        BadImageError, match=rf"too long: {size[0]:,} x {size[1]:,} pixels, at most 1,000,000 on a side"
    ):
        decode.load(tmp_path / "strip.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels", [99, 100, 101])
def test_the_bound_on_pixels_can_be_set(tmp_path, pixels):
    """Exactly, in threads too, and it is put back afterwards."""
    before = Image.MAX_IMAGE_PIXELS
    Image.fromarray(noise(10, 10)).save(tmp_path / "ten.png")
    images = [ImageFile(str(tmp_path / "ten.png"))] * 4
    with decode.at_most(pixels):
        loaded = [outcome for _, outcome in reader.read(images, decode.load, jobs=2)]
    if pixels < 100:
        assert [str(each) for each in loaded] == [
            "too large: 10 x 10 pixels, at most 99; raise the limit with --max-pixels"
        ] * 4
    else:
        assert [each.size for each in loaded] == [(10, 10)] * 4
    assert before == Image.MAX_IMAGE_PIXELS


def test_memory_that_runs_out_is_no_traceback(tmp_path, monkeypatch):
    """The image is skipped like any other that cannot be used."""
    Image.fromarray(noise(10, 10)).save(tmp_path / "ten.png")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    Image.fromarray(noise(10, 10, 1)).save(tmp_path / "grey.png")
    with pytest.raises(BadImageError, match="not enough memory to decode it"):
        decode.load(tmp_path / "grey.png")
    ((_, outcome),) = reader.read([ImageFile("a")], fail)
    assert isinstance(outcome, BadImageError)


def test_damage_that_libtiff_finds_is_one_notice(tmp_path, capfd, caplog):
    """Not a line on stderr for each row of the image, and without the name of the file."""
    path = tmp_path / "fax.tif"
    Image.fromarray(noise(200, 200, 1) > 127).save(path, compression="group4")
    content = bytearray(path.read_bytes())
    content[400:460] = bytes(byte ^ 0x5A for byte in content[400:460])
    path.write_bytes(content)
    with caplog.at_level("WARNING", "cnnkit"):
        images = [outcome for _, outcome in reader.read([ImageFile(str(path))] * 3, decode.load, jobs=3)]
    assert [image.size for image in images] == [(200, 200)] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: partly damaged; used as far as it can be decoded"
    ]
    assert capfd.readouterr() == ("", "")


def bad_files():
    """Yield a name, the content of a file that is no good image, and what is said of it."""
    whole = {}
    for name in WRITABLE:
        buffer = io.BytesIO()
        Image.fromarray(noise(64, 64)).save(buffer, name)
        whole[name] = buffer.getvalue()
    yield "empty.jpg", b"", "empty file"
    yield "text.jpg", b"<html>404</html>" * 20, "not an image in a supported format (JPEG"
    yield "short.jpg", whole["JPEG"][: len(whole["JPEG"]) // 2], "truncated"
    yield "short.png", whole["PNG"][: len(whole["PNG"]) // 2], ""
    yield "short.webp", whole["WEBP"][: len(whole["WEBP"]) // 2], ""
    yield "short.bmp", whole["BMP"][: len(whole["BMP"]) // 2], "truncated"
    yield "short.tif", whole["TIFF"][: len(whole["TIFF"]) // 2], ""
    yield "head.jpg", whole["JPEG"][:4], ""
    yield "flipped.png", whole["PNG"][:60] + b"\xff" * 40 + whole["PNG"][100:], ""
    yield "bomb.png", png_of_size(20_000, 20_000), "too large: 400,000,000 pixels, at most 178,956,970"
    yield "script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a supported format"
    yield "photoshop.psd", b"8BPS\0\1" + b"\0" * 40, "not an image in a supported format"


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


def test_a_file_that_is_open_already(tmp_path):
    """It is read in place of the path, and stays open."""
    path = tmp_path / "picture.png"
    Image.fromarray(noise(9, 7)).save(path)
    with path.open("rb") as file:
        with decode.opened("elsewhere.png", file) as image:
            assert np.array_equal(decode.upright_rgb(image), decode.load(path))
        assert decode.digest(file) == hashlib.sha256(path.read_bytes()).digest()


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
    assert decode.misnamed(name, kind) == f"a {kind} file with the extension {os.path.splitext(name)[1].lower()}"
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
    with pytest.raises(BadImageError, match="not an image in a supported format"):
        decode.read(large)
    for other, reason in (("/dev/zero", "not a regular file"), (tmp_path, "directory"), (tmp_path / "none", "no such")):
        with pytest.raises(BadImageError, match=reason):
            decode.read(other)


def test_the_size_of_a_png_is_asked_for_within_the_budget(tmp_path, monkeypatch):
    """Pillow decodes a PNG to find EXIF behind its pixels: several large ones at once took a gigabyte each of no budget."""
    held = []
    monkeypatch.setattr(decode.memory, "hold", held.append)
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    Image.new("L", (30, 20)).save(tmp_path / "a.jpg")
    assert decode.upright_size(tmp_path / "a.png") == (30, 20)
    assert len(held) == 1
    assert held[0] >= 30 * 20
    assert decode.upright_size(tmp_path / "a.jpg") == (30, 20)
    assert len(held) == 1


def test_metadata_that_is_too_large_is_named(tmp_path):
    """Editors' histories and printers' colour profiles; Pillow's message names a constant of its own."""
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "a.png", icc_profile=bytes(2 << 20))
    with pytest.raises(BadImageError, match=r"metadata .* is larger than 1 MB; save it without metadata"):
        decode.load(tmp_path / "a.png")
