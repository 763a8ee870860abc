"""What travels over links: inputs as files, tensors as messages, links with two bandwidths. Plans equal brute force."""

import json
import math
import random
from dataclasses import replace
from itertools import pairwise

import keras
import menagerie
import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from PIL import Image
from plan_oracle import Oracle
from random_models import build, examples, recipes
from small_models import narrow, transformer

import kerassplit as ks
from kerassplit import wire
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.photos import shipped_photo

UNPACKED = [form for form in wire.FORMS if "+" not in form]
PHONE, SERVER = ks.Device("phone", "10 MFLOPS"), ks.Device("server", "1 GFLOPS")


def chain(widths, samples=None):
    x = inputs = keras.Input((16,), samples, name="x")
    for number, width in enumerate(widths):
        x = keras.layers.Dense(width, name=f"dense{number}")(x)
    return keras.Model(inputs, x, name="chain")


def of_photos(shape=(32, 32, 3), name="photo", dtype="float32"):
    x = inputs = keras.Input(shape, name=name, dtype=dtype)
    for number in range(3):
        x = keras.layers.Conv2D(8, 3, strides=2, name=f"conv{number}")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="of_photos")


def sizes(model, profile, compression, input_bytes):
    """Returns the bytes of each tensor on a link, and of a message besides, by the definitions."""
    names = [tensor.name for tensor in read_graph(model).tensors]
    found, message = [tensor.bytes for tensor in profile.tensors], 0
    if isinstance(compression, int):
        found = [size / compression for size in found]
    elif compression is not None:
        arrays = [np.ones(tensor.shape, tensor.dtype) for tensor in profile.tensors]
        message = len(wire.pack({}, compression))
        found = [
            len(wire.pack({name: array}, compression)) - message for name, array in zip(names, arrays, strict=True)
        ]
    for name, size in input_bytes.items():
        found[names.index(name)] = size * profile.batch_size
    return found, message


def question_of(model, profile, seed):
    """Random devices and links, as the planner and the oracle take them."""
    dice = random.Random(seed)
    count = dice.choice([2, 2, 3])
    speeds = [profile.flops / dice.uniform(0.5, 3) for _ in range(count)]
    inputs = [read_graph(model).tensors[one].name for one in profile.inputs]
    compression = dice.choice([None, 2, *UNPACKED])
    any_order = dice.random() < 0.3
    input_bytes = {name: dice.choice([0, 7, 40, 300]) for name in inputs if dice.random() < 0.6 and not any_order}
    input_seconds = {name: dice.uniform(0, 0.5) for name in inputs if dice.random() < 0.4 and not any_order}
    sent, message = sizes(model, profile, compression, input_bytes)
    link = (max(sent) / dice.uniform(0.01, 1), dice.choice([0.0, 0.05]))
    down = link[0] * dice.choice([0.2, 5]) if dice.random() < 0.5 else None
    objective = dice.choice(["throughput", "latency", "energy"])
    costs = {"overheads": [dice.choice([0.0, 0.1]) for _ in speeds], "powers": [(dice.random(), 2.0) for _ in speeds]}
    common = {
        "objective": objective,
        "overlap": objective == "throughput" and dice.random() < 0.4,
        "leave_out": dice.random() < 0.6,
        "any_order": any_order,
    }
    decoding = {profile.inputs[inputs.index(name)]: seconds for name, seconds in input_seconds.items()}
    more = {"compression": compression, "input_bytes": input_bytes or None, "input_seconds": input_seconds or None}
    return speeds, link, down, common, {"sent": sent, "message": message, "unpacking": decoding, **costs}, more


def devices_of(speeds, *, overheads=None, powers=None, **_):
    return [
        ks.Device(
            f"d{place}",
            speed,
            overhead=overheads[place] if overheads else 0.0,
            watts=powers[place][0] if powers else None,
            sending_watts=powers[place][1] if powers else None,
        )
        for place, speed in enumerate(speeds)
    ]


def require_the_best(model, profile, seed, max_crossing):
    """Checks that the plan is as good as the best by brute force; returns True if there is one."""
    speeds, link, down, common, costs, more = question_of(model, profile, seed)
    memories = [math.inf] * len(speeds)
    oracle = Oracle(model, profile, speeds, link, memories, max_crossing=max_crossing, down=down, **common, **costs)
    best = oracle.best()
    links = ks.Link(*link, down=down if common["any_order"] else None)
    options = {"links": links, "max_crossing": max_crossing, "batch_size": 2, "profile": profile, **common, **more}
    try:
        plan = ks.plan(model, devices_of(speeds, **costs), **options)
    except ks.PlanError as error:
        assert best == math.inf, str(error)
        return False
    assert plan.value == pytest.approx(best, rel=1e-9)
    assert plan.optimal
    return True


