"""What plans say that a cut sends is what `kerassplit.wire` sends, at every split point of well-known architectures."""

import keras
import numpy as np
import pytest

import kerassplit as ks
from kerassplit.wire import FORMS, pack

PLAIN = [form for form in FORMS if "+" not in form]


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121", "InceptionV3"])
def test_the_bytes_of_every_cut_are_those_of_its_message(name):
    model = getattr(keras.applications, name)(weights=None)
    profile = ks.profile(model)
    shapes = {tensor.name: tensor.shape for tensor in profile.tensors}
    devices = [ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")]
    dice = np.random.default_rng(0)
    for form in PLAIN:
        plan = ks.plan(model, devices, links=ks.Link("20 Mbit/s"), compression=form, profile=profile)
        assert [cut.names for cut in plan.cuts] == [(point.name,) for point in ks.split_points(model)]
        for cut in plan.cuts:
            tensors = {one: dice.normal(size=shapes[one]).astype("float32") for one in cut.names}
            assert cut.bytes == len(pack(tensors, form)), (cut.names, form)
