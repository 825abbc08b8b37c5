"""`preprocess` decodes image after image in the same memory, and takes no more than is said."""

from __future__ import annotations

import io
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SOURCE = Path(__file__).parents[2] / "model_repository" / "preprocess" / "1"
# A fresh process, as Triton's is: what an allocator keeps depends on what was freed before.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from types import ModuleType

backend = ModuleType("triton_python_backend_utils")
backend.TritonModelException = Exception
sys.modules[backend.__name__] = backend
import model

data = Path(sys.argv[1]).read_bytes()
instance = model.TritonPythonModel()
instance.initialize({"model_config": json.dumps({"parameters": {}})})
# Nothing is left for the first request to compile.
assert model.warm_up.__globals__["_resample"]._failure.cache_info().currsize == 1

def faults(images):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(images):
        model.prepare_pixels(data, instance.options)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / images

if sys.argv[2] == "peak":
    model.prepare_pixels(data, instance.options)
    # ru_maxrss would begin with what the process that started this one had.
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
else:
    faults(5)
    print(faults(20))
"""


def measured(what: str, image: Path) -> float:
    """Of `preprocess` with this image: "faults" of a page for each, or "peak" of memory in kB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(image), what],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_images_reuse_memory(tmp_path: Path) -> None:
    image = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((1536, 1152)).convert("RGB").save(image)
    decoded_pages = 1536 * 1152 * 3 / 4096  # 1,296; without the model's settings 1,671 were seen
    assert measured("faults", image) < decoded_pages / 10


@pytest.mark.skipif(sys.platform != "linux", reason="of /proc")
def test_the_hungriest_accepted_image_takes_what_the_config_says(tmp_path: Path) -> None:
    """A progressive JPEG, whose coefficients are kept until its last scan, of the fewest scans."""
    stored = io.BytesIO()
    Image.new("CMYK", (7200, 5600)).save(stored, "JPEG", progressive=True)
    parts = stored.getvalue().split(b"\xff\xda", 3)
    image = tmp_path / "two-scans.jpg"
    image.write_bytes(b"\xff\xda".join(parts[:3]) + b"\xff\xd9")
    peak_mb = measured("peak", image) / 1000
    config = (SOURCE.parent / "config.pbtxt").read_text()
    said = re.search(r"its process more than (\d+) MB", config)
    assert said and 0.75 * int(said[1]) < peak_mb < 1.05 * int(said[1])
