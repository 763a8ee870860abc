"""KerasHub's backbones and tasks, built small from their configuration, without downloads.

They have features that Keras's own models lack: padding masks that every block receives, subclassed layers with
several outputs, embeddings used at both ends, backbones nested in a task on the very same Inputs.

If KerasHub is missing, the file is skipped, except in CI.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from comparing import copied, fingerprint, same_bits
from samples import due

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.cutting.part_of_model import PartOfModel
from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.random_weights import randomize

if "CI" in os.environ:
    from keras_hub import models as hub
else:
    hub = pytest.importorskip("keras_hub").models

pytestmark = [
    # Layers of KerasHub's own, when they are built, run or loaded from a stage.
    pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a `build.*` method implemented:UserWarning"),
    # KerasHub's tasks have a `compile` of their own; Keras says so when it loads one.
    pytest.mark.filterwarnings("ignore:`compile.*` was not called as part of model loading:UserWarning"),
]

LENGTH, VOCABULARY = 12, 40
TEXT = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "vocabulary_size": VOCABULARY}
PLACED_TEXT = {**TEXT, "max_sequence_length": LENGTH}
DECODER = {
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "vocabulary_size": VOCABULARY,
}


def resnet(block: str = "basic_block", side: int | None = 32, **options: Any) -> keras.Model:
    return hub.ResNetBackbone([64], [7], [64, 16], [2, 2], [1, 2], block, image_shape=(side, side, 3), **options)


def vit() -> keras.Model:
    return hub.ViTBackbone((32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def mit() -> keras.Model:
    return hub.MiTBackbone(
        layerwise_depths=[1, 2],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[8, 16],
    )


def pyramid() -> keras.Model:
    stem = hub.ResNetBackbone(
        [64], [7], [64, 16, 16, 16], [1, 1, 1, 1], [1, 2, 2, 2], "basic_block", image_shape=(None, None, 3)
    )
    return hub.RetinaNetBackbone(stem, min_level=3, max_level=5, use_p5=False)


def clip() -> keras.Model:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    vision = hub.CLIPVisionEncoder(patch_size=8, intermediate_output_index=None, image_shape=(32, 32, 3), **sizes)
    text = hub.CLIPTextEncoder(vocabulary_size=VOCABULARY, embedding_dim=8, max_sequence_length=LENGTH, **sizes)
    return hub.CLIPBackbone(vision, text, projection_dim=4)


def whisper() -> keras.Model:
    sides = {"max_encoder_sequence_length": 2 * LENGTH, "max_decoder_sequence_length": LENGTH}
    return hub.WhisperBackbone(num_mels=8, **sides, **TEXT)


def albert() -> keras.Model:
    groups = {"num_layers": 4, "num_groups": 2, "num_inner_repetitions": 2, "embedding_dim": 6}
    return hub.AlbertBackbone(**{**PLACED_TEXT, **groups})


def gemma(**options: Any) -> keras.Model:
    return hub.GemmaBackbone(head_dim=4, **DECODER, **options)


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    "vit": vit,
    "mit": mit,
    "resnet": resnet,
    "resnet_open_sides": lambda: resnet("bottleneck_block_vd", side=None),
    "resnet_v2": lambda: resnet("bottleneck_block", use_pre_activation=True),
    "pyramid": pyramid,
    "bert": lambda: hub.BertBackbone(**PLACED_TEXT),
    "albert": albert,
    "gpt2": lambda: hub.GPT2Backbone(**PLACED_TEXT),
    "llama": lambda: hub.LlamaBackbone(**DECODER),
    "mistral": lambda: hub.MistralBackbone(sliding_window=4, **DECODER),
    "gemma": gemma,
    "t5": lambda: hub.T5Backbone(**TEXT),
    "bart": lambda: hub.BartBackbone(**PLACED_TEXT),
    "whisper": whisper,
    "clip": clip,
    "bert_classifier": lambda: hub.BertTextClassifier(hub.BertBackbone(**PLACED_TEXT), num_classes=3),
    "bert_masked_lm": lambda: hub.BertMaskedLM(hub.BertBackbone(**PLACED_TEXT)),
    "image_classifier": lambda: hub.ImageClassifier(resnet(), num_classes=3, dropout=0.1),
    "vit_classifier": lambda: hub.ViTImageClassifier(vit(), num_classes=3, pooling="token"),
    "gpt2_lm": lambda: hub.GPT2CausalLM(hub.GPT2Backbone(**PLACED_TEXT)),
    "llama_lm": lambda: hub.LlamaCausalLM(hub.LlamaBackbone(tie_word_embeddings=True, **DECODER)),
    "gemma_lm": lambda: hub.GemmaCausalLM(gemma(final_logit_soft_cap=30.0)),
    "bart_lm": lambda: hub.BartSeq2SeqLM(hub.BartBackbone(**PLACED_TEXT)),
}
CAUSAL = ("gpt2_lm", "llama_lm", "gemma_lm")
TASKS = (*CAUSAL, "bart_lm", "bert_classifier", "bert_masked_lm", "image_classifier", "vit_classifier")
BY_CONFIG: dict[str, Callable[[], keras.Model]] = {
    "qwen3": lambda: hub.Qwen3Backbone(head_dim=4, **DECODER),
    "swin": lambda: hub.SwinTransformerBackbone((16, 16, 3), 8, [1, 1], [1, 2], window_size=4, patch_size=2),
    "deberta": lambda: hub.DebertaV3Backbone(bucket_size=4, **PLACED_TEXT),
    "rwkv": lambda: hub.RWKV7Backbone(16, 8, 2, VOCABULARY, 32, 4, 4, 4, 4),
    **{kind: BUILDERS[kind] for kind in ("vit", "mit", "llama")},
}
"""KerasHub saves backbones by their own arguments; some layers' `get_config` is not what their constructors take."""
UNSAVEABLE = ("llama_lm",)  # KerasHub does not save that its embeddings are tied
NUMBERED = ("mit", "resnet_open_sides", "resnet_v2", "bert", "albert", "gemma", "t5", "whisper", "bert_classifier")
NUMBERED += ("vit_classifier", "gemma_lm")
"""Models with ops or layers that KerasHub leaves for Keras to name, such as `get_item_3`."""
MASKED = ("bert", "albert", "gpt2", "llama", "mistral", "gemma", "t5", "bart", "whisper", "bert_classifier", *CAUSAL)

