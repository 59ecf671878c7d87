"""The embedded text encoder."""

import pytest
import torch

from gamegen.models.text import load_text_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder()


def test_meaning_is_near_and_far(encoder):
    night, dark, noon = (
        s.pooled for s in encoder.encode(["a forest at night", "a dark forest", "a beach at noon"])
    )
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(night, dark, dim=0) > similarity(night, noon, dim=0)
    assert encoder.encode(["a forest at night"])[0].tokens.shape[1] == encoder.width


def test_limit_of_tokens(encoder):
    with pytest.raises(ValueError, match=r"402 tokens and the limit is 300"):
        encoder.encode(["word " * 400])


def test_other_encoders_need_a_directory():
    with pytest.raises(ValueError, match="T5"):
        load_text_encoder("t5:/no/such/directory")
