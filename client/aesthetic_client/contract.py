"""The contract: every tensor, model and head that client, exporter and server share.

Declared once, here. ONNX inputs and axes, `config.pbtxt`, requests and dummy data are computed from
this file or tested against it. Standard library only, so that everything may import it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

DType = Literal["BYTES", "UINT8", "INT32", "INT64", "FP32"]


@dataclass(frozen=True)
class Tensor:
    """One tensor on the wire. `dims` leaves out the batch dimension, as Triton's configs do."""

    name: str
    dtype: DType
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Head:
    """A published aesthetic predictor: its name, and the tensor that carries its score."""

    name: str
    output: str

    @property
    def tensor(self) -> Tensor:
        return Tensor(self.output, "FP32", (1,))


@dataclass(frozen=True)
class Model:
    """A Triton model. `steps` names an ensemble's composing models in the order of the data."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int
    steps: tuple[str, ...] = ()


def output_name(head: str) -> str:
    """The tensor name of a further head: its own name with `_` for what Triton users must quote."""
    return re.sub(r"\W", "_", head)


# --- tensors -----------------------------------------------------------------------------------

IMAGE_SIZE = 224  # pixels; CLIP ViT-L/14's input side
EMBEDDING_DIM = 768  # CLIP ViT-L/14's projection width

IMAGE = Tensor("image", "BYTES", (1,))  # one encoded image file: JPEG, PNG, WebP
PIXELS = Tensor("pixels", "UINT8", (IMAGE_SIZE, IMAGE_SIZE, 3))  # RGB, HWC, after resize and crop
EMBEDDING = Tensor("embedding", "FP32", (EMBEDDING_DIM,))  # CLIP image embedding, L2-normalised

# --- heads -------------------------------------------------------------------------------------

DEFAULT_HEAD = Head("sac+logos+ava1-l14-linearMSE", "aesthetic_score")
HEADS = (
    DEFAULT_HEAD,
    *(
        Head(name, output_name(name))
        for name in (
            "ava+logos-l14-linearMSE",
            "ava+logos-l14-reluMSE",
            "sa_0_4_vit_l_14_linear",
            "sac_public_2022_06_29_vit_l_14_linear",
        )
    ),
)
SCORES = tuple(head.tensor for head in HEADS)

# --- models ------------------------------------------------------------------------------------

# Eight images saturate a CPU (ViT-L/14 is 162 GFLOP an image); more only adds latency there.
MAX_IMAGE_BATCH = 8
# 4096 embeddings are one 12.6 MB message; the heads take 45 ms for them, nearly all in the MLP.
MAX_EMBEDDING_BATCH = 4096

PREPROCESS = Model("preprocess", (IMAGE,), (PIXELS,), MAX_IMAGE_BATCH)
CLIP_IMAGE = Model("clip_image", (PIXELS,), (EMBEDDING,), MAX_IMAGE_BATCH)
AESTHETIC_HEADS = Model("aesthetic_heads", (EMBEDDING,), SCORES, MAX_EMBEDDING_BATCH)
AESTHETIC = Model(
    "aesthetic",
    (IMAGE,),
    (*SCORES, EMBEDDING),
    MAX_IMAGE_BATCH,
    steps=("preprocess", "clip_image", "aesthetic_heads"),
)
AESTHETIC_PIXELS = Model(
    "aesthetic_pixels",
    (PIXELS,),
    (*SCORES, EMBEDDING),
    MAX_IMAGE_BATCH,
    steps=("clip_image", "aesthetic_heads"),
)
MODELS = (PREPROCESS, CLIP_IMAGE, AESTHETIC_HEADS, AESTHETIC, AESTHETIC_PIXELS)

# --- add-ons ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AddOn:
    """Models served beside MODELS where `aesthetic export --with NAME` has added them.

    Their sources are in model_repository/NAME.
    """

    name: str
    models: tuple[Model, ...]


# For machines whose GPU outruns their cores' decoding; needs a Triton with the DALI backend.
MAX_DALI_BATCH = 64  # decoded photographs of 16 megapixels: 3 GB of GPU memory

ENCODED = Tensor("encoded", "UINT8", (-1,))  # one encoded image file, as its bytes

DALI_DECODE = Model("dali_decode", (ENCODED,), (PIXELS,), MAX_DALI_BATCH)
PREPROCESS_DALI = Model("preprocess_dali", (IMAGE,), (PIXELS,), MAX_IMAGE_BATCH)
AESTHETIC_DALI = Model(
    "aesthetic_dali",
    (IMAGE,),
    (*SCORES, EMBEDDING),
    MAX_IMAGE_BATCH,
    steps=("preprocess_dali", "clip_image", "aesthetic_heads"),
)
DALI = AddOn("dali", (DALI_DECODE, PREPROCESS_DALI, AESTHETIC_DALI))

# CLIP's text side: a prompt to its embedding, and to what Stable Diffusion 1.x is conditioned on.
CONTEXT_LENGTH = 77  # tokens, start and end of text included
TEXT_WIDTH = 768  # of the text transformer
MAX_PROMPT_BATCH = 32  # 14 GFLOP a prompt

PROMPT = Tensor("prompt", "BYTES", (1,))  # UTF-8
TOKENS = Tensor("tokens", "INT64", (CONTEXT_LENGTH,))  # padded as Stable Diffusion 1.x pads them
TOKEN_COUNT = Tensor("token_count", "INT32", (1,))  # of the whole prompt; from 76 on it is cut
TEXT_EMBEDDING = Tensor("text_embedding", "FP32", (EMBEDDING_DIM,))  # L2-normalised
LAST_HIDDEN_STATE = Tensor("last_hidden_state", "FP32", (CONTEXT_LENGTH, TEXT_WIDTH))

TOKENIZE = Model("tokenize", (PROMPT,), (TOKENS, TOKEN_COUNT), MAX_PROMPT_BATCH)
CLIP_TEXT_TOWER = Model(
    "clip_text_tower", (TOKENS,), (TEXT_EMBEDDING, LAST_HIDDEN_STATE), MAX_PROMPT_BATCH
)
CLIP_TEXT = Model(
    "clip_text",
    (PROMPT,),
    (TEXT_EMBEDDING, LAST_HIDDEN_STATE, TOKEN_COUNT),
    MAX_PROMPT_BATCH,
    steps=("tokenize", "clip_text_tower"),
)
TEXT = AddOn("text", (TOKENIZE, CLIP_TEXT_TOWER, CLIP_TEXT))

# Aesthetic gradients; needs torch where Triton runs.
MAX_PERSONALIZE_BATCH = 8  # prompts a request, one after the other: some 4 s each on two cores

AESTHETIC_EMBEDDING = Tensor("aesthetic_embedding", "FP32", (EMBEDDING_DIM,))  # of any length
RECIPE = Tensor("recipe", "BYTES", (1,))  # a JSON object: steps, lr, optimizer, weight ... or {}
AGREEMENT = Tensor("agreement", "FP32", (-1,))  # before the first and after each step; NaN after

AESTHETIC_PERSONALIZE = Model(
    "aesthetic_personalize",
    (PROMPT, AESTHETIC_EMBEDDING, RECIPE),
    (TEXT_EMBEDDING, LAST_HIDDEN_STATE, AGREEMENT, TOKEN_COUNT),
    MAX_PERSONALIZE_BATCH,
)
PERSONALIZE = AddOn("personalize", (AESTHETIC_PERSONALIZE,))

# Scores with their gradients: score = sum of head_weights * heads + direction . embedding.
FLOAT_PIXELS = Tensor("float_pixels", "FP32", (3, IMAGE_SIZE, IMAGE_SIZE))  # RGB in [0, 1], CHW
HEAD_WEIGHTS = Tensor("head_weights", "FP32", (len(HEADS),))  # in the order of HEADS
DIRECTION = Tensor("direction", "FP32", (EMBEDDING_DIM,))  # a head without a bias, or zeros
SCORE = Tensor("score", "FP32", (1,))
PIXEL_GRADIENT = Tensor("pixel_gradient", "FP32", FLOAT_PIXELS.dims)  # d score / d float_pixels

AESTHETIC_GRADIENT = Model(
    "aesthetic_gradient",
    (FLOAT_PIXELS, HEAD_WEIGHTS, DIRECTION),
    (SCORE, PIXEL_GRADIENT, EMBEDDING),
    MAX_IMAGE_BATCH,
)
GRADIENT = AddOn("gradient", (AESTHETIC_GRADIENT,))

ADD_ONS = (DALI, TEXT, PERSONALIZE, GRADIENT)
OPTIONAL_MODELS = tuple(model for add_on in ADD_ONS for model in add_on.models)

# --- profiles ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """A way to serve `clip_image`, chosen by Triton's `--model-config-name`.

    `name` is that of `configs/NAME.pbtxt`, "" of `config.pbtxt`; `artifact` the file in
    `clip_image/1`; `max_batch` that of `clip_image` alone, which batches across requests. A model
    without `configs/NAME.pbtxt` keeps its `config.pbtxt`, and with it the default profile.
    """

    name: str
    backend: Literal["onnxruntime", "tensorrt", "openvino"]
    artifact: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    max_batch: int

    @property
    def provenance_file(self) -> str:
        """The name of the JSON beside the artifact that says where its numbers come from."""
        return f"provenance.{self.name}.json" if self.name else "provenance.json"

    @property
    def weights_file(self) -> str:
        """The name of the file beside the artifact where its weights lie, if not in it."""
        if self.backend == "openvino":
            return f"{self.artifact.removesuffix('.xml')}.bin"
        return f"{self.artifact}.data"

    @property
    def config_file(self) -> str:
        """The config that Triton reads in this profile, within a model's folder."""
        return f"configs/{self.name}.pbtxt" if self.name else "config.pbtxt"


