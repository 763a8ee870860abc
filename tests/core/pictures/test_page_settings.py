"""Settings of layers in the page to explore."""

from typing import Any

import keras
import numpy as np
from hostile import NAMES
from page_data import data_of

import kerassplit as ks
from kerassplit.pictures.page.settings import settings_of

L = keras.layers


def settings(layer: Any) -> dict[str, str]:
    found = settings_of([layer])
    return dict(found["lists"][found["of"][0]])


class Odd(L.Layer):
    """A layer with the given configuration."""

    def __init__(self, config: Any, **options: Any):
        super().__init__(**options)
        self.config = config

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> Any:
        if self.config is None:
            raise NotImplementedError("this one cannot be saved")
        return self.config


def test_settings_are_those_of_the_configuration_without_what_is_not_set():
    dense = settings(L.Dense(8, "relu", kernel_regularizer="l2"))
    assert dense == {"units": "8", "activation": "relu", "use_bias": "True", "kernel_regularizer": "L2"}
    assert settings(L.Reshape((2, -1))) == {"target_shape": "(2, -1)"}
    assert settings(L.Bidirectional(L.LSTM(3)))["layer"] == "LSTM"
    assert settings(L.Activation("gelu")) == {"activation": "gelu"}
    assert settings(
        Odd({"rate": np.float32(0.5), "table": np.zeros((3, 2)), "shape": (None, 3), "that": object()})
    ) == {
        "rate": "0.5",
        "table": "array of shape (3, 2)",
        "shape": "(None, 3)",
        "that": "object",
    }


def test_long_settings_are_shortened():
    words = settings(L.StringLookup(vocabulary=[f"word{number}" for number in range(500)]))
    assert max(map(len, words.values())) <= 60
    assert settings(Odd({"sides": list(range(500))}))["sides"] == "[0, 1, 2, 3, 4, 5, 6, 7, … (500)]"
    many = settings(Odd({f"setting{number}": number for number in range(40)}))
    assert len(many) == 15
    assert many["…"] == "26 more"


def test_a_layer_without_a_configuration_has_no_settings():
    assert settings(Odd(None)) == {}


def test_settings_are_kept_once_and_as_text():
    inputs = x = keras.Input((4,), name="x")
    for number, name in enumerate(NAMES):
        x = Odd({"label": name, name: number}, name=f"odd{number}")(x)
    for number in range(3):
        x = L.Dense(4, name=f"dense{number}")(x)
    page = ks.plot(keras.Model(inputs, x)).render("html").decode()
    assert page.count("</script>") == 2
    found = data_of(page)["settings"]
    assert len(found["lists"]) == len(NAMES) + 1
    assert found["of"] == [*range(len(NAMES)), *[len(NAMES)] * 3]
