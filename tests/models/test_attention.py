"""Where tokens stand, and what a long stream does to that."""

import torch

from gamegen.models.attention import TemporalAttention
from gamegen.models.kv_cache import KVCaches
from gamegen.models.rotary import rotation_2d

CPU = torch.device("cpu")


def test_tokens_of_another_size_stand_where_those_of_the_grid_would():
    own = rotation_2d(6, 10, 16, CPU)
    assert torch.equal(rotation_2d(6, 10, 16, CPU, (6, 10)).cos, own.cos)
    # Three tokens where the grid has one: the middle one stands in its place.
    finer = rotation_2d(18, 30, 16, CPU, (6, 10)).cos.view(18, 30, -1)
    torch.testing.assert_close(finer[1::3, 1::3].reshape(60, -1), own.cos)


def test_attention_over_the_ring_is_the_same_after_hours_of_play():
    torch.manual_seed(0)
    attention = TemporalAttention(16, 2, window=4)
    frames = torch.randn(6, 1, 1, 3, 16)

    def last(start: int) -> torch.Tensor:
        caches = KVCaches([attention.new_cache(1, 3, torch.float32)])
        caches.set_length(0, start)
        for frame in frames:
            caches.select([0])
            drawn = attention(frame, caches.rings[0])
            caches.commit()
        return drawn

    with torch.inference_mode():
        # A multiple of the ring's three places, 46 hours in.
        torch.testing.assert_close(last(999_999), last(0), rtol=1e-4, atol=1e-5)


def test_slots_side_by_side_are_read_where_they_lie():
    attention = TemporalAttention(16, 2, window=4)
    caches = KVCaches([attention.new_cache(4, 3, torch.float32)])
    (ring,) = caches.rings
    caches.select([1, 2])
    assert ring.past().keys.data_ptr() == ring.keys[1].data_ptr()
    caches.select([3, 1])
    assert torch.equal(ring.past().values, ring.values[[3, 1]])
