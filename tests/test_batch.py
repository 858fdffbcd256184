"""Batches of networks in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import os, sys, time
from pathlib import Path
from gen.batch import reports

def report(item):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(reports(report, [1, 2], 2, str))
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def waited(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_processes_end_with_their_parent(tmp_path):
    """Killed, it has no time to tell them."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "running").mkdir()
    parent = subprocess.Popen([sys.executable, "program.py", "running"], cwd=tmp_path)
    try:
        assert waited(lambda: len(list((tmp_path / "running").iterdir())) == 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pids = [int(path.name) for path in (tmp_path / "running").iterdir()]
    assert waited(lambda: not any(map(alive, pids)))
