"""Camera motion and depth to flow: where a moving camera saw, in an earlier frame, what is at each place of a new one.

A pinhole camera whose axes are right, down and forward. Lengths are those of the recorded depth (in Minetest: nodes).
Shape suffixes: B batch, K frames, q and r rows and columns of a grid of places.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

_NEAREST = 0.05
"""Smallest depth, relative to that of before, that a place may have after a step: what is nearer is not seen."""
_REFINEMENTS = 3


class CameraMotion(NamedTuple):
    """Motion of the camera from the last frame to each of K new ones.

    `rotation` `(B, K, 3, 3)` and `translation` `(B, K, 3)`: a point at X in the last camera's axes is at
    `rotation @ (X - translation)` in those of the new one. `focal` `(B,)`: focal length over the picture's height.
    """

    rotation: Tensor
    translation: Tensor
    focal: Tensor


def rotation_matrix(turn_B3: Tensor) -> Tensor:
    """Rotations by vectors of less than half a radian, `(B, 3, 3)`: Rodrigues' formula to fourth order."""
    x, y, z = turn_B3.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    squared = turn_B3.square().sum(-1)[..., None, None]
    identity = torch.eye(3, dtype=turn_B3.dtype, device=turn_B3.device)
    return (
        identity
        + (1 - squared / 6 + squared.square() / 120) * cross
        + (0.5 - squared / 24 + squared.square() / 720) * cross @ cross
    )


def turn_vectors(yaw_BK: Tensor, pitch_BK: Tensor, tilt_B: Tensor) -> Tensor:
    """Rotation vectors `(B, K, 3)` of steps that turn right about the world's vertical and then look down, in radians.

    `tilt` is how far the camera of the last frame looks down. Things turn the other way than the camera.
    """
    tilt = tilt_B[:, None] + pitch_BK.cumsum(1) - pitch_BK
    return torch.stack([pitch_BK, -yaw_BK * tilt.cos(), -yaw_BK * tilt.sin()], -1)


def accumulate(turns_BK3: Tensor, steps_BK3: Tensor, focal_B: Tensor) -> CameraMotion:
    """Composes the turn and the way, in its own axes, of each frame's step to the motion since the last frame."""
    rotation, translation = rotation_matrix(turns_BK3[:, 0]), steps_BK3[:, 0]
    rotations, translations = [rotation], [translation]
    for turn, step in zip(turns_BK3.unbind(1)[1:], steps_BK3.unbind(1)[1:], strict=True):
        translation = translation + einsum(rotation, step, "b i j, b i -> b j")
        rotation = rotation_matrix(turn) @ rotation
        rotations.append(rotation)
        translations.append(translation)
    return CameraMotion(torch.stack(rotations, 1), torch.stack(translations, 1), focal_B)


def backward_flow(inverse_depth_Bqr: Tensor, camera: CameraMotion) -> Tensor:
    """Flow from each new frame to the last one in places of the grid, `(B, K, 2, q, r)`.

    The last frame's inverse depth is known, a new frame's is not: it begins as that of the same place, and is then
    read where the flow leads. Occluded places take what hides them.
    """
    K = camera.rotation.shape[1]
    q, r = inverse_depth_Bqr.shape[-2:]
    directions = rays(q, r, camera.focal)
    places = directions[:, :, :2] * (camera.focal * q)[:, None, None, None, None]
    back = einsum(camera.rotation, directions.expand(-1, K, -1, -1, -1), "b k j i, b k j q r -> b k i q r")
    shift = camera.translation[..., None, None]
    depth = inverse_depth_Bqr[:, None].expand(-1, K, -1, -1)
    for refinement in range(_REFINEMENTS + 1):
        seen = back + shift * depth[:, :, None]
        flow = _project(seen, camera.focal, q) - places
        if refinement < _REFINEMENTS:
            depth = _depth_after(inverse_depth_Bqr, seen, camera)
    return flow


def _depth_after(inverse_depth_Bqr: Tensor, seen_BK3qr: Tensor, camera: CameraMotion) -> Tensor:
    """Inverse depth in each new frame `(B, K, q, r)` of what the last frame shows in the directions `seen`."""
    K = seen_BK3qr.shape[1]
    q, r = inverse_depth_Bqr.shape[-2:]
    direction = seen_BK3qr / seen_BK3qr[:, :, 2:].clamp_min(_NEAREST)
    half = torch.tensor([r / q / 2, 0.5], device=direction.device)
    points = direction[:, :, :2] * camera.focal[:, None, None, None, None] / half[:, None, None]
    source = inverse_depth_Bqr[:, None].expand(-1, K, -1, -1).flatten(0, 1)[:, None]
    read = F.grid_sample(
        source,
        points.flatten(0, 1).permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    depth = read[:, 0].unflatten(0, (-1, K))
    moved = direction - camera.translation[..., None, None] * depth[:, :, None]
    forward = einsum(camera.rotation[:, :, 2], moved, "b k i, b k i q r -> b k q r")
    return depth / forward.clamp_min(_NEAREST)


def _project(points_BK3qr: Tensor, focal_B: Tensor, q: int) -> Tensor:
    """Places from the picture's middle, right and down, in places of the grid."""
    forward = points_BK3qr[:, :, 2:].clamp_min(_NEAREST)
    return points_BK3qr[:, :, :2] / forward * (focal_B * q)[:, None, None, None, None]


def rays(q: int, r: int, focal_B: Tensor) -> Tensor:
    """Directions of the grid's places by focal lengths `(B,)`, forward 1, `(B, 1, 3, q, r)`."""
    y = (torch.arange(q, device=focal_B.device) + 0.5) / q - 0.5
    x = ((torch.arange(r, device=focal_B.device) + 0.5) - r / 2) / q
    plane = torch.stack(torch.meshgrid(x, y, indexing="xy"))
    sides = plane / focal_B[:, None, None, None]
    return torch.cat([sides, torch.ones_like(sides[:, :1])], 1)[:, None]