@examples(60)
@given(recipes, st.integers(0, 10**6), st.sampled_from([1, 2, "any"]))
def test_no_plan_of_a_random_model_is_better(recipe, seed, max_crossing):
    model = build(recipe)
    profile = ks.profile(model, 2)
    assume(profile.flops and len(profile.calls) <= 8)
    require_the_best(model, profile, seed, max_crossing)


@pytest.mark.parametrize("max_crossing", [1, 2, "any"])
@pytest.mark.parametrize(
    "kind",
    [menagerie.two_towers, menagerie.input_that_only_the_tail_needs, menagerie.input_used_on_both_sides],
    ids=lambda kind: kind.__name__,
)
def test_no_plan_for_several_inputs_is_better(kind, max_crossing):
    model = kind().model
    profile = ks.profile(model, 2)
    assert [require_the_best(model, profile, seed, max_crossing) for seed in range(12)].count(True) >= 5


# Messages.


@pytest.fixture(scope="module")
def mobilenet():
    return keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, name="mobilenet")


@pytest.fixture(scope="module")
def activations(mobilenet):
    names = [point.name for point in ks.split_points(mobilenet)]
    made = ks.tap(mobilenet, names).predict(np.random.default_rng(0).random((2, 64, 64, 3), "float32"), verbose=0)
    return {name: np.asarray(made[name]) for name in names}


@pytest.mark.parametrize("form", UNPACKED)
def test_the_bytes_that_cross_are_those_of_the_message_at_every_split_point(mobilenet, activations, form):
    options = {"links": ks.Link("1 MB/s"), "compression": form, "batch_size": 2}
    plan = ks.plan(mobilenet, [PHONE, SERVER], must_cut="block_6_expand_relu", **options)
    expected = {name: len(wire.pack({name: array}, form)) for name, array in activations.items()}
    assert {name: cut.bytes for cut in plan.cuts for name in cut.names} == expected
    first, second = plan.stages
    assert first.crossing_bytes == expected["block_6_expand_relu"]
    assert second.receive == pytest.approx(first.crossing_bytes / 1e6)


@pytest.mark.parametrize("form", UNPACKED)
def test_several_tensors_cross_in_one_message(form):
    model = menagerie.unet().model
    names = ["down0", "down1", "down2"]
    options = {"max_crossing": "any", "must_cut": [names], "links": ks.Link("1 kB/s", "2 s"), "compression": form}
    plan = ks.plan(model, [PHONE, SERVER], **options)
    shapes = {tensor.name: tensor.shape for tensor in ks.profile(model).tensors}
    sent = len(wire.pack({name: np.ones(shapes[name], "float32") for name in names}, form))
    assert plan.stages[0].crossing_bytes == sent
    assert plan.stages[1].receive == pytest.approx(2 + sent / 1000)


@pytest.mark.parametrize("form", ["float32", "int8"])
@pytest.mark.parametrize("late", [False, True])
def test_masks_and_inputs_that_both_sides_use_are_in_the_message(form, late):
    model = transformer(narrow, late=late)
    tensors = {tensor.name: np.ones(tensor.shape, tensor.dtype) for tensor in ks.profile(model).tensors}
    plan = ks.plan(model, [PHONE, SERVER], links=ks.Link("1 MB/s"), compression=form)
    for cut in plan.cuts:
        received = ks.split(model, list(cut.names))[1].inputs
        assert cut.bytes == len(wire.pack({name: tensors[name] for name in received}, form)), cut


def test_the_largest_crossing_counts_the_whole_message(mobilenet, activations):
    size = len(wire.pack({"block_6_project_BN": activations["block_6_project_BN"]}, "int8"))
    options = {"compression": "int8", "batch_size": 2, "must_cut": "block_6_project_BN"}
    for most in (1, 2):
        plan = ks.plan(mobilenet, [PHONE, SERVER], largest_crossing=size, max_crossing=most, **options)
        assert plan.stages[0].crossing_bytes == size
        with pytest.raises(ks.PlanError, match=f"he largest crossing has to be {size} bytes"):
            ks.plan(mobilenet, [PHONE, SERVER], largest_crossing=size - 1, max_crossing=most, **options)


