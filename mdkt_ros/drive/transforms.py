"""The tf tree of a bag: fixed and moving transforms between named frames, looked up at a time."""

from __future__ import annotations

import bisect

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.pose import inverse, pose_from_quaternion, quaternion_from_matrix

Pose = npt.NDArray[np.float64]


def interpolate(first: Pose, second: Pose, fraction: float) -> Pose:
    """Pose (4, 4) between two poses (4, 4): translation on a line, rotation by slerp; beyond 0..1 it goes on evenly."""
    a, b = quaternion_from_matrix(first), quaternion_from_matrix(second)
    dot = float(a @ b)
    if dot < 0:
        b, dot = -b, -dot
    angle = float(np.arccos(min(dot, 1.0)))
    if angle < 1e-7:
        rotation = a + fraction * (b - a)
    else:
        rotation = (np.sin((1 - fraction) * angle) * a + np.sin(fraction * angle) * b) / np.sin(angle)
    return pose_from_quaternion(rotation, first[:3, 3] + fraction * (second[:3, 3] - first[:3, 3]))


class _Edge:
    """Transforms from one frame to its parent, in the order of time."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.stamps: list[int] = []
        self.poses: list[Pose] = []

    def add(self, stamp: int, pose: Pose) -> None:
        at = bisect.bisect_left(self.stamps, stamp)
        if at < len(self.stamps) and self.stamps[at] == stamp:
            self.poses[at] = pose
        else:
            self.stamps.insert(at, stamp)
            self.poses.insert(at, pose)

    def fixed_at(self, stamp: int) -> Pose:
        return self.poses[max(bisect.bisect_right(self.stamps, stamp) - 1, 0)]

    def moving_at(self, stamp: int) -> Pose:
        at = bisect.bisect_left(self.stamps, stamp)
        if at == len(self.stamps) or (at == 0 and self.stamps[0] != stamp):
            return self.poses[min(at, len(self.stamps) - 1)]
        if self.stamps[at] == stamp:
            return self.poses[at]
        before, after = self.stamps[at - 1], self.stamps[at]
        return interpolate(self.poses[at - 1], self.poses[at], (stamp - before) / (after - before))


class TransformTree:
    """Transforms by child frame; what tf2's buffer does, without its clock.

    A fixed transform (`/tf_static`) holds from its stamp until the next of the same child, and before the first one
    too. A moving one (`/tf`) is interpolated, and held at its ends.
    """

    def __init__(self) -> None:
        self._fixed: dict[str, _Edge] = {}
        self._moving: dict[str, _Edge] = {}

    def add(self, parent: str, child: str, stamp: int, parent_from_child: Pose, *, fixed: bool) -> None:
        """Add one transform (4, 4), metres; `stamp` in nanoseconds. A leading slash of a frame (ROS 1) is dropped."""
        parent, child = parent.lstrip("/"), child.lstrip("/")
        edges = self._fixed if fixed else self._moving
        if child not in edges or edges[child].parent != parent:
            edges[child] = _Edge(parent)
        edges[child].add(stamp, parent_from_child)

    def forget_moving(self) -> None:
        """Drop the moving transforms, to load those around another time."""
        self._moving.clear()

    def lookup(self, target: str, source: str, stamp: int, *, source_stamp: int | None = None) -> Pose | None:
        """Transform (4, 4) that brings points of `source` to `target`, None when they are not connected.

        With `source_stamp`, points fixed in the world at that time are seen from `target` at `stamp` (tf2's lookup with
        two times and the root as the fixed frame): the motion between the stamps of two sensors counts.
        """
        root_from_target, target_root = self._to_root(target, stamp)
        root_from_source, source_root = self._to_root(source, stamp if source_stamp is None else source_stamp)
        if target_root != source_root:
            return None
        return inverse(root_from_target) @ root_from_source

    def root_from(self, frame: str, stamp: int) -> tuple[str, Pose]:
        """The root above `frame` and the transform (4, 4) to it."""
        pose, root = self._to_root(frame, stamp)
        return root, pose

    def moves(self, frame: str) -> bool:
        """Whether a moving transform is between `frame` and its root."""
        seen: set[str] = set()
        frame = frame.lstrip("/")
        while frame not in seen:
            seen.add(frame)
            if frame in self._moving:
                return True
            if frame not in self._fixed:
                return False
            frame = self._fixed[frame].parent
        return False

    def _to_root(self, frame: str, stamp: int) -> tuple[Pose, str]:
        pose = np.eye(4)
        frame = frame.lstrip("/")
        seen: set[str] = set()
        # A recorded tree may hold a circle, when two nodes publish against each other.
        while frame not in seen:
            seen.add(frame)
            if frame in self._moving:
                edge = self._moving[frame]
                pose = edge.moving_at(stamp) @ pose
            elif frame in self._fixed:
                edge = self._fixed[frame]
                pose = edge.fixed_at(stamp) @ pose
            else:
                break
            frame = edge.parent
        return pose, frame
