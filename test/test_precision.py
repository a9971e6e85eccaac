"""What networks compute in: which names mean what where, and a segmenter in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segmenter_inputs import META, network, scan
from typer.testing import CliRunner

from mdkt_ros.cli import app
from mdkt_ros.errors import ConfigError
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NO_BF16 = "this CPU does not multiply bfloat16 (AVX512-BF16)"


@pytest.mark.parametrize(
    ("name", "device", "engine", "multiplies", "chosen"),
    [
        ("fp32", CPU, "native", False, "fp32"),
        ("auto", CPU, "native", True, "bf16"),
        ("auto", CPU, "native", False, f"fp32 ({NO_BF16})"),
        ("auto", CPU, "torch", True, "fp32 (the engine torch has no kernels for it on a CPU)"),
        ("bf16", CPU, "native", True, "bf16"),
        ("bf16", CPU, "native", False, f"bf16 (slower than fp32: {NO_BF16})"),
        ("auto", GPU, "triton", True, "bf16"),
        ("auto", GPU, "triton", False, "fp32 (this GPU does not multiply bfloat16)"),
        ("fp16", GPU, "triton", False, "fp16"),
    ],
)
def test_a_name_means_what_is_quickest_and_says_why_not(
    name: str, device: torch.device, engine: str, multiplies: bool, chosen: str, monkeypatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: multiplies)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: multiplies)
    assert str(resolve_precision(name, device, engine)) == chosen


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half", "precision: 'half' is unknown; there are fp32, bf16, fp16, auto"),
        ("fp16", "precision: fp16 is for CUDA; on a CPU use fp32, bf16 or auto"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Segmenter(network(), META, precision=name)
    assert str(raised.value) == message


def test_a_segmenter_in_bfloat16_labels_nearly_as_in_float32() -> None:
    exact = Segmenter.load(device="cpu")
    rounded = Segmenter.load(device="cpu", precision="bf16")
    assert (exact.precision.name, rounded.precision.name) == ("fp32", "bf16")
    assert rounded.for_sensor(axes="y_forward").precision.name == "bf16"
    points, intensity = scan()
    mine, theirs = rounded.segment(points, intensity), exact.segment(points, intensity)
    assert mine.probability.dtype == np.float32
    # Random points mean nothing to it, so that many labels are close calls.
    assert (mine.class_id == theirs.class_id).mean() > 0.9
    assert 0 < np.abs(mine.probability - theirs.probability).max() < 0.1


def test_the_command_says_why_a_precision_is_slow(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    points = np.random.default_rng(0).uniform(-20, 20, (2000, 4)).astype(np.float32)
    points[:, 3] = 0.3
    points.tofile(tmp_path / "scan.bin")
    arguments = ["segment", str(tmp_path / "scan.bin"), str(tmp_path / "out.pcd"), "--precision"]
    result = CliRunner().invoke(app, [*arguments, "auto"])
    assert result.exit_code == 0, result.output
    assert f"Precision fp32 ({NO_BF16})" in " ".join(result.output.split())
    result = CliRunner().invoke(app, [*arguments, "double", "--force"])
    assert isinstance(result.exception, ConfigError)
    assert "precision: 'double' is unknown" in str(result.exception)


@pytest.mark.parametrize("scan", ["00/velodyne/000000.bin", "07/velodyne/000964.bin"])
def test_bfloat16_changes_at_most_one_label_in_two_hundred_on_a_real_scan(real_data, scan: str) -> None:
    """The share is what docs/engine.md states."""
    cloud = np.fromfile(real_data / "semantickitti" / "sequences" / scan, np.float32).reshape(-1, 4)
    mine, exact = (
        Segmenter.load(device="cpu", precision=precision).segment(cloud[:, :3], cloud[:, 3]).class_id
        for precision in ("bf16", "fp32")
    )
    changed = float((mine != exact).mean())
    assert 0 < changed < 0.005, f"{100 * changed:.2f} % of {len(cloud):,} labels changed"
