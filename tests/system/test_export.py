"""Stages in the formats of other runtimes: named after their tensors, small, complete or missing, and equal."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import keras
import menagerie
import numpy as np
import pytest
from checkout import ROOT
from command_line import run
from comparing import fingerprint
from keras import layers, ops
from samples import due

import kerassplit as ks
from kerassplit.storage.exports.comparing import TOLERANCES
from kerassplit.storage.exports.formats import find_format, savedmodel
from kerassplit.storage.exports.formats.naming import exported_names
from kerassplit.storage.exports.manifest import EXPORT_MANIFEST, read_export
from kerassplit.storage.exports.processes import work
from kerassplit.storage.exports.running import run_exported
from kerassplit.zoo.models import load_model

for package in ("tensorflow", "tf2onnx", "onnxruntime", "ai_edge_litert", "openvino"):
    pytest.importorskip(package)

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
SUFFIX = {"savedmodel": "", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
EVERY_FORMAT = pytest.mark.parametrize("form", SUFFIX)
HALF_OF_THE_FORMATS = pytest.mark.parametrize("form", due([*SUFFIX], 2))
pytestmark = pytest.mark.filterwarnings("ignore:In '.*' a loss on '.*' is masked:UserWarning")


def python(code: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess:
    """Runs Python in a process that finds this kerassplit."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(one) for one in (path, ROOT) if one)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def weights_of(split: ks.Split) -> int:
    return sum(weight.numpy().nbytes for stage in split for weight in stage.model.weights)


def as_floats(value: object) -> object:
    return np.asarray(value) if np.asarray(value).dtype.kind in "biOSU" else np.asarray(value, "float32")


def close(ours: object, theirs: object) -> bool:
    pairs = zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True)
    return all(np.allclose(one, ops.convert_to_numpy(other), rtol=1e-4, atol=1e-4) for one, other in pairs)


@pytest.fixture(scope="module")
def two(small) -> ks.Split:
    return ks.split(small, "pool", names=["head", "tail"])


@pytest.fixture(scope="module")
def x() -> list[np.ndarray]:
    generator = np.random.default_rng(4)
    return [generator.normal(size=shape).astype("float32") for shape in ((3, 8, 8, 3), (3, 4))]


@pytest.fixture(scope="module")
def folders(two, tmp_path_factory) -> dict[str, Path]:
    """The small model in every format."""
    place = tmp_path_factory.mktemp("exported")
    return {form: (two.export(place / form, format=form), place / form)[1] for form in SUFFIX}


@pytest.fixture(scope="module")
def saved(two, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "small"
    two.save(folder)
    return folder


class TestEveryFormat:
    @EVERY_FORMAT
    def test_a_file_per_stage_and_a_manifest(self, form, folders, two, small):
        manifest = json.loads((folders[form] / EXPORT_MANIFEST).read_text(encoding="utf-8"))
        assert (manifest["format"], manifest["model"]) == (form, "small")
        assert [stage["path"] for stage in manifest["stages"]] == [f"{name}{SUFFIX[form]}" for name in ("head", "tail")]
        top = {path.name for path in folders[form].iterdir()}
        assert top - {f"{name}.bin" for name in ("head", "tail")} == {
            *(stage["path"] for stage in manifest["stages"]),
            EXPORT_MANIFEST,
        }
        assert manifest["stages"][1]["inputs"] == [
            {"tensor": name, "name": name, "shape": [None, 4], "dtype": "float32"} for name in ("extra", "pool")
        ]
        assert manifest["versions"]["keras"] == keras.__version__
        assert manifest["outputs"] == two.outputs == {"score": "score", "pooled": "pool"}

    @EVERY_FORMAT
    @pytest.mark.parametrize("samples", [1, 3])
    def test_its_own_runtime_computes_the_same_on_any_number_of_samples(self, form, samples, folders, small, x):
        given = [array[:samples] for array in x]
        outputs = run_exported(folders[form], given)
        assert set(outputs) == {"score", "pooled"}
        assert close(outputs, small(given))

    @EVERY_FORMAT
    def test_inputs_are_taken_by_name_too(self, form, folders, small, x):
        assert close(run_exported(folders[form], {"extra": x[1], "image": x[0]}), small(x))

    def test_the_names_in_the_files_are_those_of_the_tensors(self, folders):
        code = """
            import sys
            sys.modules["kerassplit"] = sys.modules["keras"] = None
            folder = sys.argv[1]
            import tensorflow as tf
            signature = tf.saved_model.load(f"{folder}/savedmodel/tail").signatures["serving_default"]
            print(sorted(signature.structured_input_signature[1]), sorted(signature.structured_outputs))
            import onnxruntime
            session = onnxruntime.InferenceSession(f"{folder}/onnx/tail.onnx")
            print(sorted(i.name for i in session.get_inputs()), sorted(i.name for i in session.get_outputs()))
            print([i.shape[0] for i in session.get_inputs()])
            from ai_edge_litert.interpreter import Interpreter
            lite = Interpreter(f"{folder}/litert/tail.tflite").get_signature_list()["serving_default"]
            print(sorted(lite["inputs"]), sorted(lite["outputs"]))
            import openvino
            model = openvino.Core().read_model(f"{folder}/openvino/tail.xml")
            print(sorted(i.any_name for i in model.inputs), sorted(i.any_name for i in model.outputs))
            constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
            print({node.get_element_type().to_string() for node in constants})
        """
        done = python(code, folders["onnx"].parent)
        names = "['extra', 'pool'] ['score']"
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line for line in lines if line.startswith("['extra'")] == [names] * 4
        assert "['batch', 'batch']" in lines
        assert "f32" in lines[-1]
        assert "f16" not in lines[-1]

    def test_a_machine_with_only_the_runtime_chains_the_stages(self, folders, small, x, tmp_path):
        np.savez(tmp_path / "x.npz", *x)
        code = """
            import sys
            for name in ("keras", "tensorflow", "tf2onnx", "onnx"):
                sys.modules[name] = None
            import numpy as np
            from kerassplit.storage.exports.running import run_exported
            with np.load(sys.argv[1] + "/x.npz") as given:
                outputs = run_exported(sys.argv[2], [given["arr_0"], given["arr_1"].astype("float64")])
            np.savez(sys.argv[1] + "/y.npz", **outputs)
        """
        for form in ("onnx", "openvino", "litert"):
            done = python(code, tmp_path, folders[form])
            assert done.returncode == 0, done.stderr
            with np.load(tmp_path / "y.npz") as made:
                assert close(dict(made), small(x))

    def test_stages_of_another_backend_are_traced_from_their_files(self, saved, two, x, tmp_path):
        """As in an export when Keras runs on JAX or torch."""
        job = {"split": str(saved), "stage": "tail", "inputs": ["b", "a"], "outputs": ["c"]}
        result = work("trace", tmp_path, **job, target=str(tmp_path / "traced"))
        assert result["peak_memory"] > 1e8
        tensors = dict(zip(two["tail"].inputs, (x[1], x[1] + 1), strict=True))
        computed = savedmodel.opened(tmp_path / "traced")({"b": x[1], "a": x[1] + 1})
        assert close(computed["c"], two["tail"].run(tensors)["score"])

    def test_the_model_is_left_alone(self, small, two, tmp_path):
        before = fingerprint(small)
        two.export(tmp_path / "out", format="savedmodel", verify=False)
        assert fingerprint(small) == before


