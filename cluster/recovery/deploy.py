"""Driver process on a running cluster: deploys the application, and waits until all of it is healthy.

python -m cluster.recovery.deploy '{"head_address": "127.0.0.1:6379", ...}'
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from typing import Any

from deployments.environment import set_environment
from deployments.stores import StoreUrls

_POLL_INTERVAL_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """Deployment request. Proxies listen at `port`, or at RAY_SERVE_WORKER_PROXY_HTTP_PORT of their node.

    With `deploys` false it only waits for what was served before.
    """

    head_address: str
    settings: str
    model: str
    stores: StoreUrls
    port: int
    deploys: bool = True
    timeout_s: float = 240.0

    def to_json(self) -> str:
        """JSON for the command line."""
        return json.dumps(dataclasses.asdict(self))


def run(order: DeployRequest) -> None:
    """Deploys, and waits until every replica and every node's proxy is healthy; raises TimeoutError."""
    import ray
    from ray import serve

    from deployments.app import NAME, build_app
    from deployments.settings import load_settings

    settings = dataclasses.replace(load_settings(order.settings), model=order.model)
    ray.init(order.head_address, log_to_driver=False, logging_level=logging.ERROR)
    if order.deploys:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": "127.0.0.1", "port": order.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        serve.run(build_app(settings, order.stores), name=NAME, route_prefix="/")
    num_nodes = sum(node["Alive"] for node in ray.nodes())
    give_up_at = time.monotonic() + order.timeout_s
    while (missing := _missing(serve.status(), NAME, num_nodes)) is not None:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"after {order.timeout_s:g} s: {missing}")
        time.sleep(_POLL_INTERVAL_S)


def _missing(status: Any, name: str, num_nodes: int) -> str | None:
    """Sentence about a part that is not healthy yet; None if all are."""
    proxies = [proxy for proxy in status.proxies.values() if proxy == "HEALTHY"]
    if len(proxies) < num_nodes:
        return f"{len(proxies)} of {num_nodes} proxies are healthy"
    application = status.applications.get(name)
    if application is None or application.status != "RUNNING":
        return f"the application is {application.status if application else 'not there'}"
    for deployment, state in application.deployments.items():
        if state.status != "HEALTHY" or set(state.replica_states) != {"RUNNING"}:
            return f"{deployment} is {state.status}, its replicas {state.replica_states}"
    return None


if __name__ == "__main__":
    set_environment()
    fields = json.loads(sys.argv[1])
    run(DeployRequest(**fields | {"stores": StoreUrls(**fields["stores"])}))
