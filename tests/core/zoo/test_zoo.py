"""A name or a file becomes a model; random weights hide nothing; a photo becomes an input."""

import hashlib
import http.server
import random
import re
import socket
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from comparing import same_bits
from keras.src.saving.serialization_lib import in_safe_mode

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.engines.inputs import load_input
from kerassplit.errors import SplitError
from kerassplit.zoo import models as zoo
from kerassplit.zoo.downloads import impatient, unreachable
from kerassplit.zoo.models import load_model
from kerassplit.zoo.names import architectures, find_architecture
from kerassplit.zoo.photos import shipped_photo
from kerassplit.zoo.random_weights import randomize


def digest(model: keras.Model) -> str:
    values = [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights]
    return hashlib.sha256(b"".join(values)).hexdigest()


@pytest.fixture(scope="module")
def tiny() -> keras.Model:
    image = keras.Input((8, 6, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(2, name="score")(x), name="tiny")


@keras.saving.register_keras_serializable("test_zoo")
class WithVocabulary(keras.layers.Layer):
    """Like KerasHub's tokenizers, it refuses files named by a config, which it detects by Keras's safe mode."""

    words = "a b"

    def call(self, x):
        return x

    def save_assets(self, folder):
        Path(folder, "words.txt").write_text(self.words)

    def load_assets(self, folder):
        assert not in_safe_mode()
        self.words = Path(folder, "words.txt").read_text()


class TestNames:
    def test_there_are_forty_architectures(self):
        assert len(architectures()) == 40
        assert {"ResNet50", "MobileNetV3Small", "EfficientNetV2B0", "ConvNeXtXLarge"} <= set(architectures())

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("ResNet50", "ResNet50"),
            ("resnet50", "ResNet50"),
            ("EFFICIENTNET_V2_B0", "EfficientNetV2B0"),
            ("LeNet", None),
        ],
    )
    def test_capitals_and_signs_do_not_matter(self, name, found):
        assert find_architecture(name) == found

    @pytest.mark.parametrize(("typo", "meant"), [("ResNet5O", "'ResNet50'"), ("Xcepton", "'Xception'")])
    def test_a_typo_gets_close_matches(self, typo, meant):
        with pytest.raises(SplitError, match=f"'{typo}' is neither .* nor a file. Did you mean .*{meant}"):
            load_model(typo)

    def test_an_unlike_name_gets_examples_but_no_list_of_all(self):
        with pytest.raises(SplitError, match=r"'q' is neither .* There are 'ConvNeXtBase', .* and \d+ more") as caught:
            load_model("q")
        assert str(caught.value).count("ResNet") <= 1

    def test_layers_bear_the_same_names_whatever_was_built_before(self):
        first, second = (load_model("InceptionV3", input_shape=(75, 75, 3)) for _ in range(2))
        assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
        assert first.layers[0].name == "input_layer"

    def test_the_dtype_policy_holds(self):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_float16")
        try:
            assert load_model("ResNet50").get_layer("conv1_conv").compute_dtype == "float16"
        finally:
            keras.config.set_dtype_policy(before)

    def test_structure_alone_leaves_nothing_to_initialise_later(self):
        model = load_model("ResNet50")
        with keras.StatelessScope():
            pass
        assert model.weights[0]._value is None

    def test_structure_alone_can_be_read_cut_and_drawn(self, tmp_path):
        model = load_model("resnet50")
        assert model.count_params() == 25_636_712
        assert len(ks.split_points(model)) == 39
        split = ks.split(model, "conv4_block6_out")
        assert split.crossings[0].bytes == 14 * 14 * 1024 * 4
        ks.plot(split, tmp_path / "split.txt")
        assert "conv4_block6_out" in (tmp_path / "split.txt").read_text(encoding="utf-8")


