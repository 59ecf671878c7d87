"""The next frames as the last one moved: by the motion network, and by the flow that knows the answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gamegen.controls import OPERATION_SIZE
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.model import Model
from gamegen.models.motion import NUM_OPERATIONS
from gamegen.models.warping import resize_flow, warp
from gamegen.training.motion_windows import WINDOW_FRAMES, PlayedClip, known_flow


@torch.inference_mode()
def moved_frames(model: Model, window: np.ndarray, operations: np.ndarray) -> dict[str, np.ndarray]:
    """The last chunk of a window, uint8 `(4, H, W, 3)`, by how the frame before it is moved.

    `window` are uint8 frames `(T, H, W, 3)` and `operations` `(n, O)` those that lead to its end; before them nothing
    is held. `warped` is by the motion network of the model, left out where there is none, `flow` by the optical flow of
    the window itself: no motion network can do much better.
    """
    shown, before = window[-WINDOW_FRAMES:], np.zeros((NUM_OPERATIONS, OPERATION_SIZE))
    operations = np.concatenate([before, operations])[-NUM_OPERATIONS:].astype(np.float32)
    frames = from_pixels(torch.from_numpy(shown)).to(model.device)
    found = torch.from_numpy(known_flow(PlayedClip(shown, operations))[0].astype(np.float32))[None]
    flows: dict[str, Tensor] = {"flow": resize_flow(found.to(model.device), *frames.shape[-2:])}
    if model.motion is not None:
        given = torch.from_numpy(operations)[None].to(model.device)
        flows["warped"] = model.motion(frames[1][None], frames[0][None], given).flow_in_pixels()
    return {name: to_pixels(warp(frames[1][None], flow)[0]).cpu().numpy() for name, flow in flows.items()}
