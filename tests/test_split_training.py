"""The example of split training, as a user runs it: two processes, no images on the way, and nothing stays."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "split_training"
pytestmark = pytest.mark.plain


def left_over() -> list[str]:
    lines = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
    return [line for line in lines if "split_training" in line]


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE / "run.py"], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sent, back = (int(count.replace(",", "")) for count in re.findall(r"([\d,]+) (?:bytes to|back)", done.stdout))
    crossing = 64 * 4 * 4 * 8 * 4  # digits, rows, columns, channels, bytes
    assert crossing < back < crossing + 300
    assert crossing + 64 * 8 < sent < crossing + 64 * 8 + 400  # and the numbers of the rows
    assert "the server saw pooled (64, 4, 4, 8), rows (64,); loss" in done.stdout
    assert int(re.search(r"(\d+)% are told right", done.stdout)[1]) > 85
    difference, allowed = map(float, re.search(r"one process: (\S+), allowed (\S+)", done.stdout).groups())
    assert difference <= allowed <= 1e-5
    assert list(tmp_path.iterdir()) == []
    assert left_over() == []


@pytest.mark.slow
def test_the_server_refuses_what_is_no_step_and_ends_with_its_parent(tmp_path):
    script = f"""
        import http.client, subprocess, sys
        sys.path.insert(0, {str(EXAMPLE)!r})
        import kerassplit as ks, run
        from kerassplit.wire import pack
        ks.split(run.network(), "pooled", names=["head", "tail"]).save("stages")
        command = [sys.executable, {str(EXAMPLE / "server.py")!r}, "stages"]
        server = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
        port = int(server.stdout.readline().split()[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for body in (b"no tensors", pack({{"rows": run.np.array([5000])}})):
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            print(answer.status, answer.read().decode())
        print("server", server.pid, flush=True)
        import os; os._exit(1)
    """
    code = "\n".join(
        line.strip() if not line.startswith(" " * 12) else "    " + line.strip() for line in script.splitlines()
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ
    )
    assert "400 SplitError: These bytes are no tensors" in done.stdout, done.stderr
    assert "400 IndexError" in done.stdout
    process = int(re.search(r"server (\d+)", done.stdout)[1])
    if psutil.pid_exists(process):
        psutil.wait_procs([psutil.Process(process)], timeout=30)
    assert not psutil.pid_exists(process)
