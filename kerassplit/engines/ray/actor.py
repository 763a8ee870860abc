"""The process of a stage on Ray: receives and loads its stage, and runs batches."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.stages import Stage
from kerassplit.engines.local import refuse_states
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.compiling import compiled
from kerassplit.storage.loading import load
from kerassplit.storage.manifest import MANIFEST
from kerassplit.zoo.user_code import VARIABLE


class StageFailure(Exception):  # noqa: N818 (an error of the stage, reported to the driver)
    """Text of a stage's error: the error itself does not always survive the transfer to another process."""


@contextlib.contextmanager
def failing_in_words() -> Iterator[None]:
    """Turns every error into a `StageFailure`."""
    try:
        yield
    except Exception as error:
        raise StageFailure(in_words(error)) from None


@dataclass(frozen=True)
class Shipment:
    """A saved stage on its way to another machine.

    Attributes:
        stage: Name of the stage.
        file: Name of its file.
        manifest: Content of the manifest.
        safe_mode: As in `kerassplit.load`.
        folder: Name of the temporary folder to unpack into; one left by a killed process of this worker is removed.
    """

    stage: str
    file: str
    manifest: bytes
    safe_mode: bool
    folder: str = field(default_factory=lambda: f"kerassplit-{uuid.uuid4().hex}")

    def unpack(self, content: np.ndarray) -> Stage:
        """Loads the stage and leaves nothing on the disk."""
        folder = Path(tempfile.gettempdir()) / self.folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            (folder / MANIFEST).write_bytes(self.manifest)
            content.tofile(folder / self.file)
            return load(folder, [self.stage], safe_mode=self.safe_mode)[0]
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class StageActor:
    """Runs one stage."""

    @failing_in_words()
    def load(self, shipment: Shipment, content: np.ndarray) -> int:
        """Loads the stage and returns the process ID."""
        stage = shipment.unpack(content)
        refuse_states(stage.model, f"stage '{stage.name}'")
        self.compute = compiled(stage.model)
        return os.getpid()

    @failing_in_words()
    def run(self, *tensors: Any) -> tuple[Any, ...]:
        """Returns `None`, which signals success, and the stage's outputs."""
        return None, *map(keras.ops.convert_to_numpy, self.compute(tensors))


def in_words(error: BaseException) -> str:
    """Returns an error's message, preceded by its type unless it is a `SplitError`."""
    return str(error) if isinstance(error, SplitError) else f"{type(error).__name__}: {error}"


def environment(num_gpus: float) -> dict[str, str]:
    """Returns the environment of a stage's process: Keras backend, GPU memory on demand, no GPU unless requested.

    Ray itself leaves all GPUs visible to processes that ask for none (https://github.com/ray-project/ray/issues/54868).
    """
    shared = {
        "KERAS_BACKEND": backend().name,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if VARIABLE in os.environ:
        shared[VARIABLE] = os.environ[VARIABLE]
    return shared if num_gpus else shared | {"CUDA_VISIBLE_DEVICES": "-1"}
