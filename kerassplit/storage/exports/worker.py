"""Process that traces or converts a stage, or runs exported stages: `python -m ... JOB FILE`.

The job is JSON, and so is the result in the file. The process then ends, which frees the memory that converters never
release.
"""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kerassplit.storage.exports.reasons import reason


def trace(split: str, stage: str, inputs: Sequence[str], outputs: Sequence[str], target: str) -> None:
    """Writes a stage of a saved split as a SavedModel; Keras runs on TensorFlow here."""
    from kerassplit.storage.exports.formats import savedmodel
    from kerassplit.storage.loading import load

    # The caller has just written this split, so any code in it is the caller's.
    savedmodel.trace(load(split, stages=[stage], safe_mode=False)[0].model, inputs, outputs, Path(target))


def convert(form: str, saved_model: str, target: str) -> None:
    """Converts the SavedModel of a stage to another format."""
    importlib.import_module(f"kerassplit.storage.exports.formats.{form}").convert(Path(saved_model), Path(target))


def run(folder: str, inputs: str, names: Sequence[str], outputs: str) -> list[str]:
    """Runs exported stages on saved arrays, saves all tensors they compute, and returns their names."""
    from kerassplit.files.arrays import read_arrays, write_arrays
    from kerassplit.storage.exports.running import made_by, open_stages

    made = made_by(open_stages(folder), read_arrays(inputs, names))
    return write_arrays(outputs, made)


_TASKS: dict[str, Callable[..., Any]] = {"trace": trace, "convert": convert, "run": run}


def main(text: str, result_file: str) -> None:
    """Runs one job."""
    job = json.loads(text)
    try:
        result: dict[str, Any] = {"value": _TASKS[job.pop("task")](**job)}
    except Exception as error:
        result = {"error": reason(error)}
        raise
    finally:
        result["peak_memory"] = _peak_memory()
        Path(result_file).write_text(json.dumps(result), encoding="utf-8")


def _peak_memory() -> int | None:
    """Returns bytes; `None` if the system does not report it."""
    try:
        # Not `resource`: on Linux, it includes the process before `exec`, when it was a copy of the caller.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
