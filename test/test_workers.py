"""Worker processes: they end with the process that started them, and leave nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from mdkt_ros.output import atomic_output
from mdkt_ros.workers import worker_pool

def write(folder):
    with atomic_output(Path(folder, "result")) as temporary:
        temporary.write_text("half")
        Path(folder, "begun").write_text(str(os.getpid()))
        time.sleep(600)

if __name__ == "__main__":
    pool = worker_pool(2)
    pool.submit(write, sys.argv[1])
    print(*pool._processes, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_a_killed_process_end_and_what_one_had_half_written_goes(
    tmp_path: Path, number: signal.Signals
) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT, encoding="utf-8")
    folder.mkdir()
    with subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2
        while not (begun := folder / "begun").is_file():
            assert parent.poll() is None
            time.sleep(0.05)
        assert len(list(folder.iterdir())) == 2  # the other is the temporary one
        parent.send_signal(number)
        parent.wait()
    deadline = time.monotonic() + 60
    while left := [worker for worker in workers if _runs(worker)]:
        assert time.monotonic() < deadline, f"{left} still run"
        time.sleep(0.05)
    assert list(folder.iterdir()) == [begun]


def _runs(process: int) -> bool:
    """Whether it is there and not a zombie that nobody has asked after."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
