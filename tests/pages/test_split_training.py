"""The server of the split-training example, and clients that send invalid requests."""

import os
import re
import subprocess
import sys

import psutil
from checkout import ROOT

EXAMPLE = ROOT / "examples" / "split_training"


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
    assert "400 SplitError: These bytes are not tensors" in done.stdout, done.stderr
    assert "400 IndexError" in done.stdout
    process = int(re.search(r"server (\d+)", done.stdout)[1])
    if psutil.pid_exists(process):
        psutil.wait_procs([psutil.Process(process)], timeout=30)
    assert not psutil.pid_exists(process)
