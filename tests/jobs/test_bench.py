"""How the comparison of Ray Train with the bare loop adds up."""

import json

import pytest

from gamegen.training.stages.instructnet import InstructNetStage
from jobs import bench


def test_rounds_add_up_and_start_up_does_not_count(tmp_path):
    def logged(seconds: float, wait: float) -> bench.Throughput:
        rows = [
            {"step": 5 * i, "elapsed_s": 100 + seconds * i, "input_wait_share": wait} for i in range(1, 11)
        ]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return bench._read_throughput(bench.Setup(0, 2), tmp_path, 8)

    first = logged(seconds=2.0, wait=0.1)
    assert (first.steps, first.seconds, first.samples_per_s) == (45, 18.0, 20.0)
    both = first.plus(logged(seconds=6.0, wait=0.3))
    assert both.samples_per_s == pytest.approx(10.0)
    assert both.input_wait_share == pytest.approx(0.2)


def test_each_way_stands_beside_the_bare_loop_of_as_many_threads():
    assert bench.setups(1) == [bench.Setup(0, 1), bench.Setup(1, 1)]
    speeds = {setup: float(10 * i) for i, setup in enumerate(bench.setups(2), start=1)}
    results = [bench.Throughput(setup, 1, 10, 10 / speed, 0.0) for setup, speed in speeds.items()]
    table = bench.table(results)
    names, shares = (list(table.columns[i].cells) for i in (0, 5))
    assert names == ["bare loop", "Ray Train, 1 worker", *names[:2], "Ray Train, 2 workers"]
    assert shares == ["100.0%", "200.0%", "100.0%", "133.3%", "166.7%"]


def test_too_few_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 10"):
        bench.run(InstructNetStage(), tmp_path, "nano", 5, 1)
