"""Builds figures with intervals, and curves, from the results of the measurements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gamegen.controls import MOVEMENT_KEYS
from gamegen.evaluation import bootstrap, following, metrics, motion, revisits
from gamegen.evaluation.bootstrap import Estimate, Statistic
from gamegen.evaluation.context import PIECE_S, SuiteConfig
from gamegen.evaluation.evaluation_report import Curve, Figure, rounded
from gamegen.evaluation.features import FrechetReference
from gamegen.evaluation.metrics import METHODS, NEXT_FRAME_MEASURES, next_frame_name
from gamegen.evaluation.samples import Arrays
from gamegen.evaluation.scenes import ATTRIBUTES

DARKER = 0.8
"""Brightness, as a share of what it was, below which a world has become night."""
_VIDEO_SAMPLES = slice(1, None, 2)
_ENVIRONMENT = [name != "view" for name in ATTRIBUTES]


class ReportBuilder:
    """Figures and curves of one evaluation; `results` are each measurement's arrays by name, with a row a unit.

    `skipped` says what the results do not allow, and why.
    """

    def __init__(self, results: dict[str, Arrays], config: SuiteConfig, clips_fingerprint: str) -> None:
        self.results = results
        self.config = config
        self.clips_fingerprint = clips_fingerprint
        self.figures: dict[str, Figure] = {}
        self.curves: dict[str, Curve] = {}
        self.skipped: list[str] = []

    def run(self) -> None:
        """Builds all figures and curves that the results allow."""
        self._keys()
        if "following" in self.results:
            self._following()
        self._words()
        self._scenes()
        self._qualities()
        if "next frames" in self.results:
            self._next_frames()
            self._likeness()
        if "revisits" in self.results:
            self.add_revisits()
        if "play" in self.results:
            self._play()
        self.figures = {name: self.figures[name] for name in metrics.METRICS if name in self.figures}

    def _keys(self) -> None:
        arrays = self.results["keys"]
        obeyed = motion.obeyed(arrays)
        self._share(metrics.TURNS, obeyed["left"] & obeyed["right"])
        self._share(metrics.FORWARD, obeyed["forward"])
        still, walking = arrays["still speed px"], arrays["forward speed px"]
        share: Statistic = lambda i: float(still[i].mean() / max(walking[i].mean(), 1e-6))  # noqa: E731
        self._add(metrics.STILL, bootstrap.estimate(share, len(still)), self._seeds(len(still)))
        self._mean("mean flow left (px)", arrays["left flow px"])
        self._mean("mean flow right (px)", arrays["right flow px"])

    def _following(self) -> None:
        """Action figures of counts pooled over clips, each beside that of the real frames."""
        drawn, real = (
            {name: self.results["following"][f"{name} {method}"] for name in following.COUNTS}
            for method in ("drawn", "real")
        )
        num_clips = len(drawn["held"])
        everywhere = np.arange(num_clips)

        def add(name: str, statistic: Callable[[Arrays, np.ndarray], float]) -> None:
            estimate = bootstrap.estimate(lambda clips: statistic(drawn, clips), num_clips)
            self._add(name, estimate, self._clips(num_clips), real=statistic(real, everywhere))

        share: Statistic = lambda i: following.f1(drawn, i) / max(following.f1(real, i), 1e-6)  # noqa: E731
        self._add(metrics.ACTION_SHARE, bootstrap.estimate(share, num_clips), self._clips(num_clips))
        add(metrics.ACTION_F1, following.f1)
        add(metrics.CAMERA_SIGN, following.camera_sign)
        for i, key in enumerate(MOVEMENT_KEYS):
            if drawn["held"][:, i].any():
                for name in ("precision", "recall", "f1"):
                    measure = getattr(following, name)
                    add(
                        f"key {key}: {'F1' if name == 'f1' else name}",
                        lambda counts, clips, m=measure, k=i: m(counts, clips, slice(k, k + 1)),  # type: ignore[misc]
                    )

    def _words(self) -> None:
        arrays = self.results["contrasts"]
        self._share(metrics.NIGHT, arrays["night brightness"] < arrays["noon brightness"])
        self._share(metrics.DESERT, arrays["desert warmth"] > arrays["snow warmth"])
        self._share(metrics.MAKE_NIGHT, self.results["orders"]["brightness after / before"] < DARKER)

    def _scenes(self) -> None:
        """Scene figures: each seed's share of the attributes asked for that are recognised."""
        walks, ordered = self.results["walks"], self.results["orders"]["told"]
        did = np.stack(list(motion.obeyed(self.results["keys"]).values()), 1).astype(float)
        told = walks["told"]
        of_environment, of_view = told[:, _ENVIRONMENT], told[:, [ATTRIBUTES.index("view")]]
        orders_environment = ordered[:, _ENVIRONMENT]
        orders_view = ordered[:, [ATTRIBUTES.index("view")]]
        self._mean(metrics.ENVIRONMENT, _of_seed(of_environment, orders_environment))
        self._mean(metrics.CHARACTER, _of_seed(of_view, orders_view, did))
        real = self._real("told")
        for i, name in enumerate(ATTRIBUTES):
            self._share(
                f"{name.replace('_', ' ')} as asked",
                told[:, i] == 1,
                None if real is None else _mean(real[..., i]),
            )
        self._some_share("environment as ordered", orders_environment)
        self._some_share("view as ordered", orders_view)
        self._mean("actions as asked", did.mean(1))
        sure = self._real("sure")
        self._mean(metrics.ALIGNMENT, np.nanmean(walks["sure"], 1), None if sure is None else _mean(sure))
        if "clip similarity" in walks:
            self._mean("CLIP similarity", walks["clip similarity"], self._real_mean("clip similarity"))

    def _qualities(self) -> None:
        walks = self.results["walks"]
        self._share("dynamic degree", walks["dynamic"], self._real_mean("dynamic"))
        for name in ("motion smoothness", "subject consistency", "background consistency", "imaging quality"):
            self._mean(name, walks[name], self._real_mean(name))
        if "training distance" in walks:
            distance = walks["training distance"]
            self._mean(metrics.TRAINING_DISTANCE, distance, self._real_mean("training distance"))
        level = self._real_mean("detail")
        if level:
            units = f"{self._seeds(len(walks['detail']))}, {self.clips_fingerprint}"
            self._mean("detail / real clips", walks["detail"] / level, units=units)

    def _next_frames(self) -> None:
        arrays = self.results["next frames"]
        num_clips = len(arrays["psnr drawn"])
        for measure in NEXT_FRAME_MEASURES:
            for method in METHODS:
                if f"{measure} {method}" in arrays:
                    values = arrays[f"{measure} {method}"].mean(1)
                    self._mean(next_frame_name(measure, method), values, units=self._clips(num_clips))
        gain = (arrays["psnr drawn"] - arrays["psnr copy"]).mean(1)
        self._mean(metrics.GAIN, gain, units=self._clips(num_clips))
        short = (arrays["psnr reconstructed"] - arrays["psnr drawn"]).mean(1)
        self._mean(metrics.SHORT_OF_CEILING, short, units=self._clips(num_clips))

    def _likeness(self) -> None:
        """Distances to all real windows; `real` is the distance of every other real clip to the ones between."""
        walks, real = self.results["walks"], self.results["real"]
        self._distance(metrics.IMAGE_DISTANCE, walks["features"], real["features"])
        self._distance(metrics.VIDEO_DISTANCE, _as_video(walks["features"]), _as_video(real["features"]))
        if "fid features" in walks:
            self._distance("FID", walks["fid features"], real["fid features"])
        if "fvd features" in walks:
            self._distance("FVD", walks["fvd features"][:, None], real["fvd features"])

    def add_revisits(self) -> None:
        """The revisit distance: where the views before and after lie between reality, or equality, and other places."""
        views = self.results["revisits"]
        own = revisits.view_distance(views["before"], views["back"])
        real = self._real_revisits()
        self._mean(metrics.REVISIT_FEATURES, own, real)
        if len(own) < 2:
            self.skipped.append(
                "revisit distance: a single seed has no other places to compare with (--seeds)"
            )
            return
        others = revisits.distance_to_others(views["before"], views["back"], views["words"])
        self._mean(metrics.OTHER_FEATURES, others)
        least = real or 0.0
        if others.mean() <= least:
            self.skipped.append("revisit distance: other places look as alike as one place does")
            return
        share: Statistic = lambda i: float((own[i].mean() - least) / max(others[i].mean() - least, 1e-6))  # noqa: E731
        units = self._seeds(len(own)) + (f", {self.clips_fingerprint}" if real is not None else "")
        self._add(metrics.REVISIT, bootstrap.estimate(share, len(own)), units)

    def _real_revisits(self) -> float | None:
        if "real revisits" not in self.results:
            return None
        distance = _mean(self.results["real revisits"]["distance"])
        if distance is None:
            self.skipped.append(
                f"revisits in real clips: no player looks {revisits.LOOK_AWAY_DEG:g} degrees away and comes back, by "
                "the recorded poses; the revisit distance is a share of that to another place"
            )
        return distance

    def _play(self) -> None:
        arrays = self.results["play"]
        pieces_s = tuple(float(PIECE_S * (i + 1)) for i in range(arrays["detail"].shape[1]))
        for name in ("detail", "brightness", "colour"):
            over_time = [bootstrap.mean_of(values) for values in arrays[name].T]
            self.curves[f"long play: {name} (grey levels)"] = _curve(
                pieces_s, over_time, self._real_mean(name)
            )
        level = self._real_mean("detail")
        if level is None:
            return
        units = f"{self._seeds(len(arrays['detail']))}, {self.config.play_s} s, {self.clips_fingerprint}"
        self._mean(metrics.DETAIL, arrays["detail"][:, -1] / level, units=units)
        reference = FrechetReference(_flat(self.results["real"]["features"]))
        distances = [reference.distance_of(features) for features in arrays["features"].swapaxes(0, 1)]
        num_seeds = len(arrays["features"])
        marks_s = tuple(float(mark) for mark in self.config.marks_s())
        over_time = [bootstrap.estimate(distance, num_seeds) for distance in distances]
        self.curves[f"long play: {metrics.IMAGE_DISTANCE}"] = _curve(marks_s, over_time, None)
        ratios = tuple(a / b for a, b in zip(over_time[-1].replicates, over_time[0].replicates, strict=True))
        ratio = bootstrap.of_replicates(over_time[-1].value / over_time[0].value, ratios)
        self._add(metrics.DRIFT, ratio, units)

    def _distance(self, name: str, drawn: np.ndarray, real: np.ndarray) -> None:
        """`drawn` `(seeds, samples, D)`, `real` `(clips, windows, [samples,] D)`."""
        distance = FrechetReference(_flat(real)).distance_of(drawn)
        even, odd = _flat(real[::2]), _flat(real[1::2])
        among = (
            FrechetReference(odd).distance_of(even[:, None])(np.arange(len(even))) if len(real) > 1 else None
        )
        units = f"{self._seeds(len(drawn))}, {self._clips(len(real))}"
        self._add(name, bootstrap.estimate(distance, len(drawn)), units, real=among)

    def _share(self, name: str, obeyed: np.ndarray, real: float | None = None) -> None:
        per_unit = tuple(obeyed.astype(float).tolist())
        self._add(name, bootstrap.share_of(obeyed), self._seeds(len(obeyed)), per_unit, real)

    def _some_share(self, name: str, told: np.ndarray) -> None:
        """Share of recognition among the seeds, rows of `told`, that were asked at all."""
        asked = told[~np.isnan(told).all(1)]
        if len(asked):
            self._share(name, np.nanmax(asked, 1) == 1)

    def _mean(
        self, name: str, values: np.ndarray, real: float | None = None, units: str | None = None
    ) -> None:
        estimate = bootstrap.mean_of(values)
        self._add(name, estimate, units or self._seeds(len(values)), tuple(values.tolist()), real)

    def _add(
        self,
        name: str,
        estimate: Estimate,
        units: str,
        per_unit: tuple[float, ...] = (),
        real: float | None = None,
    ) -> None:
        self.figures[name] = Figure.of(estimate, units, per_unit, real)

    def _seeds(self, count: int) -> str:
        # Worlds that begin otherwise are other units, which no comparison mixes.
        begun = ", begun from the gallery" if self.config.start == "gallery" else ""
        return f"{count} seeds from {self.config.first_seed}{begun}"

    def _clips(self, count: int) -> str:
        return f"{count} clips {self.clips_fingerprint}"

    def _real(self, name: str) -> np.ndarray | None:
        return self.results["real"].get(name) if "real" in self.results else None

    def _real_mean(self, name: str) -> float | None:
        values = self._real(name)
        return None if values is None else float(values.mean())


def _of_seed(*told: np.ndarray) -> np.ndarray:
    """Each seed's share of recognised attributes, `(N,)`, over tables `(N, asked)` with nan where not asked."""
    return np.nanmean(np.concatenate(told, 1), 1)


def _as_video(features: np.ndarray) -> np.ndarray:
    """Features of frames half a second apart, concatenated to one sample a window."""
    chosen = features[..., _VIDEO_SAMPLES, :]
    return chosen.reshape(*chosen.shape[:-2], 1, -1)


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _curve(x_s: tuple[float, ...], over_time: list[Estimate], real: float | None) -> Curve:
    value, low, high = (
        tuple(rounded(getattr(e, name)) for e in over_time) for name in ("value", "low", "high")
    )
    return Curve(x_s=x_s, value=value, low=low, high=high, real=None if real is None else rounded(real))
