"""The process in which a stage is traced or converted, or exported stages are run: `python -m ... JOB FILE`.

The job is JSON, and so is the answer in the file. The process is thrown away afterwards, with the memory that
converters do not give back.
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
    from kerassplit.storage.saving import load

    # The split is the caller's own, written a moment ago: code in it is the caller's.
    savedmodel.trace(load(split, stages=[stage], safe_mode=False)[0].model, inputs, outputs, Path(target))


def convert(form: str, saved_model: str, target: str) -> None:
    """Makes a stage in another format of a SavedModel."""
    importlib.import_module(f"kerassplit.storage.exports.formats.{form}").convert(Path(saved_model), Path(target))


def run(folder: str, inputs: str, names: Sequence[str], outputs: str) -> list[str]:
    """Runs exported stages on saved arrays, saves all that they make and returns its names."""
    from kerassplit.files.arrays import read_arrays, write_arrays
    from kerassplit.storage.exports.running import made_by, open_stages

    made = made_by(open_stages(folder), read_arrays(inputs, names))
    return write_arrays(outputs, made)


_TASKS: dict[str, Callable[..., Any]] = {"trace": trace, "convert": convert, "run": run}


def main(text: str, result_file: str) -> None:
    """Does one job."""
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
    """Bytes; `None` where the system does not say."""
    try:
        # Not `resource`: there Linux counts what the process was before it became this program, the caller's copy.
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
