"""Random graphs with branches, merges, shared layers, nested models and masks, drawn by Hypothesis."""

import warnings

import keras
import numpy as np
from applications import OLD_KERAS
from hypothesis import HealthCheck, settings, strategies as st

layers, ops = keras.layers, keras.ops
places = st.integers(0, 10**6)
INPUTS = {
    "vector": ((3,), "float32"),
    "sequence": ((4, 3), "float32"),
    "ids": ((4,), "int32"),
    "flags": ((3,), "bool"),
    "half": ((3,), "float16"),
}
KINDS = {(1 + len(shape), dtype): kind for kind, (shape, dtype) in INPUTS.items()}
FLAT = {
    "dense": (["vector"], lambda name, x: layers.Dense(3, name=name)(x)),
    "relu": (["vector"], lambda name, x: layers.ReLU(name=name)(x)),
    "add": (["vector", "vector"], lambda name, x, y: layers.Add(name=name)([x, y])),
    "join": (
        ["vector", "vector"],
        lambda name, x, y: layers.Dense(3, name=f"{name}_dense")(layers.Concatenate(name=name)([x, y])),
    ),
    "op": (["vector", "vector"], lambda name, x, y: x * 0.5 + y),
    "two": (["vector"], lambda name, x: ops.split(layers.Dense(6, name=name)(x), 2, axis=-1)),
}
MORE = FLAT | {
    "norm": (["vector"], lambda name, x: layers.BatchNormalization(name=name)(x)),
    "pool": (["sequence"], lambda name, x: layers.GlobalAveragePooling1D(name=name)(x)),
    "repeat": (["vector"], lambda name, x: layers.RepeatVector(4, name=name)(x)),
    "mix": (["sequence"], lambda name, x: layers.Dense(3, name=name)(x)),
    "merge": (["sequence", "sequence"], lambda name, x, y: layers.Multiply(name=name)([x, y])),
    "attention": (
        ["sequence", "sequence"],
        lambda name, x, y: layers.MultiHeadAttention(1, 2, name=name)(x, y),
    ),
    "lstm": (["sequence"], lambda name, x: layers.LSTM(3, name=name, return_sequences=True)(x)),
    "last": (["sequence"], lambda name, x: layers.LSTM(3, name=name)(x)),
    "embed": (["ids"], lambda name, x: layers.Embedding(9, 3, name=name)(x)),
    "count": (["ids"], lambda name, x: ops.minimum(x + 1, 8)),
    "larger": (["vector", "vector"], lambda name, x, y: ops.greater(x, y)),
    "not": (["flags"], lambda name, x: ops.logical_not(x)),
    "where": (["flags", "vector"], lambda name, x, y: ops.where(x, y, 0.5)),
    "wide": (["half"], lambda name, x: ops.cast(x, "float32")),
}
HALF = {
    "narrow": (["vector"], lambda name, x: ops.cast(x, "float16")),
    "half_dense": (["half"], lambda name, x: layers.Dense(3, dtype="float16", name=name)(x)),
    "mixed": (["vector"], lambda name, x: layers.Dense(3, dtype="mixed_float16", name=name)(x)),
}
MASKS = {
    "embed_masked": (["ids"], lambda name, x: layers.Embedding(9, 3, mask_zero=True, name=name)(x)),
    "masking": (["sequence"], lambda name, x: layers.Masking(0.0, name=name)(x)),
    "fixed": (["sequence"], lambda name, x: layers.LSTM(3, name=name, return_sequences=True)(x, training=False)),
}
HAS_HALF = keras.backend.backend() != "torch"
EVERYTHING = MORE | MASKS | (HALF if HAS_HALF else {})
SHARED = {
    "shared": ("vector", lambda name: layers.Dense(3, name=name)),
    "shared_relu": ("vector", lambda name: layers.ReLU(name=name)),
    "shared_lstm": ("sequence", lambda name: layers.LSTM(3, return_sequences=True, name=name)),
}


def recipes_of(calls, inputs, depth=0, **more):
    """Recipes for `build` from these calls and inputs, with models nested `depth` deep."""
    inner = recipes_of(calls, [kind for kind in inputs if kind != "half" or more], depth - 1, **more) if depth else None
    calls = [*calls, *(["nested"] * 6 if depth else [])]
    return st.fixed_dictionaries(
        {
            "inputs": st.lists(st.sampled_from(inputs), min_size=1, max_size=3),
            "calls": st.lists(
                st.tuples(st.sampled_from(calls), places, places), min_size=1, max_size=8 if depth else 12
            ),
            "early_output": st.none() | places,
            "as_dict": st.booleans(),
            "nested": st.lists(inner | chains, min_size=1, max_size=2) if inner is not None else st.just([]),
            **more,
        }
    )


