"""View memory: frames that a world has shown, and from where, so that what one turns back to is there again.

The motion network says how far away things are and how the camera moves; summed up, that is where the camera is. Every
now and then a frame is kept with its depth and its pose. Where the last frame shows nothing of what comes into view,
the kept frame that sees most of it is moved there, and where both show the same, it has the detail that moving one
frame over and over wears away (key frames of visual odometry, and the view retrieval of WorldMem: Xiao et al. 2025,
section 3.2, without a network that learns to read them).

Shape suffixes as in `motion.py`; V kept views.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.models.camera import CameraMotion, backward_flow, rays
from gamegen.models.folding import from_pixels
from gamegen.models.layered_warp import Layers
from gamegen.models.motion import FINE, PredictedMotion
from gamegen.models.warping import inside, resize_flow, warp

MAX_VIEWS = 24
"""Views that are kept: a turn around, or a walk of 36 nodes."""
_APART_COS, _APART_NODES = 0.966, 1.5
"""A frame is kept if no kept one is within this angle, 15 degrees as a cosine, and distance of it."""
_FAR_NODES = 4.0
"""Distance over which a view's worth falls to a third: depth is not known well enough to see it from elsewhere."""
_FACING_COS = 0.3
_SEEN_WORTH, _LEAST_WORTH = 0.05, 0.004
"""Worth of a place that the last frame shows too, where one that it lacks has 1; mean worth that is the least."""
_NEAR_NODES = 3.0
"""Distance up to which a view's detail is in its place."""
_COARSE_PIXELS, _ALIKE = 8, 0.08
"""Block size of the low-pass filter in pixels; largest difference, in [-1, 1], of low-passed views that show the
same."""
_LEAST_OVERLAP, _MOST_ERROR = 0.1, 0.15
"""A view must show an overlap with the moved frame of this share, and its mean absolute error there, in [-1, 1]."""
_GAINS = (0.5, 2.0)
"""Light may have changed by this much since a view was kept."""
_OTHER_LIGHT = 0.15
"""Change of a view's mean brightness from which on it is kept anew."""
_MOVES_PX = 1.0
_MOVING_SHARE, _STILL_SHARE = 0.4, 0.15
"""Share of a new chunk in the average of what stands still, in places that move now and in those that do not."""
_OPACITY_SHARE = 0.15
"""Share of a new chunk in the average opacity of what stands in front."""
_JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class KeyView:
    """A kept view: its picture as a JPEG file, the scenery's inverse depth `(q, r)` float16, bool `still` `(q, r)`
    where something is in front of it, and its pose as in `ViewMemory`."""

    picture: bytes
    inverse_depth: Tensor
    still: Tensor
    rotation: Tensor
    position: Tensor

    def pixels(self) -> Tensor:
        """The picture, uint8 `(H, W, 3)`."""
        return torch.from_numpy(_jpeg().decode_jpeg(self.picture, colorspace="RGB"))

    def moved(self, rotation: Tensor, translation: Tensor, camera: CameraMotion) -> tuple[Tensor, Tensor]:
        """The picture moved to each of a chunk's frames, `(K, 3, H, W)`, and where it is seen, `(K, q, r)`.

        `rotation` and `translation` lead from its camera to that of the last frame, as in `CameraMotion`, and `camera`
        from there on.
        """
        picture = from_pixels(self.pixels()[None].to(camera.rotation.device))
        rotation, translation = rotation.to(camera.rotation), translation.to(camera.translation)
        since = CameraMotion(
            camera.rotation @ rotation, translation + camera.translation @ rotation, camera.focal
        )
        flow = backward_flow(self.inverse_depth[None].to(since.rotation), since)
        behind = warp((~self.still)[None, None].to(flow), flow, "bilinear")[0, :, 0] > 0.6
        flow_in_pixels = resize_flow(flow * FINE, *picture.shape[-2:])
        return warp(picture, flow_in_pixels)[0], inside(flow)[0] * behind


