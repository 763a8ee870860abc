"""Language models over stages generate what the models of KerasHub generate by themselves.

If KerasHub is missing, the file is skipped, except in CI.
"""

import os
import zipfile

import keras
import numpy as np
import pytest
from comparing import fingerprint, same_bits
from folders import accept_companion, chain_split
from samples import due

if "CI" in os.environ:
    import keras_hub  # noqa: F401 (its absence is an error)

from language_models import BUILDERS, hub, own_tokens, prompts, spelling_task, tiny

import kerassplit as ks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a `build.*` method implemented:UserWarning"),
    pytest.mark.filterwarnings("ignore:`compile.*` was not called as part of model loading:UserWarning"),
]
LENGTH = 256
CASES = [(kind, stages) for stages in (1, 2, 4) for kind in BUILDERS]


SAMPLERS = {
    "greedy": lambda: hub_samplers().GreedySampler(),
    "top_k": lambda: hub_samplers().TopKSampler(k=12, seed=3, temperature=4.0),
    "top_p": lambda: hub_samplers().TopPSampler(p=0.9, seed=3),
    "random": lambda: hub_samplers().RandomSampler(temperature=0.7, seed=3),
}


def hub_samplers():
    from keras_hub import samplers

    return samplers


def tokens_of(generation, inputs):
    made = generation.generate(dict(inputs), stop_token_ids=None)
    assert same_bits(made["padding_mask"], np.ones_like(inputs["padding_mask"]))
    return keras.ops.convert_to_numpy(made["token_ids"])


class TestTokens:
    @pytest.mark.parametrize(("kind", "stages"), due(CASES, 13))
    def test_they_are_those_of_the_model_itself(self, kind, stages):
        task, inputs = tiny(kind), prompts(LENGTH)
        generation = ks.split_generation(task, stages=stages)
        for sampler in ("greedy", "top_k"):  # greedily, some of these models soon repeat themselves
            task.compile(sampler=SAMPLERS[sampler]())
            expected = own_tokens(task, inputs)
            task.compile(sampler=SAMPLERS[sampler]())
            assert same_bits(tokens_of(generation, inputs), expected), sampler
        assert len(np.unique(expected[~inputs["padding_mask"]])) >= 30

    @pytest.mark.parametrize("kind", due([*BUILDERS], 14))
    def test_logits_of_a_step_are_equal_bit_for_bit_eagerly(self, kind):
        task, inputs = tiny(kind), prompts(12)
        before = fingerprint(task)
        generation = ks.split_generation(task, at=[1, 3], run_eagerly=True)
        ours, theirs = [], []

        def noted(*arguments, step=generation.stages[-1].step, **options):
            made, caches = step(*arguments, **options)
            ours.append(keras.ops.convert_to_numpy(next(iter(made.values()))))
            return made, caches

        generation.stages[-1].step = noted
        tokens_of(generation, inputs)
        call = task.call_with_cache

        def watched(*arguments, **options):
            made = call(*arguments, **options)
            theirs.append(keras.ops.convert_to_numpy(made[0]))
            return made

        task.call_with_cache = watched
        if keras.backend.backend() != "jax":  # whose loop is compiled
            task.generate_step({name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()}, None)
            assert len(ours) == len(theirs) == 10
            assert all(map(same_bits, ours, theirs))
        del task.call_with_cache, generation, noted
        assert fingerprint(task) == before

    def test_caches_take_the_bytes_of_their_blocks(self):
        generation = ks.split_generation(tiny("llama"), at=[1])
        sizes = [stage.cache_bytes(3, 100) for stage in generation.stages]
        assert sizes == [blocks * 3 * 2 * 100 * 2 * 4 * 4 for blocks in (1, 3)]  # keys and values, 2 heads of 4 floats


@pytest.fixture(scope="module")
def task():
    return spelling_task()