DEFAULT_PROFILE = Profile("", "onnxruntime", "model.onnx", "fp32", MAX_IMAGE_BATCH)
# Where a GPU computes, a batch of eight would leave most of it idle.
ONNX_CUDA = Profile("onnx-cuda", "onnxruntime", "model.fp16.onnx", "fp16", 128)
TENSORRT = Profile("tensorrt", "tensorrt", "model.plan", "fp16", 128)
# For CPUs that multiply bfloat16 or bytes: the same weights, faster, with a measured difference.
BF16 = Profile("bf16", "openvino", "model.bf16.xml", "bf16", MAX_IMAGE_BATCH)
INT8 = Profile("int8", "openvino", "model.int8.xml", "int8", MAX_IMAGE_BATCH)
PROFILES = (DEFAULT_PROFILE, ONNX_CUDA, TENSORRT, BF16, INT8)
# By the word that people choose with; on a CPU a profile is its precision.
CPU_PROFILES = {profile.precision: profile for profile in (DEFAULT_PROFILE, BF16, INT8)}


@dataclass(frozen=True)
class Plan:
    """A model that TENSORRT serves by a plan, built from the ONNX file of the profile `source`.

    The plan takes 1 to `max_batch` items and is tuned for `opt_batch`. Without an `optional` plan
    its config is left out of the served repository too, and the ONNX file serves.
    """

    model: Model
    source: Profile
    opt_batch: int
    max_batch: int
    optional: bool = False


