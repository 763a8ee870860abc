"""A registered model whose config is complete, with layers whose configs are not: Keras saves only the whole."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("kerassplit_tests")
class Broken(keras.layers.Layer):
    """A Dense layer whose config cannot be read, as it asks for an attribute that is not there."""

    def __init__(self, units: int, **options: Any):
        super().__init__(**options)
        self.units = units
        self.dense = keras.layers.Dense(units, name="dense")

    def build(self, shape: Any) -> None:
        self.dense.build(shape)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "price": self.price}


@keras.saving.register_keras_serializable("kerassplit_tests")
class Forgetful(keras.layers.Layer):
    """A layer whose config lacks an argument: built from it, it computes something else."""

    def __init__(self, factor: float = 1.0, **options: Any):
        super().__init__(**options)
        self._factor = factor

    def call(self, x: Any) -> Any:
        return x * self._factor

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable("kerassplit_tests")
class WholeModel(keras.Model):
    """A chain of such layers, each twice: `a`, `forget_a`, `b`, ..."""

    def __init__(self, units: int = 4, factor: float = 3.0, blocks: str = "abc", state: bool = False, **options: Any):
        x = inputs = keras.Input((units,), 2 if state else None, name="x")
        for name in blocks:
            x = keras.layers.ReLU()(Broken(units, name=name)(x)) + 1.0
            x = Forgetful(factor, name=f"forget_{name}")(x)
        if state:
            x = keras.layers.GRU(units, stateful=True)(keras.layers.Reshape((1, units))(x))
        super().__init__(inputs, x, **options)
        self._arguments = {"units": units, "factor": factor, "blocks": blocks, "state": state}

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, **self._arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "WholeModel":
        return cls(**config)
