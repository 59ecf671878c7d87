"""Replicas of play import no libraries that only the clip service uses: their start would take longer."""

import subprocess
import sys

FOREIGN = ("sqlalchemy", "psycopg", "alembic", "boto3", "httpx")


def test_replicas_of_play_import_no_database_and_no_store():
    modules = ", ".join(f"deployments.replicas.{name}" for name in ("world", "decoder", "text_encoder"))
    code = f"import sys, {modules}; print([name for name in {FOREIGN} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
