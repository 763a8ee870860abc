"""Splits of architectures in folders: loaded elsewhere, sent in parts, and no larger than they need to be."""

import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from comparing import same_bits

import kerassplit as ks


@pytest.fixture(scope="module")
def three(resnet):
    return ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])


@pytest.fixture(scope="module")
def saved(three, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "three"
    three.save(folder)
    return folder


def test_loaded_in_a_fresh_process_it_computes_the_same(saved, resnet, images, tmp_path):
    np.save(tmp_path / "x.npy", images(resnet))
    code = f"""
        import keras, numpy as np, kerassplit as ks
        result = ks.load(r"{saved}")(np.load(r"{tmp_path}/x.npy"))
        np.save(r"{tmp_path}/y.npy", keras.ops.convert_to_numpy(result))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300)
    assert same_bits(np.load(tmp_path / "y.npy"), resnet(images(resnet)))


def test_a_stage_can_be_sent_alone_and_loaded_by_keras_alone(saved, three, resnet, images, tmp_path):
    shutil.copy(saved / "middle.keras", tmp_path / "sent.keras")
    features = three["features"].model(images(resnet))
    np.save(tmp_path / "x.npy", keras.ops.convert_to_numpy(features))
    code = """
        import sys
        import keras, numpy as np
        model = keras.saving.load_model("sent.keras")
        np.save("y.npy", keras.ops.convert_to_numpy(model(np.load("x.npy"))))
        assert not [name for name in sys.modules if name.startswith("kerassplit")]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300, cwd=tmp_path)
    assert same_bits(np.load(tmp_path / "y.npy"), three["middle"].model(features))


def test_what_is_saved_is_no_more_than_a_fiftieth_larger_than_the_model_s_own_file(applications, tmp_path):
    for name, every, stages in (("ResNet50", 1, 40), ("EfficientNetB0", 3, 29)):
        model = applications(name)
        model.save(tmp_path / "whole.keras")
        split = ks.split(model, list(range(0, len(ks.split_points(model)), every)))
        split.save(tmp_path / name)
        size = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
        assert len(split) == stages
        assert size <= 1.02 * (tmp_path / "whole.keras").stat().st_size
        assert size <= (tmp_path / "whole.keras").stat().st_size + 12_000 * stages
