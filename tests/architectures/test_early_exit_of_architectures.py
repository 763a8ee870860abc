"""Early exit of architectures."""

import numpy as np
import pytest
from applications import application
from early_oracle import chosen
from small_models import exit_layers

import kerassplit as ks


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_an_application_with_an_exit_gives_what_choosing_afterwards_gives(name, images):
    model = application(name)
    tap = next(point.name for point in ks.split_points(model) if point.after_merge)
    multi = ks.with_outputs(model, {tap: exit_layers("exit")})
    split = ks.split(multi, [[tap, "exit"]])
    x = np.concatenate([images(model), images(model)[:, ::-1], images(model) / 2])
    everything = split.predict(x)
    sureness = everything[tap].max(axis=-1)
    confidence = float(np.sort(sureness)[2:4].mean())  # so that the exit answers some
    outputs, exits, ran = chosen(everything, [tap, "predictions"], {tap: sureness >= confidence}, 2)
    result = split.predict_early(x, confidence, batch_size=2)
    np.testing.assert_allclose(result.outputs, outputs, rtol=1e-3, atol=1e-6)
    assert result.exits.tolist() == exits.tolist() and list(result.ran.values()) == ran
    assert set(exits) == {tap, "predictions"}
