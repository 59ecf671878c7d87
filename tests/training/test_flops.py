"""Cost of a step, against PyTorch's count of a real one."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gamegen.models.model import Model, ModelConfig
from gamegen.training.discriminator import DiscriminatorConfig
from gamegen.training.objectives.flow_matching import FlowLossConfig
from gamegen.training.stages.decoder import DecoderLossConfig
from tests.training.samples import encoded_folder, latent_feed, stage

# Every window its own past, or the pass that makes it would come on top.
FLOW = FlowLossConfig(scheduled_sampling=0.0)
TRAINED_ALONG = dataclasses.replace(FLOW, train_foundation=True)
STAGES = {
    "foundation": stage("foundation", flow=FLOW),
    "instructnet": stage("instructnet", flow=FLOW),
    "instructnet, foundation too": stage("instructnet", flow=TRAINED_ALONG),
    "turbo": stage("turbo", flow=FLOW),
    "vae": stage("vae"),
    "decoder": stage("decoder", decoder_loss=DecoderLossConfig(discriminator=DiscriminatorConfig.tiny())),
}


def convolution_gradients(grad_out_shape, x_shape, weight_shape, *_, out_shape) -> int:
    """Each gradient of a convolution is as much work as itself. PyTorch's own count ignores groups here, which makes
    a depthwise one as costly as a full one."""
    outputs, (_, per_group, height, width) = grad_out_shape.numel(), weight_shape
    return sum(2 * outputs * per_group * height * width for shape in out_shape[:2] if shape is not None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return encoded_folder(tmp_path_factory.mktemp("encoded"))


@pytest.mark.parametrize("name", STAGES)
def test_the_cost_of_a_step_is_what_a_real_one_computes(name, data):
    config = STAGES[name]
    model_config = ModelConfig.tiny()
    if config.stage == "foundation":
        model_config = dataclasses.replace(model_config, instructnet=None)
    objective = config.objective(Model(model_config))
    on_pixels = config.stage in ("vae", "decoder")
    batch = torch.zeros(2, 12, 3, 32, 32) if on_pixels else latent_feed(config, data).example()
    gradients = {torch.ops.aten.convolution_backward: convolution_gradients}
    counting = FlopCounterMode(display=False, custom_mapping=gradients)
    with sdpa_kernel(SDPBackend.MATH), counting as counter:
        loss, _ = objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
        loss.backward()
    cost = config.batch_cost(model_config, batch)
    assert (cost.samples, cost.tokens) == (2, 2 * 3 * 4)
    # First layers need no gradient of their input, and the longest text sets the length of both.
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_cost_grows_with_the_batch_and_with_its_texts(data):
    config = STAGES["instructnet"]
    two, four = (
        config.batch_cost(
            ModelConfig.tiny(), latent_feed(dataclasses.replace(config, batch_size=n), data).example()
        )
        for n in (2, 4)
    )
    assert four.tokens == 2 * two.tokens and four.flops >= 2 * two.flops
