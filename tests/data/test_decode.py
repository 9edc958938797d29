"""Safe decoding of one image."""

import hashlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from cnnkit.data import decode, deep_images, reader
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError

WRITABLE = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm"}


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_of_size(width, height):
    """Return a PNG's header with some size, without pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", [*WRITABLE, "AVIF"])
def test_every_supported_format_is_decoded_by_content(tmp_path, name):
    """Whatever the file's name; the pixels are Pillow's."""
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    path = tmp_path / "image"
    Image.fromarray(noise(31, 17)).save(path, name)
    with decode.opened(path) as image:
        assert image.format == name
    with Image.open(path) as expected:
        assert np.array_equal(decode.load(path), expected.convert("RGB"))


def test_mpo_gives_its_first_image(tmp_path):
    """Phones and stereo cameras write MPO files of several JPEGs."""
    first, second = (Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)) for value in (40, 200))
    first.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[second])
    with decode.opened(tmp_path / "stereo.jpg") as image:
        assert image.format == "MPO"
    assert abs(int(np.asarray(decode.load(tmp_path / "stereo.jpg")).mean()) - 40) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_colour_modes_are_converted_as_in_torchvision(tmp_path, mode):
    """The same pixels as `convert("RGB")`, as in torchvision's loader; transparency is dropped."""
    image = Image.fromarray(noise(20, 10))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(noise(20, 10, 1, seed=1)))
    image.convert(mode).save(tmp_path / "image.tif")
    with Image.open(tmp_path / "image.tif") as expected:
        assert expected.mode == mode
        assert np.array_equal(decode.load(tmp_path / "image.tif"), expected.convert("RGB"))


def test_palette_with_a_transparent_colour(tmp_path):
    """The transparent colour is kept, without a warning from Pillow."""
    image = Image.fromarray(noise(20, 10)).convert("P")
    image.save(tmp_path / "image.png", transparency=bytes(range(256)))
    assert np.array_equal(decode.load(tmp_path / "image.png"), image.convert("RGB"))


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    """A 16-bit ramp stays a ramp from black to white; Pillow's own conversion clips it."""
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None, :].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    loaded = np.asarray(decode.load(tmp_path / "ramp.png"))
    assert loaded.shape == (4, 256, 3)
    assert np.array_equal(loaded[0, :, 0], np.arange(256))


def tiff(path, values, tags=None, *, channels=1):
    """Write a TIFF of one row, byte by byte, since Pillow would choose the tags itself."""
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
def test_white_of_16_bit_grey_is_the_maximum_of_the_bit_depth(tmp_path, suffix, top):
    """Never the brightest value: images of 0 to 250 and of 0 to 260 look almost the same, and only 65535 is white."""
    values = np.linspace(0, top, 64).round().astype(np.uint16)
    loaded = grey(tmp_path / f"grey{suffix}", values)
    assert np.abs(loaded - values / 65535 * 255).max() <= 0.5001


@pytest.mark.parametrize("most", [1, 15, 100, 255, 1000, 4095, 65535])
def test_white_of_a_pgm_is_the_maximum_in_its_header(tmp_path, most):
    """A dark image stays dark."""
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
def test_white_of_signed_integers_and_floats(tmp_path, values, white):
    """The largest number of the bit depth, and 1 for floats."""
    loaded = grey(tmp_path / "grey.tif", values)
    assert np.abs(loaded - np.clip(values.astype(float) / white, 0, 1) * 255).max() <= 0.5001


def test_unsigned_32_bit_grey(tmp_path):
    """Pillow reads the values as signed; those above one half must not become black."""
    values = np.array([0, 2**31 - 1, 2**31 + 5, 2**32 - 1], np.uint32)
    loaded = grey(tmp_path / "grey.tif", values)
    assert np.abs(loaded - values / (2**32 - 1) * 255).max() <= 0.5001


def test_tiff_of_12_bits(tmp_path):
    """Two values in three bytes; 4095 is white."""
    values = np.array([0, 1000, 4095, 250])
    packed = bytes(
        byte
        for one, two in values.reshape(-1, 2).tolist()
        for byte in (one >> 4, (one & 15) << 4 | two >> 8, two & 255)
    )
    tiff(tmp_path / "grey.tif", np.frombuffer(packed, np.uint8), {256: 4, 258: 12})
    loaded = np.asarray(decode.load(tmp_path / "grey.tif"))[0, :, 0]
    assert np.abs(loaded - values / 4095 * 255).max() <= 0.5001


def test_tiff_with_white_is_zero_is_inverted(tmp_path):
    """With 8 bits, 16 bits and floats."""
    assert grey(tmp_path / "a.tif", np.array([0, 65535], np.uint16), {262: 0}).tolist() == [255, 0]
    assert grey(tmp_path / "b.tif", np.array([0, 1], np.float32), {262: 0}).tolist() == [255, 0]


