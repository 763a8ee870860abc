"""A served stage: the process that loads and runs it, from a folder pinned to one manifest."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.stages import Stage
from kerassplit.engines.route import Step
from kerassplit.errors import SplitError, StoreError
from kerassplit.graph.compiling import compiled
from kerassplit.storage.loading import load_stage
from kerassplit.storage.manifest import checksum, read_manifest

LOGGER = logging.getLogger("ray.serve")
_KNOWN = re.compile(  # safe for clients; the rest of a message can contain paths, code and values
    r"indices\[[0-9,]*\] = -?[0-9]+ is not in \[0, [0-9]+\)"
    r"|index out of range in self"
    r"|Incompatible shapes: \[[0-9,]*\] vs\. \[[0-9,]*\]"
    r"|required broadcastable shapes"
    r"|Computed output size would be negative"
)


@dataclass(frozen=True)
class Pinned:
    """A folder of stages, pinned to the manifest it had when the application was built.

    Attributes:
        folder: The folder.
        manifest: The pinned manifest, with the hash of each stage's file.
    """

    folder: Path
    manifest: Mapping[str, Any]

    def stage(self, name: str, safe_mode: bool) -> Stage:
        """Loads a stage from the file that the pinned manifest describes, and no other.

        Raises:
            StoreError: The folder now holds a different split, or cannot be read.
        """
        self._check()
        try:
            return load_stage(self.folder, self.manifest, name, safe_mode=safe_mode)
        except StoreError:
            self._check()  # overwritten in the meantime: say so
            raise

    def changed(self) -> str | None:
        """Explains why stages can no longer be loaded, without the path; `None` if they can."""
        try:
            return None if self._is_same() else "the folder of the stages now holds a different split"
        except (SplitError, OSError):
            return "the folder of the stages can no longer be read"

    def _is_same(self) -> bool:
        return checksum(read_manifest(self.folder)) == checksum(dict(self.manifest))

    def _check(self) -> None:
        if not self._is_same():
            raise StoreError(
                f"{self.folder} now holds a different split than when the application was built, so its stages do not "
                "match those that are running. Redeploy the application, or restore the old files.",
                path=self.folder,
            )


@dataclass(frozen=True)
class Failed:
    """Result of a stage that failed; later stages pass it on.

    Attributes:
        sentence: Explanation for the client.
    """

    sentence: str


class StageServer:
    """Serve deployment that runs one stage."""

    def __init__(self, pinned: Pinned, step: Step, kept: frozenset[str], safe_mode: bool):
        self.step, self.kept = step, kept
        self.compute = compiled(pinned.stage(step.name, safe_mode).model)

    def run(self, tensors: dict[str, np.ndarray] | Failed) -> dict[str, np.ndarray] | Failed:
        """Adds the stage's outputs, and drops tensors that are no longer needed."""
        if isinstance(tensors, Failed):
            return tensors
        try:
            results = self.compute([tensors[name] for name in self.step.inputs])
            outputs = dict(zip(self.step.outputs, map(keras.ops.convert_to_numpy, results), strict=True))
        except Exception as error:
            LOGGER.exception("Stage '%s' fails.", self.step.name)
            return Failed(f"Stage '{self.step.name}' fails on these values{cause(error)}.")
        return {name: value for name, value in (tensors | outputs).items() if name in self.kept}


def cause(error: BaseException) -> str:
    """Returns the part of a stage's error that is safe to show to a client."""
    known = _KNOWN.search(str(error))
    return f": {known[0]}" if known else "; see the server log"
