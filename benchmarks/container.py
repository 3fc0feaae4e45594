"""The recipe of deploy/Dockerfile without a container engine: its steps in a small Debian, then its commands.

    apt-get install debootstrap
    python benchmarks/container.py          # as root; two minutes

The root is Debian's with its own Python in place of the base image's. There the packages are installed as the
Dockerfile says, and what it starts runs as its user in a root that is read-only but for /tmp, in name spaces
of its own. `benchmarks/scale.py` calls it for results/scale/summary.json.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from cascadebert.timing import now
from end_to_end import MADE
from stored import ROOT

RELEASE, PACKAGES = "bookworm", "python3,python3-venv,ca-certificates"
PORT = 8000
USER = 10001
TRIES = 600  # tenths of a second until it answers
CASES = ["a fine film", "not worth the ticket"]


def main() -> None:
    """Print what was found."""
    print(json.dumps(container(), indent=2))


def container() -> dict[str, Any]:
    """Sizes, and whether the image's commands run as they should. Raises if one of them does not."""
    recipe = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        root = Path(folder) / "root"
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root))
        base = _mebibytes(root)
        install(recipe, root)
        installed = _mebibytes(root / "opt" / "cascadebert")
        shutil.rmtree(root / "source")
        shutil.copytree(MADE, root / "model")
        return {
            "image_mb": base + installed,
            "base_mb": base,
            "added_mb": installed,
            **commands(recipe, root),
        }


def install(recipe: str, root: Path) -> None:
    """The steps of the Dockerfile that copy and install."""
    (root / "source").mkdir()
    for names, target in re.findall(r"^COPY (?!--)(.+) (\S+)$", recipe, re.MULTILINE):
        for name in names.split():
            path = ROOT / name
            if path.is_dir():
                shutil.copytree(path, root / "source" / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, root / "source")
    for name in ("resolv.conf", "pip.conf", "ssl/certs/ca-certificates.crt"):  # as this machine has them
        source = Path("/etc") / name
        if source.exists():
            shutil.copy(source, root / "etc" / name)
    (step,) = re.findall(r"^RUN (python -m venv(?:.+\\\n)+.+)$", recipe, re.MULTILINE)
    step = step.replace("\\\n", " ").replace("python -m", "python3 -m")
    _run("chroot", str(root), "sh", "-c", f"cd /source && {step}")


def commands(recipe: str, root: Path) -> dict[str, Any]:
    """What the Dockerfile starts, and its health check, each as its user in a root that is read-only."""
    (command,) = re.findall(r"^CMD (\[.+\])$", recipe, re.MULTILINE)
    (check,) = re.findall(r"^ +CMD (\[.+\])$", recipe, re.MULTILINE)
    serve = ["/opt/cascadebert/bin/cascadebert", *json.loads(command)]
    health = ["/opt/cascadebert/bin/python", *json.loads(check)[1:]]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(_inside(root, serve), stdout=said, stderr=said, start_new_session=True)
        try:
            started = _until_healthy()
            body = json.dumps({"inputs": [[text] for text in CASES]}).encode()
            request = Request(f"http://127.0.0.1:{PORT}/predict", body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=60) as response:
                answers = json.load(response)
            healthy = subprocess.run(_inside(root, health), check=False).returncode == 0
        except BaseException:
            said.seek(0)
            print(said.read().decode())
            raise
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    refused = subprocess.run(_inside(root, ["/bin/sh", "-c", "echo > /opt/file"]), stderr=subprocess.DEVNULL)
    rows = "".join(f"{text}\n" for text in ["text", *CASES])
    predict = "/opt/cascadebert/bin/cascadebert predict /model - --output -"
    written = subprocess.run(
        _inside(root, ["/bin/sh", "-c", f"{predict} | head -3; id -u"]),
        input=rows, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *table, user = written.stdout.splitlines()
    assert len(answers) == len(CASES) and len(table) == 1 + len(CASES)
    return {
        "seconds_to_answer": started,
        "health_check": healthy,
        "root_is_read_only": refused.returncode != 0,
        "user": int(user),
    }


def _inside(root: Path, command: list[str]) -> list[str]:
    """A command line that runs another one in the root."""
    mounts = [
        f"mount --bind {root} {root}",
        f"mount --bind -o remount,ro {root}",
        f"mount -t tmpfs tmpfs {root}/tmp",
        f"mount -t proc proc {root}/proc",
    ]
    enter = f'exec chroot --userspec={USER}:{USER} {root} env HOME=/tmp XDG_CACHE_HOME=/tmp "$@"'
    return ["unshare", "--mount", "--pid", "--fork", "sh", "-c",
            " && ".join([*mounts, enter]), "sh", *command]  # fmt: skip


def _until_healthy() -> float:
    """Seconds until the server answers. Raises TimeoutError if it does not."""
    start = now()
    for _ in range(TRIES):
        try:
            urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).close()
        except OSError:  # also while the models are loaded
            time.sleep(0.1)
        else:
            return now() - start
    raise TimeoutError


def _mebibytes(folder: Path) -> int:
    return int(_run("du", "-sm", str(folder)).split()[0])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
