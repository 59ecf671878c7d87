"""How the comparison of Ray Train with the bare loop adds up."""

import json

import pytest

from gamegen.training.config import StageConfig
from jobs import bench


def test_rounds_add_up_and_start_up_does_not_count(tmp_path):
    def logged(seconds: float, wait: float) -> bench.Measured:
        rows = [
            {"step": 5 * i, "elapsed_s": 100 + seconds * i, "input_wait_share": wait} for i in range(1, 11)
        ]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return bench._measured("bare loop", tmp_path, 8)

    first = logged(seconds=2.0, wait=0.1)
    assert (first.steps, first.seconds, first.samples_per_s) == (45, 18.0, 20.0)
    both = first.plus(logged(seconds=6.0, wait=0.3))
    assert both.samples_per_s == pytest.approx(10.0)
    assert both.input_wait_share == pytest.approx(0.2)
    assert bench.table([first, both]).row_count == 2


def test_too_few_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 10"):
        bench.run(StageConfig("instructnet"), tmp_path, "nano", 5, 1)
