"""Features see what a picture shows, and gradients reach the picture."""

import torch

from gamegen.media.frames import resize_to
from gamegen.models.image_features import image_features, perceptual_distance
from tests.footage_samples import panning_frames


def pictures() -> torch.Tensor:
    frames = resize_to(panning_frames(3), (96, 64))
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_three_layers_at_a_growing_scale():
    shapes = [tuple(layer.shape) for layer in image_features()(127.5 * (pictures() + 1))]
    assert shapes == [(3, 40, 8, 12), (3, 112, 4, 6), (3, 1280, 2, 3)]


def test_a_blurred_picture_is_farther_than_a_darker_one():
    truth = pictures()
    blurred = torch.nn.functional.avg_pool2d(truth, 7, 1, 3)
    darker = truth - (blurred - truth).abs().mean()
    assert perceptual_distance(truth, truth) == 0
    assert perceptual_distance(darker, truth) < perceptual_distance(blurred, truth)


def test_gradients_reach_the_picture_and_not_the_network():
    video = pictures().requires_grad_()
    perceptual_distance(video, torch.zeros_like(video)).backward()
    assert video.grad is not None and video.grad.abs().sum() > 0
    network = image_features().train()
    assert not network.training and all(p.grad is None for p in network.parameters())
