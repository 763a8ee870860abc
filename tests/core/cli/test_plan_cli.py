"""`kerassplit plan`, and `kerassplit split` with a plan."""

import json

import numpy as np
import pytest
from command_line import run
from small_models import narrow, transformer, uneven

import kerassplit as ks
from kerassplit.cli.device_options import Devices
from kerassplit.cli.run import _planned_replicas
from kerassplit.storage.manifest import read_manifest


def test_a_plan_is_printed_drawn_and_written(tmp_path):
    file, chart = tmp_path / "plan.json", tmp_path / "plan.png"
    text = run("plan", "ResNet50", "--devices", 4, "-o", file, "--plot", chart).output
    plan = ks.Plan.load(file)
    assert len(plan.stages) == 4
    for stage in plan.stages:
        assert stage.device in text
    for name in plan.at:
        assert name in text
    assert text.splitlines()[-2:] == [f"Wrote {chart}.", f"Wrote {file}."]
    assert chart.read_bytes().startswith(b"\x89PNG")
    data = json.loads(run("plan", "ResNet50", "--devices", 4, "--json").stdout)
    assert data == json.loads(file.read_text())


def test_a_model_is_split_by_a_plan_from_a_file(tmp_path):
    file, folder = tmp_path / "plan.json", tmp_path / "out"
    model = ("MobileNetV2", "--input-shape", "96,96,3")
    run("plan", *model, "--devices", 3, "--max-crossing", 2, "-o", file)
    output = run("split", *model, "--weights", "random", "--plan", file, "-o", folder).output
    assert f"Saved 3 stages in {folder}." in output
    split = ks.load(folder)
    plan = ks.Plan.load(file)
    assert [list(stage.outputs) for stage in split][:-1] == [list(stage.crossing) for stage in plan.stages[:-1]]


def test_a_model_is_split_into_stages_of_even_flops(tmp_path):
    folder = tmp_path / "out"
    model = ("MobileNetV2", "--input-shape", "96,96,3", "--weights", "random")
    data = json.loads(run("split", *model, "--stages", 4, "-o", folder, "--json").stdout)
    even = json.loads(run("plan", *model, "--devices", 4, "--json").stdout)
    assert [stage["outputs"][0] for stage in data["stages"][:-1]] == even["at"]


def test_devices_and_links_are_read(tmp_path):
    phone, server = ("--device", "phone: 20 GFLOPS, 2 GiB"), ("--device", "server: 5 TFLOPS, x2")
    options = (*phone, *server, "--link", "200 Mbit/s, 10 ms", "--use-all", "--objective", "latency", "--json")
    data = json.loads(run("plan", "MobileNetV2", *options).stdout)
    assert [stage["device"] for stage in data["stages"]] == ["phone", "server 1", "server 2"]
    assert data["unit"] == "seconds"
    for stage in data["stages"][1:]:
        assert stage["receive"] >= 0.01
    one, other = ("--device", "a: 1 TFLOPS"), ("--device", "b: 1 TFLOPS")
    limits = ("--max-crossing", "any", "--compression", "float16", "--largest-crossing", "100 KiB", "--overlap")
    limits += ("--must-not-cut", "block_1*", "--first-to", "block_2_add", "--last-from", "block_15_add")
    data = json.loads(run("plan", "MobileNetV2", *one, *other, "--link", "1 GB/s", *limits, "--json").stdout)
    assert data["overlap"]
    assert data["stages"][0]["crossing_bytes"] <= 100 * 1024


def test_inputs_are_sent_as_files_and_links_have_two_bandwidths():
    model = ("MobileNetV2", "--device", "phone: 2 GFLOPS", "--device", "server: 5 TFLOPS", "--objective", "latency")
    both_ways = ("--link", "20 Mbit/s, 10 ms, down 100 Mbit/s")
    assert Devices(None, (), both_ways[1:]).read_links() == ks.Link("20 Mbit/s", "10 ms", down="100 Mbit/s")
    error = run("plan", *model, *both_ways, status=2).stderr
    assert "The link has a bandwidth `down`, but nothing goes back to earlier devices" in " ".join(error.split())
    link = ("--link", "20 Mbit/s, 10 ms")
    plain = run("plan", *model, *link).stdout
    assert "travels as 602,112 bytes of float32" in " ".join(plain.split())
    data = json.loads(run("plan", *model, *link, "--input-bytes", "30 KB", "--input-seconds", "5 ms", "--json").stdout)
    (sent,) = data["inputs"]
    assert (sent["bytes"], sent["tensor_bytes"], sent["seconds"], sent["given"]) == (30_000, 602_112, 0.005, True)
    assert data["stages"][0]["receive"] == pytest.approx(0.01 + 30_000 / 2.5e6 + 0.005)
    named = ("--input-bytes", f"{sent['name']}: 30 KB", "--input-seconds", f"{sent['name']}:5 ms")
    assert json.loads(run("plan", *model, *link, *named, "--json").stdout) == data
    int8 = json.loads(run("plan", *model, *link, "--compression", "int8", "--use-all", "--json").stdout)
    crossing = {tuple(cut["names"]): cut["bytes"] for cut in int8["cuts"]}
    assert 56 * 56 * 24 < crossing[("block_2_add",)] < 56 * 56 * 24 + 500