class TestReceipt:
    def test_it_says_what_was_written_and_how_far_it_is_off(self, two, x, tmp_path):
        receipt = two.export(tmp_path / "out", format="openvino", x=x)
        assert receipt.ok
        assert receipt.verified
        assert receipt.check() is receipt
        assert [comparison.tensor for comparison in receipt.comparisons] == ["pool", "score"]
        assert [comparison.is_output for comparison in receipt.comparisons] == [True, True]
        assert {comparison.shape[0] for comparison in receipt.comparisons} == {3}
        assert receipt.max_difference < 1e-4
        assert "the largest difference in its outputs is " in receipt.verdict()
        assert receipt.verdict().endswith("on given input.")
        for stage, model in zip(receipt.stages, two, strict=True):
            written = [tmp_path / "out" / f"{stage.name}{suffix}" for suffix in (".xml", ".bin")]
            assert stage.bytes == sum(path.stat().st_size for path in written)
            assert stage.weights == sum(weight.numpy().nbytes for weight in model.model.weights)
            assert stage.seconds > 0
            assert stage.peak_memory > 1e7
        assert json.loads(json.dumps(receipt.to_dict()))["runtime"].startswith("openvino 20")
        assert "largest difference" in str(receipt)

    def test_without_verification_nothing_is_compared(self, two, tmp_path):
        receipt = two.export(tmp_path / "out", format="savedmodel", verify=False)
        assert (receipt.verified, receipt.ok, receipt.max_difference) == (False, True, None)
        assert receipt.verdict() == "Exported 'small' as SavedModel. The exported stages were not verified."

    def test_a_tolerance_that_is_no_number_is_refused(self, two, tmp_path):
        with pytest.raises(ks.SplitError, match="tolerance=nan .* was given. Expected the largest difference to allow"):
            two.export(tmp_path / "out", format="savedmodel", tolerance=float("nan"))
        assert not (tmp_path / "out").exists()

    def test_a_difference_above_the_tolerance_leaves_nothing_behind(self, two, tmp_path):
        with pytest.raises(ks.VerificationError, match="'pool' of stage 'head' is the first") as caught:
            two.export(tmp_path / "out", format="openvino", tolerance=1e-12)
        assert "Nothing was written." in str(caught.value)
        assert caught.value.receipt.first_difference == "head"
        assert list(tmp_path.iterdir()) == []

    def test_outputs_that_were_mixed_up_are_found(self, tmp_path, monkeypatch):
        a = keras.Input((4,), name="a")
        x, y = layers.Dense(4, name="x")(a), layers.Dense(4, name="y")(a)
        split = ks.split(keras.Model(a, layers.Subtract(name="z")([x, y])), [["x", "y"]])
        right = savedmodel.trace
        monkeypatch.setattr(savedmodel, "trace", lambda model, i, o, to: right(model, i, tuple(reversed(o)), to))
        with pytest.raises(ks.VerificationError, match="'x' of stage 'stage_0' is the first tensor that differs"):
            split.export(tmp_path / "out", format="openvino")

    def test_the_tolerance_is_that_of_the_least_precise_type(self):
        assert TOLERANCES["float32"] < TOLERANCES["float16"] < TOLERANCES["bfloat16"] < 1