# Inputs.


def test_an_input_is_sent_as_a_file():
    model, devices, link = of_photos(), [PHONE, ks.Device("server", "1 TFLOPS")], ks.Link("1 MB/s", "10 ms")
    for batch_size in (1, 4):
        options = {"links": link, "objective": "latency", "batch_size": batch_size}
        plan = ks.plan(model, devices, input_bytes="2 KB", input_seconds="3 ms", **options)
        (stage,) = plan.stages
        assert stage.device == "server"
        assert stage.receive == pytest.approx(0.01 + batch_size * 2000 / 1e6 + 0.003)
        by_name = {"input_bytes": {"photo": 2000}, "input_seconds": {model.inputs[0]: 0.003}}
        assert ks.plan(model, devices, **by_name, **options) == plan
        (sent,) = plan.inputs
        assert (sent.bytes, sent.tensor_bytes) == (batch_size * 2000, batch_size * 32 * 32 * 3 * 4)
        assert (sent.name, sent.dtype, sent.seconds, sent.given, sent.jpeg_bytes) == (
            "photo",
            "float32",
            0.003,
            True,
            None,
        )


def test_an_input_that_passes_through_stages_is_decoded_by_each_device_that_receives_it():
    early, late = keras.Input((16,), name="early"), keras.Input((4,), name="late")
    x = keras.layers.Dense(8, name="second")(keras.layers.Dense(8, name="first")(early))
    x = keras.layers.Dense(8, name="third")(keras.layers.Concatenate(name="both")([x, late]))
    model, devices = keras.Model([early, late], x), devices_of([1e6, 1e6, 1e6])
    options = {"links": ks.Link("1 MB/s"), "objective": "latency", "leave_out": False, "must_cut": ["first", "second"]}
    plain = ks.plan(model, devices, input_bytes={"late": 100}, **options)
    assert plain.stages[2].receive == pytest.approx((8 * 4 + 100) / 1e6)
    decoded = ks.plan(model, devices, input_bytes={"late": 100}, input_seconds={"late": "1 ms"}, **options)
    assert decoded.value == pytest.approx(plain.value + 0.002)


def test_compression_does_not_touch_an_input_sent_as_a_file():
    model, devices = of_photos(), [PHONE, ks.Device("server", "1 TFLOPS")]
    options = {"links": ks.Link("1 MB/s"), "objective": "latency"}
    plain = ks.plan(model, devices, input_bytes=500, **options)
    assert ks.plan(model, devices, input_bytes=500, compression=2, **options).value == plain.value
    (stage,) = ks.plan(model, devices, input_bytes=500, compression="int8", **options).stages
    assert stage.receive == pytest.approx((500 + len(wire.pack({}))) / 1e6)


def test_strings_can_be_sent_where_their_size_is_given():
    model = menagerie.strings_looked_up().model
    seconds = dict.fromkeys([block.name for block in ks.profile(model).blocks], 1.0)
    devices = [ks.Device(name, seconds=seconds) for name in "ab"]
    with pytest.raises(ks.SplitError, match="it holds strings"):
        ks.plan(model, devices, links=ks.Link("1 MB/s"))
    words, numbers = ks.plan(model, devices, links=ks.Link("1 MB/s"), input_bytes={"word": 80}).inputs
    assert (words.name, words.bytes, words.tensor_bytes, words.given) == ("word", 80, None, True)
    assert (numbers.name, numbers.bytes, numbers.given) == ("number", 24, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_bytes": "30 kg"}, "The size of an input '30 kg' has the unit 'kg'. Expected bytes"),
        ({"input_bytes": -1}, "The size of an input is -1. It must be 0 or more"),
        ({"input_bytes": [1]}, r"The size of an input is \[1\]. Expected bytes"),
        ({"input_seconds": "5 KB"}, "The time of an input '5 KB' has the unit 'KB'. Expected seconds"),
        ({"input_bytes": {"image": 1}}, "'image', which is no input of 'of_photos'. Its inputs are 'photo'."),
        ({"input_seconds": {"conv1": 1}}, "`input_seconds` names 'conv1', which is no input of 'of_photos'."),
        ({"input_bytes": 1, "links": None}, "sending inputs of the model over links, but there are no links, so"),
        ({"input_seconds": 1, "links": None}, r"`links` \(--link\), or leave `input_seconds` \(--input-seconds\) out."),
        ({"input_bytes": 1, "any_order": True}, "but in any order, inputs are available wherever they are needed, so"),
    ],
)  # fmt: skip
def test_nonsense_about_inputs_is_refused(arguments, message):
    with pytest.raises(ks.SplitError, match=message):
        ks.plan(of_photos(), [PHONE, SERVER], **{"links": ks.Link("1 MB/s"), **arguments})


