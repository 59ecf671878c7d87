"""A local Ray with the Serve application on it: starting, waiting for the first frame, ending."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path

import httpx
import psutil
import websockets.sync.client

from deployments.environment import set_environment
from deployments.listen_address import ListenAddress
from deployments.observability.logs import server_logs
from deployments.settings import ServeSettings
from deployments.start_steps import StartSteps
from deployments.stores import StoreUrls
from gamegen.process.error_sentences import first_line
from gamegen.process.ray_machine import logs_folder
from gamegen.telemetry import without_usage_server

_READY_TIMEOUT_S = 120.0
_POLL_S = 0.3
_CHILD_TIMEOUT_S = 10.0
_FIRST_WORLD = {"prompt": "desert at noon"}


class LocalServer:
    """The application on a Ray of its own. All of its calls must come from one thread, which lasts as long as it."""

    def __init__(self, address: ListenAddress) -> None:
        self._address = address
        self._others: set[psutil.Process] | None = None
        self._serves = False

    def start(
        self, settings: ServeSettings, stores: StoreUrls, metrics_port: int | None, steps: StartSteps
    ) -> Path:
        """Starts everything and draws the first frame of a session; returns the folder of the replicas' logs.

        Raises ValueError with the server's reason if it cannot start or is not ready two minutes after it did, or
        StoppedError.
        """
        with steps.step("starting Ray"):
            logs = self._start_ray(metrics_port)
        with steps.step("starting the replicas") as details:
            self._deploy(settings, stores)
            details += self._wait_for_replicas(steps, logs)
        with steps.step("drawing the first frame of a session"):
            self._draw_first_frame(steps, logs)
        self._serves = True
        return logs

    def stop(self) -> None:
        """Ends the application and Ray with all of its processes."""
        import ray
        from ray import serve

        from deployments.app import NAME

        if self._others is None:
            return
        # What a start left behind that failed or was stopped, as well.
        own = set(psutil.Process().children(recursive=True)) - self._others
        # Players of a server that was ready are told; only a replica that has ended already can fail here.
        with contextlib.suppress(Exception):
            if self._serves:
                serve.delete(NAME)
        ray.shutdown()
        # Ray's agents outlive it for a while, and for longer if it was still starting.
        _, left = psutil.wait_procs(own, _CHILD_TIMEOUT_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _start_ray(self, metrics_port: int | None) -> Path:
        set_environment()
        import ray
        from ray._private import services

        self._others = set(psutil.Process().children(recursive=True))
        try:
            with without_usage_server(services):
                ray.init(
                    "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _metrics_export_port=metrics_port,
                )
        except Exception as error:
            reason = first_line(str(error)).rstrip(".")
            raise ValueError(f"Ray cannot start: {reason}; its logs are in {logs_folder()}") from error
        return server_logs() or logs_folder()

    def _deploy(self, settings: ServeSettings, stores: StoreUrls) -> None:
        from ray import serve

        from deployments.app import NAME, build_app

        # What it says about its start is shown by the steps.
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": self._address.bare_host, "port": self._address.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        target = serve.RunTarget(build_app(settings, stores), name=NAME, route_prefix="/")
        serve.run_many(
            [target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )

    def _wait_for_replicas(self, steps: StartSteps, logs: Path) -> list[str]:
        """Waits until all replicas run; returns the kinds with the seconds that each took."""
        from ray import serve

        from deployments.app import NAME

        began_s, took = time.monotonic(), {}
        while True:
            steps.check()
            application = serve.status().applications.get(NAME)
            for kind, deployment in (application.deployments if application else {}).items():
                if deployment.status == "HEALTHY" and kind not in took:
                    took[kind] = f"{kind} {time.monotonic() - began_s:.0f} s"
            if application and application.status == "RUNNING":
                return list(took.values())
            if application and application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                reason = _last_line(application.message)
                raise ValueError(f"the server cannot start: {reason}; its logs are in {logs}")
            time.sleep(_POLL_S)

    def _draw_first_frame(self, steps: StartSteps, logs: Path) -> None:
        """Waits for health, then plays one world for a moment, so that the first player finds everything warm."""
        url, give_up_at = self._address.url, time.monotonic() + _READY_TIMEOUT_S
        # To itself a server never talks through a proxy, whatever the address that it listens on.
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while reason := _why_not_ready(client):
                steps.check()
                if time.monotonic() > give_up_at:
                    raise ValueError(
                        f"{url} is not ready after {_READY_TIMEOUT_S:g} s: {reason}; logs are in {logs}"
                    )
                time.sleep(_POLL_S)
            session = client.post("/v1/sessions", json=_FIRST_WORLD).raise_for_status().json()
        stream_url = url.replace("http", "ws", 1) + session["stream_url"]
        with websockets.sync.client.connect(stream_url, max_size=None, proxy=None) as stream:
            stream.send(json.dumps({"type": "hello", "token": session["resume_token"]}))
            while not _receives_frame(stream):
                steps.check()
                if time.monotonic() > give_up_at:
                    raise ValueError(
                        f"{url} draws no frame within {_READY_TIMEOUT_S:g} s: see its logs in {logs}"
                    )
            stream.send(json.dumps({"type": "bye"}))


def _receives_frame(stream: websockets.sync.client.ClientConnection) -> bool:
    """True if the next message is a frame; messages of text, and none within a moment, are not."""
    try:
        return not isinstance(stream.recv(timeout=1.0), str)
    except TimeoutError:
        return False


def _why_not_ready(client: httpx.Client) -> str | None:
    """The reason that the server is not healthy, None for a healthy one."""
    try:
        answer = client.get("/healthz", timeout=10)
        return None if answer.is_success else answer.json()["error"]["message"]
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return str(error) or type(error).__name__


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"