TOWER_PLAN = Plan(CLIP_IMAGE, ONNX_CUDA, opt_batch=32, max_batch=TENSORRT.max_batch)
# In fp32, tuned for what the tower's largest batch hands on.
HEADS_PLAN = Plan(
    AESTHETIC_HEADS,
    DEFAULT_PROFILE,
    opt_batch=TENSORRT.max_batch,
    max_batch=AESTHETIC_HEADS.max_batch,
    optional=True,
)
# In fp32, for a generator's batches; only where the add-on is.
GRADIENT_PLAN = Plan(
    AESTHETIC_GRADIENT,
    DEFAULT_PROFILE,
    opt_batch=AESTHETIC_GRADIENT.max_batch,
    max_batch=AESTHETIC_GRADIENT.max_batch,
    optional=True,
)
PLANS = (TOWER_PLAN, HEADS_PLAN, GRADIENT_PLAN)

# --- heads as data -----------------------------------------------------------------------------

# Beside the heads' ONNX file: their weights, for scoring stored embeddings without a server.
HEADS_DATA = "heads.safetensors"
HEADS_DATA_FORMAT = "aesthetic-heads-1"  # `format` of its metadata

# --- provenance --------------------------------------------------------------------------------

# Keys under this prefix in a served model's config `parameters` say where its numbers come from.
PROVENANCE_PREFIX = "provenance."
# The `weights` an artifact carries when its weights are random; nothing downstream may hide it.
SEEDED_WEIGHTS = "seeded, scores are meaningless"


def model_named(name: str) -> Model:
    """The contract's model of that name. Raises KeyError for another."""
    return {model.name: model for model in (*MODELS, *OPTIONAL_MODELS)}[name]
