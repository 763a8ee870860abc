"""A task without weights on disk: what its `generate` needs besides logits, its preprocessor and its sampler."""

from typing import Any

import keras

from kerassplit.graph.internals.skeletons import without_values


class _Held:
    """Hides a task from Keras, which would save its weights."""

    def __init__(self, task: Any):
        self.task = task


@keras.saving.register_keras_serializable("kerassplit")
class TaskShell(keras.Model):
    """Saves a task by its config, with the assets of its preprocessor (the vocabulary) and its sampler."""

    def __init__(self, task: Any):
        super().__init__(name=task.name)
        self.preprocessor = task.preprocessor
        self.built = True
        self.held = _Held(task)

    def get_config(self) -> dict[str, Any]:
        task = keras.saving.serialize_keras_object(self.held.task)
        task.pop("compile_config", None)
        return {"task": task, "sampler": keras.saving.serialize_keras_object(self.held.task.sampler)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "TaskShell":
        if config["task"].get("compile_config"):
            raise ValueError("the task of a shell is not compiled")
        with without_values():
            task = keras.saving.deserialize_keras_object(config["task"], custom_objects=custom_objects)
        task.sampler = keras.saving.deserialize_keras_object(config["sampler"], custom_objects=custom_objects)
        return cls(task)
