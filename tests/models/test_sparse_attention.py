"""Sparse-linear attention: equal to dense where nothing is left out, causal, near the dense after fine-tuning."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gamegen.models.sparse_attention import (
    SparseAttentionConfig,
    SparseLinearAttention,
    block_sparse_reference,
    choose_blocks,
    linear_attention,
)


def qkv(num_tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 3, num_tokens, 8, generator=generator)
    return q, k, v


@pytest.mark.parametrize("num_tokens", [64, 50, 7])
def test_all_blocks_and_an_untrained_linear_branch_are_dense_attention(num_tokens):
    q, k, v = qkv(num_tokens)
    sparse = SparseLinearAttention(3, 8, SparseAttentionConfig(block=16, keep=1.0))
    torch.testing.assert_close(sparse(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_a_query_block_reads_its_chosen_blocks_and_no_other():
    q, k, v = qkv(64)
    config = SparseAttentionConfig(block=16, keep=0.5)
    index = choose_blocks(q, k, config)
    assert index.shape == (2, 3, 4, 2)
    assert all(i in index[n, h, i] for n in range(2) for h in range(3) for i in range(4))
    out = block_sparse_reference(q, k, v, index, 16)
    mask = torch.zeros(2, 3, 64, 64, dtype=torch.bool)
    for n in range(2):
        for h in range(3):
            for i in range(4):
                for j in index[n, h, i]:
                    mask[n, h, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] = True
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def test_the_chosen_blocks_are_those_that_softmax_weighs_most():
    q, k, _ = qkv(128)
    q[..., 0] += 2
    k[:, :, 32:48, 0] += 2
    index = choose_blocks(q, k, SparseAttentionConfig(block=16, keep=0.25))
    assert (index == 2).any(-1).float().mean() > 0.9


@pytest.mark.parametrize("chunk", [16, 24])
def test_later_chunks_change_nothing_before_them(chunk):
    sparse = SparseLinearAttention(3, 8, SparseAttentionConfig(block=16, keep=0.5))
    torch.nn.init.normal_(sparse.proj_KEE)
    first, changed = qkv(96), qkv(96)
    for x in changed:
        x[:, :, 2 * chunk :] = torch.randn_like(x[:, :, 2 * chunk :])
    before, after = sparse(*first, chunk=chunk), sparse(*changed, chunk=chunk)
    torch.testing.assert_close(after[:, :, : 2 * chunk], before[:, :, : 2 * chunk])
    assert not torch.allclose(after[:, :, 2 * chunk :], before[:, :, 2 * chunk :])


@pytest.mark.parametrize("chunk", [None, 16, 12])
def test_linear_attention_is_a_weighted_mean_over_what_is_visible(chunk):
    q, k, v = qkv(40)
    weight = q.softmax(-1) @ k.softmax(-1).transpose(-1, -2)
    if chunk:
        place = torch.arange(40) // chunk
        weight = weight * (place[None, :] <= place[:, None])
    expected = weight / weight.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(linear_attention(q, k, v, chunk), expected)


def test_both_branches_learn():
    sparse = SparseLinearAttention(3, 8, SparseAttentionConfig(block=16, keep=0.25))
    q, k, v = (x.requires_grad_() for x in qkv(64))
    sparse(q, k, v).square().sum().backward()
    for x in (q, k, v, sparse.proj_KEE):
        assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_share_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match=r"keep = 0\.0"):
        SparseAttentionConfig(keep=0.0)


def test_the_kernel_computes_what_the_reference_does():
    """In a process of its own, since Triton reads when it is imported that it is to interpret."""
    pytest.importorskip("triton")
    code = """
import torch
from gamegen.models import sparse_kernel
from gamegen.models.sparse_attention import SparseAttentionConfig, block_sparse_reference, choose_blocks
torch.manual_seed(0)
for tokens, width, chunk in ((128, 16, None), (100, 24, None), (96, 16, 32), (90, 72, 20)):
    q, k, v = torch.randn(3, 1, 2, tokens, width)
    index = choose_blocks(q, k, SparseAttentionConfig(block=16, keep=0.4), chunk)
    found = sparse_kernel.block_sparse(q, k, v, index, 16, chunk)
    torch.testing.assert_close(found, block_sparse_reference(q, k, v, index, 16, chunk), atol=1e-5, rtol=1e-4)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True)


def test_fine_tuning_brings_a_sparse_network_back_to_its_dense_self(tmp_path):
    from gamegen.models.model import Model, ModelConfig
    from gamegen.training.loop import Run, Trainer
    from gamegen.training.optimisers import OptimiserConfig
    from gamegen.training.stages.sparse import SparseConfig
    from tests.training.samples import encoded_folder, latent_feed, stage

    # Four tokens a frame of 32x32: blocks of one token, of which half are kept.
    attention = SparseAttentionConfig(block=1, keep=0.5, min_tokens=1)
    config = stage(
        "sparse",
        steps=30,
        log_every=5,
        save_every=30,
        optimiser=OptimiserConfig(learning_rate=3e-3, warmup_steps=1),
        sparse=SparseConfig(attention=attention, layer_weight=1.0),
    )
    tiny = ModelConfig.tiny()
    assert tiny.foundation is not None
    torch.manual_seed(0)
    model = Model(replace(tiny, foundation=replace(tiny.foundation, sparse_attention=attention)))
    data = encoded_folder(tmp_path / "data")
    run = Trainer(
        config.objective(model),
        config,
        Run(output=tmp_path / "run", show_progress=False),
        latent_feed(config, data),
    )
    run.train()
    first, last = run.history[0], run.history[-1]
    assert last["layer_error"] < 0.7 * first["layer_error"]
