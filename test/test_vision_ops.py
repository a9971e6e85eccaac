"""timm and open_clip import whatever torchvision's binary part does, and say what to install when they are missing."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mdkt_ros import vision_ops
from mdkt_ros.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
HALF_INSTALLED = """
import sys
import torch

kind = sys.argv[1]
if kind == "no operators":  # as beside the CPU build: whatever is there does not load
    def refuse(path):
        raise OSError(path)
    torch.ops.load_library = refuse

from mdkt_ros.vision_ops import import_open_clip, import_timm

timm = import_timm()
assert timm.create_model("resnet10t", features_only=True).feature_info.channels()
assert import_timm() is timm
assert "ViT-B-32" in import_open_clip().list_models()
import torchvision
assert torchvision.transforms.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as installed", "no operators"])
def test_import_in_a_fresh_process(kind):
    # -W error: nothing that the libraries warn of on import may come through.
    command = [sys.executable, "-W", "error", "-c", HALF_INSTALLED, kind]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("name", "extra"), [("timm", "train"), ("open_clip", "text")])
def test_missing_package_names_the_extra(name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"{name} .*pip install mdkt_ros\[{extra}\]"):
        getattr(vision_ops, f"import_{name}")()


def test_other_errors_pass(monkeypatch):
    def broken(name: str) -> ModuleType:
        raise RuntimeError(f"{name}: something else")

    monkeypatch.setattr(vision_ops.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        vision_ops.import_timm()