def test_of_several_inputs_each_is_named(small):
    with pytest.raises(ks.SplitError) as error:
        ks.plan(small, [PHONE, SERVER], links=ks.Link("1 MB/s"), input_bytes="30 KB")
    assert str(error.value).endswith(
        "has 2 inputs: 'image' and 'extra'. Say which it is about: input_bytes={'image': '30 KB'} "
        "(--input-bytes 'image: 30 KB')."
    )


# What plans say of inputs.


def test_pictures_that_travel_as_floats_are_reported_with_both_figures():
    options = {"links": ks.Link("1 MB/s"), "objective": "latency"}
    plan = ks.plan(of_photos((224, 224, 3)), [PHONE, SERVER], **options)
    (sent,) = plan.inputs
    assert (sent.bytes, sent.tensor_bytes, sent.given) == (602_112, 602_112, False)
    assert sent.jpeg_bytes == pytest.approx(16_200, rel=0.01)
    remark = (
        "The input 'photo' travels as 602,112 bytes of float32. A JPEG of 'photo' takes about 16 KB: if photographs "
        "arrive as files, say input_bytes='16 KB' (--input-bytes '16 KB')."
    )
    assert remark in " ".join(str(plan).split())
    sweep = ks.plan_sweep(of_photos((224, 224, 3)), [PHONE, SERVER])
    assert " ".join(str(sweep).split()).count(remark) == 1
    assert sweep.inputs == plan.inputs
    packed = ks.plan(of_photos((224, 224, 3)), [PHONE, SERVER], compression=4, batch_size=8, **options)
    assert "travels as 8 × 150,528 bytes (602,112 as float32). A JPEG" in " ".join(str(packed).split())


def test_with_input_bytes_a_plan_says_what_was_taken():
    options = {"input_bytes": "30 KB", "batch_size": 2}
    plan = ks.plan(of_photos((224, 224, 3)), [PHONE, SERVER], links=ks.Link("1 MB/s"), **options)
    sweep = ks.plan_sweep(of_photos((224, 224, 3)), [PHONE, SERVER], **options)
    for shown in (plan, sweep):
        text = " ".join(str(shown).split())
        assert "The input 'photo' travels as 2 × 30,000 bytes (602,112 as float32)." in text
        assert "JPEG" not in text


@pytest.mark.parametrize(
    ("compression", "sentence"),
    [("int8", "Tensors are sent as int8."), (8, "Tensors are sent 8 times smaller than they are."), (None, "")],
)
def test_a_plan_says_how_tensors_are_sent(tmp_path, compression, sentence):
    options = {"input_bytes": "30 KB", "compression": compression}
    plan = ks.plan(of_photos(), [PHONE, SERVER], links=ks.Link("1 MB/s"), **options)
    sweep = ks.plan_sweep(of_photos(), [PHONE, SERVER], **options)
    for number, made in enumerate((plan, sweep)):
        text = " ".join(str(made).split())
        assert sentence in text and ("Tensors are sent" in text) == bool(sentence)
        made.save(tmp_path / f"{number}.json")
        assert type(made).load(tmp_path / f"{number}.json").compression == compression
    title = sweep.plot().figure.axes[0].get_title("left")
    assert title == f"{sentence} The input 'photo' travels as 30,000 bytes (12,288 as float32).".strip()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_the_estimate_for_a_jpeg_is_what_the_shipped_photograph_takes(tmp_path, channels, mode):
    with shipped_photo().open("rb") as file:
        Image.open(file).convert(mode).save(tmp_path / "photo.png")
    (measured,) = ks.encoded_bytes(tmp_path / "photo.png", size=(224, 224))
    model = of_photos((224, 224, channels))
    (sent,) = ks.plan(model, [PHONE, SERVER], links=ks.Link("1 MB/s"), batch_size=3).inputs
    assert sent.jpeg_bytes == pytest.approx(3 * measured, rel=0.01)