def test_a_plan_takes_the_bytes_of_a_packed_sample(small, tmp_path):
    model, sample, file = tmp_path / "small.keras", tmp_path / "sample.npz", tmp_path / "profile.json"
    small.save(model)
    np.savez(sample, image=np.ones((3, 8, 8, 3), "float32"), extra=np.ones((3, 4), "float32"))
    file.write_text(run("profile", model, "--input", sample, "--wire", "int8+zlib", "--json").stdout)
    devices = ("--device", "a: 1 MFLOPS", "--device", "b: 1 MFLOPS", "--link", "1 MB/s", "--compression", "int8+zlib")
    data = json.loads(run("plan", model, *devices, "--profile", file, "--json").stdout)
    block = next(one for one in json.loads(file.read_text())["blocks"] if one["name"] == data["at"][0])
    assert (data["batch_size"], data["stages"][0]["crossing_bytes"]) == (3, block["wire_bytes"])
    error = run("plan", model, *devices, status=2).stderr
    assert "The bytes of tensors as 'int8+zlib' depend on their values. Measure them on a sample:" in error


def test_the_power_and_the_overhead_of_devices_are_read(small, tmp_path):
    model = tmp_path / "small.keras"
    small.save(model)
    phone = ("--device", "phone: 1 MFLOPS, 2 ms overhead, 4 W, 1 W sending")
    server = ("--device", "server: 1 GFLOPS, 0 W, 0 W sending")
    question = ("plan", model, *phone, *server, "--link", "2 Mbit/s, 10 ms", "--must-cut", "pool", "--json")
    frugal = json.loads(run(*question, "--objective", "energy").stdout)
    here, there = frugal["stages"]
    assert frugal["value"] == frugal["energy"] == here["energy"] == pytest.approx(4 * here["work"] + here["send"])
    assert here["work"] > 0.002 > there["work"]
    limit = ("--objective", "latency", "--largest-energy", f"{frugal['energy']} J")
    assert json.loads(run(*question, *limit).stdout)["at"] == ["pool"]
    message = run(*question, "--objective", "energy", "--largest-latency", "1 ms", status=2).stderr
    assert "The largest latency has to be" in message


def test_stages_have_replicas(small, tmp_path):
    model, file, folder = tmp_path / "small.keras", tmp_path / "plan.json", tmp_path / "out"
    small.save(model)
    run("plan", model, "--device", "chip: 1 MFLOPS, x5", "--replicas", "--must-cut", "pool", "-o", file)
    plan = ks.Plan.load(file)
    assert max(plan.replicas) > 1
    run("split", model, "--plan", file, "--names", "head,tail", "-o", folder)
    assert _planned_replicas(file, read_manifest(folder)) == dict(zip(["head", "tail"], plan.replicas, strict=True))
    question = ("run", folder, "--input", model, "-o", tmp_path / "y.npy", "--engine", "ray", "--plan", file)
    assert "Add --engine ray." in run(*(one for one in question if one not in ("--engine", "ray")), status=2).stderr
    run("plan", model, "--devices", 2, "--must-cut", "block1_out", "-o", tmp_path / "other.json")
    other = " ".join(run(*question[:-1], tmp_path / "other.json", status=2).stderr.split())
    assert "is for another split: it cuts at 'block1_out', and 'head' in the folder ends at 'pool'." in other
    run("plan", model, "--devices", 1, "-o", file, "--overwrite")
    assert "is for another split: stages in the plan: 1, in the folder: 2." in run(*question, status=2).stderr


