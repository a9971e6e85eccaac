"""Which points of a batch its images show, and where: the pairs that knowledge passes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mdkt_ros.labels import IGNORE
from mdkt_ros.voxels import Voxels
from training.data.pair_finder import ImagePairs
from training.data.scan import Scan


@dataclass(frozen=True)
class Pairs:
    """P pairs of a point and a pixel; a point that two cameras see is two pairs, image after image.

    Attributes:
        images: (I, 3, H, W) float32 RGB in 0..1, all of one size; smaller images are padded with zeros at the right
            and the bottom. Without an image (0, 3, 1, 1).
        row: (P,) int64 row in the batch's voxels of the voxel that holds the point.
        image: (P,) int64 number of the image, ascending.
        pixel: (P, 2) float32 (u, v) in pixels of `images`; the centre of the top left pixel is (0, 0).
        target: (P,) int64 drawn class id of the point, 255 where none was drawn.
        origin: (I, 2) int64 number of each image's scan in the source and of the view in the scan, by which an image
            is known again.
    """

    images: Tensor
    row: Tensor
    image: Tensor
    pixel: Tensor
    target: Tensor
    origin: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device) -> Pairs:
        moved = {name: getattr(self, name).to(device) for name in ("images", "row", "image", "pixel", "target")}
        return replace(self, **moved)  # the origin is looked up on the CPU


@dataclass(frozen=True)
class ExamplePairs:
    """The pairs of one example, as `Pairs` but of numpy arrays, images (I, 3, H, W) uint8 and rows of its own voxels.

    Attributes:
        point: (P,) int64 row in the example's `Scan`, for what else is known about the point.
    """

    images: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    pixel: npt.NDArray[np.float32]
    target: npt.NDArray[np.int64]
    point: npt.NDArray[np.int64]
    origin: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)


def join(scan: Scan, voxels: Voxels, parts: Sequence[ImagePairs]) -> ExamplePairs:
    """Follow the points that images show through augmentation, mixing and voxels.

    A labelled point keeps its own pair and stands for its voxel in that image; of the other points of a voxel one an
    image is kept. Points that augmentation dropped or that lie outside the grid have no pair, and images that show
    nothing that is left are dropped. No pair carries a label that is not its point's own.

    Args:
        scan: as the network takes it.
        voxels: of its points.
        parts: pairs of the recorded scans that it was made from; those of part k are `parts[k]`.
    """
    images = stack_images([part.images for part in parts])
    origin = np.concatenate([np.zeros((0, 2), np.int64), *(part.origin for part in parts)])
    # The rows of the parts' points in the scan, by their rows in the recorded scans one after another.
    sizes = [1 + max(int(part.point.max(initial=-1)), _last(scan, k)) for k, part in enumerate(parts)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    first = np.concatenate([[0], np.cumsum([len(part.images) for part in parts])]).astype(np.int64)
    table = np.full(starts[-1], -1, dtype=np.int64)
    known = np.flatnonzero(scan.part < len(parts))
    table[starts[scan.part[known]] + scan.index[known]] = known

    point = _together([table[start + part.point] for start, part in zip(starts[:-1], parts, strict=True)])
    image = _together([number + part.image for number, part in zip(first[:-1], parts, strict=True)])
    pixel = np.concatenate([np.zeros((0, 2), np.float32), *(part.pixel for part in parts)])
    row = np.full(len(point), -1, dtype=np.int64)
    there = point >= 0
    row[there] = voxels.point_to_voxel[point[there]]
    target = np.full(len(point), IGNORE, dtype=np.int64)
    target[there] = scan.target[point[there]]

    kept = np.flatnonzero(row >= 0)
    kept = kept[_stand_for_their_voxel(image[kept] * len(voxels) + row[kept], target[kept] != IGNORE)]
    used, image = np.unique(image[kept], return_inverse=True)
    return ExamplePairs(
        images=images[used] if len(used) else np.zeros((0, 3, 1, 1), np.uint8),
        row=row[kept],
        image=image.reshape(-1).astype(np.int64),
        pixel=pixel[kept],
        target=target[kept],
        point=point[kept],
        origin=origin[used],
    )


def thin(pairs: ExamplePairs, most: int, rng: np.random.Generator) -> ExamplePairs:
    """At most `most` pairs, labelled ones first, the others drawn; 0 keeps all. The images stay as they are.

    A step's transfer is a mean over pairs: a few thousand of them say the same as all, and cost less.
    """
    if not most or len(pairs) <= most:
        return pairs
    labelled = pairs.target != IGNORE
    others = np.flatnonzero(~labelled)
    drawn = rng.choice(others, min(max(most - int(labelled.sum()), 0), len(others)), replace=False)
    kept = np.sort(np.concatenate([np.flatnonzero(labelled), drawn]))
    chosen = {name: getattr(pairs, name)[kept] for name in ("row", "image", "pixel", "target", "point")}
    return replace(pairs, **chosen)


def collate_pairs(examples: Sequence[ExamplePairs], offsets: npt.NDArray[np.int64]) -> Pairs:
    """Join the pairs of a batch's examples, whose voxels begin at `offsets` (B + 1,) as `voxels.collate` gives them."""
    images = stack_images([example.images for example in examples])
    first = np.concatenate([[0], np.cumsum([len(example.images) for example in examples])]).astype(np.int64)
    return Pairs(
        images=torch.from_numpy(images).float() / 255,
        row=torch.from_numpy(_together([o + e.row for o, e in zip(offsets[:-1], examples, strict=True)])),
        image=torch.from_numpy(_together([n + e.image for n, e in zip(first[:-1], examples, strict=True)])),
        pixel=torch.from_numpy(np.concatenate([np.zeros((0, 2), np.float32), *(e.pixel for e in examples)])),
        target=torch.from_numpy(_together([e.target for e in examples])),
        origin=torch.from_numpy(np.concatenate([np.zeros((0, 2), np.int64), *(e.origin for e in examples)])),
    )


def stack_images(stacks: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """One stack (I, 3, H, W) of several, the smaller ones padded with zeros at the right and the bottom."""
    stacks = [stack for stack in stacks if len(stack)]
    if len(stacks) == 1:
        return stacks[0]
    height, width = (max((stack.shape[axis] for stack in stacks), default=1) for axis in (2, 3))
    out = np.zeros((sum(map(len, stacks)), 3, height, width), dtype=np.uint8)
    start = 0
    for stack in stacks:
        out[start : start + len(stack), :, : stack.shape[2], : stack.shape[3]] = stack
        start += len(stack)
    return out


def _stand_for_their_voxel(key: npt.NDArray[np.int64], labelled: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mask (P,) of every labelled pair, and of the first pair of each `key` (image and voxel) that has none."""
    if not len(key):
        return labelled
    number = np.arange(len(key))
    has_label = np.zeros(key.max() + 1, dtype=np.bool_)
    has_label[key[labelled]] = True
    first = np.empty(len(has_label), dtype=np.int64)
    first[key[::-1]] = number[::-1]  # of repeated indices the last assignment holds
    stands: npt.NDArray[np.bool_] = labelled | (~has_label[key] & (first[key] == number))
    return stands


def _last(scan: Scan, part: int) -> int:
    return int(scan.index[scan.part == part].max(initial=-1))


def _together(arrays: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays])