class TestInputShape:
    def test_it_is_the_models(self):
        assert load_model("MobileNetV2", input_shape=(96, 64, 3)).input_shape == (None, 96, 64, 3)

    def test_one_that_keras_refuses_is_told_with_keras_reason(self):
        with pytest.raises(SplitError, match=r"shape \(8, 8, 3\): Input size must be at least") as caught:
            load_model("ResNet50", input_shape=(8, 8, 3))
        assert isinstance(caught.value.__cause__, ValueError)

    @pytest.mark.parametrize("shape", [(64, 64), (64, 64, 0), (64.0, 64, 3), ("64", 64, 3)])
    def test_one_that_is_no_shape_is_refused(self, shape):
        with pytest.raises(SplitError, match="three positive numbers, height, width and channels"):
            load_model("ResNet50", input_shape=shape)

    def test_a_file_has_its_own(self, tiny, tmp_path):
        tiny.save(tmp_path / "tiny.keras")
        with pytest.raises(SplitError, match="can be given only for an architecture"):
            load_model(tmp_path / "tiny.keras", input_shape=(8, 8, 3))


class TestRandomWeights:
    def test_nothing_is_zero_or_constant(self):
        model = load_model("MobileNetV2", weights="random", seed=1, input_shape=(64, 64, 3))
        for weight in model.weights:
            values = keras.ops.convert_to_numpy(weight)
            assert np.isfinite(values).all()
            assert values.std() > 0, weight.path
            if weight.name == "moving_variance":
                assert values.min() > 0

    def test_global_random_state_is_left_alone(self):
        before = random.getstate(), np.random.get_state()[1].tobytes()
        load_model("MobileNetV2", weights="random", seed=4, input_shape=(64, 64, 3))
        load_model("MobileNetV2", seed=4)
        assert (random.getstate(), np.random.get_state()[1].tobytes()) == before

    def test_any_model_can_be_randomized_and_its_layers_are_as_before(self, small):
        model = keras.models.clone_model(small)
        randomize(model, seed=2)
        first = digest(model)
        randomize(model, seed=2)
        assert digest(model) == first
        assert not any("call" in vars(layer) for layer in model.layers)

    def test_an_adapted_normalization_keeps_its_statistics(self):
        layer = keras.layers.Normalization(name="scale")
        layer.adapt(np.arange(12.0).reshape(4, 3))
        x = keras.Input((3,))
        model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
        before = keras.ops.convert_to_numpy(layer(np.ones((1, 3), "float32")))
        randomize(model)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(np.ones((1, 3), "float32"))), before)

    def test_layers_are_mended_when_the_pass_fails(self, tiny):
        with pytest.raises(Exception):  # noqa: B017
            randomize(tiny, x=np.zeros((1, 5)))
        assert not any("call" in vars(layer) for layer in tiny.layers)


