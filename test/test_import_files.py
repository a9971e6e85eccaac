"""What files of torch.save are read, and which are refused because they would run code or are something else."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
from zoo_files import imported, mmdet3d, spvnas

from mdkt_ros.checkpoint import load_checkpoint
from mdkt_ros.errors import CheckpointError


@pytest.mark.parametrize("wrap", ["bare", "module.", "half", "no counters", "one offset", "other trained things"])
def test_forms_of_a_file(tmp_path, wrap):
    state = spvnas()
    document = {"model": state}
    if wrap == "bare":
        document = state
    elif wrap == "module.":
        document = {"model": {f"module.{name}": value for name, value in state.items()}}
    elif wrap == "half":
        document = {"model": {n: v.half() if v.is_floating_point() else v for n, v in state.items()}}
    elif wrap == "no counters":
        document = {"model": {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}}
    elif wrap == "one offset":
        document = {"model": {n: v[None] if n.endswith("downsample.0.kernel") else v for n, v in state.items()}}
    else:  # SPVNAS' MinkUNet has these, and never uses them
        extra = {"point_transforms.0.0.weight": torch.randn(4, 2), "point_transforms.0.1.running_mean": torch.zeros(4)}
        document = {"model": {**state, **extra}, "optimizer": {"lr": 0.1}, "scheduler": {}}
    imported(tmp_path, document)
    network, _ = load_checkpoint(tmp_path / "our.safetensors")
    tolerance = 1e-3 if wrap == "half" else 0
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.float(), state[name].float(), rtol=tolerance, atol=tolerance)


class Settings:
    """What would have to be unpickled."""


def test_files_that_would_run_code_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds \S*Settings objects; unpickling those can run code"):
        imported(tmp_path, {"model": spvnas(), "meta": Settings()})


def test_what_training_leaves_in_a_file_is_left_out(tmp_path, monkeypatch):
    """MMDetection3D's `.dev_scripts/gather_models.py` publishes all but the optimizer."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    history = type("HistoryBuffer", (), {"__module__": names[2]})
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[2]].HistoryBuffer = history
    losses = history()
    losses._log_history, losses.max_length = np.arange(5.0), 100
    meta = {"dataset_meta": {"seg_label_mapping": np.arange(260), "classes": ("car",), "best": np.float64(0.7)}}
    state = mmdet3d()
    document = {"meta": meta, "state_dict": state, "message_hub": {"log_scalars": OrderedDict(loss=losses)}}
    torch.save(document, tmp_path / "their.pth")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    allowed = set(torch.serialization.get_safe_globals())
    assert imported(tmp_path, None, "mmdet3d").preset == "minkunet18"
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("attack", ["os.system", "builtins.eval", "numpy.load"])
def test_nothing_is_run(tmp_path, attack):
    module, _, name = attack.rpartition(".")

    class Attack:
        def __reduce__(self):
            return getattr(__import__(module), name), (str(tmp_path / "x"),)

    with pytest.raises(CheckpointError, match="unpickling those can run code"):
        imported(tmp_path, {"model": spvnas(), "meta": Attack()})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of torch.save"),
        (b"hello world, this is no checkpoint", "not a file of torch.save"),
        (b"PK\x03\x04 broken", "not a file of torch.save"),
        (pickle.dumps({"model": 3}), "not a file of torch.save"),
        (pickle.dumps({"model": 3}, protocol=2), "not a file of torch.save"),
        (b"\x10\0\0\0\0\0\0\0{}" + b" " * 20, "a safetensors file; only files of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "their.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path, None)


def test_a_truncated_file(tmp_path):
    torch.save({"model": spvnas()}, tmp_path / "their.pth")
    whole = (tmp_path / "their.pth").read_bytes()
    (tmp_path / "their.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        imported(tmp_path, None)


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"their\.pth: No such file"):
        imported(tmp_path, None)
