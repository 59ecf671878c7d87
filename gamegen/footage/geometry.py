"""True flow between frames of a clip, computed from recorded depth and camera pose.

Only for first-person frames: there the camera is where the player is, its eyes always as high. World axes are those of
Minetest, east, up and north; a camera's are right, down and forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen.footage.depth import DEPTH_CELL_PX, DEPTH_SCALE, depth_cells

_FARTHEST = 1e-4 * DEPTH_SCALE
"""Smallest inverse depth: the sky, recorded as 0, counts as this far away."""

_FAR_OUTSIDE_PX = 1e4


@dataclass(frozen=True)
class CameraTrack:
    """Depth and camera pose of every frame of a clip.

    `inverse_depth` uint8 `(T, q, r)` as in `Clip`; `position` `(T, 3)` in the depth's unit of length; angles in
    degrees, `heading_deg` growing to the right and `tilt_deg` downwards; `is_first_person` bool `(T,)`.
    """

    inverse_depth: np.ndarray
    position: np.ndarray
    heading_deg: np.ndarray
    tilt_deg: np.ndarray
    is_first_person: np.ndarray
    vertical_fov_deg: float

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> CameraTrack | None:
        """The track of a clip by its row, None where its game does not tell depth and field of view."""
        if row.get("inverse_depth") is None or row.get("vertical_fov_deg") is None:
            return None
        return cls(
            depth_cells(row["inverse_depth"], row["num_frames"], row["width"], row["height"]),
            np.array(row["position"]),
            np.array(row["heading_deg"]),
            np.array(row["tilt_deg"]),
            np.array(row["view"]) == "first",
            row["vertical_fov_deg"],
        )

    def window(self, start: int, length: int) -> CameraTrack:
        """Some neighbouring frames."""
        part = slice(start, start + length)
        return CameraTrack(
            self.inverse_depth[part],
            self.position[part],
            self.heading_deg[part],
            self.tilt_deg[part],
            self.is_first_person[part],
            self.vertical_fov_deg,
        )

    def mirrored(self) -> CameraTrack:
        """The track in a mirror, where east and west change places."""
        return CameraTrack(
            np.ascontiguousarray(self.inverse_depth[:, :, ::-1]),
            self.position * (-1, 1, 1),
            -self.heading_deg,
            self.tilt_deg,
            self.is_first_person,
            self.vertical_fov_deg,
        )

    def flow(self, frame: int, earlier: int) -> np.ndarray:
        """Flow float32 `(2, q, r)`: pixels to the right and down from the middle of each place of `frame` to where
        its content was in the `earlier` frame. Raises ValueError for frames in third person."""
        if not (self.is_first_person[frame] and self.is_first_person[earlier]):
            raise ValueError("the true flow is known for first-person frames only")
        rows, columns = self.inverse_depth.shape[1:]
        focal = rows * DEPTH_CELL_PX / 2 / np.tan(np.radians(self.vertical_fov_deg / 2))
        y, x = ((np.mgrid[:rows, :columns] + 0.5).T - np.array([rows, columns]) / 2).T * DEPTH_CELL_PX
        depth = DEPTH_SCALE / np.maximum(self.inverse_depth[frame], _FARTHEST)
        seen = np.stack([x / focal * depth, y / focal * depth, depth], -1)
        rotation, translation = self.motion(frame, earlier)
        right, down, forward = np.moveaxis(seen @ rotation + translation, -1, 0)
        # What was behind the earlier camera was in no place of its picture: far outside of it.
        forward = np.maximum(forward, 1e-3)
        flow = np.stack([right / forward * focal - x, down / forward * focal - y])
        return flow.clip(-_FAR_OUTSIDE_PX, _FAR_OUTSIDE_PX).astype(np.float32)

    def motion(self, frame: int, earlier: int) -> tuple[np.ndarray, np.ndarray]:
        """Camera motion from the `earlier` frame to `frame`: rotation `(3, 3)` and translation `(3,)`.

        What is at X in the earlier camera's axes is at `rotation @ (X - translation)` in those of `frame`.
        """
        before, after = self._axes(earlier), self._axes(frame)
        return after @ before.T, before @ (self.position[frame] - self.position[earlier])

    def _axes(self, frame: int) -> np.ndarray:
        """The camera's right, down and forward in the world, a row each."""
        heading, tilt = np.radians(self.heading_deg[frame]), np.radians(self.tilt_deg[frame])
        right = np.array([np.cos(heading), 0, -np.sin(heading)])
        forward = np.array([np.sin(heading) * np.cos(tilt), -np.sin(tilt), np.cos(heading) * np.cos(tilt)])
        return np.stack([right, np.cross(right, forward), forward])
