"""The evaluation on Ray is the evaluation without."""

from dataclasses import replace

import pytest

from gamegen.evaluation.context import Options, SuiteConfig
from gamegen.evaluation.evaluate_command import run
from gamegen.evaluation.suite import plan_evaluation, run_here
from jobs.evaluate import run_on_ray
from tests.evaluation.samples import few_clips
from tests.threads import threads

CONFIG = replace(SuiteConfig.tiny(), num_seeds=2, play_s=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return few_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def one_thread():
    """As many as Ray gives a task of one CPU."""
    with threads(1):
        yield


def test_ray_gives_the_same_report_and_goes_on_with_what_was_begun(
    ray_cluster, one_thread, tiny_model, clips, tmp_path
):
    options = Options(checkpoint=str(tiny_model), clips=clips, config=CONFIG)
    alone = run(options, tmp_path / "alone", run_here)
    todo = plan_evaluation(options, tmp_path / "together")
    run_here(options, todo.tasks[:2], todo.folder, lambda chunks: None)
    drawn: list[int] = []

    def on_ray(options, tasks, folder, advance):
        run_on_ray(options, tasks, folder, lambda chunks: drawn.append(chunks))

    together = run(options, tmp_path / "together", on_ray)
    assert replace(together, wall_s=0) == replace(alone, wall_s=0)
    assert sum(drawn) == sum(task.chunks for task in todo.tasks[2:])


def test_what_a_task_refuses_is_said(ray_cluster, tiny_model, clips, tmp_path):
    options = Options(checkpoint=str(tiny_model), clips=clips, config=CONFIG)
    task = plan_evaluation(options, tmp_path).tasks[0]
    with pytest.raises(ValueError, match="is not a TorchScript file"):
        broken = replace(options, reference_models=replace(options.reference_models, fid=__file__))
        run_on_ray(broken, [task], tmp_path, lambda chunks: None)