def test_float_range_is_read_from_the_tags(tmp_path):
    """SMinSampleValue is black and SMaxSampleValue white."""
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
def test_rejects_values_outside_their_range(tmp_path, values, said):
    """The range is not guessed from the values."""
    with pytest.raises(BadImageError, match=said):
        grey(tmp_path / "grey.tif", values)


def test_rejects_float_colour_tiff_with_a_remedy(tmp_path):
    """Pillow cannot read it."""
    path = tmp_path / "colour.tif"
    tiff(path, np.full(6, 0.5, np.float32), channels=3)
    with pytest.raises(BadImageError, match=r"unsupported kind of TIFF.* save it with 8 or 16 bits"):
        decode.load(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """All eight orientations give the same upright image."""
    image = Image.fromarray(noise(8, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    turns = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
    if orientation > 1:
        image = image.transpose(Image.Transpose[turns[orientation - 2]])
    assert np.array_equal(decode.load(tmp_path / "turned.png"), image)


def test_broken_exif_is_ignored(tmp_path):
    """The image is still decoded."""
    image = Image.fromarray(noise(8, 5))
    image.save(tmp_path / "odd.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert np.array_equal(decode.load(tmp_path / "odd.png"), image)


def test_animation_gives_its_first_frame(tmp_path):
    """Other frames are ignored."""
    frames = [Image.fromarray(np.full((6, 6, 3), value, dtype=np.uint8)) for value in (10, 200, 90)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.unique(decode.load(tmp_path / "moving.gif")).tolist() == [10]


@pytest.mark.parametrize("size", [(7, 50), (50, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_deep_grey_is_the_same_when_converted_in_strips(tmp_path, monkeypatch, size, dtype):
    """A large image is converted strip by strip, with the same result as at once."""
    values = np.random.default_rng(0).random(size[::-1])
    values = values.astype(dtype) if dtype is np.float32 else (values * 65535).astype(dtype)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    whole = np.asarray(decode.load(tmp_path / "deep.tif"))
    monkeypatch.setattr(deep_images, "_PIXELS_AT_ONCE", 20)
    assert np.array_equal(decode.load(tmp_path / "deep.tif"), whole)


def many_scans(count):
    """Return a progressive JPEG whose last scan is repeated many times."""
    file = io.BytesIO()
    Image.fromarray(noise(64, 48)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + (count - content.count(b"\xff\xda")) * content[last:-2] + content[-2:]


def test_rejects_progressive_jpeg_with_too_many_scans(tmp_path):
    """Each takes as long as the whole image; an encoder's usual ten are accepted."""
    path = tmp_path / "scans.jpg"
    for count in (12, decode.MOST_SCANS):
        path.write_bytes(many_scans(count))
        assert decode.load(path).size == (64, 48)
    path.write_bytes(many_scans(2000))
    with pytest.raises(BadImageError, match="a progressive JPEG of more than 100 scans; save it again"):
        decode.load(path)


def test_scans_in_segments_and_after_the_image_are_not_counted(tmp_path):
    """A motion photo has a film after the image, and segments have arbitrary contents."""
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
def test_jpeg_markers_across_block_boundaries_are_counted(tmp_path, shift):
    """The file is read in blocks; fill bytes are part of a marker."""
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


def test_rejects_tiles_much_larger_than_the_image(tmp_path):
    """A decoder allocates a whole tile; tiles of usual sizes exceed small images, and are accepted."""
    (tmp_path / "tile.tif").write_bytes(tiff_with_tile(32_768))
    with pytest.raises(BadImageError, match=r"its tiles of 32,768 x 32,768 pixels are larger than the image"):
        decode.load(tmp_path / "tile.tif")
    Image.fromarray(noise(8, 8)).save(tmp_path / "small.tif", compression="tiff_lzw", tiffinfo={322: 256, 323: 256})
    assert decode.load(tmp_path / "small.tif").size == (8, 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(1, 170_000_000), (170_000_000, 1), (1, 1_000_001)])
def test_rejects_images_with_a_side_that_is_too_long(tmp_path, size):
    """They have few pixels, but resizing them would take gigabytes."""
    (tmp_path / "strip.png").write_bytes(png_of_size(*size))
    with pytest.raises(
        BadImageError, match=rf"too long: {size[0]:,} x {size[1]:,} pixels, at most 1,000,000 on a side"
    ):
        decode.load(tmp_path / "strip.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels", [99, 100, 101])
def test_maximum_number_of_pixels(tmp_path, pixels):
    """The limit is exact, applies in threads too, and is restored afterwards."""
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


def test_memory_error_becomes_a_bad_image(tmp_path, monkeypatch):
    """The image is skipped like other bad images."""
    Image.fromarray(noise(10, 10)).save(tmp_path / "ten.png")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    Image.fromarray(noise(10, 10, 1)).save(tmp_path / "grey.png")
    with pytest.raises(BadImageError, match="not enough memory to decode it"):
        decode.load(tmp_path / "grey.png")
    ((_, outcome),) = reader.read([ImageFile("a")], fail)
    assert isinstance(outcome, BadImageError)


def test_libtiff_errors_become_one_notice(tmp_path, capfd, caplog):
    """With the file's name, instead of a line on stderr for each row of the image."""
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
    """Yield the name and content of a bad image file, and part of the message."""
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
def test_rejects_bad_images(tmp_path, name, content, said):
    """With one line that gives the reason; other decoders of Pillow are not reached."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadImageError) as caught:
        decode.load(path)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_rejects_missing_files_and_folders(tmp_path):
    """As bad images, with the system's reason."""
    with pytest.raises(BadImageError, match="no such file or directory"):
        decode.load(tmp_path / "nowhere.jpg")
    with pytest.raises(BadImageError, match="is a folder, not a file"):
        decode.load(tmp_path)


def test_opened_reads_an_open_file(tmp_path):
    """Instead of the path; the file stays open."""
    path = tmp_path / "image.png"
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
def test_misnamed_accepts_every_extension_of_a_format(name, kind):
    """In any case of letters."""
    assert decode.misnamed(name, kind) is None


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "PNG"), ("a.PNG", "JPEG"), ("b.c.gif", "WEBP"), ("a.bmp", "PPM")])
def test_misnamed_reports_extensions_of_other_formats(name, kind):
    """The message has the format and the extension."""
    assert decode.misnamed(name, kind) == f"a {kind} file with the extension {os.path.splitext(name)[1].lower()}"
    assert decode.misnamed("a", "PNG") == "a PNG file without an extension"


@pytest.mark.photos
def test_real_images_have_pillows_pixels(photos):
    """JPEG, JFIF, PNG and BMP files from several cameras and programs."""
    paths = sorted((photos / "pictures").iterdir())
    assert len(paths) > 8
    for path in paths:
        with Image.open(path) as image:
            assert np.array_equal(decode.load(path), ImageOps.exif_transpose(image).convert("RGB")), path


def test_read_gives_image_and_fingerprint(tmp_path):
    """The image of `load` and the sha256 of the file; other files are not read to their end."""
    path = tmp_path / "one.png"
    Image.effect_noise((20, 10), 50).save(path)
    found = decode.read(path)
    assert found.image.tobytes() == decode.load(path).tobytes()
    assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.format, found.grey, found.profile) == ("PNG", True, None)
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file of one tebibyte
    with pytest.raises(BadImageError, match="not an image in a supported format"):
        decode.read(large)
    for other, reason in (
        ("/dev/zero", "not a regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "none", "no such"),
    ):
        with pytest.raises(BadImageError, match=reason):
            decode.read(other)


def test_size_of_a_png_is_read_within_the_memory_budget(tmp_path, monkeypatch):
    """Pillow decodes a PNG to read EXIF after its pixels, which takes a gigabyte for a large image; any other PNG is not decoded."""
    held = []
    monkeypatch.setattr(decode.memory, "hold", held.append)
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    Image.new("L", (30, 20)).save(tmp_path / "a.jpg")
    Image.new("L", (30, 20)).save(tmp_path / "first.png", exif=lying)
    assert decode.upright_size(tmp_path / "a.png") == decode.upright_size(tmp_path / "a.jpg") == (30, 20)
    assert decode.upright_size(tmp_path / "first.png") == (20, 30)
    assert not held
    content, block = (tmp_path / "a.png").read_bytes(), lying.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    (tmp_path / "last.png").write_bytes(content[:-12] + chunk + content[-12:])
    assert decode.upright_size(tmp_path / "last.png") == decode.load(tmp_path / "last.png").size == (20, 30)
    assert len(held) == 2
    assert held[0] >= 30 * 20
    (tmp_path / "cut.png").write_bytes(content[:-16])
    assert decode.upright_size(tmp_path / "cut.png") == (30, 20)


def test_rejects_large_metadata_with_a_remedy(tmp_path):
    """Such as editing histories and printer profiles; Pillow's message names an internal constant."""
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "a.png", icc_profile=bytes(2 << 20))
    with pytest.raises(BadImageError, match=r"metadata .* is larger than 1 MB; save it without metadata"):
        decode.load(tmp_path / "a.png")
