"""Training figures where Prometheus finds them."""

import time
import urllib.request

import ray

from jobs.training_gauges import TrainingGauges


def test_the_figures_of_a_run_are_exported_with_its_name(ray_cluster):
    @ray.remote
    class Worker:
        def __init__(self) -> None:
            self.gauges = TrainingGauges("foundation", "my run")
            self.gauges({"step": 20, "loss": 0.5, "samples_per_s": 3.0})

        def ready(self) -> bool:
            return True

    worker = Worker.remote()
    assert ray.get(worker.ready.remote())
    address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 120
    found: list[str] = []
    while not found and time.monotonic() < deadline:
        lines = urllib.request.urlopen(address, timeout=10).read().decode().splitlines()
        # Other runs of this cluster may still be shown.
        figures = [line for line in lines if line.startswith("ray_gamegen_training_samples_per_s{")]
        found = [line for line in figures if 'run="my run"' in line]
        time.sleep(1)
    assert found and found[0].endswith(" 3.0")
    assert 'stage="foundation"' in found[0]
