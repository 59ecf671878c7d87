"""Wheel and sdist hold what git keeps, no more and no less."""

from __future__ import annotations

import tarfile
import zipfile

from tests.packaging.distribution import Distribution, tracked_files


def test_the_wheel_has_every_file_of_the_packages_and_no_other(distribution: Distribution) -> None:
    with zipfile.ZipFile(distribution.wheel) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (record,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "gamegen = gamegen.cli:main" in wheel.read(record).decode()
    packages = tracked_files("gamegen", "jobs", "deployments", "loadtest", "cluster", "client/gamegen_client")
    expected = {name.removeprefix("client/") for name in packages}
    assert inside == expected
    for folder in (
        "gamegen/configs/stages/",
        "gamegen/weights/nano/",
        "deployments/web/",
        "cluster/dashboards/",
    ):
        assert any(name.startswith(folder) for name in inside), folder


def test_the_sdist_is_the_repository(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as sdist:
        inside = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    made = {name for name in inside if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert inside - made == set(tracked_files())