class TestNames:
    @pytest.mark.parametrize(
        ("tensors", "names"),
        [
            (["backbone/conv4_out", "relu@1", "encoder:0"], ["backbone.conv4_out", "relu_1", "encoder_0"]),
            (["a/b", "a.b", "a_b"], ["a.b", "a.b_1", "a_b_2"]),
            (["in", "self", "_x", "1st"], ["in_", "self_", "tensor_x", "1st"]),
            (["[red]d1", "a b", "größe"], ["tensor_red_d1", "a_b", "gr__e"]),
            (["Stem_BN", "stem_bn", "stem.BN"], ["Stem_BN", "stem_bn_1", "stem.BN_2"]),
        ],
    )
    def test_they_are_safe_and_unique_in_every_format(self, tensors, names):
        assert exported_names(tensors, ())[0] == tuple(names)

    def test_an_output_does_not_bear_the_name_of_an_input(self):
        assert exported_names(["x"], ["x", "y"]) == (("x",), ("x_1", "y"))

    @pytest.mark.parametrize("form", due(["savedmodel", "onnx"], 2))
    def test_capital_letters_stay_and_tell_tensors_apart(self, form, tmp_path):
        image = keras.Input((4,), name="Image")
        one, other = layers.Dense(4, name="Stem_BN")(image), layers.Dense(4, name="stem_bn")(image)
        model = keras.Model(image, {"Out": layers.Subtract(name="Out")([one, other]), "out": other})
        split = ks.split(model, [["Stem_BN", "stem_bn"]])
        assert split.export(tmp_path / "out", format=form).ok
        taken = [spec["name"] for spec in read_export(tmp_path / "out")["stages"][1]["inputs"]]
        assert taken == ["Stem_BN", "stem_bn_1"]
        x = np.random.default_rng(5).normal(size=(3, 4)).astype("float32")
        assert close(run_exported(tmp_path / "out", x), model(x))

    @HALF_OF_THE_FORMATS
    def test_names_with_dots_and_capitals_are_those_in_the_files(self, form, tmp_path):
        """From a cut inside a nested model, from plain layers, and for inputs that begin with a digit."""
        taken, given = keras.Input((4,)), keras.Input((4,), name="0x.Image-1")
        base = keras.Model(taken, layers.Dense(4, name="last")(layers.Dense(4, name="Blk_BN")(taken)), name="base")
        x = layers.Dense(3, name="block.7")(base(given))
        model = keras.Model(given, layers.Dense(2, name="Out-Put")(x), name="whole")
        split = ks.split(model, ["base/Blk_BN", "block.7"])
        assert split.export(tmp_path / "out", format=form).ok
        stages = read_export(tmp_path / "out")["stages"]
        names = ["0x.Image-1", "base.Blk_BN", "block.7"]
        assert [stage["inputs"][0]["name"] for stage in stages] == names
        assert [stage["outputs"][0]["name"] for stage in stages] == [*names[1:], "Out-Put"]
        for stage in stages:
            path = tmp_path / "out" / stage["path"]
            assert names_in_file(form, path) == tuple(
                [spec["name"] for spec in stage[side]] for side in ("inputs", "outputs")
            )
        values = np.random.default_rng(5).normal(size=(3, 4)).astype("float32")
        assert close(run_exported(tmp_path / "out", values), model(values))


def names_in_file(form: str, path: Path) -> tuple[list[str], list[str]]:
    """Returns the names of inputs and outputs as read by the format's runtime."""
    if form == "savedmodel":
        import tensorflow as tf

        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            signature = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
        return list(signature.inputs), list(signature.outputs)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        return [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    if form == "litert":
        from ai_edge_litert.interpreter import Interpreter

        signature = Interpreter(model_path=str(path)).get_signature_list()["serving_default"]
        return signature["inputs"], signature["outputs"]
    import openvino

    model = openvino.Core().read_model(str(path))
    return tuple([one.any_name for one in ends] for ends in (model.inputs, model.outputs))


def recurrent() -> ks.Split:
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(12, 8, mask_zero=True, name="table")(tokens)
    x = layers.LSTM(8, return_sequences=True, name="lstm")(x)
    model = keras.Model(tokens, layers.Dense(1, name="score")(layers.GRU(4, name="gru")(x)), name="reader")
    return ks.split(model, "gru")


def bert() -> ks.Split:
    """A small BERT: integer inputs in a dict, a mask that crosses, attention, exact GELU, and odd names and outputs.

    Names that no format accepts, or that collide; an input that is an output, an output returned twice, one that is
    computed early; a tensor of which only the shape matters; an unrolled loop over time.
    """
    tokens = keras.Input((6,), dtype="int32", name="in")
    kinds, padding = (keras.Input((6,), dtype="int32", name=name) for name in ("segment ids", "self"))
    x = layers.Embedding(12, 8, name="a>b")(tokens) + layers.Embedding(2, 8, name="kinds")(kinds)
    inner_in = keras.Input((6, 8), name="inner_in")
    inner = keras.Model(inner_in, layers.LayerNormalization(name="b")(inner_in), name="a")
    one, other = inner(x), layers.Dense(8, name="a.b")(x)
    mask = ops.cast(ops.expand_dims(padding, 1), "bool")
    x = layers.Add(name="a_b")([one, other])
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x, attention_mask=mask)
    x = layers.LayerNormalization(name="attended")(layers.Add(name="joined")([x, y]))
    x = layers.Dense(8, name="out")(layers.Dense(16, activation="gelu", name="wide")(x)) + x
    x = layers.Add(name="sum")([x, ops.ones_like(other)])
    pooled = layers.Dense(8, activation="tanh", name="pooled")(layers.LSTM(4, unroll=True, name="lstm")(x))
    inputs = {"in": tokens, "segment ids": kinds, "self": padding}
    outputs = {"ends": [x, pooled], "again": pooled, "given": padding, "early": one}
    return ks.split(keras.Model(inputs, outputs, name="bert"), [["a/b", "a.b"]], allow_crossing=True)


