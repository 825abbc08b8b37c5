#!/usr/bin/env bash
# Python bindings for the TensorRT library that is already in this image.
#
# The -py3 image has libnvinfer and no Python module. `pip install tensorrt` would bring a second,
# newer library of several GB, and Triton refuses what that one builds. The bindings alone load the
# image's library; they must have its version.
set -euo pipefail

library=$(ldconfig -p | awk '$1 ~ /^libnvinfer\.so\.[0-9]+$/ { print $NF; exit }')
if [ -z "$library" ]; then
  echo "this image has no libnvinfer: is it tritonserver:YY.MM-py3 with GPU support?" >&2
  exit 1
fi
file=$(basename "$(readlink -f "$library")")
version=${file#libnvinfer.so.} # 11.4.0
cuda_major=${CUDA_VERSION%%.*} # set by NVIDIA's images
package=tensorrt-cu${cuda_major:?CUDA_VERSION is not set}-bindings

# The package's fourth number counts builds; any of this version fits.
python3 -m pip install --no-cache-dir --no-deps "$package==$version.*"

# The package is called tensorrt_bindings; the name that everybody imports is another package's,
# which insists on the several GB.
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' \
  'from tensorrt_bindings import *  # noqa: F403' \
  'from tensorrt_bindings import __version__  # noqa: F401' >"$site/tensorrt.py"

python3 - "$version" <<'CHECK'
import sys

import tensorrt

if not tensorrt.__version__.startswith(sys.argv[1] + "."):
    sys.exit(f"the bindings are {tensorrt.__version__}, the library {sys.argv[1]}")
print(f"TensorRT {tensorrt.__version__} with the image's own library")
CHECK