class TestFiles:
    @pytest.mark.parametrize("suffix", [".keras", ".h5"])
    def test_a_saved_model_is_opened(self, tiny, tmp_path, suffix):
        path = tmp_path / f"tiny{suffix}"
        tiny.save(path, **({} if suffix == ".keras" else {"include_optimizer": False}))
        assert digest(load_model(str(path))) == digest(tiny)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(SplitError, match=r"There is no file '.*none\.keras'"):
            load_model(tmp_path / "none.keras")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("bad.keras", "damaged or not a Keras model: a .keras file is a zip archive"),
            ("bad.h5", "cannot be opened as a Keras model"),
            ("bad.onnx", "its name must end in '.keras', '.h5' or '.hdf5'"),
        ],
    )
    def test_a_file_that_is_no_model(self, tmp_path, name, message):
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(SplitError, match=message):
            load_model(tmp_path / name)

    def test_a_folder(self, tmp_path):
        with pytest.raises(SplitError, match="is a folder; a model is a file"):
            load_model(tmp_path)

    def test_code_in_a_file_runs_only_when_asked_for(self, tmp_path):
        x = keras.Input((2,))
        path = tmp_path / "code.keras"
        keras.Model(x, keras.layers.Lambda(lambda t: t * 2, name="code")(x)).save(path)
        with pytest.raises(SplitError, match=r"contains code .* pass unsafe=True \(--unsafe\)") as caught:
            load_model(path)
        assert caught.value.__cause__ is not None
        model = load_model(path, unsafe=True)
        assert keras.ops.convert_to_numpy(model(np.ones((1, 2), "float32"))).tolist() == [[2.0, 2.0]]

    def test_a_file_of_weights_alone_names_the_option(self, tiny, tmp_path):
        path = tmp_path / "x.weights.h5"
        tiny.save_weights(path)
        tiny.save(tmp_path / "model.keras")
        told = CliRunner().invoke(main, ["points", str(path)]).stderr
        assert told.endswith(
            "\nIt contains only weights. Name the model they belong to, a file or an architecture, and pass them with "
            f"--weights {path}.\n"
        )
        with pytest.raises(SplitError, match=re.escape(f"pass them with weights='{path}' (--weights {path}).")):
            load_model(path)
        option = ["--weights", str(path)]
        assert CliRunner().invoke(main, ["points", str(tmp_path / "model.keras"), *option]).exit_code == 0
        assert same_bits(*(one.get_weights() for one in (tiny, load_model(tmp_path / "model.keras", weights=path))))

    def test_weights_from_a_file(self, tiny, tmp_path):
        tiny.save(tmp_path / "tiny.keras")
        other = keras.models.clone_model(tiny)
        randomize(other, seed=8)
        other.save_weights(tmp_path / "other.weights.h5")
        loaded = load_model(tmp_path / "tiny.keras", weights=tmp_path / "other.weights.h5")
        assert digest(loaded) == digest(other)

    def test_weights_that_do_not_fit(self, tiny, tmp_path):
        tiny.save_weights(tmp_path / "tiny.weights.h5")
        with pytest.raises(SplitError, match="contains no weights for 'mobilenetv2"):
            load_model("MobileNetV2", weights=tmp_path / "tiny.weights.h5", input_shape=(32, 32, 3))

    def test_weights_that_are_not_there(self):
        with pytest.raises(SplitError, match="'imagenet', 'random' or a file; there is no file 'imagnet'"):
            load_model("MobileNetV2", weights="imagnet", input_shape=(32, 32, 3))

    def test_imagenet_is_for_architectures(self, tiny, tmp_path):
        tiny.save(tmp_path / "tiny.keras")
        with pytest.raises(SplitError, match="ImageNet weights are for architectures"):
            load_model(tmp_path / "tiny.keras", weights="imagenet")

    def test_assets_are_loaded_as_keras_does(self, tmp_path):
        word = keras.Input((1,))
        keras.Model(word, WithVocabulary()(word)).save(tmp_path / "words.keras")
        assert load_model(tmp_path / "words.keras").layers[-1].words == "a b"


