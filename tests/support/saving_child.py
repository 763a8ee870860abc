"""A process that saves on commands from `test_damage.py`, in children that can be killed.

`python saving_child.py MODEL.keras CUT...` cuts the model, prints "ready" and reads lines of JSON:
`{"folder": ..., "step": n}`: save there, and get killed by SIGKILL right before the n-th file system step;
`{"folder": ..., "delay": seconds}`: get killed from outside that long after the start;
`{"folder": ..., "largest": bytes}`: save with this limit on the size of each file.
It answers with a line of JSON: how the child ended, and its output.
"""

import json
import os
import resource
import signal
import sys
import time

import keras

import kerassplit as ks

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "fcntl.flock"}
countdown: int | None = None


@sys.addaudithook
def _kill_before(event, arguments):
    global countdown
    if countdown is not None and event in STEPS:
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        countdown -= 1


def save(split, task, say):
    global countdown
    if "largest" in task:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["largest"], task["largest"]))
    countdown = task.get("step")
    try:
        split.save(task["folder"], overwrite=True)
    except ks.StoreError as error:
        countdown = None
        os.write(say, f"StoreError: {error}".encode())
    else:
        countdown = None
        os.write(say, b"saved")


def run(split, task):
    hear, say = os.pipe()
    child = os.fork()
    if not child:
        try:
            save(split, task, say)
        finally:
            os._exit(0)
    os.close(say)
    if "delay" in task:
        time.sleep(task["delay"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(hear, "rb") as pipe:
        said = pipe.read().decode()
    return {"killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "said": said}


if __name__ == "__main__":
    model = keras.saving.load_model(sys.argv[1])
    split = ks.split(model, sys.argv[2:])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(split, json.loads(line))) + "\n")
        sys.stdout.flush()