every = pytest.mark.parametrize("kind", due([*BUILDERS], 3))  # each commit takes a third of them


@cache
def built(kind: str) -> keras.Model:
    model = BUILDERS[kind]()
    randomize(model, 5, data(model))
    return model


def data(model: keras.Model, seed: int = 1) -> Any:
    """Two samples; their masks hide the end of one text, and the end of another one in the decoder."""
    generator = np.random.default_rng(seed)

    def draw(symbol: keras.KerasTensor) -> np.ndarray:
        open_side = 32 if len(symbol.shape) == 4 else LENGTH
        shape = [2, *(side or open_side for side in symbol.shape[1:])]
        if symbol.name == "encoder_features":
            shape[1] = 2 * LENGTH
        if symbol.name.endswith("padding_mask"):
            lengths = [[9], [LENGTH]] if "decoder" in symbol.name else [[LENGTH], [7]]
            values = np.arange(LENGTH)[None] < np.array(lengths)
        elif "float" in symbol.dtype:
            values = generator.normal(size=shape)
        else:
            values = generator.integers(
                0, {"segment_ids": 2, "mask_positions": LENGTH}.get(symbol.name, VOCABULARY), shape
            )
        return values.astype(symbol.dtype)

    return keras.tree.map_structure(draw, model.input)


def inside(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model._flatten_layers() if layer is not model]


