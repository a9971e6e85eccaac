"""`mdkt ...` as a user types it: exit codes, one-line errors, help; the work itself is tested beside each module."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from small_models import random_meta, random_network

from mdkt_ros import __version__, cli
from mdkt_ros.checkpoint import save_checkpoint


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mdkt", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    save_checkpoint(path, random_network(), random_meta())
    return path


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "000000.bin"
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (500, 4)).astype(np.float32)
    points[:, 3] = rng.uniform(0, 1, 500)
    points.tofile(path)
    return path


COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, monkeypatch, capsys):
    assert run(monkeypatch, command, "--help") == 0
    assert "Usage: mdkt " + command in capsys.readouterr().out


def test_the_commands_that_the_design_promises_are_there():
    assert {"segment", "convert", "synthesize", "view", "info", "bench", "demo"} <= set(COMMANDS)


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("arguments", [("segment",), ("segment", "a", "b", "--colour"), ("fly",)])
def test_wrong_use_is_2(arguments, monkeypatch):
    assert run(monkeypatch, *arguments) == 2


def test_a_failure_is_1_and_one_line(monkeypatch, capsys, tmp_path, checkpoint):
    missing = tmp_path / "no :car: [red]drive"
    assert run(monkeypatch, "segment", missing, tmp_path / "out", "--checkpoint", checkpoint) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("mdkt: ")
    assert str(missing) in error
    assert not (tmp_path / "out").exists()


def test_debug_anywhere_lets_the_traceback_through(monkeypatch, tmp_path, checkpoint):
    from mdkt_ros.errors import DriveError

    for arguments in (["--debug", "info", tmp_path / "none"], ["info", tmp_path / "none", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["mdkt", *map(str, arguments)])
        with pytest.raises(DriveError):
            cli.main()


def test_segment_a_scan_then_info_and_view(monkeypatch, capsys, tmp_path, scan, checkpoint):
    out, page = tmp_path / "labelled.pcd", tmp_path / "page.html"
    assert run(monkeypatch, "segment", scan, out, "--checkpoint", checkpoint, "--device", "cpu") == 0
    assert "500 points" in capsys.readouterr().out
    assert run(monkeypatch, "segment", scan, out, "--checkpoint", checkpoint) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(monkeypatch, "segment", scan, out, "--checkpoint", checkpoint, "--force") == 0
    capsys.readouterr()
    assert run(monkeypatch, "info", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)
    assert run(monkeypatch, "info", checkpoint) == 0
    assert "minkunet" in capsys.readouterr().out
    assert run(monkeypatch, "view", out, page) == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_ctrl_c_is_1_and_leaves_nothing(monkeypatch, capsys, tmp_path, scan, checkpoint):
    import mdkt_ros.segment_drive

    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mdkt_ros.segment_drive, "segment_path", interrupted)
    assert run(monkeypatch, "segment", scan, tmp_path / "out.pcd", "--checkpoint", checkpoint) in (1, 130)
    assert "Traceback" not in capsys.readouterr().err


def test_names_are_printed_whole_and_as_they_are(monkeypatch, capsys, tmp_path, scan, checkpoint):
    folder = tmp_path / ("a name of many words " * 5)
    folder.mkdir()
    out = folder / "out [red]\u00fc.pcd"
    assert run(monkeypatch, "segment", scan, out, "--checkpoint", checkpoint) == 0
    printed = capsys.readouterr().out
    assert f"Written: {out}\n" in printed
    assert "1 scan, 500 points" in printed
    bag = folder / "bag :car: [red]"
    assert run(monkeypatch, "convert", "auto", scan.parent, bag) == 0
    assert f"Written: {bag} (1 scan; play it with `ros2 bag play '{bag}'`)\n" in capsys.readouterr().out


def test_outputs_that_force_must_not_replace(monkeypatch, capsys, scan, checkpoint):
    for arguments in (
        ("convert", "auto", scan.parent, scan.parent),
        ("convert", "auto", scan.parent, scan.parent.parent),
        ("segment", scan.parent, scan.parent.parent, "--checkpoint", checkpoint),
        ("view", scan.parent, scan.parent),
    ):
        assert run(monkeypatch, *arguments, "--force") == 1
        assert re.match(r"mdkt: .*(the input|written as \.html)", capsys.readouterr().err)
        assert scan.is_file()


def test_info_says_that_a_pickled_checkpoint_is_one(monkeypatch, capsys, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"\x80\x04K\x01.")
    assert run(monkeypatch, "info", tmp_path / "model.pth") == 1
    assert "pickle" in capsys.readouterr().err


ENDED = """
import os, signal, sys, time
import mdkt_ros.info, mdkt_ros.cli
from mdkt_ros.output import atomic_output

def describe(path):
    with atomic_output(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.{name})
        time.sleep(9)

mdkt_ros.info.describe = describe
mdkt_ros.cli.main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_nothing_behind(tmp_path, name, code):
    command = [sys.executable, "-c", ENDED.format(name=name), "info", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "mdkt: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_file_system_name_the_file_first(monkeypatch, capsys, tmp_path):
    import mdkt_ros.info

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(mdkt_ros.info, "describe", refused)
    assert run(monkeypatch, "info", tmp_path / "drive") == 1
    assert capsys.readouterr().err == f"mdkt: {tmp_path / 'drive'}: Permission denied\n"


@pytest.mark.parametrize("arguments", [("info",), ("info", "--json")])
def test_a_reader_that_has_had_enough_is_no_failure(scan, arguments):
    code = "import mdkt_ros.cli; mdkt_ros.cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments, str(scan)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
