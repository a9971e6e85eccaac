"""Results appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mdkt_ros.errors import CloudError, OutputError
from mdkt_ros.output import atomic_output, refuse_existing, refuse_input


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "part.txt").write_text(text)


def produce_half(path: Path, error: BaseException, *, force: bool = False) -> None:
    with atomic_output(path, force=force) as temporary:
        write_folder(temporary, "half")
        raise error


def test_file_appears_when_the_block_ends(tmp_path):
    with atomic_output(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "out.txt").exists()
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "whole"


def test_path_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_output("out.txt") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("name", ["scan.pcd.bin", "drive.mcap", "drive"])
def test_temporary_has_the_final_name_on_the_same_disk(tmp_path, name):
    with atomic_output(tmp_path / name) as temporary:
        assert temporary.name == name
        assert temporary.parent.parent == tmp_path
        assert not temporary.exists()
        temporary.touch()


def test_folder_appears_when_the_block_ends(tmp_path):
    with atomic_output(tmp_path / "out") as temporary:
        write_folder(temporary, "whole")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "part.txt").read_text() == "whole"


def test_existing_is_refused_before_any_work(tmp_path):
    (tmp_path / "out.txt").write_text("old")
    with (
        pytest.raises(OutputError, match=r"out\.txt: exists already; give another name, or --force"),
        atomic_output(tmp_path / "out.txt"),
    ):
        pytest.fail("the block ran")
    assert (tmp_path / "out.txt").read_text() == "old"


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"no/out\.txt: the folder .*no does not exist"):
        refuse_existing(tmp_path / "no" / "out.txt", force=True)


@pytest.mark.parametrize("error", [CloudError("bad input"), KeyboardInterrupt(), SystemExit(3)])
def test_nothing_stays_when_the_block_fails(tmp_path, error):
    with pytest.raises(type(error)):
        produce_half(tmp_path / "out", error)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [CloudError("bad input"), KeyboardInterrupt()])
@pytest.mark.parametrize("folder", [True, False])
def test_old_result_stays_when_the_block_fails(tmp_path, error, folder):
    out = tmp_path / "out"
    if folder:
        write_folder(out, "old")
    else:
        out.write_text("old")
    with pytest.raises(type(error)):
        produce_half(out, error, force=True)
    assert names(tmp_path) == ["out"]
    assert (out / "part.txt" if folder else out).read_text() == "old"


@pytest.mark.parametrize("new_is_folder", [True, False])
@pytest.mark.parametrize("old_is_folder", [True, False])
def test_force_replaces_all_of_the_old_result(tmp_path, old_is_folder, new_is_folder):
    out = tmp_path / "out"
    if old_is_folder:
        write_folder(out, "old")
        (out / "stale.txt").touch()
    else:
        out.write_text("old")
    with atomic_output(out, force=True) as temporary:
        if new_is_folder:
            write_folder(temporary, "new")
        else:
            temporary.write_text("new")
        assert out.exists()
    assert names(tmp_path) == ["out"]
    if new_is_folder:
        assert names(out) == ["part.txt"]
    assert (out / "part.txt" if new_is_folder else out).read_text() == "new"


@pytest.mark.parametrize("new_is_folder", [True, False])
def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path, new_is_folder):
    write_folder(tmp_path / "elsewhere", "keep")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with atomic_output(tmp_path / "out", force=True) as temporary:
        if new_is_folder:
            write_folder(temporary, "new")
        else:
            temporary.write_text("new")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere" / "part.txt").read_text() == "keep"
    assert names(tmp_path) == ["elsewhere", "out"]


def test_old_folder_comes_back_when_the_rename_fails(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", "old")
    replace = os.replace

    def failing(source, destination):
        if Path(source).parent.name.endswith(".part"):
            raise KeyboardInterrupt
        replace(source, destination)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out", force=True) as temporary:
        write_folder(temporary, "new")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "part.txt").read_text() == "old"


def test_block_that_writes_nothing_keeps_the_old_result(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(OutputError, match=r"out: nothing was written"), atomic_output(tmp_path / "out", force=True):
        pass
    assert names(tmp_path) == ["out"]


def test_full_disk_is_one_clear_error(tmp_path):
    with pytest.raises(OutputError, match=r"out: No space left on device; nothing was written"):
        produce_half(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_device_that_is_really_full(tmp_path):
    with pytest.raises(OutputError, match="No space left"), atomic_output(tmp_path / "out"):
        Path("/dev/full").write_bytes(b"x" * 100_000)
    assert names(tmp_path) == []


def test_failure_at_a_file_inside_the_result_is_about_the_result(tmp_path):
    with (
        pytest.raises(OutputError, match=r"out: No such file or directory; nothing was written"),
        atomic_output(tmp_path / "out") as temporary,
    ):
        (temporary / "missing" / "file").write_text("x")


def test_failure_at_another_file_is_not_about_the_result(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_output(tmp_path / "out"):
        (tmp_path / "input").read_text()
    assert names(tmp_path) == []


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refusing(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refusing)
    with pytest.raises(OutputError, match="out: Permission denied"), atomic_output(tmp_path / "out"):
        pytest.fail("the block ran")


def test_name_that_no_file_can_have(tmp_path):
    with pytest.raises(OutputError, match="File name too long"), atomic_output(tmp_path / ("x" * 300)) as temporary:
        temporary.touch()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", [".", "..", "", "/"])
def test_force_never_replaces_the_current_folder_or_one_above(tmp_path, monkeypatch, name):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(OutputError, match="is not replaced"), atomic_output(name, force=True):
        pytest.fail("the block ran")
    with pytest.raises(OutputError, match="is not replaced"), atomic_output(tmp_path, force=True):
        pytest.fail("the block ran")


@pytest.mark.parametrize("name", ["home", "."])
def test_force_never_replaces_the_home_folder(tmp_path, monkeypatch, name):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with (
        pytest.raises(OutputError, match="is your home folder or holds it"),
        atomic_output(tmp_path / name, force=True),
    ):
        pass
    assert names(tmp_path) == ["home"]


def test_a_result_never_replaces_its_input_or_what_holds_it(tmp_path):
    source = tmp_path / "all" / "drive"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to("all")
    (tmp_path / "loop").symlink_to("loop")
    for path in (source, tmp_path / "link" / "drive", tmp_path / "all" / ".." / "all" / "drive"):
        with pytest.raises(OutputError, match="is the input; give another place"):
            refuse_input(path, source)
    for path in (tmp_path / "all", tmp_path / "link", tmp_path):
        with pytest.raises(OutputError, match=rf"{path.name}: holds the input {source}, and is not replaced"):
            refuse_input(path, source)
    refuse_input(tmp_path / "loop", source)
    refuse_input(tmp_path / "out", source)


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(OutputError, match=r"a\.txt/out: .*a\.txt is a file, not a folder"):
        refuse_existing(tmp_path / "a.txt" / "out", force=False)


def test_a_read_only_disk_is_named_by_the_users_path(tmp_path, monkeypatch):
    """Such a disk refuses to remove even what is not there."""

    def refusing(self, *_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refusing)
    monkeypatch.setattr(Path, "unlink", refusing)
    with (
        pytest.raises(OutputError, match=r"out: Read-only file system; nothing was written"),
        atomic_output(tmp_path / "out"),
    ):
        pass


def test_a_copy_that_fails_is_named_by_the_users_path(tmp_path):
    with (
        pytest.raises(OutputError, match=rf"^{tmp_path}/out: No space left on device; nothing was written$"),
        atomic_output(tmp_path / "out") as temporary,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "elsewhere", None, str(temporary / "copy"))
