import torch
from torch import nn

from gamegen.models.msdit import MSDiT, MSDiTConfig
from gamegen.training.loop import build_optimisers
from gamegen.training.muon import Muon, orthogonalise
from gamegen.training.stage_config import OptimiserConfig


def test_updates_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 32, 64), (3, 64, 32), (1, 16, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert (values > 0.3).all() and (values < 1.4).all()


def test_fits_a_linear_map():
    torch.manual_seed(0)
    layer, truth, x = nn.Linear(8, 8, bias=False), torch.randn(8, 8), torch.randn(64, 8)
    optimiser = Muon(layer.parameters(), lr=0.05)

    def error() -> torch.Tensor:
        return (layer(x) - x @ truth.T).square().mean()

    before = error().item()
    for _ in range(200):
        optimiser.zero_grad()
        error().backward()
        optimiser.step()
    assert error().item() < 0.1 * before


def test_every_parameter_has_exactly_one_optimiser():
    model = MSDiT(MSDiTConfig.tiny())
    optimisers = build_optimisers({"foundation": model}, OptimiserConfig())
    assert [type(o) for o in optimisers] == [Muon, torch.optim.AdamW]
    taken = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters())