chains = st.fixed_dictionaries({"chain": st.lists(st.sampled_from(["dense", "relu"]), min_size=1, max_size=3)})
recipes = recipes_of([*FLAT, "add", "dense", "shared", "shared_relu"], ["vector"])
"""Flat models over vectors."""
plain = recipes_of([*MORE, *FLAT, *SHARED], ["vector", "vector", "sequence", "ids"], 2)
"""Nested ones, without what Keras keeps out of the config: masks, and casts at the doors of nested models."""
whole = recipes_of([*EVERYTHING, *MASKS, *FLAT, *SHARED], [kind for kind in INPUTS if HAS_HALF or kind != "half"], 2)
"""All kinds of calls, at any depth."""
wild = recipes_of(
    [*EVERYTHING, *MASKS, *FLAT, *SHARED],
    [kind for kind in INPUTS if HAS_HALF or kind != "half"],
    2,
    dropped=st.integers(0, 2),
    lent=st.booleans(),
    training=st.sampled_from([None, False]),
)
"""Besides, outputs that lead nowhere, nested models that use layers of the model around, and a fixed `training`."""


def build(recipe, name=None, lent=None):
    """Builds the functional model of a recipe. Calls without a suitable tensor are left out."""
    if "chain" in recipe:
        return chain(recipe, name)
    prefix = f"{name}_" if name else ""  # a cut through a nested model puts its layers beside those around it
    inputs = [
        keras.Input(INPUTS[kind][0], dtype=INPUTS[kind][1], name=f"in{number}")
        for number, kind in enumerate(recipe["inputs"])
    ]
    tensors, used = list(inputs), set()
    shared = lent if lent is not None and recipe.get("lent") else {}

    def take(kinds, *chosen):
        found = []
        for number, kind in enumerate(kinds):
            fitting = [tensor for tensor in tensors if kind_of(tensor) == kind]
            if not fitting:
                return None
            place = chosen[number % 2] // (number // 2 + 1)
            recent = fitting[-3:][::-1] if number == 0 else fitting
            found.append(recent[place % len(recent)])
        used.update(map(id, found))
        return found

    for number, (kind, first, second) in enumerate(recipe["calls"]):
        given, call = [], None
        if kind == "nested":
            which = first % len(recipe["nested"])
            key = f"{prefix}nested{which}"
            if key not in shared:
                shared[key] = build(recipe["nested"][which], key, {k: v for k, v in shared.items() if k in SHARED})
            model = shared[key]
            given = take([kind_of(tensor) for tensor in model.inputs], second, first // 7)
            if given is not None:
                keywords = {} if recipe.get("training") is None else {"training": recipe["training"]}
                made = call_nested(model, given, keywords)
        elif kind in SHARED:
            given = take([SHARED[kind][0]], first)
            if given is not None:
                if kind not in shared:
                    shared[kind] = SHARED[kind][1](prefix + kind)
                made = shared[kind](*given)
        else:
            kinds, call = EVERYTHING[kind]
            given = take(kinds, first, second)
            if given is not None:
                made = call(f"{prefix}{kind}{number}", *given)
        if given is not None:
            known = {id(tensor) for tensor in tensors}
            tensors += [tensor for tensor in keras.tree.flatten(made) if id(tensor) not in known]
    made = tensors[len(inputs) :]
    if not made:
        made = [layers.Identity(name=f"{prefix}identity")(inputs[0])]
        used.add(id(inputs[0]))
    outputs = [tensor for tensor in made if id(tensor) not in used]
    outputs = outputs[: max(1, len(outputs) - recipe.get("dropped", 0))]
    if recipe["early_output"] is not None:
        outputs.append(made[recipe["early_output"] % len(made)])
    outputs = list({id(tensor): tensor for tensor in outputs}.values())
    if "dropped" not in recipe or OLD_KERAS:  # which refuses inputs that nothing takes
        inputs = [tensor for tensor in inputs if id(tensor) in used]
    return keras.Model(
        inputs, {f"out{i}": t for i, t in enumerate(outputs)} if recipe["as_dict"] else outputs, name=name
    )


def chain(recipe, name):
    """A Sequential model."""
    steps = [
        layers.Dense(3, name=f"{name}_dense{n}") if kind == "dense" else layers.ReLU(name=f"{name}_relu{n}")
        for n, kind in enumerate(recipe["chain"])
    ]
    return keras.Sequential([keras.Input((3,)), *steps], name=name)


def call_nested(model, given, keywords):
    structure = given[0] if isinstance(model, keras.Sequential) else given
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer '.*' .* was passed an input with a mask", UserWarning)
        return model(structure, **keywords)


def kind_of(tensor):
    return KINDS.get((len(tensor.shape), tensor.dtype))


def examples(count):
    """Settings for a property; the profile `long` multiplies the number of examples."""
    return settings(
        max_examples=count * settings.default.max_examples // 100,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        report_multiple_bugs=False,
        derandomize=settings.get_current_profile_name() != "long",
    )


EXAMPLES = examples(30)


def data_for(model):
    generator = np.random.default_rng(0)
    data = []
    for tensor in model.inputs:
        shape = (2, *tensor.shape[1:])
        if tensor.dtype == "int32":
            data.append(generator.integers(0, 4, size=shape).astype("int32"))
        elif tensor.dtype == "bool":
            data.append(generator.integers(0, 2, size=shape).astype(bool))
        else:
            values = generator.normal(size=shape).astype(tensor.dtype)
            data.append(values * (generator.random((2, *shape[1:-1], 1)) < 0.7) if len(shape) == 3 else values)
    return data
