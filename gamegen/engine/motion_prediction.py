"""The motion network in play: compiled, where the model's other networks are."""

from __future__ import annotations

import torch

from gamegen.constants import SPATIAL_FACTOR
from gamegen.controls import OPERATION_SIZE
from gamegen.models.model import Model
from gamegen.models.motion import NUM_OPERATIONS, MotionPrediction
from gamegen.models.motion_compensation import PredictMotion
from gamegen.models.onnx import compiled


def build_motion_prediction(model: Model, latent_shape: tuple[int, int, int]) -> PredictMotion:
    """The fastest form of the model's motion network that is available, for latents of the shape `(C, h, w)`.

    On a CPU, as `model.may_compile` says, that is an ONNX graph; see `gamegen.models.onnx`.
    """
    assert model.motion is not None
    network = MotionPrediction(model.motion).eval()
    if model.device.type != "cpu" or model.may_compile is False:
        return network
    _, height, width = latent_shape
    frame = torch.zeros(2, 3, height * SPATIAL_FACTOR, width * SPATIAL_FACTOR)
    example = [frame, frame, torch.zeros(2, NUM_OPERATIONS, OPERATION_SIZE)]
    return compiled("motion", network, example, [(0,)] * 3, bool(model.may_compile)) or network