def test_a_profile_that_was_measured_elsewhere_is_a_device(small, tmp_path):
    model, file = tmp_path / "small.keras", tmp_path / "phone.json"
    small.save(model)
    file.write_text(run("profile", model, "--measure", "--json").stdout)
    data = json.loads(run("plan", model, "--device", f"phone: {file}, x2", "--json").stdout)
    assert data["unit"] == "seconds"
    here = json.loads(run("plan", model, "--devices", 2, "--balance", "time", "--profile", file, "--json").stdout)
    assert here["at"] == data["at"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Say what to plan for: identical devices with --devices N, or each with --device 'NAME: SPEED"),
        (("--devices", 2, "--device", "a"), "Say what to plan for"),
        (("--device", "a: 1 GFLOPS, 2 GFLOPS"), "has two values of the same kind"),
        (("--device", "a: fast"), "'fast' of device 'a' is not a speed such as '20 GFLOPS', a memory such as"),
        (("--device", "a: 2 GFLOPS, 2gb"), "'2gb' of device 'a' is not a"),
        (("--device", "phone 20 GFLOPS"), "The device 'phone 20 GFLOPS' is not valid."),
        (("--device", "phone: "), "The device 'phone: ' is not valid."),
        (("--devices", 2, "--link", "200"), "The bandwidth of a link '200' has no unit."),
        (("--device", "a: nowhere.json"), "'nowhere.json' cannot be read: No such file or directory."),
        (
            ("--devices", 2, "--link", "1 Mbit/s, 1 ms, 2"),
            "not valid. Expected 'BANDWIDTH[, LATENCY][, down BANDWIDTH]'",
        ),
        (("--devices", 2, "--link", "1 Mbit/s, down 2 kg"), "The bandwidth down of a link '2 kg' has the unit 'kg'."),
        (("--devices", 2, "--input-bytes", "30 KB"), "--input-bytes"),
        (("--devices", 2, "--input-bytes", "30 KB", "--input-bytes", "2 KB"), "--input-bytes '[NAME: ]SIZE'"),
        (
            ("--devices", 2, "--input-seconds", "x: 3 ms", "--input-seconds", "2 ms"),
            "or one for each input by its",
        ),
        (("--devices", 2, "--link", "1 Mbit/s"), "or measure here with --balance time."),
        (("--devices", 2, "--max-crossing", "few"), "1 or more, or 'any'; got 'few'"),
        (("--devices", 2, "--compression", "zip"), "`compression` is 'zip'"),
        (("--devices", 99), "or let more tensors cross (--max-crossing 2)."),
        (("--devices", 2, "--must-cut", "nothing"), "no tensor 'nothing'"),
        (("--devices", 2, "--must-cut", "block_2_expand"), "name all of them in a list of their own"),
        (("--devices", 2, "-o", "/nowhere/plan.json"), "'/nowhere/plan.json' cannot be written"),
        (("--devices", 2, "--plot", "plan.gif"), "Charts are written as .png, .svg, .pdf, .html; got 'plan.gif'."),
    ],
)
def test_mistakes_are_told_in_one_message(arguments, message):
    assert message in run("plan", "MobileNetV2", *arguments, status=2).stderr


def test_a_split_takes_one_way_to_say_where(tmp_path):
    for arguments in ((), ("--stages", 2, "--at", "x"), ("--stages", 2, "--plan", "p.json")):
        error = run("split", "MobileNetV2", *arguments, "-o", tmp_path / "out", status=2).stderr
        assert "Say where to cut in exactly one way" in error
    error = run("split", "MobileNetV2", "--plan", tmp_path / "p.json", "-o", tmp_path / "out", status=2).stderr
    assert "cannot be read" in error
    plan = tmp_path / "plan.json"
    run("plan", "MobileNetV2", "--devices", 1, "-o", plan)
    out = tmp_path / "out"
    error = run("split", "MobileNetV2", "--weights", "random", "--plan", plan, "-o", out, status=2).stderr
    assert "there is nothing to cut" in error
    run("plan", "ResNet50", "--devices", 2, "-o", plan, "--overwrite")
    error = run("split", "MobileNetV2", "--weights", "random", "--plan", plan, "-o", out, status=2).stderr
    assert "The plan was made for 'resnet50', but 'mobilenetv2_1.00_224' has other layers." in error
    error = run("split", "MobileNetV2", "--weights", "random", "--stages", 99, "-o", out, status=2).stderr
    assert "so 75 stages at most, and there are 99 devices. Use fewer, " in error
    assert "those of `kerassplit plan`: pass what it writes with --plan." in error
    error = run("split", "MobileNetV2", "--at", 3, "--max-crossing", 2, "-o", out, status=2).stderr
    assert "--max-crossing applies only when cuts are chosen automatically: use it with --stages." in error
    assert not out.exists()


def test_even_stages_may_let_two_tensors_cross(tmp_path):
    model, out = tmp_path / "uneven.keras", tmp_path / "out"
    uneven().save(model)
    assert (
        "With two tensors per cut (--max-crossing 2), it would be"
        in run("split", model, "--stages", 2, "-o", out).stderr
    )
    run("split", model, "--stages", 2, "--max-crossing", 2, "-o", out, "--overwrite")
    (crossing,) = ks.load(out).crossings
    assert [tensor.name for tensor in crossing.tensors] == ["first", "middle2"]
    error = run("split", model, "--stages", 2, "--max-crossing", 0, "-o", out, "--overwrite", status=2).stderr
    assert "how many tensors may cross a cut: 1 or more, or 'any'; got 0." in error


def test_points_say_what_comes_along(tmp_path):
    model = tmp_path / "transformer.keras"
    transformer(narrow).save(model)
    points = json.loads(run("points", model, "--json").stdout)["points"]
    along = {point["name"]: point["also"] for point in points}
    assert along["block2"] == [] and along["block0"][0].startswith("not_equal")
    shown = run("points", model).stdout
    assert "comes along" in shown and "not_equal" in shown
    crossings = json.loads(run("points", model, "--max-tensors", 2, "--json").stdout)["crossings"]
    assert any(
        one["also"] and one["bytes"] == sum(t["bytes"] for t in one["tensors"] + one["also"]) for one in crossings
    )