def middle(model: keras.Model) -> str:
    points = ks.split_points(model)
    return points[len(points) // 2].name


def inner_tensors(model: keras.Model) -> list[str]:
    graph = read_graph(model)
    return [tensor.name for tensor in graph.tensors if graph.calls[tensor.call].inputs]


def names(model: keras.Model) -> list[str]:
    return [tensor.name for tensor in read_graph(model).tensors]


@pytest.mark.parametrize("kind", MASKED)
def test_the_padding_masks_of_these_tests_mask(kind):
    """Otherwise the tests below would not notice a lost mask."""
    model = built(kind)
    x = data(model)
    open_ends = {name: np.ones_like(value) if "mask" in name else value for name, value in x.items()}
    assert not same_bits(model(x), model(open_ends))


class TestSplit:
    @every
    def test_every_split_point_is_exact(self, kind):
        model = built(kind)
        x = data(model)
        before, expected = fingerprint(model), model(x)
        points = ks.split_points(model)
        assert points
        for point in points:
            split = ks.split(model, point)
            assert same_bits(split(x), expected), point.name
        del split
        assert fingerprint(model) == before

    @every
    def test_all_split_points_at_once_are_exact(self, kind):
        model = built(kind)
        x = data(model)
        graph, points = read_graph(model), ks.split_points(model)
        chain = [point.name for point in points]
        if len(graph.flat_inputs()) > 1:  # towers side by side: some points do not depend on each other
            chain = chain[-2:]
        assert same_bits(ks.split(model, chain)(x), model(x))

    @every
    def test_crossings_of_two_tensors_are_exact(self, kind):
        model = built(kind)
        x = data(model)
        expected = model(x)
        pairs = [crossing for crossing in ks.crossings(model, 2) if len(crossing.tensors) == 2]
        for crossing in pairs[:: max(1, len(pairs) // 6)]:
            try:
                split = ks.split(model, crossing)
            except ks.UnsupportedModelError as error:  # both towers opened in one stage
                assert kind == "clip" and "Two different layers are called" in str(error), error
                continue
            carried = [tensor.name for tensor in (*crossing.tensors, *crossing.also)]
            assert sorted(tensor.name for tensor in split.crossings[0].tensors) == sorted(carried)
            assert same_bits(split(x), expected), carried

    @every
    def test_the_receipt_says_identical(self, kind):
        model = built(kind)
        receipt = ks.split(model, middle(model)).verify(data(model)).check()
        assert receipt.identical
        assert receipt.num_calls == sum(1 for call in read_graph(model).calls if call.inputs)

    @pytest.mark.parametrize("kind", ["vit", "resnet_v2", "bert", "llama", "t5", "bart_lm", "clip", "image_classifier"])
    def test_compiled_stages_predict_what_the_model_predicts(self, kind):
        model = built(kind)
        x = data(model)
        expected = keras.tree.flatten(model.predict(x, verbose=0))
        predicted = keras.tree.flatten(ks.split(model, middle(model)).predict(x))
        for ours, theirs in zip(predicted, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(theirs).max())))

    @pytest.mark.parametrize("kind", ["bert", "gpt2"])
    def test_transformers_are_cut_between_their_layers_and_the_padding_mask_comes_along(self, kind):
        model = built(kind)
        also = {point.name: point.also for point in ks.split_points(model)}
        assert also["transformer_layer_0"] == ("padding_mask",)
        assert also["transformer_layer_1"] == ()
        assert ks.explain(model, "transformer_layer_0").also == ("padding_mask",)
        tail = ks.build_submodel(model, start="transformer_layer_0")
        assert set(tail.input) == {"transformer_layer_0", "padding_mask"}
        plan = ks.plan(model, 2, open_sides=8)
        assert plan.at == ["transformer_layer_0"] and plan.stages[0].also == ("padding_mask",)
        assert same_bits(ks.split(model, plan)(data(model)), model(data(model)))

    def test_the_encoder_of_an_encoder_decoder_is_a_stage(self):
        model = built("bart")
        x = data(model)
        cut = ["encoder_padding_mask", "transformer_encoder_layer_1"]
        split = ks.split(model, [cut], names=["encoder", "decoder"])
        assert set(split["encoder"].inputs) == {"encoder_token_ids", "encoder_padding_mask"}
        assert set(split["decoder"].inputs) == {*cut, "decoder_token_ids", "decoder_padding_mask"}
        assert "encoder_padding_mask" not in split["encoder"].outputs  # an input of the model: nobody has to hand it on
        assert same_bits(split(x), model(x))

    def test_the_vision_and_the_text_tower_end_in_split_points(self):
        points = {point.name for point in ks.split_points(built("clip"))}
        assert {"vision_projection", "text_projection", "clip_vision_encoder/encoder_block_0"} <= points


class TestPieces:
    @every
    def test_a_tap_of_every_tensor_gives_what_the_model_computes(self, kind):
        model = built(kind)
        x = data(model)
        inner = inner_tensors(model)
        if kind == "clip":  # both of its towers have an 'embedding'
            inner = [name for name in inner if not name.startswith("clip_text_encoder/")]
            inner = [name for name in inner if name not in ("text_pooler", "text_projection")][:6]
        tapped = ks.tap(model, inner)
        given = {key: x[key] for key in tapped.input} if isinstance(tapped.input, dict) else x
        if isinstance(x, dict) and not isinstance(tapped.input, dict):
            given = x[tapped.inputs[0].name]
        values = tapped(given)
        assert list(values) == inner
        graph = read_graph(model)
        outputs = dict(zip(graph.names(graph.flat_outputs()), keras.tree.flatten(model(x)), strict=True))
        assert all(same_bits(values[name], value) for name, value in outputs.items() if name in values)

    @every
    def test_every_tensor_is_explained(self, kind):
        model = built(kind)
        before = fingerprint(model)
        points = {point.name for point in ks.split_points(model)}
        for name in inner_tensors(model):
            explanation = ks.explain(model, name)
            assert explanation.is_split_point == (name in points)
            assert name in str(explanation)
        assert fingerprint(model) == before

    @every
    def test_a_tail_from_the_middle_shares_the_weights_and_is_exact(self, kind):
        model = built(kind)
        x = data(model)
        cut = middle(model)
        split = ks.split(model, cut)
        receipt = split.verify(x)
        assert receipt.weights_shared and not receipt.weights_equal
        tail = ks.build_submodel(model, start=split.stages[-1].inputs)
        assert {id(one) for one in tail.weights} <= {id(one) for one in model.weights}

    @pytest.mark.parametrize("kind", ["bert", "gpt2", "albert", "t5", "bart_lm", "image_classifier", "gemma_lm"])
    def test_flattened_and_joined_models_are_exact(self, kind):
        model = built(kind)
        x = data(model)
        expected = model(x)
        assert same_bits(ks.flatten(model)(x), expected)
        assert same_bits(ks.split(model, middle(model)).join()(x), expected)

    def test_the_blocks_of_a_resnet_are_its_own(self):
        blocks = list(ks.blocks(built("resnet")))
        assert blocks == ["stack0_block0_out", "stack0_block1_out", "stack1_block0_out", "stack1_block1_out"]


class TestNested:
    @pytest.mark.parametrize("kind", TASKS)
    def test_the_backbone_of_a_task_is_opened(self, kind):
        model = built(kind)
        graph = read_graph(model)
        (nest,) = [nest for nest in graph.nests if nest.outer is None]
        assert nest.operation is model.backbone
        prefix = f"{model.backbone.name}/"
        inner = [tensor.name for tensor in graph.tensors if tensor.name.startswith(prefix)]
        alone = [tensor.name for tensor in read_graph(model.backbone).tensors]
        assert {name.removeprefix(prefix) for name in inner} <= set(alone)
        assert any(point.name in inner for point in ks.split_points(model))
        assert model.backbone.name in str(ks.explain(model, inner[0]))

    def test_a_cut_in_the_backbone_leaves_the_head_in_the_tail(self):
        model = built("image_classifier")
        x = data(model)
        cut = f"{model.backbone.name}/stack0_block1_out"
        split = ks.split(model, cut, names=["features", "head"])
        assert split["head"].outputs == ("predictions",)
        assert same_bits(split(x), model(x))
        assert same_bits(
            ks.build_submodel(model, end=cut)(x), ks.build_submodel(model.backbone, end="stack0_block1_out")(x)
        )


class TestTiedEmbeddings:
    @pytest.mark.parametrize("kind", CAUSAL)
    def test_the_split_names_what_both_ends_share(self, kind):
        model = built(kind)
        split = ks.split(model, middle(model))
        (path,) = split.shared_variables
        assert path.endswith("token_embedding/embeddings")
        assert split.shared_variables[path] == ("stage_0", "stage_1")
        assert path in str(split.verify(data(model)))

    @pytest.mark.parametrize("kind", [kind for kind in CAUSAL if kind not in UNSAVEABLE])
    def test_saving_warns_and_loading_ties_them_again(self, kind, tmp_path):
        model = built(kind)
        x = data(model)
        split = ks.split(model, middle(model))
        with pytest.warns(UserWarning, match="Several stages share '.*token_embedding/embeddings'"):
            split.save(tmp_path / "split")
        loaded = ks.load(tmp_path / "split")
        layers = [embedding(stage.model) for stage in loaded]
        assert layers[0] is layers[1]
        assert list(loaded.shared_variables) == list(split.shared_variables)
        assert same_bits(loaded(x), model(x))

    @pytest.mark.parametrize("kind", CAUSAL)
    def test_a_step_of_training_through_the_stages_is_that_of_the_model(self, kind):
        ours, theirs = BUILDERS[kind](), BUILDERS[kind]()
        for model in (ours, theirs):
            randomize(model, 5, data(model))
        x = data(theirs)
        split = ks.split(ours, middle(ours))
        before = copied(embedding(ours).embeddings)
        train(split, ours.trainable_variables, x)
        train(theirs, theirs.trainable_variables, x)
        assert not np.array_equal(copied(embedding(ours).embeddings), before)
        assert all(
            copied(one).tobytes() == copied(other).tobytes()
            for one, other in zip(ours.trainable_variables, theirs.trainable_variables, strict=True)
        )
        assert embedding(split[0].model) is embedding(split[1].model) is ours.backbone.token_embedding


def embedding(model: keras.Model) -> Any:
    """Returns the layer of a model that turns tokens into vectors and back."""
    (layer,) = {id(one): one for one in inside(model) if one.name == "token_embedding"}.values()
    return layer


def train(model: Callable[..., Any], variables: Any, x: Any) -> None:
    """Runs one step of gradient descent, with dropout off."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.square(model(x, training=False)))
    optimizer = keras.optimizers.SGD(0.1)
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    optimizer.apply([tf.convert_to_tensor(gradient) for gradient in gradients], variables)


class TestStored:
    @pytest.mark.filterwarnings("ignore:Several stages share:UserWarning")
    @pytest.mark.parametrize("kind", [kind for kind in BUILDERS if kind not in UNSAVEABLE])
    def test_a_split_that_was_saved_computes_the_same(self, kind, tmp_path):
        model = built(kind)
        x = data(model)
        ks.split(model, middle(model)).save(tmp_path / "split")
        loaded = ks.load(tmp_path / "split")
        assert same_bits(loaded(x), model(x))

    @pytest.mark.filterwarnings("ignore:Several stages share:UserWarning")
    @pytest.mark.parametrize("kind", due([*BY_CONFIG], 3))
    def test_a_backbone_whose_layers_cannot_be_saved_is_saved_by_its_own_config(self, kind, tmp_path):
        model = BY_CONFIG[kind]()
        x = data(model)
        randomize(model, 5, x)
        split = ks.split(model, middle(model))
        split.save(tmp_path / "split")
        loaded = ks.load(tmp_path / "split")
        assert any(isinstance(stage.model, PartOfModel) for stage in loaded)
        assert same_bits(loaded(x), model(x))
        (stage,) = ks.load(tmp_path / "split", stages=["stage_1"])
        assert stage.model.count_params() == split["stage_1"].model.count_params()

    @pytest.mark.filterwarnings("ignore:Several stages share:UserWarning")
    def test_what_the_config_of_the_whole_model_lacks_ends_in_an_error_of_ours(self, tmp_path):
        model = built("llama_lm")
        with pytest.raises(ks.StoreError, match="its config makes another model: .* has another `tie_weights`"):
            ks.split(model, middle(model)).save(tmp_path / "split")

    @pytest.mark.filterwarnings("ignore:Several stages share:UserWarning")
    @pytest.mark.parametrize("kind", ["vit_classifier", "image_classifier", "gpt2_lm", "gemma_lm"])
    def test_a_task_cut_behind_its_backbone_is_saved_as_that_backbone(self, kind, tmp_path):
        """The file contains KerasHub's own config of the backbone: its layers need not be serializable."""
        model = built(kind)
        x = data(model)
        split = ks.split(model, model.backbone.name, names=["backbone", "head"])
        split.save(tmp_path / "split")
        loaded = ks.load(tmp_path / "split")
        backbones = [one for one in loaded["backbone"].model.layers if isinstance(one, type(model.backbone))]
        assert len(backbones) == 1
        assert same_bits(loaded(x), model(x))

    @pytest.mark.parametrize("kind", [kind for kind in BUILDERS if kind not in ("llama_lm", "clip")])
    def test_names_are_the_same_after_saving_and_loading_the_model(self, kind, tmp_path):
        """Except the numbers of unnamed ops and layers: KerasHub rebuilds the model, and Keras continues counting.

        KerasHub does not save that Llama's embeddings are tied, and renames CLIP's layers on loading.
        """
        model = built(kind)
        x = data(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert same_bits(loaded(x), model(x))
        named, numbered = names(model), kind in NUMBERED
        assert without_numbers(names(loaded)) == without_numbers(named)
        if not numbered:
            assert names(loaded)[len(model.inputs) :] == named[len(model.inputs) :]
            assert ks.verify(loaded, ks.split(model, middle(model)), x).check().identical


@pytest.fixture(scope="module")
def task() -> keras.Model:
    from keras_hub import layers as hub_layers

    converter = hub_layers.ResNetImageConverter(image_size=(32, 32), scale=1 / 255.0)
    return hub.ImageClassifier(
        resnet(),
        num_classes=3,
        name="flowers",
        preprocessor=hub.ResNetImageClassifierPreprocessor(image_converter=converter),
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, size=(3, 40, 36, 3)).astype("float32")


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("task") / "stages"
    ks.split(task, middle(task)).save(place)
    return place


class TestPreprocessors:
    """A task's preprocessor is in no stage, and nobody silently gets different numbers."""

    NOTE = (
        "'flowers' applies a preprocessor in its own `predict`, "
        "'ResNetImageClassifierPreprocessor', which is not part of any stage: pass `model.preprocessor(x)`. "
        "If x is already preprocessed, say so with preprocess='none' (--preprocess none)."
    )

    @pytest.mark.parametrize("loaded", [False, True])
    def test_predict_says_so_and_takes_what_they_give(self, loaded, task, pixels, folder):
        split = ks.load(folder) if loaded else ks.split(task, middle(task))
        prepared = copied(task.preprocessor(pixels))
        with pytest.warns(UserWarning, match=re.escape(self.NOTE)):
            split.predict(prepared)
        result = split.predict(prepared, preprocess="none")
        np.testing.assert_allclose(result, task.predict(pixels, verbose=0), rtol=1e-4, atol=1e-5)

    def test_input_that_does_not_fit_is_refused_with_the_way_out(self, task, pixels):
        split = ks.split(task, middle(task))
        with pytest.raises(ks.SplitError, match=re.escape(self.NOTE)):
            split.predict(pixels)
        with pytest.raises(ks.SplitError, match="There is an array of shape") as caught:
            split.predict(pixels, preprocess="none")
        assert "preprocessor" not in str(caught.value)

    def test_the_command_and_caching_say_so(self, task, pixels, folder, tmp_path):
        prepared = copied(task.preprocessor(pixels))
        np.save(tmp_path / "x.npy", prepared)
        arguments = ["run", str(folder), "--input", str(tmp_path / "x.npy"), "-o"]
        note = self.NOTE.replace("preprocess='none' (--preprocess none)", "--preprocess none")
        result = CliRunner().invoke(main, [*arguments, str(tmp_path / "y.npy")])
        assert (result.exit_code, note in result.stderr) == (0, True)
        result = CliRunner().invoke(main, [*arguments, str(tmp_path / "z.npy"), "--preprocess", "none"])
        assert (result.exit_code, "preprocessor" in result.stderr) == (0, False)
        assert same_bits(np.load(tmp_path / "y.npy"), np.load(tmp_path / "z.npy"))
        options = {"shuffle": False, "verbose": False}
        with pytest.warns(UserWarning, match=re.escape(self.NOTE)):
            ks.cache_features(task, prepared, tmp_path / "one", **options)
        found = ks.cache_features(task, pixels, tmp_path / "two", preprocess=task.preprocessor, **options)
        np.testing.assert_allclose(
            copied(found[0][0] if isinstance(found[0], tuple) else found[0]), np.load(tmp_path / "y.npy"), rtol=1e-4
        )

    def test_exports_say_so(self, task, tmp_path):
        with pytest.warns(UserWarning, match="Preprocessor', which is not exported. Pass preprocessed input"):
            ks.split(task, middle(task)).export(tmp_path / "out", format="savedmodel", verify=False)

    def test_a_tail_and_a_model_without_one_say_nothing(self, task, folder):
        assert ks.load(folder, [0]).preprocessor == "ResNetImageClassifierPreprocessor"
        assert ks.load(folder, [1]).preprocessor is None
        assert ks.split(built("image_classifier"), middle(built("image_classifier"))).preprocessor is None

    def test_a_text_task_does_not_warn_and_its_raw_texts_are_refused(self, tmp_path):
        """Texts cannot be mistaken for the preprocessor's output, tokens with masks."""
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat"]
        preprocessor = hub.BertTextClassifierPreprocessor(hub.BertTokenizer(vocabulary=words), sequence_length=LENGTH)
        backbone = hub.BertBackbone(**{**PLACED_TEXT, "vocabulary_size": len(words)})
        task = hub.BertTextClassifier(backbone, num_classes=3, preprocessor=preprocessor, name="reader")
        texts = ["a cat sat", "a cat"]
        prepared = {name: copied(value) for name, value in preprocessor(texts).items()}
        split = ks.split(task, middle(task))
        split.save(tmp_path / "stages")
        expected = task.predict(texts, verbose=0)
        for one in (split, ks.load(tmp_path / "stages")):
            assert one.preprocessor == "BertTextClassifierPreprocessor"
            np.testing.assert_allclose(one.predict(prepared), expected, rtol=1e-4, atol=1e-5)
            with pytest.raises(ks.SplitError, match="its own `predict`, 'BertTextClassifierPreprocessor'"):
                one.predict(texts)
        split.export(tmp_path / "out", format="savedmodel", verify=False)

    def test_what_serves_them_says_so(self, folder):
        pytest.importorskip("ray.serve")
        from kerassplit.engines.serve.application import app

        with pytest.warns(UserWarning, match="is not served: clients must send preprocessed inputs"):
            app({"folder": str(folder)})
        app({"folder": str(folder), "stages": "stage_1"})
        app({"folder": str(folder), "architecture": "ResNet50"})


def without_numbers(some: list[str]) -> list[str]:
    return [re.sub(r"(_\d+)+$", "", name) for name in some]


@pytest.mark.parametrize(
    ("kind", "opening"),
    [("vit", "vit_encoder"), ("mit", "hierarchical_encoder_*"), ("bert", "transformer_layer_*")],
)
def test_the_composite_layers_of_a_backbone_are_opened_by_trace(kind, opening):
    from kerassplit.graph.tracing.trace import trace

    model = built(kind)
    x = data(model)
    expected, before = model(x), fingerprint(model)
    traced = trace(model, open=opening)
    assert same_bits(traced(x), expected)
    assert len(inner_tensors(traced)) > len(inner_tensors(model))
    points = ks.split_points(traced)
    assert len(points) > len(ks.split_points(model))
    for point in points[:: max(1, len(points) // 6)]:
        assert same_bits(ks.split(traced, point)(x), expected), point.name
    del traced, points, point
    assert fingerprint(model) == before


def siglip() -> tuple[keras.Model, Any]:
    sizes = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
    vision = hub.SigLIPVisionEncoder(8, image_shape=(16, 16, 3), **sizes)
    text = hub.SigLIPTextEncoder(vocabulary_size=VOCABULARY, embedding_dim=8, max_sequence_length=LENGTH, **sizes)
    x = {"images": np.random.default_rng(3).normal(size=(3, 16, 16, 3)).astype("float32")}
    return hub.SigLIPBackbone(vision, text), x | {"token_ids": np.arange(3 * LENGTH).reshape(3, LENGTH)}


def xlnet() -> tuple[keras.Model, Any]:
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    tokens = np.arange(3 * LENGTH).reshape(3, LENGTH)
    x = {"token_ids": tokens, "padding_mask": np.ones((3, LENGTH)), "segment_ids": tokens % 2}
    return hub.XLNetBackbone(vocabulary_size=VOCABULARY, **sizes), x


def moonshine() -> tuple[keras.Model, Any]:
    sizes = {"filter_dim": 16, "hidden_dim": 16, "intermediate_dim": 32}
    layers = {f"{side}_num_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "heads")}
    sound = np.random.default_rng(3).normal(size=(3, 2000, 1)).astype("float32")
    x = {"encoder_input_values": sound, "encoder_padding_mask": np.ones((3, 2000), bool)}
    x |= {"decoder_token_ids": np.arange(15).reshape(3, 5), "decoder_padding_mask": np.ones((3, 5), bool)}
    return hub.MoonshineBackbone(vocabulary_size=VOCABULARY, **sizes, **layers), x


@pytest.mark.parametrize("make", [siglip, xlnet, moonshine], ids=lambda make: make.__name__)
def test_backbones_whose_layers_give_other_shapes_than_they_declare_are_cut_everywhere(make):
    model, x = make()
    graph, expected = read_graph(model), model(x)
    names = [tensor.name for tensor in graph.tensors if tensor.users and graph.calls[tensor.call].inputs]
    for name in names:
        assert same_bits(ks.split(model, [name], allow_crossing=True)(x), expected), name


def test_a_vision_transformer_at_another_size_needs_its_positions_interpolated():
    def backbone(shape):
        sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
        return hub.ViTBackbone(image_shape=shape, patch_size=8, **sizes)

    model = backbone((32, 32, 3))
    randomize(model)
    name = r"^'\w+' \(ViTPatchingAndEmbedding\) has an embedding for each position, 'embeddings' of shape \(17, 8\)"
    with pytest.raises(UnsupportedModelError, match=name):
        ks.with_input_shape(model, (48, 64, 3))
    result, fresh = ks.with_input_shape(model, (48, 64, 3), resize="bilinear"), backbone((48, 64, 3))
    old, new = (copied(one.layers[1].position_embedding.embeddings) for one in (model, result))
    grid = keras.ops.image.resize(old[1:].reshape(4, 4, 8), (6, 8))
    np.testing.assert_allclose(new, np.concatenate([old[:1], copied(grid).reshape(48, 8)]), rtol=1e-6, atol=1e-6)
    fresh.set_weights(result.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 48, 64, 3)).astype("float32")
    assert same_bits(result(x), fresh(x))
    others = {*map(id, result.variables)} - {*map(id, result.layers[1].variables)}
    assert others == {*map(id, model.variables)} - {*map(id, model.layers[1].variables)}
