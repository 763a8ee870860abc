"""Starts the worker process, and explains why it failed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class WorkerError(Exception):
    """The worker failed; the message is the reason, phrased to fit into a sentence."""


def work(task: str, scratch: Path, /, **job: Any) -> dict[str, Any]:
    """Runs a job in a separate process; see `worker.py`.

    Args:
        task: The task to run.
        scratch: A folder for the process's result file.
        job: The arguments of the task.

    Returns:
        `"value"`, and `"peak_memory"` of the process in bytes (`None` if unknown).

    Raises:
        WorkerError: It failed. Its output is attached as a note.
    """
    with TemporaryDirectory(dir=scratch) as name:
        file, log = Path(name, "result"), Path(name, "log")
        module, text = "kerassplit.storage.exports.worker", json.dumps({"task": task, **job})
        command = [sys.executable, "-m", module, text, str(file)]
        with log.open("wb") as out:  # no pipe: a child process of a converter might hold it open
            code = subprocess.run(command, stdout=out, stderr=out, env=_environment(), check=False).returncode
        result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if code == 0 and "value" in result:
            return result
        failure = WorkerError(result.get("error") or _exit_reason(code))
        failure.add_note(log.read_text(encoding="utf-8", errors="replace")[-20_000:])
        raise failure


def _environment() -> Mapping[str, str]:
    """Returns this process's environment and search path, with Keras on TensorFlow and no GPU, which may be full."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(path or ".").resolve()) for path in sys.path),
        "PYTHONSAFEPATH": "1",  # otherwise files in the working folder would shadow installed packages
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }


def _exit_reason(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return "it was killed, most likely because memory ran out" if name == "SIGKILL" else f"it ended with {name}"
    return f"it ended with exit status {code}"
