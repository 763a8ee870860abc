"""All kinds of images: pixels as from Keras's loader, rotated by EXIF, or refused with advice."""

import io
import struct

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from fuzzing import damaged, fuzzed
from hypothesis import given
from PIL import Image, ImageOps

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.engines.inputs import load_input
from kerassplit.zoo.photos import IMAGE_FORMATS, IMAGE_SUFFIXES, read_photo, shipped_photo

ORIENTATION = 0x0112


def taking(height, width, channels, name="pixels"):
    x = keras.Input((height, width, channels), name=name)
    y = keras.layers.Conv2D(2, 1, name="conv")(x)
    return keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y), name="tiny")


def pixels(path, shape=(20, 30, 3), **options):
    return read_photo(path, shape, None, "tiny", **options)


def by_keras(path, shape):
    modes = {1: "grayscale", 3: "rgb", 4: "rgba"}
    options = {"interpolation": "bicubic", "keep_aspect_ratio": True}
    image = keras.utils.load_img(path, color_mode=modes[shape[-1]], target_size=shape[:2], **options)
    array = keras.utils.img_to_array(image, dtype="float32", data_format="channels_last")
    return array.transpose(2, 0, 1) if keras.config.image_data_format() == "channels_first" else array


@pytest.fixture(scope="module")
def photo():
    with shipped_photo().open("rb") as file:
        return Image.open(file).copy()


KINDS = {
    "rgb.jpg": lambda image: image,
    "rgb.png": lambda image: image,
    "gray.jpg": lambda image: image.convert("L"),
    "gray.bmp": lambda image: image.convert("L"),
    "palette.png": lambda image: image.quantize(40),
    "palette.gif": lambda image: image.quantize(40),
    "bits.png": lambda image: image.convert("1"),
    "bits.tif": lambda image: image.convert("1"),
    "alpha.png": lambda image: image.convert("RGBA"),
    "gray_alpha.png": lambda image: image.convert("LA"),
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "cmyk.tiff": lambda image: image.convert("CMYK"),
    "ycbcr.jpg": lambda image: image.convert("YCbCr"),
    "rgb.webp": lambda image: image,
    "gray.ppm": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("shape", [(20, 30, 3), (50, 20, 1), (31, 17, 4), (300, 451, 3)])
@pytest.mark.parametrize("name", KINDS)
def test_of_eight_bits_they_are_those_of_keras(photo, tmp_path, name, shape):
    image = KINDS[name](photo)
    if image.mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / name)
    np.testing.assert_array_equal(pixels(tmp_path / name, shape), by_keras(tmp_path / name, shape))


@pytest.mark.parametrize("transparency", [b"\x00\x80\xff" + bytes(37), 3])
@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30, 1), (20, 30, 4)])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of Pillow, when Keras reads them
def test_colors_without_alpha_are_those_of_keras_in_palettes_with_transparency(photo, tmp_path, transparency, shape):
    photo.quantize(40).save(tmp_path / "palette.png", transparency=transparency)
    expected = by_keras(tmp_path / "palette.png", shape)
    np.testing.assert_array_equal(pixels(tmp_path / "palette.png", shape), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_they_are_turned_as_the_camera_says(photo, tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned{suffix}"
    photo.save(path, exif=exif, lossless=True) if suffix == ".webp" else photo.save(path, exif=exif)
    ImageOps.exif_transpose(Image.open(path)).save(tmp_path / "upright.png", exif=Image.Exif())
    np.testing.assert_array_equal(pixels(path), pixels(tmp_path / "upright.png"))
    np.testing.assert_array_equal(pixels(path, exif=False), by_keras(path, (20, 30, 3)))
    if orientation > 1 and suffix != ".tif":  # which Pillow turns itself, and so does Keras
        assert not np.array_equal(pixels(path), pixels(path, exif=False))


def test_exif_false_goes_all_the_way(photo, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo.save(tmp_path / "a.jpg", exif=exif)
    model = taking(20, 30, 3)
    split = ks.split(model, "conv")
    upright, lying = load_input(tmp_path / "a.jpg", model), load_input(tmp_path / "a.jpg", model, exif=False)
    assert not np.array_equal(upright, lying)
    options = {"preprocess": "none"}
    np.testing.assert_array_equal(split.predict(tmp_path, **options), split.predict(upright))
    np.testing.assert_array_equal(split.predict(tmp_path, exif=False, **options), split.predict(lying))
    split.save(tmp_path / "stages")
    arguments = ["run", tmp_path / "stages", "--input", tmp_path / "a.jpg", "-o", tmp_path / "out.npy", "--no-exif"]
    done = CliRunner().invoke(main, [*map(str, arguments), "--preprocess", "none"])
    assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), split.predict(lying))
    with pytest.raises(ks.SplitError, match="exists already"):  # a run with other pixels is another run
        split.predict(tmp_path / "a.jpg", output=tmp_path / "out.npy", resume=True, **options)
    for command in ("split", "verify", "export"):
        assert "--no-exif" in CliRunner().invoke(main, [command, "--help"]).stdout


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow, also when Keras reads it
def test_a_damaged_block_of_exif_turns_nothing(photo, tmp_path):
    photo.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3\xff\xff\xff\xff")
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), by_keras(tmp_path / "a.jpg", (20, 30, 3)))


