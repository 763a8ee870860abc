"""Pictures take the bytes that Pillow writes, from files and from arrays."""

import io

import numpy as np
import pytest
from PIL import Image

import kerassplit as ks
from kerassplit.zoo.photos import shipped_photo


@pytest.fixture(scope="module")
def photo():
    with shipped_photo().open("rb") as file:
        return Image.open(file).copy()


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return len(file.getvalue())


@pytest.mark.parametrize("quality", [90, 75])
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_a_photograph_takes_what_pillow_writes(photo, tmp_path, kind, quality):
    photo.save(tmp_path / "photo.png")
    found = ks.encoded_bytes(tmp_path / "photo.png", kind, quality=quality)
    assert found.dtype == np.int64
    assert found.tolist() == [saved(photo, kind, quality=quality)]


def test_by_default_it_is_a_jpeg_of_quality_90(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    assert ks.encoded_bytes(str(tmp_path / "photo.png")).tolist() == [saved(photo, "jpeg", quality=90)]
    assert ks.encoded_bytes(tmp_path / "photo.png", "png").tolist() == [saved(photo, "png")]


def test_a_folder_is_read_in_order_and_a_list_as_it_is(photo, tmp_path):
    (tmp_path / "b").mkdir()
    small, large = photo.resize((30, 20)), photo.resize((90, 60))
    small.save(tmp_path / "b" / "small.png")
    large.save(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    expected = [saved(large, "jpeg", quality=90), saved(small, "jpeg", quality=90)]
    assert ks.encoded_bytes(tmp_path).tolist() == expected
    paths = [tmp_path / "b" / "small.png", str(tmp_path / "a.PNG")]
    assert ks.encoded_bytes(paths).tolist() == expected[::-1]


def test_with_a_size_pictures_are_cropped_and_resized_as_a_model_sees_them(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    seen = photo.resize((64, 96), Image.Resampling.BICUBIC, box=(125, 0, 325, 300))
    (found,) = ks.encoded_bytes(tmp_path / "photo.png", size=(96, 64))
    assert found == saved(seen, "jpeg", quality=90)
    assert ks.encoded_bytes(np.asarray(photo), size=(96, 64)).tolist() == [found]


def test_quality_and_size_may_be_integers_of_numpy(photo):
    pixels, options = np.asarray(photo), {"quality": 9, "size": (96, 64)}
    for kind in ("jpeg", "webp"):
        expected = ks.encoded_bytes(pixels, kind, **options)
        size = np.array([96, 64])
        assert ks.encoded_bytes(pixels, kind, quality=np.int64(9), size=tuple(size)) == expected


def test_arrays_are_pictures_of_0_to_255(photo):
    pixels = np.asarray(photo.resize((40, 30)))
    expected = saved(photo.resize((40, 30)), "jpeg", quality=90)
    for one in (pixels, pixels.astype("float32"), pixels + 0.25, pixels.astype("int64")):
        assert ks.encoded_bytes(one).tolist() == [expected]
        assert ks.encoded_bytes(np.stack([one, one])).tolist() == [expected, expected]
    gray = photo.convert("L").resize((40, 30))
    assert ks.encoded_bytes(np.asarray(gray)[..., None]).tolist() == [saved(gray, "jpeg", quality=90)]


def test_alpha_is_kept_by_png_and_webp_and_dropped_by_jpeg(photo):
    image = photo.resize((40, 30))
    image.putalpha(Image.linear_gradient("L").resize((40, 30)))
    pixels = np.asarray(image)
    assert ks.encoded_bytes(pixels, "png").tolist() == [saved(image, "png")]
    assert ks.encoded_bytes(pixels, "webp").tolist() == [saved(image, "webp", quality=90)]
    assert ks.encoded_bytes(pixels).tolist() == [saved(image.convert("RGB"), "jpeg", quality=90)]


def test_files_are_rotated_as_their_exif_data_says(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.png", exif=exif)
    expected = saved(photo.transpose(Image.Transpose.ROTATE_270), "jpeg", quality=90)
    assert ks.encoded_bytes(tmp_path / "turned.png").tolist() == [expected]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("nowhere.jpg", {}, "There is no file or folder 'nowhere.jpg' to take pictures from."),
        (["nowhere.jpg"], {}, "There is no file or folder 'nowhere.jpg' to take pictures from."),
        (np.zeros((2, 2, 3)), {"format": "gif"}, "`format` must be one of 'jpeg', 'webp' and 'png'; got 'gif'."),
        (np.zeros((2, 2, 3)), {"quality": 0}, "`quality` must be a whole number from 1 to 100; got 0."),
        (np.zeros((2, 2, 3)), {"quality": 101}, "got 101."),
        (np.zeros((2, 2, 3)), {"size": 224}, r"`size` must be \(height, width\) in pixels, .*; got 224."),
        (np.zeros((2, 2)), {}, r"The pictures are values of type float64 and shape \(2, 2\). Expected paths, or"),
        (np.zeros((2, 2, 5)), {}, "with 1, 3 or 4 channels."),
        ([], {}, r"type float64 and shape \(0,\)"),
        ([np.zeros((2, 2, 3)), np.zeros((3, 2, 3))], {}, "The pictures have different shapes"),
        (np.full((2, 2, 3), -1.0), {}, "The pixels go from -1 to -1. Expected 0 to 255, before any preprocessing."),
        (np.full((2, 2, 3), 256), {}, "The pixels go from 256 to 256."),
        (np.full((2, 2, 3), np.nan), {}, "The pixels go from nan to nan."),
        (np.full((2, 2, 3), 0.5), {}, "The pixels go from 0.5 to 0.5. Expected 0 to 255: multiply them by 255."),
        (np.zeros((1, 70_000, 3)), {}, "A picture of 1×70000 pixels cannot be saved as jpeg"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(images, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ks.SplitError, match=message):
        ks.encoded_bytes(images, **options)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(ks.SplitError, match="bad.jpg' cannot be read as an image: "):
        ks.encoded_bytes(tmp_path / "bad.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ks.SplitError, match="There are no images in '.*empty'"):
        ks.encoded_bytes(tmp_path / "empty")
    with pytest.raises(ks.SplitError, match="is a folder|Is a directory|not a regular file|cannot be"):
        ks.encoded_bytes([tmp_path / "empty"])
