"""A world's view memory as bytes: a safetensors file inside of snapshots and of clips' checkpoints.

Shape suffixes: V views, those ahead and beside last, P poses (the camera's, then the views'), q and r as in
`gamegen/models/motion.py`, B bytes.
"""

from __future__ import annotations

from itertools import pairwise

import simplejpeg
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gamegen.models.motion import FINE
from gamegen.models.view_memory import MAX_VIEWS, KeyView, ViewMemory

_DTYPES = {
    "poses_P34": torch.float64,
    "moving_qr": torch.float16,
    "opacity_HW": torch.uint8,
    "depths_Vqr": torch.float16,
    "still_Vqr": torch.uint8,
    "lengths_V": torch.int32,
    "kinds_V": torch.uint8,
    "pictures_B": torch.uint8,
}
_AHEAD, _BESIDE = 1, 2
_LAID: tuple[list[int], ...] = ([], [_AHEAD], [_BESIDE], [_AHEAD, _BESIDE])
"""Kinds of the views that are no frames of the world, 0 being those that are."""


def memory_to_bytes(memory: ViewMemory) -> bytes:
    """Serialises a memory; empty for one without views."""
    if memory.is_new:
        return b""
    laid = {
        kind: view for kind, view in ((_AHEAD, memory.ahead), (_BESIDE, memory.beside)) if view is not None
    }
    views = [*memory.views, *laid.values()]
    pictures = [as_tensor(view.picture) for view in views]
    poses = [_pose(memory.rotation, memory.position), *(_pose(v.rotation, v.position) for v in views)]
    tensors = {
        "poses_P34": torch.stack(poses),
        "moving_qr": torch.empty(0, 0) if memory.moving is None else memory.moving,
        "opacity_HW": torch.empty(0, 0) if memory.opacity is None else memory.opacity,
        "depths_Vqr": torch.stack([view.inverse_depth for view in views]),
        "still_Vqr": torch.stack([view.still for view in views]),
        "lengths_V": torch.tensor([len(picture) for picture in pictures]),
        "kinds_V": torch.tensor([0] * len(memory.views) + list(laid)),
        "pictures_B": torch.cat(pictures),
    }
    return save({name: tensors[name].to(dtype).contiguous() for name, dtype in _DTYPES.items()})


def memory_from_bytes(data: bytes) -> ViewMemory:
    """The inverse of `memory_to_bytes`; raises ValueError, which names the fault, for bytes that are damaged."""
    if not data:
        return ViewMemory()
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"its views are cut off or damaged ({error})") from error
    if "lengths_V" in tensors:
        # Older memories lack these.
        tensors.setdefault("kinds_V", torch.zeros(len(tensors["lengths_V"]), dtype=torch.uint8))
        tensors.setdefault("opacity_HW", torch.empty(0, 0, dtype=torch.uint8))
    found = {name: tensor.dtype for name, tensor in tensors.items()}
    _require(found == _DTYPES, f"its views have the tensors {found}")
    poses, moving, opacity, depths, still, lengths, kinds_V, pictures = (tensors[name] for name in _DTYPES)
    num_views, kinds = len(lengths), kinds_V.tolist()
    laid = [kind for kind in kinds if kind]
    _require(
        len(kinds) == num_views and kinds[num_views - len(laid) :] == laid and laid in _LAID,
        f"its {num_views} views have the kinds {kinds[: MAX_VIEWS + 2]}",
    )
    num_kept = num_views - len(laid)
    _require(num_kept <= MAX_VIEWS, f"it has {num_kept} views of at most {MAX_VIEWS}")
    _require(poses.shape == (num_views + 1, 3, 4), f"its poses have the shape {tuple(poses.shape)}")
    _require(
        depths.ndim == 3 and len(depths) == num_views and still.shape == depths.shape,
        f"the depth of its {num_views} views has the shape {tuple(depths.shape)}",
    )
    _require(
        moving.shape in ((0, 0), depths.shape[1:]),
        f"what stands still has the shape {tuple(moving.shape)}",
    )
    size = tuple(FINE * side for side in depths.shape[1:])
    _require(
        opacity.shape in ((0, 0), size), f"the opacity in front of it has the shape {tuple(opacity.shape)}"
    )
    is_finite = all(bool(part.isfinite().all()) for part in (poses, moving, depths))
    _require(is_finite, "its views have NaN or infinity")
    _require(
        bool((lengths >= 0).all()) and int(lengths.sum()) == len(pictures),
        "its views' pictures are cut off",
    )
    ends = [0, *lengths.cumsum(0).tolist()]
    raw = pictures.numpy().tobytes()
    views = tuple(
        KeyView(_checked(raw[a:b], size), depth, mask.bool(), pose[:, :3].clone(), pose[:, 3].clone())
        for (a, b), depth, mask, pose in zip(pairwise(ends), depths, still, poses[1:], strict=True)
    )
    by_kind = dict(zip(laid, views[num_kept:], strict=True))
    return ViewMemory(
        rotation=poses[0, :, :3].clone(),
        position=poses[0, :, 3].clone(),
        views=views[:num_kept],
        moving=moving if len(moving) else None,
        opacity=opacity if len(opacity) else None,
        ahead=by_kind.get(_AHEAD),
        beside=by_kind.get(_BESIDE),
    )


def as_tensor(data: bytes) -> Tensor:
    """Bytes as a uint8 tensor `(B,)`."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _checked(picture: bytes, size: tuple[int, ...]) -> bytes:
    """The picture; raises ValueError if it is no JPEG file of this height and width."""
    try:
        found = simplejpeg.decode_jpeg_header(picture)[:2]
    except ValueError as error:
        raise ValueError(f"the picture of a view is damaged ({error})") from error
    _require(found == size, f"the picture of a view has {found} pixels, not {size}")
    return picture


def _pose(rotation: Tensor, position: Tensor) -> Tensor:
    return torch.cat([rotation, position[:, None]], 1)


def _require(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise ValueError(otherwise)