class TestSixteenBits:
    RAMP = np.linspace(0, 65535, 256 * 40).astype("uint16").reshape(40, 256)

    @pytest.fixture(params=["a.png", "a.tif", "big.tif", "a.ppm"])
    def path(self, request, tmp_path):
        path = tmp_path / request.param
        if path.suffix == ".ppm":
            path.write_bytes(b"P5 256 40 65535\n" + self.RAMP.astype(">u2").tobytes())
        elif request.param == "big.tif":
            Image.frombytes("I;16B", (256, 40), self.RAMP.astype(">u2").tobytes()).save(path)
        else:
            Image.fromarray(self.RAMP).save(path)
        return path

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_they_are_scaled_by_their_range(self, path, channels):
        given = pixels(path, (40, 256, channels))
        if keras.config.image_data_format() == "channels_first":
            given = given.transpose(1, 2, 0)
        for channel in range(min(channels, 3)):
            np.testing.assert_allclose(given[..., channel], self.RAMP / 257, rtol=1e-6, atol=1e-4)
        if channels == 4:
            assert (given[..., 3] == 255).all()

    def test_resized_they_stay_in_their_range_and_are_like_eight_bits(self, path, tmp_path):
        Image.fromarray((self.RAMP / 257).round().astype("uint8")).save(tmp_path / "eight.png")
        given = pixels(path, (20, 30, 3))
        assert 0 <= given.min() <= given.max() <= 255
        np.testing.assert_allclose(given, pixels(tmp_path / "eight.png"), atol=1.01)

    def test_they_are_turned_too(self, tmp_path):
        exif = Image.Exif()
        exif[ORIENTATION] = 3
        Image.fromarray(self.RAMP).save(tmp_path / "a.png", exif=exif)
        Image.fromarray(self.RAMP[::-1, ::-1].copy()).save(tmp_path / "b.png")
        np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))

    def test_white_may_be_zero_and_twelve_bits_are_twelve(self, tmp_path):
        def tiff(name, content, bits, photometric):
            entries = [(256, 4, 8), (257, 4, 4), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 200)]
            entries += [(277, 3, 1), (278, 4, 4), (279, 4, len(content))]
            fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
            head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4)
            (tmp_path / name).write_bytes(head.ljust(200, b"\0") + content)
            return pixels(tmp_path / name, (4, 8, 1)).reshape(4, 8)

        ramp = np.linspace(0, 65535, 32).astype("<u2")
        np.testing.assert_allclose(tiff("a.tif", ramp.tobytes(), 16, 1).ravel(), ramp / 257, atol=1e-3)
        np.testing.assert_allclose(tiff("b.tif", ramp.tobytes(), 16, 0).ravel(), 255 - ramp / 257, atol=1e-3)
        assert (tiff("c.tif", b"\xff" * 48, 12, 1) == 255).all()

    def test_colors_of_sixteen_bits_keep_their_upper_half(self, tmp_path):
        import zlib

        def chunk(kind, content):
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        rows = self.RAMP.astype(">u2").repeat(3, axis=1).reshape(40, -1)
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 40, 16, 2, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(content)
        given = pixels(tmp_path / "a.png", (40, 256, 3))
        if keras.config.image_data_format() == "channels_first":
            given = given.transpose(1, 2, 0)
        np.testing.assert_array_equal(given[..., 0], self.RAMP >> 8)


@pytest.mark.parametrize("array", [np.linspace(0, 1, 64, dtype="f4"), np.arange(64, dtype="i4"), np.arange(64) * 2**20])
def test_what_has_no_clear_meaning_is_refused_with_a_way_out(array, tmp_path):
    Image.fromarray(array.astype("f4" if array.dtype == "f4" else "i4").reshape(8, 8)).save(tmp_path / "a.tif")
    message = "a.tif' cannot be read as an image: its pixels are (floats|32-bit or signed integers).* save them as .npy"
    with pytest.raises(ks.SplitError, match=message):
        load_input(tmp_path / "a.tif", taking(8, 8, 3))
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), "float32"))
    assert load_input(tmp_path / "a.npy", taking(8, 8, 3)).shape == (1, 8, 8, 3)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_formats_are_those_of_the_suffixes():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(IMAGE_FORMATS)


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (4000, 4000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)
    with pytest.raises(ks.SplitError, match="To read larger images, set PIL.Image.MAX_IMAGE_PIXELS"):
        pixels(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000_000)
    assert pixels(tmp_path / "a.png").shape in ((20, 30, 3), (3, 20, 30))


def small_images():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.linear_gradient("L").resize((12, 9)).convert("RGB")
    for format_name in IMAGE_FORMATS:
        stream = io.BytesIO()
        image.save(stream, format_name, **({"exif": exif} if format_name in ("JPEG", "PNG", "TIFF", "WEBP") else {}))
        yield stream.getvalue()
    for other in (image.quantize(4), Image.fromarray(np.arange(108, dtype="uint16").reshape(9, 12))):
        stream = io.BytesIO()
        other.save(stream, "PNG")
        yield stream.getvalue()


IMAGES = [*small_images(), EPS]


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage
@fuzzed
@given(damaged(*IMAGES))
def test_damaged_images_are_read_or_refused_in_one_way(content):
    try:
        given = pixels(io.BytesIO(content), (4, 6, 3))
    except ks.SplitError as error:
        assert "cannot be read as an image" in str(error)
    else:
        assert given.shape in ((4, 6, 3), (3, 4, 6))
        assert given.dtype == np.float32
        assert 0 <= given.min() <= given.max() <= 255
