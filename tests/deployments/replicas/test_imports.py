"""Replicas import no libraries that they do not use: their start would take longer."""

import subprocess
import sys

import pytest

PLAY = ("replicas.world", "replicas.decoder", "replicas.text_encoder")
SERVICE = ("app", "ingress.ingress", "replicas.maintenance", "workers.housekeeping")


@pytest.mark.parametrize(
    ("modules", "foreign"),
    [
        (PLAY, ("sqlalchemy", "psycopg", "alembic", "boto3", "httpx")),
        # These compute nothing: PyTorch alone takes as long to load as all else together.
        (SERVICE, ("torch", "transformers", "onnxruntime")),
    ],
    ids=["play", "service"],
)
def test_nothing_foreign_is_imported(modules, foreign):
    names = ", ".join(f"deployments.{name}" for name in modules)
    code = f"import sys, {names}; print([name for name in {foreign} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
