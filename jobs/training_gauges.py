"""Training figures as Ray metrics, which Prometheus scrapes from every node of the cluster."""

from __future__ import annotations

from ray.util.metrics import Gauge


class TrainingGauges:
    """A gauge `gamegen_training_NAME` for each figure of a training run's log, tagged with stage and run."""

    def __init__(self, stage: str, run: str) -> None:
        self._tags = {"stage": stage, "run": run}
        self._gauges: dict[str, Gauge] = {}

    def __call__(self, row: dict[str, float]) -> None:
        """Sets every gauge to the row's figure."""
        for name, value in row.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(
                    f"gamegen_training_{name}",
                    f"{name} as the training log has it",
                    tag_keys=("stage", "run"),
                )
            self._gauges[name].set(value, self._tags)
