"""Pushing to and loading from a hub, against a small one on the loopback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hub import COMMIT, loopback_hub

CODE = """
import sys
from cascadebert import Cascade, Stage
cascade = Cascade.from_pretrained(sys.argv[1])
print(cascade.push_to_hub("me/toy"))
again = Cascade.from_pretrained("me/toy")
texts = ["a fine film", "the song was dull and cold"]
assert again.predict(texts).probabilities.tolist() == cascade.predict(texts).probabilities.tolist()
assert again.operating_point == cascade.operating_point
assert str(again.path).startswith(sys.argv[2]), again.path
"""


@pytest.mark.slow
def test_a_cascade_pushed_to_a_hub_is_the_same_when_loaded_from_there(saved, tmp_path):
    with loopback_hub() as (address, files):
        outside = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        settings = {
            **outside,
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": "hf_test",
        }
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(saved), str(tmp_path)],
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip() == f"{address}/me/toy/commit/{COMMIT}"
        local = {
            str(file.relative_to(saved)): file.read_bytes() for file in saved.rglob("*") if file.is_file()
        }
        assert {name: files[name] for name in local} == local
