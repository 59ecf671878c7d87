"""Plans, windows and feeds: every window once an epoch, the same for any number of workers."""

import dataclasses
import itertools
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch

from gamegen.models.model import Model, ModelConfig
from gamegen.training.feed import ahead, read_pool
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.objectives.flow_inputs import ControlMix, draw_controls
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.window_plan import WindowPlan, index_clips
from tests.training.samples import (
    NUM_CHUNKS,
    SIZE,
    encoded_folder,
    encoded_row,
    latent_feed,
    plain_flow,
    stage,
    write_rows,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return encoded_folder(tmp_path_factory.mktemp("encoded"), 5)


def samples(stream, position: int, count: int):
    return list(itertools.islice(itertools.chain.from_iterable(stream.pools_from(position)), count))


def test_every_window_comes_once_an_epoch_in_another_order_each_time(data):
    config = stage("foundation", batch_size=4, micro_batches=4, pool_clips=2)
    plan = WindowPlan(config, index_clips(data, "train", "num_chunks"))
    bucket = plan.buckets[f"{SIZE}x12"]
    seen = []
    for stream in bucket.streams:
        first, second = (
            [(s.clip, s.slot) for s in samples(stream, epoch * len(stream.slots), len(stream.slots))]
            for epoch in (0, 1)
        )
        assert sorted(first, key=str) == sorted(second, key=str) and first != second
        seen += first
    assert len(seen) == len(set(seen)) == 5 * (NUM_CHUNKS // 3)


def test_an_order_can_be_entered_anywhere(data):
    stream = WindowPlan(stage("foundation", pool_clips=2), index_clips(data, "train", "num_chunks"))
    stream = stream.buckets[f"{SIZE}x12"].streams[0]
    whole = samples(stream, 0, 100)
    for position in (1, 7, len(stream.slots) - 1, len(stream.slots), 70):
        assert samples(stream, position, 100 - position) == whole[position:]


def test_all_workers_draw_the_same_bucket_and_share_its_windows(data):
    config = stage("foundation", batch_size=4, micro_batches=4)
    alone = latent_feed(config, data)
    together = [latent_feed(config, data, worker, 2) for worker in range(2)]
    streams = [feed.batches(0, feed.start()) for feed in (alone, *together)]
    buckets = set()
    for _ in range(12):
        whole, *shares = (next(stream) for stream in streams)
        assert {whole.bucket} == {share.bucket for share in shares}
        buckets.add(whole.bucket)
        found = dict(pair for share in shares for pair in share.micro_batches)
        assert set(found) == {0, 1, 2, 3}
        for index, batch in whole.micro_batches:
            assert torch.equal(batch.latents, found[index].latents)
    assert len(buckets) == 2


def test_a_feed_goes_on_where_another_stopped(data):
    config = stage("foundation")
    feed = latent_feed(config, data)
    positions, batches = feed.start(), []
    stream = feed.batches(0, positions)
    for _ in range(20):
        batches.append(next(stream))
        positions = feed.advance(positions, batches[-1].bucket)
        if len(batches) == 8:
            middle = positions
    for expected, found in zip(batches[8:], feed.batches(8, middle), strict=False):
        assert expected.bucket == found.bucket
        assert torch.equal(expected.micro_batches[0][1].latents, found.micro_batches[0][1].latents)


def test_steps_of_every_bucket_hold_about_as_many_tokens(data):
    config = stage("foundation", batch_size=6)
    for step in itertools.islice(latent_feed(config, data).batches(0, latent_feed(config, data).start()), 12):
        [(_, batch)] = step.micro_batches
        assert batch.latents.shape[:2].numel() == 6 * 3
        if batch.latents.shape[1] == 1:
            assert batch.starts.all()
            objective = config.objective(Model(ModelConfig.tiny()))
            inputs = objective.draw_inputs(batch, torch.Generator().manual_seed(0))
            assert (inputs.previous.level == -1).all()


def test_what_cannot_be_shared_or_is_not_there_is_said(data, tmp_path):
    with pytest.raises(ValueError, match="3 workers cannot share 2 micro-batches a step equally"):
        latent_feed(stage("foundation", batch_size=2, micro_batches=2), data, 0, 3)
    with pytest.raises(ValueError, match="bucket 640x352x12 has 0 windows of 12 frames for 1 micro-batches"):
        latent_feed(stage("foundation", buckets=(TrainingBucket("640x352", 12),)), data)
    with pytest.raises(FileNotFoundError, match="run the curate and encode jobs first"):
        index_clips(tmp_path, "train", "num_chunks")
    with pytest.raises(ValueError, match="batch_size = 3: must be a multiple of micro_batches = 2"):
        stage("vae", batch_size=3, micro_batches=2)
    with pytest.raises(ValueError, match="bucket 160x96x0: num_frames must be at least 1"):
        TrainingBucket(num_frames=0)


def test_windows_align_words_with_the_scene(data):
    config = stage("instructnet", batch_size=64, buckets=(TrainingBucket(SIZE, 12),))
    batch: LatentBatch = latent_feed(config, encoded_folder(data / "more", 16)).example()
    assert batch.latents.shape == (64, 3, 4, 4, 4)
    torch.testing.assert_close(batch.previous[:, 1:], batch.latents[:, :-1])
    active = batch.controls.instruction_active
    # An instruction, once in force, stays in force; some windows have it from their start, some not at all.
    assert (active[:, 1:] >= active[:, :-1]).all()
    assert active.min() == 0 and active.max() == 1


def test_windows_are_drawn_where_nobody_touches_a_key(tmp_path):
    row = encoded_row(0)
    operations = np.ones((NUM_CHUNKS, 4, 9), np.float16)
    operations[15] = 0
    row |= {"operations": operations.tobytes(), "instructions": []}
    config = stage(
        "foundation",
        buckets=(TrainingBucket(SIZE, 12),),
        batch_size=6,
        flow=plain_flow(transition_windows=0.0, still_windows=1.0),
    )
    batch = latent_feed(config, write_rows(tmp_path, [row])).example()
    assert (batch.controls.operations == 0).flatten(2).all(2).any(1).all()


def test_video_prompts_steer_the_windows_that_have_one(tmp_path):
    rows = [encoded_row(seed) for seed in range(4)]
    for row in rows[:2]:
        row["video_prompts"] = [{"kind": "canny", "latents": row["latents"]}]
    mix = ControlMix(nothing=0, keys=0, words=0, words_and_keys=0, words_and_video=1)
    config = stage(
        "instructnet", batch_size=16, buckets=(TrainingBucket(SIZE, 12),), flow=plain_flow(controls=mix)
    )
    batch = latent_feed(config, write_rows(tmp_path, rows)).example()
    has_video = batch.controls.has_video
    assert has_video.any() and not has_video.all()
    assert torch.equal(batch.controls.video[has_video], batch.latents[has_video])
    objective = config.objective(Model(ModelConfig.tiny()))
    inputs = objective.draw_inputs(batch, torch.Generator().manual_seed(0))
    assert torch.equal(inputs.controls.has_video, has_video) and not inputs.controls.has_operations.any()
    torch.nn.init.normal_(objective.instructnet.video_in.weight)
    with_video = objective.instructnet(inputs.controls).video
    assert with_video[has_video].any() and not with_video[~has_video].any()


def test_controls_come_in_the_shares_asked_for():
    mix = ControlMix(nothing=1, keys=2, words=1, words_and_keys=4, words_and_video=1, everything=1)
    words, keys, video = draw_controls(mix, 20_000, torch.Generator().manual_seed(0)).double()
    assert words.mean().item() == pytest.approx(0.7, abs=0.02)
    assert keys.mean().item() == pytest.approx(0.7, abs=0.02)
    assert video.mean().item() == pytest.approx(0.2, abs=0.02)
    assert (words * keys).mean().item() == pytest.approx(0.5, abs=0.02)
    assert (video * (1 - words)).sum() == 0


def test_a_window_is_a_function_of_its_sample(data):
    dataset = stage("foundation").windows(ModelConfig.tiny())
    plan = WindowPlan(stage("foundation"), index_clips(data, "train", "num_chunks")).buckets[f"{SIZE}x12"]
    pool = next(plan.streams[0].pools_from(0))
    first, again = list(read_pool(pool, dataset, 3)), list(read_pool(list(reversed(pool)), dataset, 3))[::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.latents, b.latents) and torch.equal(a.prompt.tokens, b.prompt.tokens)
    others = [dataclasses.replace(pool[0], seed=(seed,)) for seed in range(20)]
    assert any(not torch.equal(a.latents, first[0].latents) for a in read_pool(others, dataset, 3))


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    def numbers():
        yield from range(5)
        raise OSError("shard gone")

    found = []
    with pytest.raises(OSError, match="shard gone"):
        found.extend(ahead(numbers()))
    stream = ahead(numbers())
    assert [next(stream) for _ in range(5)] == list(range(5))


@pytest.mark.parametrize("num_taken", [1, 4])
def test_reading_ahead_has_ended_once_it_is_closed(num_taken):
    """A thread that still computes while the interpreter ends would abort the process."""

    def numbers():
        for i in itertools.count():
            # The thread is amid this when the stream is closed, or waits for room behind two others.
            time.sleep(0.05)
            yield i

    with closing(ahead(numbers())) as stream:
        assert [next(stream) for _ in range(num_taken)] == list(range(num_taken))
        assert "feed" in {thread.name for thread in threading.enumerate()}
    assert "feed" not in {thread.name for thread in threading.enumerate()}