@pytest.mark.parametrize(
    "asked",
    [
        lambda: ks.plan(of_photos(), [PHONE, SERVER]),  # no links
        lambda: ks.plan(of_photos(), PHONE, links=ks.Link("1 MB/s")),  # nowhere to go
        lambda: ks.plan(of_photos(), [PHONE, SERVER], links=ks.Link("1 MB/s"), any_order=True),
        lambda: ks.plan(of_photos(dtype="uint8"), [PHONE, SERVER], links=ks.Link("1 MB/s")),
        lambda: ks.plan(of_photos((32, 32, 5)), [PHONE, SERVER], links=ks.Link("1 MB/s")),
        lambda: ks.plan(chain([4, 4]), [PHONE, SERVER], links=ks.Link("1 MB/s")),
    ],
)
def test_what_is_no_picture_or_need_not_travel_is_not_reported(asked):
    assert "travels" not in str(asked())


def test_pictures_are_recognized_with_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        x = keras.Input((3, 32, 32), name="photo")
        model = keras.Model(x, keras.layers.Flatten(name="flat")(keras.layers.ReLU(name="relu")(x)))
        (sent,) = ks.plan(model, [PHONE, SERVER], links=ks.Link("1 MB/s")).inputs
    finally:
        keras.config.set_image_data_format("channels_last")
    (same,) = ks.plan(of_photos(), [PHONE, SERVER], links=ks.Link("1 MB/s")).inputs
    assert sent.jpeg_bytes == same.jpeg_bytes > 0


def test_plans_and_sweeps_of_earlier_versions_have_no_inputs(tmp_path):
    options = {"input_bytes": "2 KB", "compression": "int8"}
    plan = ks.plan(of_photos(), [PHONE, SERVER], links=ks.Link("1 MB/s"), **options)
    sweep = ks.plan_sweep(of_photos(), [PHONE, SERVER], **options)
    for made, kind in ((plan, ks.Plan), (sweep, ks.Sweep)):
        made.save(tmp_path / "made.json")
        assert kind.load(tmp_path / "made.json") == made
        assert made.inputs[0].bytes == 2000
        content = json.loads((tmp_path / "made.json").read_text())
        assert content["inputs"][0]["given"] is True
        for one in (content, *content.get("front", ())):
            del one["inputs"]
        (tmp_path / "made.json").write_text(json.dumps(content))
        assert kind.load(tmp_path / "made.json").inputs == ()
        (tmp_path / "made.json").write_text(json.dumps(content | {"batch_size": 0}))
        with pytest.raises(ks.SplitError, match="no samples"):
            kind.load(tmp_path / "made.json")


# Links with two bandwidths.


def test_with_two_bandwidths_going_back_costs_another_time():
    table = {"dense0": 1.0, "dense1": math.inf}, {"dense0": math.inf, "dense1": 1.0}
    late, early = (ks.Device(name, seconds=seconds) for name, seconds in zip(("late", "early"), table, strict=True))
    model = chain([25, 4])
    link = ks.Link("1 kB/s", "3 s", down="10 kB/s")
    forward = ks.plan(model, [late, early], links=link, any_order=True)
    back = ks.plan(model, [early, late], links=link, any_order=True)
    assert forward.stages[0].send == pytest.approx(3 + 0.1)
    assert back.stages[0].send == pytest.approx(3 + 0.01)
    pairs = {("early", "late"): ks.Link("1 kB/s", "3 s"), ("late", "early"): ks.Link("10 kB/s", "3 s")}
    assert ks.plan(model, [early, late], links=pairs, any_order=True).value == back.value
    both_ways = ks.plan(model, [early, late], links=ks.Link("1 kB/s", "3 s"), any_order=True)
    assert both_ways.value == forward.value


def test_of_several_links_each_goes_one_way():
    link = ks.Link("1 MB/s", down="2 MB/s")
    with pytest.raises(ks.SplitError, match="A link of several has `down`, .* Leave it out: nothing goes back"):
        ks.plan(chain([4, 4]), [PHONE, SERVER], links=[link])
    with pytest.raises(ks.SplitError, match="Give the pair in the other order a link of its own."):
        ks.plan(chain([4, 4]), [PHONE, SERVER], links={("phone", "server"): link})
    with pytest.raises(ks.SplitError, match=r"a bandwidth `down`, but nothing goes back .* or pass any_order=True"):
        ks.plan(chain([4, 4]), [PHONE, SERVER], links=link)
    with pytest.raises(ks.SplitError, match="The bandwidth down of a link is 0. It must be more than 0"):
        ks.Link("1 MB/s", down=0)


# Sweeps.


