#!/usr/bin/env bash
# Fill the model repository: weights -> ONNX -> what the profile serves. Runs in the export image.
# Arguments go to every `aesthetic export`, e.g. --weights /weights/ViT-L-14.pt
set -euo pipefail

repository=${AESTHETIC_REPOSITORY:-/models}
profile=${AESTHETIC_PROFILE:-tensorrt}

case $profile in
  default | onnx-cuda | tensorrt) ;;
  *)
    echo "AESTHETIC_PROFILE is '$profile'; known are default, onnx-cuda, tensorrt" >&2
    exit 1
    ;;
esac

aesthetic export --repository "$repository" "$@"
if [ "$profile" != default ]; then
  aesthetic export --repository "$repository" --precision fp16 "$@"
fi
if [ "$profile" = tensorrt ]; then
  # Built by the TensorRT that serves it, on the GPU that serves it: a plan fits no other.
  aesthetic export --repository "$repository" --target tensorrt "$@"
fi
