#!/usr/bin/env bash
# Fill the model repository: weights -> ONNX -> what the profile serves. Runs in the export image.
# Arguments go to every `aesthetic export`, e.g. --weights /weights/ViT-L-14.pt
set -euo pipefail

repository=${AESTHETIC_REPOSITORY:-/models}
profile=${AESTHETIC_PROFILE:-tensorrt}

case $profile in
  default | fp32) precision= ;;
  bf16 | int8) precision=$profile ;;
  onnx-cuda | tensorrt) precision=fp16 ;;
  *)
    echo "AESTHETIC_PROFILE is '$profile'; known are default, fp32, bf16, int8, onnx-cuda," \
      "tensorrt" >&2
    exit 1
    ;;
esac

aesthetic export --repository "$repository" "$@"
if [ -n "$precision" ]; then
  aesthetic export --repository "$repository" --precision "$precision" "$@"
fi
if [ "$profile" = tensorrt ]; then
  # Built by the TensorRT that serves it, on the GPU that serves it: a plan fits no other.
  aesthetic export --repository "$repository" --target tensorrt "$@"
fi