class TestTexts:
    @pytest.mark.parametrize("kind", due([*SAMPLERS], 2))
    def test_texts_are_those_of_the_model_s_own_generate(self, kind, task):
        generation = ks.split_generation(task, stages=2)

        def texts(one):
            task.compile(sampler=SAMPLERS[kind]())
            return [
                one.generate(["a b", "c d e f g"]),
                one.generate(["k", "x y z"], strip_prompt=True),  # draws on from there
                one.generate(["b", "c d"], stop_token_ids=[*range(5, 15)]),
            ]

        expected = texts(task)
        assert len(set("".join(map(str, expected)))) > 12
        assert texts(generation) == expected

    def test_a_model_that_is_saved_and_loaded_generates_the_same(self, task, tmp_path):
        task.compile(sampler=SAMPLERS["top_k"]())
        generation = ks.split_generation(task, stages=2)
        expected = generation.generate("a b", max_length=12)
        generation.save(tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "kerassplit.json",
            "stage_0.keras",
            "stage_1.keras",
            "task.keras",
        ]
        loaded = ks.load_generation(tmp_path / "out")
        task.compile(sampler=SAMPLERS["top_k"]())
        assert loaded.generate("a b", max_length=12) == expected == task.generate("a b", max_length=12)
        assert all(variable._value is None for variable in loaded.task.weights)
        embeddings = [stage.stage.model.get_layer("token_embedding") for stage in loaded.stages]
        assert embeddings[0] is embeddings[1]
        (tmp_path / "out" / "stage_0.keras").unlink()
        part = ks.load_generation(tmp_path / "out", stages=["stage_1"])
        with pytest.raises(ks.SplitError, match="Of 'speller' only 'stage_1' is here, and generating needs all stages"):
            part.generate("a b")
        x = keras.ops.ones((2, 1, 16))
        hidden = next(name for name in part.stages[0].stage.inputs if "transformer_layer_1" in name)
        caches = part.stages[0].new_caches(2, 8)
        tensors = {hidden: x, "cache_update_index": keras.ops.convert_to_tensor(np.int32(0))}
        made, _ = part.stages[0].step(tensors, caches)
        expected, _ = generation.stages[1].step(tensors, caches)
        assert same_bits(*(keras.ops.convert_to_numpy(next(iter(one.values()))) for one in (made, expected)))

    @pytest.mark.parametrize("kind", due([*BUILDERS], 14))
    def test_every_kind_is_saved(self, kind, tmp_path):
        generation, inputs = ks.split_generation(tiny(kind), stages=2, run_eagerly=True), prompts(6, (5, 3))
        generation.save(tmp_path / "out")
        loaded = ks.load_generation(tmp_path / "out", run_eagerly=True)
        assert same_bits(tokens_of(loaded, inputs), tokens_of(generation, inputs))


class TestRefused:
    def test_searches_by_name(self, task):
        samplers = hub_samplers()
        for sampler in (samplers.BeamSampler(num_beams=2), samplers.ContrastiveSampler(k=2, alpha=0.5)):
            task.compile(sampler=sampler)
            with pytest.raises(ks.SplitError, match=rf"{type(sampler).__name__} chooses among several continuations"):
                ks.split_generation(task, stages=2)
        task.compile(sampler="greedy")

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({}, "Say how many `stages` to make"),
            ({"stages": 2, "at": [1]}, "and not both"),
            ({"stages": 5}, "has 4 blocks, so `stages` must be from 1 to 4; got 5"),
            ({"stages": True}, "must be from 1 to 4; got True"),
            ({"at": [0]}, "from 1 to 3 as there are 4; got .0."),
            ({"at": [3, 1]}, "in order"),
            ({"at": ["a"]}, "must list blocks"),
        ],
    )
    def test_splits_that_are_none(self, task, options, told):
        with pytest.raises(ks.SplitError, match=told):
            ks.split_generation(task, **options)

    def test_models_without_caches_or_with_more_than_text(self):
        with pytest.raises(ks.UnsupportedModelError, match="'dense' .Dense. is not a causal language model"):
            ks.split_generation(keras.layers.Dense(2, name="dense"), stages=2)
        sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4}
        bert = hub.BertBackbone(vocabulary_size=5, max_sequence_length=4, **sizes)
        with pytest.raises(ks.UnsupportedModelError, match="BertTextClassifier. is not a causal language model"):
            ks.split_generation(hub.BertTextClassifier(bert, num_classes=2), stages=1)

    def test_prompts_without_tokens(self, task):
        generation = ks.split_generation(tiny("llama"), stages=1, run_eagerly=True)
        with pytest.raises(ks.SplitError, match="A prompt has no tokens"):
            generation.generate(prompts(8, (3, 0)), stop_token_ids=None)

    def test_folders_of_another_kind(self, task, tmp_path):
        ks.split_generation(task, stages=1).save(tmp_path / "text")
        chain_split().save(tmp_path / "split")
        with pytest.raises(ks.StoreError, match="holds a language model. Load it with `kerassplit.load_generation"):
            ks.load(tmp_path / "text")
        with pytest.raises(ks.StoreError, match="holds no language model, but a split"):
            ks.load_generation(tmp_path / "split")
        with (tmp_path / "text" / "task.keras").open("r+b") as file:
            file.write(b"x")
        with pytest.raises(ks.StoreError, match="task.keras is damaged or not the file that was saved"):
            ks.load_generation(tmp_path / "text")

    def test_a_task_that_brings_code(self, task, tmp_path):
        ks.split_generation(task, stages=1).save(tmp_path / "text")
        path = tmp_path / "text" / "task.keras"
        with zipfile.ZipFile(path) as archive:
            made = {name: archive.read(name) for name in archive.namelist()}
        config = made["config.json"].decode()
        start = config.index('"sampler": ') + len('"sampler": ')
        code = '{"class_name": "Lambda", "module": "keras.layers", "config": {"function": {"class_name": "__lambda__", '
        code += '"config": {"value": ["4wAAAAA=", null, null]}}}, "registered_name": null}'
        made["config.json"] = (config[:start] + code + "}}").encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in made.items():
                archive.writestr(name, content)
        accept_companion(tmp_path / "text")
        with pytest.raises(ks.StoreError, match=r"contains code|cannot load"):
            ks.load_generation(tmp_path / "text")
