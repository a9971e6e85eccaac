"""What the projects that publish MinkUNets leave unsaid in their files: voxels, intensity, order of the classes."""

from __future__ import annotations

from dataclasses import dataclass

from mdkt_ros.errors import ConfigError
from mdkt_ros.importing.layouts import MMDET3D_SPCONV, MMDET3D_TORCHSPARSE, SPVNAS_SPCONV, SPVNAS_TORCHSPARSE, Layout
from mdkt_ros.labels import LabelSpace

SEMANTICKITTI = (
    *("car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist", "road"),
    *("parking", "sidewalk", "other-ground", "building", "fence", "vegetation", "trunk", "terrain", "pole"),
    "traffic-sign",
)
"""The order of `learning_map` of semantic-kitti.yaml, in which all of these projects count their classes."""


@dataclass(frozen=True)
class Zoo:
    """Conventions of a project.

    Attributes:
        name: as in `--from`. title: as people call it.
        layouts: how its files may look.
        multiscale: whether its classifier may read one level (False), three (True).
        classes: its class names in order, by label space; None: any label space, in that space's own order.
        unlabelled_first: whether its first output stands for points without a label.
        unused: beginnings of names of tensors that its files hold and its network does not use.
        voxel_size: metres. features: of a voxel, in order. intensity_scale: what brings intensity to 0..1.
    """

    name: str
    title: str
    layouts: tuple[Layout, ...]
    multiscale: tuple[bool, ...]
    classes: dict[str, tuple[str, ...]] | None
    unlabelled_first: bool = False
    unused: tuple[str, ...] = ()
    voxel_size: float = 0.05
    features: tuple[str, ...] = ("x", "y", "z", "intensity")
    intensity_scale: float = 1.0

    def rows(self, labels: LabelSpace) -> list[int]:
        """The output of the project's network that stands for each class of `labels`. Raises ConfigError."""
        if self.classes is None:
            return list(range(len(labels)))
        names = self.classes.get(labels.name)
        if names is None:
            known = ", ".join(self.classes)
            raise ConfigError(f"labels: {self.title} has networks for {known}, not for {labels.name!r}")
        if set(names) != set(labels.names):
            raise ConfigError(f"labels: {labels.name!r} has other classes than {self.title} trains: {', '.join(names)}")
        return [names.index(name) + self.unlabelled_first for name in labels.names]


ZOOS = {
    zoo.name: zoo
    for zoo in (
        Zoo(
            "spvnas",
            "SPVNAS",
            (SPVNAS_TORCHSPARSE,),
            (False,),
            {"semantickitti": SEMANTICKITTI},
            unused=("point_transforms.",),
        ),
        Zoo(
            "mmdet3d",
            "MMDetection3D",
            (MMDET3D_TORCHSPARSE, MMDET3D_SPCONV),
            (False, True),
            {"semantickitti": SEMANTICKITTI},
        ),
        Zoo(
            "openpcseg",
            "OpenPCSeg",
            (SPVNAS_TORCHSPARSE,),
            (True,),
            {"semantickitti": SEMANTICKITTI},
            unlabelled_first=True,
        ),
        Zoo("spconv", "a network on spconv", (SPVNAS_SPCONV, MMDET3D_SPCONV), (False, True), None),
    )
}