class TestDownloads:
    def test_a_failed_download_says_so_and_names_the_alternatives(self, monkeypatch):
        def fails(**arguments):
            assert arguments == {"weights": "imagenet"}
            raise Exception("URL fetch failure on https://... -- timed out")

        fails.__module__ = keras.applications.ResNet50.__module__
        monkeypatch.setattr(keras.applications, "ResNet50", fails)
        monkeypatch.setattr(zoo, "unreachable", lambda: None)
        with pytest.raises(SplitError) as caught:
            load_model("ResNet50", weights="imagenet")
        message = str(caught.value)
        assert "The ImageNet weights of ResNet50 could not be downloaded: URL fetch failure" in message
        assert "--weights FILE" in message
        assert "--weights random" in message
        assert "URL fetch failure" in str(caught.value.__cause__)

    def test_a_closed_port_cannot_be_reached(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert f"{url} cannot be reached" in unreachable(url)

    def test_a_silent_server_is_not_waited_for(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            assert unreachable(url, patience=0.3) in (
                f"{url} did not answer within 0.3 seconds.",
                f"{url} cannot be reached (timed out).",
            )

    def test_a_server_that_speaks_something_else_cannot_be_reached(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            url = f"http://127.0.0.1:{other.getsockname()[1]}"

            def answer():
                connection, _ = other.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"garbage\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            assert unreachable(url) == f"{url} cannot be reached (garbage)."
            thread.join()

    def test_any_answer_will_do(self):
        class NotFound(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_error(404)

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            assert unreachable(f"http://127.0.0.1:{server.server_port}") is None
            thread.join()

    def test_the_timeout_of_sockets_is_put_back(self):
        before = socket.getdefaulttimeout()
        with pytest.raises(KeyError), impatient(reachable=False):
            assert socket.getdefaulttimeout() == 0.01
            raise KeyError
        assert socket.getdefaulttimeout() == before


class TestInput:
    @pytest.fixture
    def photo(self, tmp_path):
        path = tmp_path / "photo.jpg"
        path.write_bytes(shipped_photo().read_bytes())
        return path

    def test_the_shipped_photo_has_a_note_on_its_licence(self):
        note = shipped_photo().parent / "README.md"
        assert "CC0" in note.read_text(encoding="utf-8")
        assert "Stéfan van der Walt" in note.read_text(encoding="utf-8")

    def test_an_image_is_resized_and_preprocessed_as_the_architecture_wants(self, photo):
        model = load_model("ResNet50", input_shape=(64, 96, 3))
        raw = load_input(photo, model)
        assert raw.shape == (1, 64, 96, 3)
        assert raw.dtype == np.float32
        assert raw.min() >= 0
        assert 200 < raw.max() <= 255
        ready = load_input(photo, model, "ResNet50")
        np.testing.assert_array_equal(ready, keras.applications.resnet50.preprocess_input(raw.copy()))

    def test_colours_follow_the_model(self, photo):
        grey = keras.Input((10, 10, 1))
        assert load_input(photo, keras.Model(grey, keras.layers.Flatten()(grey))).shape == (1, 10, 10, 1)

    def test_arrays(self, tiny, small, tmp_path):
        image = np.random.default_rng(0).random((2, 8, 6, 3))
        np.save(tmp_path / "x.npy", image)
        np.testing.assert_array_equal(load_input(tmp_path / "x.npy", tiny), image.astype("float32"))
        np.save(tmp_path / "one.npy", image[0])
        assert load_input(tmp_path / "one.npy", tiny).shape == (1, 8, 6, 3)
        np.savez(tmp_path / "x.npz", extra=np.ones((2, 4)), image=np.zeros((2, 8, 8, 3)))
        first, second = load_input(tmp_path / "x.npz", small)
        assert (first.shape, second.shape) == ((2, 8, 8, 3), (2, 4))

    def test_mistakes_are_told(self, tiny, small, tmp_path):
        def refused(name: str, model: keras.Model, message: str) -> None:
            with pytest.raises(SplitError, match=message):
                load_input(tmp_path / name, model)

        refused("none.jpg", tiny, "There is no file")
        for name in ("bad.jpg", "bad.npy", "bad.npz"):
            (tmp_path / name).write_bytes(b"nothing")
        refused("bad.jpg", tiny, "cannot be read as an image, a .npy or a .npz file")
        refused("bad.npy", tiny, "cannot be read as NumPy arrays")
        refused("bad.npz", tiny, "cannot be read as NumPy arrays")
        np.save(tmp_path / "x.npy", np.zeros((2, 5, 5, 3)))
        refused(
            "x.npy",
            tiny,
            r"holds an array of shape \(2, 5, 5, 3\); 'image' of 'tiny' takes 8×6×3 for each row, \(None, 8, 6, 3\)",
        )
        refused("x.npy", small, "contains one array, but the model takes 2: 'image' and 'extra'")
        np.save(tmp_path / "words.npy", np.full((1, 8, 6, 3), "word"))
        refused("words.npy", tiny, "holds values of type <U4; 'image' takes float32")
        np.savez(tmp_path / "x.npz", image=np.zeros((2, 8, 8, 3)))
        refused("x.npz", small, "has no array 'extra'; it has 'image'. The model takes 'image' and 'extra'")
        (tmp_path / "photo.jpg").write_bytes(shipped_photo().read_bytes())
        refused("photo.jpg", small, "'small' does not take a single image; it takes 'image' .* 'extra'")
