"""The machine and the library versions that results are measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

# flags of /proc/cpuinfo on x86 and ARM, from the oldest, that decide how fast models run
INSTRUCTION_SETS = {
    "avx2": "AVX2", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16", "amx_int8": "AMX int8", "amx_bf16": "AMX BF16",
    "asimd": "NEON", "asimddp": "NEON dot product", "i8mm": "NEON int8", "bf16": "NEON BF16", "sve": "SVE",
}  # fmt: skip
LIBRARIES = "cascadebert numpy onnxruntime openvino scikit-learn scipy tokenizers torch transformers".split()


def limit_spinning() -> None:
    """Let OpenMP threads sleep after a short spin, unless told otherwise. Call before importing torch."""
    # Threads that spin at barriers make small trainings several times slower beside other work; threads that
    # sleep at once make them slower on an idle machine (benchmarks/waiting.py).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def cores() -> int:
    """Number of processor cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Number of threads that this process may compute with: its cores, or fewer if OMP_NUM_THREADS is.

    Ray and others set it for processes that share a machine.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(limit)) if limit.isdecimal() and int(limit) else cores()


def _system_values(file: str, key: str) -> list[str]:
    """Values of a key in a file of "key: value" lines of Linux; none on other systems."""
    path = Path(file)
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]


def peak_memory_mb() -> float | None:
    """Peak memory of this process in MB; None where the system does not report it."""
    # on Linux `ru_maxrss` would include the memory of the parent process before the fork
    if kilobytes := _system_values("/proc/self/status", "VmHWM"):
        return int(kilobytes[0].split()[0]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def machine() -> str:
    """Description of the processor, its cores and the operating system."""
    names = _system_values("/proc/cpuinfo", "model name")
    name = names[0] if names else platform.processor() or platform.machine()
    count = "1 core" if cores() == 1 else f"{cores()} cores"
    return f"{name}, {count}, {platform.system()} {platform.machine()}"


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of the processor that matter for speed, such as "AVX2"; empty where unknown."""
    lines = _system_values("/proc/cpuinfo", "flags") or _system_values("/proc/cpuinfo", "Features")
    flags = set(lines[0].split()) if lines else set()
    return tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in flags)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that affect results."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """Git commit of this package, with "-dirty" after local changes; None outside of its own checkout."""
    file = Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.check_output(
            ["git", *arguments], cwd=file.parent, stderr=subprocess.DEVNULL, text=True
        ).strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # fails if installed inside another project's checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
