"""A copy of ONNX Runtime that takes this processor for an older one, as it has no setting for that.

Each CPUID instruction of the copy is replaced by UD2, which has two bytes as well; mask_cpuid.c answers the
signal that follows with the flags that the older processor would have. For x86-64 Linux with a C compiler
and binutils.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"


def masked_environment(folder: Path, limit: str) -> dict[str, str]:
    """Variables for a process whose `onnxruntime` uses no newer instructions than oneDNN's name of them says.

    The copy and the handler are made in `folder`, once.
    """
    handler = folder / "mask_cpuid.so"
    if not handler.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _copy(folder / "onnxruntime")
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", handler, source], check=True)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"CPUID_LIMIT": limit, "LD_PRELOAD": str(handler), "PYTHONPATH": os.pathsep.join(paths)}


def _copy(target: Path) -> None:
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("onnxruntime is not installed")
    shutil.copytree(Path(spec.origin).parent, target, dirs_exist_ok=True)
    for library in target.rglob("*pybind11_state*.so"):
        content = bytearray(library.read_bytes())
        for place in _places(library):
            assert content[place : place + 2] == CPUID
            content[place : place + 2] = UD2
        library.write_bytes(content)


def _places(library: Path) -> list[int]:
    """Where the CPUID instructions lie in the file."""
    sections = subprocess.check_output(["readelf", "--sections", "--wide", library], text=True)
    found = re.search(r"\.text\s+PROGBITS\s+([0-9a-f]+)\s+([0-9a-f]+)", sections)
    assert found is not None
    address, offset = (int(number, 16) for number in found.groups())
    code = subprocess.check_output(
        ["objdump", "--disassemble", "--no-show-raw-insn", "--section", ".text", library], text=True
    )
    places = re.findall(r"^\s*([0-9a-f]+):\s+cpuid", code, re.MULTILINE)
    return [int(place, 16) - address + offset for place in places]
