"""Which branch is right how often: counted on every point in view, not on the drawn labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_drives import write_kitti

from bench.teachers import main, settings

RECIPE = """
data: {kind: semantickitti, percent: 50}
model: {width: 0.25, voxel_size: 2.0}
optim: {batch_size: 2, average: 0.9, steps: 4}
images: {scale: 1.0}
image_network: {channels: 8}
transfer: {weight: 0.2, scales: [2, 1]}
pseudo: {weight: 0.5}
"""


def test_the_budget_is_the_settings_and_the_comparison_has_the_whole_truth(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    for more, percent in (([], 50), (["data.percent=3"], 3)):
        trained, compared = settings(recipe, more, 4)
        assert (trained.data.percent, compared.data.percent) == (percent, 100)
        assert (trained.seed, trained.data.draw_seed, compared.data.draw_seed) == (4, 4, 4)
        assert (trained.pseudo.weight, compared.pseudo.weight, compared.transfer.weight) == (0.5, 0, 1)


@pytest.mark.slow
def test_all_branches_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_kitti(tmp_path / "data", count=3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    data = [f"data.root={tmp_path / 'data'}", f"data.draws={tmp_path / 'draws'}"]
    assert main(["--recipe", str(recipe), "--looks", "2", "--scans", "2", "--set", *data]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4"]
    for name in ("student", "average", "fused 2", "fused 1", "point 2", "image"):
        assert f"{name} " in lines[-1], name
    assert main(["--recipe", str(recipe), "--set", *data, "transfer.weight=0", "optim.steps=1"]) == 1
    assert "optim.steps" in capsys.readouterr().err