class RecalledView(NamedTuple):
    """A kept view as it is laid into a chunk.

    `shown` `(K, 3, H, W)` is its picture as each of the chunk's frames shows it, in the light of the last frame; `seen`
    `(K, q, r)` is 1 where it sees something, and `has_detail` is True if it was seen from near enough for its detail to
    be in place.
    """

    shown: Tensor
    seen: Tensor
    has_detail: bool

    def lay_into(self, frames_K3HW: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """The chunk's moved frames with this view where it sees what they do not, and these places `(K, q, r)`.

        Where both see the same, up to detail, the view's detail takes the place of theirs: it has been moved once, and
        theirs chunk after chunk. `layers` are those of one row.
        """
        height, width = frames_K3HW.shape[-2:]
        filled = self.seen * layers.unseen[0]
        share = _over_pixels(filled[:, None], height, width)
        new = share * (self.shown - frames_K3HW)
        if not self.has_detail:
            return frames_K3HW + new, filled
        coarse_change = F.avg_pool2d(self.shown, _COARSE_PIXELS) - F.avg_pool2d(frames_K3HW, _COARSE_PIXELS)
        alike = (coarse_change.abs().mean(1, keepdim=True) < _ALIKE).to(frames_K3HW.dtype)
        free = F.avg_pool2d(self.seen * (1 - layers.covered[0]), 3, 1, 1)[:, None]
        fresh = _over_pixels(alike, height, width) * _over_pixels(free, height, width) * (1 - share)
        detail = self.shown - frames_K3HW - _over_pixels(coarse_change, height, width)
        return frames_K3HW + new + fresh * detail, filled


def _fitted(shown_K3HW: Tensor, seen_Kqr: Tensor, frames_K3HW: Tensor, layers: Layers) -> Tensor | None:
    """A moved view in the light of the moved frames; None if it does not show what the last of them shows."""
    height, width = frames_K3HW.shape[-2:]
    both = (seen_Kqr * (1 - layers.unseen[0]) * (1 - layers.covered[0]))[-1:]
    both_1HW = _over_pixels(both[None], height, width)[0]
    if both_1HW.mean() < _LEAST_OVERLAP:
        return None
    light, now = ((both_1HW * (x[-1] + 1)).sum((1, 2)) for x in (shown_K3HW, frames_K3HW))
    gain = now / light.clamp_min(1e-3)
    if gain.min() < _GAINS[0] or gain.max() > _GAINS[1]:
        return None
    lit = gain[:, None, None] * (shown_K3HW + 1) - 1
    error = (both_1HW * (lit[-1] - frames_K3HW[-1]).abs()).sum() / (3 * both_1HW.sum())
    return None if error > _MOST_ERROR else lit.clamp(-1, 1)


def _over_pixels(places_KCqr: Tensor, height: int, width: int) -> Tensor:
    """Values of places as values of pixels, `(K, C, H, W)`."""
    return F.interpolate(places_KCqr, (height, width), mode="bilinear")


def _origin() -> Tensor:
    return torch.zeros(3, dtype=torch.float64)


def _level() -> Tensor:
    return torch.eye(3, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class ViewMemory:
    """Where a world's camera is, the views that are kept, and what stands still in front of the camera.

    A point at X of the world is at `rotation @ (X - position)` in the axes of the last frame's camera; both are
    float64. The world's axes are those of its first frame. `moving` `(q, r)` float16 is the average of
    `PredictedMotion.moving` while the camera moves, None before: a held tool stays where it is, while a place of the
    scenery that the motion network takes for one would go along with the camera from then on. `opacity` `(H, W)` uint8
    is the average of `Layers.opacity`, times 255, known where `moving` is: by one frame alone, a tool's pixels that are
    like the scenery behind them would be worn away. `ahead` and `beside` are recorded pictures that are laid into the
    world, see `gamegen.models.exemplar_views`.
    """

    rotation: Tensor = field(default_factory=_level)
    position: Tensor = field(default_factory=_origin)
    views: tuple[KeyView, ...] = ()
    moving: Tensor | None = None
    opacity: Tensor | None = None
    ahead: KeyView | None = None
    beside: KeyView | None = None

    @property
    def is_new(self) -> bool:
        """True for a world without a chunk."""
        return not self.views

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises ValueError unless the views are of this height and width in pixels."""
        for view in (*self.views, *filter(None, [self.ahead, self.beside])):
            found = tuple(FINE * side for side in view.inverse_depth.shape)
            if found != size:
                raise ValueError(f"the world's views have {found} pixels: this world's have {size}")

    def moving_now(self, motion: PredictedMotion) -> Tensor:
        """`PredictedMotion.moving` of one row, `(q, r)` float16, where the average agrees that a place stands still."""
        now = motion.moving[0].half()
        return now if self.moving is None else torch.maximum(now, self.moving.to(now))

    def expected_opacity(self, size: tuple[int, ...]) -> Tensor:
        """Opacity of each pixel of what stands in front, as in `Layers.expected`, `(1, H, W)`."""
        return torch.full((1, *size), 0.5) if self.opacity is None else self.opacity[None] / 255

    def recall(self, frames_K3HW: Tensor, layers: Layers, motion: PredictedMotion) -> RecalledView | None:
        """The view that shows most of what the moved frames lack; None if none does, or shows something else.

        Where they lack nothing, it is one that shows the same. `layers` and `motion` are those of one row, `(1, ...)`.
        """
        if not self.views:
            return None
        wanted_qr = layers.unseen[0, -1] + _SEEN_WORTH
        worth = self._worth(wanted_qr, motion)
        best = int(worth.argmax())
        if worth[best] < _LEAST_WORTH:
            return None
        view = self.views[best]
        rotation, translation = self.to_last(view)
        shown, seen = view.moved(rotation, translation, motion.camera)
        lit = _fitted(shown, seen, frames_K3HW, layers)
        if lit is None:
            return None
        return RecalledView(lit, seen, has_detail=bool(translation.norm() <= _NEAR_NODES))

    def to_last(self, view: KeyView) -> tuple[Tensor, Tensor]:
        """Rotation and translation from a view's camera to that of the last frame."""
        return self.rotation @ view.rotation.T, view.rotation @ (self.position - view.position)

    def _worth(self, wanted_qr: Tensor, motion: PredictedMotion) -> Tensor:
        """The mean worth of what each view shows of the chunk's last frame, less for views from afar, `(V,)`."""
        moved, way = motion.rotation[0, -1].double().cpu(), motion.translation[0, -1].double().cpu()
        ways = [self.to_last(view) for view in self.views]
        rotation_V = torch.stack([moved @ rotation for rotation, _ in ways])
        translation_V = torch.stack([translation + rotation.T @ way for rotation, translation in ways])
        depth_V = torch.stack([view.inverse_depth.double().mean() for view in self.views])
        q, r = wanted_qr.shape
        focal = motion.focal.double().cpu()
        wanted_P = wanted_qr[::2, ::2].flatten().double().cpu()
        rays_3P = rays(q, r, focal)[0, 0][:, ::2, ::2].flatten(1)
        seen_V3P = rotation_V.mT @ rays_3P + (translation_V * depth_V[:, None])[:, :, None]
        x, y, z = seen_V3P.unbind(1)
        half = focal[0].reciprocal() / 2
        sees = (z > 0.1) & (x.abs() < half * r / q * z) & (y.abs() < half * z)
        share_V = (sees * wanted_P).mean(1)
        share_V = torch.where(rotation_V[:, 2, 2] > _FACING_COS, share_V, 0.0)
        return share_V * (-translation_V.norm(dim=1) / _FAR_NODES).exp()

    def distance(self, view: KeyView) -> float:
        """Distance of a view's camera from that of the last frame, in nodes."""
        return float((view.position - self.position).norm())

    def view_at(
        self,
        picture_HWC: Tensor,
        inverse_depth_qr: Tensor,
        covered_qr: Tensor,
        *,
        place_3: Tensor | None = None,
        rotation: Tensor | None = None,
    ) -> KeyView:
        """A view of this uint8 picture; `covered` is 1 where something stands in front of its scenery.

        `place` is in the axes of the last frame's camera, `rotation` leads from the world's to the view's; None are
        those of the last frame's camera.
        """
        return KeyView(
            _jpeg().encode_jpeg(
                picture_HWC.contiguous().numpy(), quality=_JPEG_QUALITY, colorsubsampling="444"
            ),
            inverse_depth_qr.half().cpu(),
            covered_qr.bool().cpu(),
            self.rotation if rotation is None else rotation,
            self.position if place_3 is None else self.position + self.rotation.T @ place_3,
        )

    def next(
        self,
        last_HWC: Tensor,
        predicted_moving_qr: Tensor,
        motion: PredictedMotion,
        layers: Layers,
        *,
        ahead: KeyView | None = None,
        beside: KeyView | None = None,
    ) -> ViewMemory:
        """The memory after a chunk: the camera has moved, and the frame before it, uint8, is kept if it is new.

        `motion` is that of one row with what is remembered in it, `predicted_moving` what the network says itself.
        """
        rotation = motion.rotation[0, -1].double().cpu() @ self.rotation
        # Rounding would add up; one step towards the nearest rotation.
        rotation = 1.5 * rotation - 0.5 * rotation @ rotation.T @ rotation
        position = self.position + self.rotation.T @ motion.translation[0, -1].double().cpu()
        views, moving, opacity = self._with(last_HWC, motion, layers), self.moving, self.opacity
        # Of a camera at rest nothing can be told.
        if motion.scenery[0, -1].abs().mean() > _MOVES_PX:
            now = predicted_moving_qr.float().cpu()
            before = now if moving is None else moving.float()
            share = torch.where(now > before, _MOVING_SHARE, _STILL_SHARE)
            moving = torch.lerp(before, now, share).half()
            opaque = layers.opacity(from_pixels(last_HWC[None]).to(layers.front)).float().cpu()[0]
            opacity = torch.lerp(self.expected_opacity(opaque.shape[1:]), opaque, _OPACITY_SHARE)
            opacity = (255 * opacity[0]).round().to(torch.uint8)
        return ViewMemory(rotation, position, views, moving, opacity, ahead, beside)

    def _with(self, last_HWC: Tensor, motion: PredictedMotion, layers: Layers) -> tuple[KeyView, ...]:
        last = last_HWC.cpu()
        near = [view for view in self.views if self._is_near(view)]
        if near and not any(_is_lit_otherwise(view, last) for view in near):
            return self.views
        new = self.view_at(last, motion.inverse_depth[0], layers.covered[0, 0])
        kept = [view for view in self.views if view not in near]
        if len(kept) == MAX_VIEWS:
            kept.remove(max(kept, key=self.distance))
        return (*kept, new)

    def _is_near(self, view: KeyView) -> bool:
        rotation, translation = self.to_last(view)
        cosine = (rotation.trace() - 1) / 2
        return bool(cosine > _APART_COS and translation.norm() < _APART_NODES)


def _jpeg() -> ModuleType:
    """The codec of pictures; bare machines that train with moved frames lack it, and keep no views."""
    import simplejpeg

    return simplejpeg


def _is_lit_otherwise(view: KeyView, last_HWC: Tensor) -> bool:
    difference = view.pixels().float().mean() - last_HWC.float().mean()
    return float(difference.abs()) > _OTHER_LIGHT * 127.5