def require_exact(sweep, best_at, low, high, dice):
    """Checks a sweep against the value of the best plan at a bandwidth: at its breakpoints, and at random."""
    assert (sweep.ranges[0].low, sweep.ranges[-1].high) == (low, high)
    assert all(one.low < one.high == other.low for one, other in pairwise(sweep.ranges))
    for one in sweep.ranges:
        for bandwidth in (one.low, one.high, math.sqrt(one.low * one.high)):
            assert one.value(bandwidth) == pytest.approx(best_at(bandwidth), rel=1e-9), bandwidth
    for bandwidth in (low * (high / low) ** dice.random() for _ in range(4)):
        assert sweep.best(bandwidth).value(bandwidth) == pytest.approx(best_at(bandwidth), rel=1e-9), bandwidth


def swept(model, seed, max_crossing, objective):
    """Sweeps a model for random devices, and checks the sweep; returns the number of its ranges."""
    dice, profile = random.Random(seed), ks.profile(model, 2)
    speeds, (_, latency), _, common, costs, more = question_of(model, profile, seed)
    common |= {"objective": objective, "overlap": objective == "throughput" and dice.random() < 0.5}
    if objective == "throughput":  # which is swept for two devices in a given order
        speeds, common["any_order"] = speeds[:2], False
    options = {"bandwidths": (1, 1e6), "latency": latency, "max_crossing": max_crossing, "profile": profile}
    sweep = ks.plan_sweep(model, devices_of(speeds, **costs), **options, **common, **more)

    def best_at(bandwidth):
        memories = [math.inf] * len(speeds)
        link = (bandwidth, latency)
        return Oracle(model, profile, speeds, link, memories, max_crossing=max_crossing, **common, **costs).best()

    require_exact(sweep, best_at, 1, 1e6, dice)
    return len(sweep.ranges)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_sweeps_are_exact_at_every_breakpoint(objective):
    dice, counts = random.Random(0), []
    for seed in range(12):
        model = chain([dice.choice([1, 2, 4, 8, 16, 40]) for _ in range(dice.randint(3, 6))])
        counts.append(swept(model, seed, 1, objective))
    assert sum(count > 1 for count in counts) >= 3


@pytest.mark.parametrize("max_crossing", [1, "any"])
@pytest.mark.parametrize(
    "kind", [menagerie.two_towers, menagerie.input_that_only_the_tail_needs], ids=lambda kind: kind.__name__
)
def test_sweeps_of_graphs_are_exact_at_every_breakpoint(kind, max_crossing):
    model = kind().model
    assert max(swept(model, seed, max_crossing, "latency") for seed in range(5)) > 1


# Measured profiles.


def measured(model, form, rows=2):
    sample = np.random.default_rng(0).random((rows, *model.input_shape[1:]), "float32")
    return ks.profile(model, sample=sample, wire=form)


@pytest.mark.parametrize("form", ["int8+zlib", "float32+zlib", "float16"])
def test_a_measured_profile_gives_bytes_and_the_seconds_to_pack_and_unpack(form):
    model = of_photos()
    sample = np.random.default_rng(0).random((2, *model.input_shape[1:]), "float32")
    profile = measured(model, form)
    made = ks.tap(model, ["conv0", "conv1", "conv2"])(sample)
    options = {"links": ks.Link("1 MB/s"), "objective": "latency", "leave_out": False, "profile": profile}
    for name in made:
        plan = ks.plan(model, [PHONE, SERVER], must_cut=name, compression=form, batch_size=2, **options)
        assert plan.stages[0].crossing_bytes == len(wire.pack({name: np.asarray(made[name])}, form))
        (cost,) = [tensor for tensor in profile.tensors if tensor.name == name]
        sender, receiver = plan.stages
        seconds = sender.crossing_bytes / 1e6
        assert sender.send == pytest.approx(seconds + cost.pack_seconds)
        assert receiver.receive == pytest.approx(seconds + cost.unpack_seconds)
        assert receiver.packing == cost.pack_seconds > 0
        assert plan.latency == pytest.approx(sender.work + sender.send + cost.unpack_seconds + receiver.work)
        plain = ks.plan(model, [PHONE, SERVER], must_cut=name, batch_size=2, **options)
        assert plain.stages[0].crossing_bytes == made[name].numpy().nbytes
        assert plain.stages[1].receive == pytest.approx(plain.stages[0].crossing_bytes / 1e6)