class TestOddModels:
    """Models from the menagerie and some others; each is verified by its export."""

    @pytest.mark.parametrize(
        "name",
        [
            "takes_and_gives_nested_structures",
            "gives_its_own_input_and_one_output_twice",
            "tied_embeddings",
            "encoder_decoder",
            "stateful_recurrent_layers",
            "text_vectorized",
            "mixed_float16",
            "mixed_bfloat16",
            "open_sides",
            "whole_numbers_and_truths",
            "int8_layers",
            "nested_with_dicts",
            "dropouts",
        ],
    )
    def test_as_savedmodel(self, name, tmp_path):
        animal = next(kind for kind in menagerie.kinds() if kind.name == name).build()
        crossings = ks.crossings(animal.model, 3)
        split = ks.split(animal.model, crossings[len(crossings) // 2], allow_crossing=True)
        split.export(tmp_path / "out", format="savedmodel", verify=False)
        expected = keras.tree.map_structure(ops.convert_to_numpy, split(animal.x))
        outputs = run_exported(tmp_path / "out", animal.x)
        pairs = zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True)
        assert all(np.allclose(*map(as_floats, pair), rtol=1e-2, atol=1e-2) for pair in pairs)

    def test_texts_are_compared_too(self, tmp_path):
        animal = next(kind for kind in menagerie.kinds() if kind.name == "text_vectorized").build()
        crossings = ks.crossings(animal.model, 3)
        split = ks.split(animal.model, crossings[len(crossings) // 2], allow_crossing=True)
        assert split.export(tmp_path / "out", format="savedmodel", x=animal.x).ok

    @HALF_OF_THE_FORMATS
    def test_a_transformer_with_odd_names(self, form, tmp_path):
        split = bert()
        assert split.export(tmp_path / "out", format=form).ok
        head, tail = read_export(tmp_path / "out")["stages"]
        assert {spec["tensor"]: spec["name"] for spec in head["inputs"]} == {"in": "in_", "segment ids": "segment_ids"}
        assert {spec["tensor"] for spec in tail["inputs"]} >= {"a/b", "a.b", "self"}
        assert {spec["name"] for spec in tail["inputs"]} >= {"a.b", "a.b_1", "self_"}
        given = {name: np.ones((1, 6), "int32") for name in ("in", "segment ids", "self")}
        outputs = run_exported(tmp_path / "out", given)
        assert outputs["again"].shape == (1, 8)
        assert close(outputs, split(given))

    @pytest.mark.parametrize("form", ["onnx", "openvino"])
    def test_loops_over_time(self, form, tmp_path):
        assert recurrent().export(tmp_path / "out", format=form).ok

    @pytest.mark.parametrize("form", ["onnx", "openvino"])
    def test_open_sides_stay_open(self, form, tmp_path):
        image = keras.Input((None, None, 3), name="image")
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(image)
        model = keras.Model(image, layers.Conv2D(2, 3, name="map")(layers.MaxPooling2D(name="pool")(x)))
        ks.split(model, "conv").export(tmp_path / "out", format=form)
        given = np.ones((1, 12, 20, 3), "float32")
        assert run_exported(tmp_path / "out", given).shape == (1, 4, 8, 2)

    @pytest.mark.parametrize("form", ["savedmodel", "openvino"])
    def test_a_layer_that_only_this_program_knows(self, form, tmp_path):
        class Doubled(keras.layers.Layer):
            def call(self, x):
                return x * 2

        x = keras.Input((3,), name="x")
        y = layers.Dense(2, name="y")(layers.Lambda(lambda t: t + 1, name="one")(Doubled(name="two")(x)))
        assert ks.split(keras.Model(x, y), "two").export(tmp_path / "out", format=form).ok


class TestRefusals:
    def test_an_unknown_format(self, two, tmp_path):
        message = "There is no format 'h5'; expected 'savedmodel', 'onnx', 'litert', 'openvino' or 'tf_saved_model'."
        with pytest.raises(ks.SplitError, match=message):
            two.export(tmp_path / "out", format="h5")

    def test_the_names_that_keras_gives_formats(self, two, tmp_path):
        assert find_format("tf_saved_model") is find_format("savedmodel")
        message = "Stages are not exported as 'torch'; expected 'savedmodel', 'onnx', .* or 'tf_saved_model'."
        with pytest.raises(ks.SplitError, match=message):
            two.export(tmp_path / "out", format="torch")

    @pytest.mark.parametrize(
        ("form", "stage", "reason"),
        [
            ("litert", "stage_0", "it cannot loop over time steps when the batch size is unknown, as in 'stage_0_1/"),
            ("onnx", "stage_0", "tf2onnx cannot write TensorFlow's 'Bucketize' in ONNX"),
        ],
    )
    def test_an_operation_that_a_converter_does_not_know(self, form, stage, reason, tmp_path):
        if form == "litert":
            split = recurrent()
        else:
            x = keras.Input((3,), name="x")
            y = layers.Discretization([-0.5, 0.0, 0.5], name="buckets")(x)
            split = ks.split(keras.Model(x, layers.Embedding(4, 2, name="table")(y)), "buckets")
        with pytest.raises(ks.SplitError) as caught:
            split.export(tmp_path / "out", format=form)
        title = {"litert": "LiteRT", "onnx": "ONNX"}[form]
        assert str(caught.value).startswith(f"Stage '{stage}' cannot be exported as {title}: {reason}")
        assert str(caught.value).endswith("Nothing was written.")
        assert list(tmp_path.iterdir()) == []

    def test_a_name_that_tensorflow_does_not_take(self, tmp_path):
        x = keras.Input((3,), name="x")
        split = ks.split(keras.Model(x, layers.ReLU(name="größe")(layers.ReLU(name="relu")(x))), "relu")
        with pytest.raises(
            ks.SplitError, match="Stage 'stage_1' cannot .* TensorFlow cannot trace it: .*'größe' is not"
        ):
            split.export(tmp_path / "out", format="onnx")
        assert list(tmp_path.iterdir()) == []

    def test_input_that_is_not_compared(self, two, x, tmp_path):
        with pytest.raises(ks.SplitError, match="cannot be combined with verify=False"):
            two.export(tmp_path / "out", format="onnx", verify=False, x=x)

    def test_an_optional_input_left_out(self, tmp_path):
        animal = next(kind for kind in menagerie.kinds() if kind.name == "optional_inputs_left_out").build()
        split = ks.split(animal.model, "early")
        with pytest.raises(ks.SplitError, match="Exported stages need every input. Pass arrays for 'extra' and 'more'"):
            split.export(tmp_path / "out", format="savedmodel", x=animal.x)

    def test_missing_packages_are_named_with_the_extra_before_any_work(self, tmp_path):
        code = """
            import sys
            import keras, kerassplit as ks
            x = keras.Input((2,), name="x")
            split = ks.split(keras.Model(x, keras.layers.ReLU(name="b")(keras.layers.ReLU(name="a")(x))), "a")
            for hidden, form, verify in [
                (["tf2onnx", "onnx"], "onnx", True),
                (["ai_edge_litert"], "litert", True),
                (["openvino"], "openvino", False),
            ]:
                sys.modules.update(dict.fromkeys(hidden))
                try:
                    split.export(sys.argv[1] + "/out", format=form, verify=verify)
                except ks.SplitError as error:
                    print(error)
        """
        done = python(code, tmp_path)
        assert done.stdout.splitlines() == [
            "Exporting as ONNX needs 'tf2onnx' and 'onnx', which are not installed. "
            'Install everything with `pip install "kerassplit[onnx]"`.',
            "Exporting as LiteRT needs 'ai-edge-litert', which is not installed. "
            'Install everything with `pip install "kerassplit[litert]"`. Only verification needs it: verify=False '
            "works without it.",
            "Exporting as OpenVINO needs 'openvino', which is not installed. "
            'Install everything with `pip install "kerassplit[openvino]"`.',
        ], done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_runtime_that_is_missing_where_stages_are_run(self, folders):
        code = """
            import sys
            sys.modules["onnxruntime"] = None
            from kerassplit.storage.exports.running import run_exported
            try:
                run_exported(sys.argv[1], {"image": 1.0, "extra": 1.0})
            except ValueError as error:
                print(error)
        """
        assert python(code, folders["onnx"]).stdout == (
            "Running stages exported as ONNX needs 'onnxruntime', which is not installed. "
            'Install everything with `pip install "kerassplit[onnx]"`.\n'
        )

    def test_a_converter_that_breaks_down(self, two, tmp_path):
        """A package of the same name that ends the process."""
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "tf2onnx.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
        two.save(tmp_path / "split")
        code = """
            import sys, kerassplit as ks
            try:
                ks.load(sys.argv[1] + "/split").export(sys.argv[1] + "/out", format="onnx")
            except ks.SplitError as error:
                print(error)
        """
        done = python(code, tmp_path, path=tmp_path / "broken")
        assert done.stdout == (
            "Stage 'head' cannot be exported as ONNX: it was killed, most likely because memory ran out. Nothing was "
            "written.\n"
        ), done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "split"]


class TestFolders:
    def test_one_that_holds_something_else_is_never_replaced(self, two, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(ks.StoreError, match="is not empty and holds no exported stages, so it is never overwritt"):
            two.export(tmp_path, format="openvino", overwrite=True)
        two.save(tmp_path / "split")
        with pytest.raises(ks.StoreError, match="holds no exported stages"):
            two.export(tmp_path / "split", format="openvino", overwrite=True)
        with pytest.raises(ks.StoreError, match="is a file"):
            two.export(tmp_path / "mine.txt", format="openvino", overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "split"]

    def test_an_export_is_replaced_when_asked_for(self, two, folders, small, x, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(folders["savedmodel"], out)
        (out / "notes.txt").write_text("mine")
        with pytest.raises(
            ks.StoreError, match="already holds exported stages. .* overwrite=True to replace its contents."
        ):
            two.export(out, format="savedmodel")
        two.export(out, format="savedmodel", overwrite=True)
        assert sorted(path.name for path in out.iterdir()) == [*("head-2", EXPORT_MANIFEST, "notes.txt", "tail-2")]
        assert close(run_exported(out, x), small(x))

    def test_after_a_failure_what_was_there_is_there(self, two, folders, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(folders["onnx"], out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(ks.VerificationError):
            two.export(out, format="openvino", overwrite=True, tolerance=0.0)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_the_working_folder_can_be_written(self, two, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        two.export(".", format="savedmodel", verify=False)
        assert (tmp_path / EXPORT_MANIFEST).is_file()

    def test_a_stage_does_not_take_the_place_of_the_manifest(self, small, tmp_path):
        split = ks.split(small, "pool", names=[EXPORT_MANIFEST, "tail"])
        receipt = split.export(tmp_path / "out", format="savedmodel", verify=False)
        assert [stage.path for stage in receipt.stages] == [f"{EXPORT_MANIFEST}-2", "tail"]
        assert read_export(tmp_path / "out")["model"] == "small"

    def test_damage_is_named(self, folders, x, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(folders["openvino"], out)
        content = bytearray((out / "head.bin").read_bytes())
        content[0] ^= 1
        (out / "head.bin").write_bytes(content)
        with pytest.raises(ks.StoreError, match="head.bin is damaged .* SHA-256 differs"):
            run_exported(out, x)
        (out / "head.bin").unlink()
        with pytest.raises(ks.StoreError, match="A file of stage 'head' is missing"):
            run_exported(out, x)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(format_version=9), "has format version 9; this kerassplit reads versions up to 1"),
            (lambda m: m.update(format="h5"), "its format is 'h5', expected"),
            (lambda m: m.update(outputs={"y": "nothing"}), "no stage computes the output 'nothing'"),
            (lambda m: m["stages"].reverse(), "stage 'tail' needs 'pool', which no stage before it computes"),
            (lambda m: m["stages"][0].update(path="../x"), "stage 'head' has no path inside the folder"),
            (
                lambda m: m["stages"][0]["files"][0].update(path="../../x"),
                "the files of stage 'head' are not described",
            ),
        ],
    )
    def test_a_manifest_that_makes_no_sense(self, change, message, folders, tmp_path):
        manifest = read_export(folders["onnx"])
        change(manifest)
        (tmp_path / EXPORT_MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(ks.StoreError, match=message):
            read_export(tmp_path)

    def test_input_that_does_not_fit(self, folders, x):
        for wrong in (x[0], [x[0]], {"image": x[0]}, [x[0], None]):
            with pytest.raises(ks.SplitError, match=r"does not have the structure that 'small' takes, \['image', 'ext"):
                run_exported(folders["openvino"], wrong)
        with pytest.raises(ks.SplitError, match="'image' takes float32; got an array of <U1"):
            run_exported(folders["openvino"], [np.full((1, 8, 8, 3), "a"), x[1]])


class TestSize:
    """The graph of a SavedModel takes up to 8 KiB for each call."""

    def test_a_savedmodel_is_hardly_larger_than_its_weights(self, resnet, tmp_path):
        split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"])
        receipt = split.export(tmp_path / "out", format="savedmodel")
        assert receipt.compared_on == "a photograph"
        assert receipt.comparisons[0].shape[0] == 2
        size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
        assert size - (tmp_path / "out" / EXPORT_MANIFEST).stat().st_size == receipt.bytes
        assert receipt.bytes <= 1.02 * weights_of(split)
        assert sum(stage.weights for stage in receipt.stages) == weights_of(split)

    def test_the_graph_takes_so_much_for_each_call(self, small, two, folders):
        for stage in two:
            path = folders["savedmodel"] / stage.name
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            weights = sum(weight.numpy().nbytes for weight in stage.model.weights)
            calls = len(stage.model.layers)
            assert size <= 1.02 * weights + 8 * 1024 * (calls + 2)


@pytest.mark.parametrize("form", due([*SUFFIX], len(SUFFIX)))
def test_resnet50_at_full_size(form, tmp_path):
    model = load_model("ResNet50", weights="random", seed=7)
    split = ks.split(model, ["conv3_block4_out", "conv4_block6_out"])
    receipt = split.export(tmp_path / "out", format=form)
    assert receipt.ok
    assert receipt.bytes <= 1.02 * weights_of(split)
    assert receipt.comparisons[-1].shape == (2, 1000)


def test_mobilenet_at_full_size(tmp_path):
    model = load_model("MobileNetV2", weights="random", seed=7)
    assert ks.split(model, [40]).export(tmp_path / "out", format="litert").ok


class TestCommand:
    def test_it_exports_and_verifies(self, saved, x, tmp_path):
        np.savez(tmp_path / "x.npz", image=x[0], extra=x[1])
        arguments = ["--format", "openvino", "-o", tmp_path / "out", "--input", tmp_path / "x.npz"]
        data = json.loads(run("export", saved, *arguments, "--json").stdout)
        assert (data["ok"], data["verified"], data["compared_on"]) == (True, True, "given input")
        assert data["max_difference"] < 1e-4
        assert [stage["path"] for stage in data["stages"]] == ["head.xml", "tail.xml"]
        assert read_export(tmp_path / "out")["model"] == "small"

    def test_sizes_for_unknown_dimensions_stand_in_random_input(self, tmp_path):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = ops.add(layers.Embedding(9, 4, name="table")(tokens), np.ones((12, 4), "float32"))
        model = keras.Model(tokens, layers.Dense(2, name="b")(layers.Dense(4, name="a")(x)), name="twelve")
        ks.split(model, "a").save(tmp_path / "saved")
        arguments = ["--format", "savedmodel", "-o", tmp_path / "out"]
        assert "does not go through" in run("export", tmp_path / "saved", *arguments, status=2).stderr
        assert "on random input" in run("export", tmp_path / "saved", *arguments, "--open-sides", 12).stdout

    def test_a_difference_gives_status_1_and_writes_nothing(self, saved, tmp_path):
        arguments = ["--format", "openvino", "-o", tmp_path / "out", "--tolerance", "0", "--json"]
        result = run("export", saved, *arguments, status=1)
        assert result.stderr == "Error: the exported stages differ from the stages in Keras, so nothing was written.\n"
        data = json.loads(result.stdout)
        assert (data["ok"], data["directory"], data["first_difference"]) == (False, None, "head")
        assert list(tmp_path.iterdir()) == []

    def test_mistakes_name_the_options(self, saved, tmp_path):
        arguments = ["export", saved, "-o", tmp_path / "out", "--format"]
        printed = run(*arguments, "savedmodel", "--no-verify").stdout
        assert "The exported stages were not verified." in printed
        assert printed.endswith(f"Wrote 2 stages in {tmp_path / 'out'}.\n")
        message = run(*arguments, "savedmodel", "--no-verify", status=2).stderr
        assert (
            "already holds exported stages. Name another folder, or pass --overwrite to replace its contents."
            in message
        )
        np.save(tmp_path / "x.npy", np.zeros((1, 4)))
        compared = ["--overwrite", "--input", tmp_path / "x.npy"]
        message = run(*arguments, "savedmodel", "--no-verify", *compared, status=2).stderr
        assert message == "Error: An input to compare on cannot be combined with --no-verify, which compares nothing.\n"
        assert "Invalid value for '--format': 'h5' is not one of" in run(*arguments, "h5", status=2).stderr


def test_an_export_of_which_nothing_was_compared_is_no_success(tmp_path):
    x = keras.Input((4,), name="x")
    split = ks.split(keras.Model(x, layers.Dense(2, name="b")(layers.Dense(4, name="a")(x)), name="tiny"), "a")
    nan = np.full((2, 4), np.nan, "float32")
    message = "Nothing was compared: .* 'tiny' are all NaN.* pass verify=False"
    with pytest.raises(ks.VerificationError, match=message) as no:
        split.export(tmp_path / "out", format="savedmodel", x=nan)
    assert not no.value.receipt
    assert not (tmp_path / "out").exists()
    split.model.predict_step = lambda data: 0
    with pytest.warns(UserWarning, match="'tiny' has its own `predict_step`, which its stages do not run"):
        assert split.export(tmp_path / "out", format="savedmodel")


def test_an_output_that_is_an_input_has_the_type_that_the_model_gives_it(tmp_path):
    f = keras.Input((2,), name="f")
    model = keras.Model(f, {"y": keras.layers.Dense(2, name="y")(keras.layers.Dense(2, name="h")(f)), "f": f})
    x = np.arange(6.0).reshape(3, 2)
    ks.split(model, "h").export(tmp_path / "out", format="savedmodel", x=x)
    given = run_exported(tmp_path / "out", x)["f"]
    assert given.dtype == "float32"
    assert np.array_equal(given, x)


def sealed(folder: Path) -> Path:
    """Updates the manifest to the current files in the folder."""
    manifest = json.loads((folder / EXPORT_MANIFEST).read_text(encoding="utf-8"))
    for stage in manifest["stages"]:
        for file in stage["files"]:
            data = (folder / file["path"]).read_bytes()
            file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / EXPORT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def adding(folder: Path, *numbers: float, outside: str | None = None, size: int = 4) -> Path:
    """An export with a stage for each number, which adds it. The last one can read its number from a file outside."""
    helper, names = onnx.helper, [f"x{place}" for place in range(len(numbers) + 1)]
    folder.mkdir()
    stages = []
    for place, number in enumerate(numbers):
        kept = onnx.numpy_helper.from_array(np.full(size, number, "float32"), "w")
        if outside and place == len(numbers) - 1:
            kept.ClearField("raw_data")
            kept.data_location = onnx.TensorProto.EXTERNAL
            kept.external_data.add(key="location", value=outside)
        ends = names[place : place + 2]
        taken, given = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size]) for name in ends)
        graph = helper.make_graph([helper.make_node("Add", [ends[0], "w"], [ends[1]])], "g", [taken], [given], [kept])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        (folder / f"s{place}.onnx").write_bytes(model.SerializeToString())
        sides = [[{"tensor": name, "name": name, "shape": [None, size], "dtype": "float32"}] for name in ends]
        files = [{"path": f"s{place}.onnx"}]
        entry = {"name": f"s{place}", "path": f"s{place}.onnx", "files": files}
        stages.append({**entry, "inputs": sides[0], "outputs": sides[1]})
    manifest = {"format_version": 1, "format": "onnx", "model": "adding", "inputs": names[0], "outputs": names[-1]}
    (folder / EXPORT_MANIFEST).write_text(json.dumps({**manifest, "stages": stages, "versions": {}}), encoding="utf-8")
    return sealed(folder)


ZEROS = np.zeros((2, 4), "float32")


class TestWhatIsRun:
    def test_all_files_are_compared_before_any_is_opened(self, tmp_path):
        folder = adding(tmp_path / "out", 1, 2)
        assert np.all(run_exported(folder, ZEROS) == 3)
        (folder / "s0.onnx").write_bytes(b"nothing that a runtime could open")
        sealed(folder)
        with pytest.raises(ks.StoreError, match="Stage 's0' cannot be opened in its runtime: .*Export the split again"):
            run_exported(folder, ZEROS)
        with (folder / "s1.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ks.StoreError, match=r"s1.onnx is damaged or not the file that was exported"):
            run_exported(folder, ZEROS)

    def test_a_file_that_the_manifest_does_not_name_is_not_read(self, tmp_path):
        folder = adding(tmp_path / "out", 1, 2, outside="w.bin")
        (folder / "w.bin").write_bytes(np.full(4, 7, "float32").tobytes())
        session = onnxruntime.InferenceSession(str(folder / "s1.onnx"))
        assert np.all(session.run(None, {"x1": ZEROS})[0] == 7)
        with pytest.raises(ks.StoreError, match="Stage 's1' cannot be opened in its runtime: "):
            run_exported(folder, ZEROS)
        manifest = json.loads((folder / EXPORT_MANIFEST).read_text(encoding="utf-8"))
        manifest["stages"][1]["files"].append({"path": "w.bin"})
        (folder / EXPORT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        assert np.all(run_exported(sealed(folder), ZEROS) == 8)

    def test_files_of_a_savedmodel_that_the_manifest_does_not_name_are_not_read(self, two, tmp_path, x):
        folder = tmp_path / "out"
        two.export(folder, format="savedmodel", verify=False)
        before = run_exported(folder, x)
        (folder / "head" / "saved_model.pbtxt").write_text("nonsense")
        (folder / "head" / "assets.extra").mkdir()
        assert close(run_exported(folder, x), before)
        (folder / "away").mkdir()
        (folder / "head" / "variables").rename(folder / "away" / "variables")
        (folder / "head" / "variables").symlink_to(folder / "away" / "variables")
        with pytest.raises(
            ks.StoreError, match=r"head/variables is a link, and links are not followed. Put the folder"
        ):
            run_exported(folder, x)

    def test_a_file_that_is_rewritten_all_the_time_never_gives_other_numbers(self, tmp_path):
        size = 100_000
        folder = adding(tmp_path / "out", 1, size=size)
        path = folder / "s0.onnx"
        contents = [path.read_bytes(), (adding(tmp_path / "other", 2, size=size) / "s0.onnx").read_bytes()]
        over = threading.Event()

        def swap():
            dates = path.stat()
            for content in itertools.cycle(contents):
                with path.open("r+b", buffering=0) as file:
                    file.write(content)
                os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
                if over.is_set():
                    return

        thread = threading.Thread(target=swap)
        thread.start()
        found = Counter()
        try:
            for _ in range(200):
                try:
                    found[float(run_exported(folder, np.zeros((1, size), "float32")).mean())] += 1
                except ks.StoreError as error:
                    assert "is damaged" in str(error) or "was changed while it was read" in str(error)
                    found["refused"] += 1
        finally:
            over.set()
            thread.join()
        assert set(found) <= {1.0, "refused"}
        assert found["refused"]


def test_overwriting_removes_the_files_of_the_export_and_nothing_else(two, tmp_path):
    folder = tmp_path / "out"
    two.export(folder, format="savedmodel", verify=False)
    (folder / "head" / "variables" / "mine.txt").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "saved_model.pb").write_text("mine")
    shutil.rmtree(folder / "tail")
    (folder / "tail").symlink_to(tmp_path / "away")
    two.export(folder, format="savedmodel", overwrite=True, verify=False)
    assert (folder / "head" / "variables" / "mine.txt").read_text() == "mine"
    assert [path.name for path in (folder / "head").rglob("*")] == ["variables", "mine.txt"]
    assert (tmp_path / "away" / "saved_model.pb").read_text() == "mine"
    new = {stage["path"] for stage in read_export(folder)["stages"]}
    assert new == {"head-2", "tail-2"}
    assert {path.name for path in folder.iterdir()} == {EXPORT_MANIFEST, "notes.txt", "head", "tail", *new}
    two.export(folder, format="savedmodel", overwrite=True, verify=False)
    assert not (folder / "head-2").exists()
