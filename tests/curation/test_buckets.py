import numpy as np
import pytest

from gamegen.curation.buckets import (
    Bucket,
    BucketConfig,
    assign_splits,
    choose_bucket,
    fit_to_bucket,
)


def test_the_longest_length_that_the_clip_fills_is_taken() -> None:
    config = BucketConfig(lengths=(48, 480, 120))
    assert str(choose_bucket(256, 144, 480, config)) == "160x96x480"
    assert str(choose_bucket(256, 144, 479, config)) == "160x96x120"
    assert choose_bucket(256, 144, 47, config) is None


def test_the_size_nearest_in_aspect_that_needs_no_enlarging_is_taken() -> None:
    config = BucketConfig(sizes=((160, 96), (320, 192), (96, 160)))
    assert choose_bucket(256, 144, 480, config) == Bucket(160, 96, 480)
    assert choose_bucket(1280, 720, 480, config) == Bucket(320, 192, 480)
    assert choose_bucket(144, 256, 480, config) == Bucket(96, 160, 480)


def test_cropping_is_central_and_shrinking_averages() -> None:
    frames = np.zeros((2, 144, 256, 3), np.uint8)
    frames[:, :, :8] = 255
    frames[:, :, -8:] = 255
    frames[:, ::2, 8:-8] = 100
    fitted = fit_to_bucket(frames, Bucket(160, 96, 2))
    assert fitted.shape == (2, 96, 160, 3)
    assert fitted.max() < 101
    assert abs(float(fitted.mean()) - 50) < 1


@pytest.mark.parametrize("size", [(160, 90), (8, 16)])
def test_sizes_that_the_model_cannot_take_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        BucketConfig(sizes=(size,))


def test_a_bucket_name_reads_back() -> None:
    assert Bucket.parse("160x96x480") == Bucket(160, 96, 480)
    with pytest.raises(ValueError, match="WIDTHxHEIGHTxFRAMES"):
        Bucket.parse("160x96")


def test_splits_are_about_ninety_five_five_and_stable() -> None:
    worlds = [("minetest", seed) for seed in range(2000)]
    splits = assign_splits(worlds, {})
    counts = [list(splits.values()).count(name) for name in ("train", "validation", "test")]
    assert counts == pytest.approx([1800, 100, 100], abs=40)
    assert assign_splits(reversed(worlds), {}) == splits


def test_few_worlds_still_hold_one_out() -> None:
    splits = assign_splits([("minetest", seed) for seed in range(3)], {})
    assert sorted(splits.values()) == ["test", "train", "validation"]
    assert set(assign_splits([("minetest", 5)], {}).values()) == {"train"}


def test_an_earlier_decision_stands() -> None:
    first = assign_splits([("a", 1), ("a", 2)], {})
    later = assign_splits([("a", seed) for seed in range(50)], first)
    assert {world: later[world] for world in first} == first