def test_plans_and_sweeps_with_a_measured_profile_are_the_best_there_are():
    model = chain([8, 40, 4, 40, 4])
    profile = measured(model, "int8+zlib")
    packing, unpacking = (
        {one: dice.random() for one in range(len(profile.tensors))} for dice in map(random.Random, (1, 2))
    )
    tensors = tuple(
        cost if cost.wire_bytes is None else replace(cost, pack_seconds=packing[index], unpack_seconds=unpacking[index])
        for index, cost in enumerate(profile.tensors)
    )
    profile = replace(profile, tensors=tensors)
    speeds = [profile.flops / 2, profile.flops / 0.5]
    options = {"profile": profile, "batch_size": 2, "compression": "int8+zlib", "objective": "latency"}
    sent = {"sent": [one.wire_bytes for one in tensors], "message": len(wire.pack({}))}
    sent |= {"packing": packing, "unpacking": unpacking}
    common = {"objective": "latency", "overlap": False, "leave_out": True}
    sweep = ks.plan_sweep(model, devices_of(speeds), bandwidths=(1, 1e6), **options)
    assert len(sweep.ranges) > 1

    def best_at(bandwidth):
        memories = [math.inf] * 2
        best = Oracle(model, profile, speeds, (bandwidth, 0.0), memories, max_crossing=1, **common, **sent).best()
        plan = ks.plan(model, devices_of(speeds), links=ks.Link(bandwidth), **options)
        assert plan.value == pytest.approx(best, rel=1e-9)
        return best

    require_exact(sweep, best_at, 1, 1e6, random.Random(0))


@pytest.mark.parametrize("objective", ["throughput", "latency", "energy"])
def test_no_plan_with_packing_at_one_end_and_unpacking_at_the_other_is_better(objective):
    model = chain([8, 40, 4, 40, 4])
    profile, dice = measured(model, "int8+zlib"), random.Random(objective)
    plans = set()
    for _ in range(40):
        packing, unpacking = ({one: dice.random() for one in range(len(profile.tensors))} for _ in range(2))
        tensors = tuple(
            replace(cost, pack_seconds=packing[index], unpack_seconds=unpacking[index])
            for index, cost in enumerate(profile.tensors)
        )
        costs = {"powers": [(dice.uniform(0, 2), dice.uniform(0, 2)) for _ in range(3)]}
        costs |= {"overheads": [dice.choice([0.0, 0.2]) for _ in range(3)]}
        speeds, link = [profile.flops / dice.uniform(0.5, 6) for _ in range(3)], (dice.uniform(10, 1e4), 0.05)
        common = {"objective": objective, "leave_out": dice.random() < 0.5}
        common |= {"overlap": objective == "throughput" and dice.random() < 0.5}
        sent = {"sent": [one.wire_bytes for one in tensors], "message": len(wire.pack({}))}
        sent |= {"packing": packing, "unpacking": unpacking}
        memories = [math.inf] * 3
        best = Oracle(model, profile, speeds, link, memories, max_crossing=1, **common, **costs, **sent).best()
        options = {"profile": replace(profile, tensors=tensors), "batch_size": 2, "compression": "int8+zlib", **common}
        plan = ks.plan(model, devices_of(speeds, **costs), links=ks.Link(*link), **options)
        assert plan.value == pytest.approx(best, rel=1e-9)
        value = {"throughput": plan.bottleneck, "latency": plan.latency, "energy": plan.energy}[objective]
        assert plan.value == pytest.approx(value, rel=1e-9)
        plans.add((tuple(stage.device for stage in plan.stages), str(plan.at)))
    assert len(plans) > 4


def test_packing_takes_the_power_of_computing_and_decoding_that_of_the_device_that_decodes():
    model = of_photos()
    phone, server = ks.Device("phone", "1 MFLOPS", watts=1, sending_watts=1), ks.Device("server", "1 TFLOPS", watts=0)
    devices = [phone, replace(server, sending_watts=0)]
    options = {"links": ks.Link("1 MB/s"), "objective": "energy", "batch_size": 2}
    plain = ks.plan(model, devices, input_bytes=100, **options)
    decoded = ks.plan(model, devices, input_bytes=100, input_seconds="50 s", **options)
    assert [stage.device for stage in plain.stages] == [stage.device for stage in decoded.stages] == ["server"]
    assert plain.energy == decoded.energy == decoded.value == pytest.approx(1 * 200 / 1e6)
    assert decoded.latency == pytest.approx(plain.latency + 50)
    assert ks.plan(model, [phone, replace(server, watts=2, sending_watts=0)], input_bytes=100, **options).energy < 1
    slow = ks.plan(model, [replace(phone, sending_watts=0), devices[1]], must_cut="conv1", first_to="conv1", **options)
    profile = measured(model, "int8+zlib")
    (cost,) = [tensor for tensor in profile.tensors if tensor.name == "conv1"]
    options |= {"profile": profile, "compression": "int8+zlib", "must_cut": "conv1", "first_to": "conv1"}
    packed = ks.plan(model, [replace(phone, sending_watts=0), devices[1]], **options)
    assert packed.energy == pytest.approx(slow.energy + 1 * cost.pack_seconds)


def test_an_input_sent_as_a_file_is_not_packed():
    model = of_photos()
    options = {"links": ks.Link("1 MB/s"), "objective": "latency", "compression": "int8+zlib", "batch_size": 2}
    devices = [PHONE, ks.Device("server", "1 TFLOPS")]
    plan = ks.plan(model, devices, profile=measured(model, "int8+zlib"), input_bytes=100, **options)
    assert plan.stages[0].receive == pytest.approx((200 + len(wire.pack({}))) / 1e6)


def test_forms_whose_bytes_depend_on_values_are_measured_first():
    model = of_photos()
    options = {"links": ks.Link("1 MB/s"), "compression": "int8+zlib"}
    advice = (
        "Measure them on a sample: profile=kerassplit.profile(model, sample=images, wire='int8+zlib') (--profile FILE, "
        "from `kerassplit profile MODEL --input SAMPLE --wire int8+zlib --json`)."
    )
    for profile, start in (
        (None, "The bytes of tensors as 'int8+zlib' depend on their values."),
        (ks.profile(model), "depend on their values, and `profile` holds none."),
        (measured(model, "int4+zlib", 1), "depend on their values, and `profile` holds those for 'int4+zlib'."),
    ):
        for planned in (ks.plan, ks.plan_sweep):
            some = options if planned is ks.plan else {"compression": "int8+zlib"}
            with pytest.raises(ks.SplitError) as error:
                planned(model, [PHONE, SERVER], profile=profile, **some)
            assert f"{start} {advice}" in str(error.value)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("max_crossing", [1, 2, "any"])
def test_tensors_that_the_form_cannot_hold_do_not_cross(objective, max_crossing):
    """Attention with a causal mask of minus infinities, as people write it by hand."""
    x = keras.Input((6, 8), name="x")
    query, key, value = (keras.layers.Dense(8, name=name)(x) for name in ("query", "key", "value"))
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))) + np.triu(np.full((6, 6), -np.inf, "f4"), 1)
    mixed = keras.layers.Add(name="mixed")([x, keras.ops.matmul(keras.layers.Softmax()(scores), value)])
    model = keras.Model(x, keras.layers.Dense(2, name="last")(keras.layers.Dense(16, name="wide")(mixed)))
    profile = measured(model, "int8+zlib")
    lost = {tensor.name for tensor in profile.tensors if tensor.name != "last" and tensor.wire_bytes is None}
    assert lost
    options = {"links": ks.Link("1 Mbit/s"), "objective": objective, "leave_out": False, "max_crossing": max_crossing}
    plan = ks.plan(model, [PHONE, SERVER], compression="int8+zlib", profile=profile, **options)
    assert plan.optimal
    assert not lost & {name for stage in plan.stages for name in stage.crossing}
    assert plan.stages[0].crossing_bytes is not None


def test_a_cut_at_a_tensor_that_the_form_cannot_hold_is_refused():
    x = inputs = keras.Input((64,), name="x")
    x = keras.layers.Dense(64, name="dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(keras.ops.log(x * 0.0)))
    options = {"links": ks.Link("1 MB/s"), "compression": "int8+zlib", "profile": measured(model, "int8+zlib")}
    assert ks.plan(model, [PHONE, SERVER], **options).at != ["log"]
    with pytest.raises(
        ks.SplitError, match="The cut at 'log' cannot be made: int8.zlib cannot hold its values in the s"
    ):
        ks.plan(model, [PHONE, SERVER], must_cut="log", **options)


def test_a_plan_is_for_batches_as_its_profile():
    model = of_photos()
    assert ks.plan(model, 2, profile=ks.profile(model, 3)).batch_size == 3
    with pytest.raises(ks.SplitError, match="The profile is for batches of 3, the plan for 1. Pass batch_size=3"):
        ks.plan(model, 2, profile=ks.profile(model, 3), batch_size=1)
