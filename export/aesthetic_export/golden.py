"""Published embeddings and images with their scores: data that any correct server reproduces."""

from __future__ import annotations

from dataclasses import dataclass

from aesthetic_export.files import PinnedFile

EMBEDDING_TOLERANCE = 2e-5  # points; an fp32 implementation agrees with float64 within 7e-6
# Published image scores come from other decoders and from fp16 towers. All files are BMP or PNG.
IMAGE_TOLERANCE = 0.02  # points


@dataclass(frozen=True)
class GoldenEmbedding:
    """A published CLIP ViT-L/14 embedding, not normalised, and its score under each head.

    `scores` follow GOLDEN_HEADS. They were computed in float64: cast, L2-normalise, apply the head.
    """

    file: PinnedFile
    scores: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class GoldenImage:
    """A published image and the default head's score for it. `source` is repository and path."""

    name: str
    source: str
    score: float


GOLDEN_HEADS = (
    "sac+logos+ava1-l14-linearMSE",
    "ava+logos-l14-linearMSE",
    "ava+logos-l14-reluMSE",
    "sa_0_4_vit_l_14_linear",
    "sac_public_2022_06_29_vit_l_14_linear",
)

_RAW = "https://raw.githubusercontent.com"
_GRADIENTS = (
    f"{_RAW}/vicgalle/stable-diffusion-aesthetic-gradients/"
    "30ca347d39eb7c92dd651a513cf4f795ed995708/aesthetic_embeddings"
)
_RATINGS = (
    f"{_RAW}/LAION-AI/aesthetic-predictor/"
    "6d122adad522ab246644d9dc1c6d7a3810ee255f/vit_l_14_embeddings"
)


def _golden(
    folder: str, name: str, sha256: str, scores: tuple[float, float, float, float, float]
) -> GoldenEmbedding:
    return GoldenEmbedding(PinnedFile(name, f"{folder}/{name}", sha256), scores)


GOLDEN_EMBEDDINGS = (
    _golden(
        _GRADIENTS,
        "aivazovsky.pt",
        "56b94ef535483b6cf3cfcb711b74fe6521b3c1fb48455a1f603e0401aa1e404b",
        (6.782065671, 6.133992562, 5.487816079, 7.328012082, 6.865948413),
    ),
    _golden(
        _GRADIENTS,
        "cloudcore.pt",
        "e43033d6b8b5d3544e61a1d2d8efd21bfedddd2fbed1deef4891d1be4a22708e",
        (5.392414556, 5.17337685, 4.325821941, 6.431542563, 6.005880459),
    ),
    _golden(
        _GRADIENTS,
        "fantasy.pt",
        "b23246edcbacc7db39032ca0c97bffb54becbc0dc456f7d14081bec50bb69de6",
        (7.067308627, 6.321941241, 5.494534671, 8.082509121, 7.120104298),
    ),
    _golden(
        _GRADIENTS,
        "gloomcore.pt",
        "c36bd2b13a2cd1ddb5251dce812e693f0d635d86b141508c4f91148ad5120af5",
        (5.182724302, 5.034525465, 4.366105116, 6.408809057, 5.739703237),
    ),
    _golden(
        _GRADIENTS,
        "sac_8plus.pt",
        "d3e267a606c90742c0b47c0010365c257240020cd73c1419201a30ba70d4a678",
        (12.290133631, 7.97361449, 7.7004047, 13.82184765, 17.487435158),
    ),
    _golden(
        _RATINGS,
        "rating0.npy",
        "ece2e6f5dffe1f81b9f488fc8a078c29462d44463448393af7b60c93bf33fb1b",
        (1.655480409, 4.512626544, 4.371683323, -2.45790847, -3.473852483),
    ),
    _golden(
        _RATINGS,
        "rating1.npy",
        "8b3970dda1475b67f9d7eaebb0f15292435ef81359aeb29bbaa56bab5a6cee9b",
        (2.359274763, 4.476255307, 4.192084274, -0.13785705, -1.879802202),
    ),
    _golden(
        _RATINGS,
        "rating2.npy",
        "2fbb46eab2240454f6d81d3e2713fe067e22ceabcdaa00a67b44148ddc4a58d7",
        (3.069823514, 4.49187709, 4.048485496, 1.895109732, -0.29971679),
    ),
    _golden(
        _RATINGS,
        "rating4.npy",
        "8de9c65431d5eaa823ba3ff9db749d5f394b89456d1bee8dc32247abae075484",
        (4.238009625, 4.705411305, 3.989457331, 5.099726067, 2.428024141),
    ),
    _golden(
        _RATINGS,
        "rating5.npy",
        "630e0d67aff97eeaf60211a30cf48e26c301fb1e0f29a6977a50bc56f1f3bdf9",
        (4.701020802, 4.843347493, 4.017800111, 6.470104117, 3.608536661),
    ),
    _golden(
        _RATINGS,
        "rating7.npy",
        "a34b95ce2251d072bcb950abe96728739439c7d23f84bb0b01ae61c9f389214e",
        (5.36536214, 5.147889188, 4.208229883, 9.048001947, 5.229860959),
    ),
    _golden(
        _RATINGS,
        "rating9.npy",
        "c500ee887b3382d9c48625da1eca8635d63fb18055ed57ec95225608a1e46828",
        (5.746761156, 5.266402424, 4.308310825, 11.304426372, 6.249717466),
    ),
)


def _image(source: str, score: float) -> GoldenImage:
    return GoldenImage(source.rsplit("/", 1)[-1], source, score)


_IQA = "chaofengc/IQA-PyTorch ResultsCalibra/dist_dir"
GOLDEN_IMAGES = (
    _image(f"{_IQA}/I03.bmp", 3.642),
    _image(f"{_IQA}/I04.bmp", 5.5836),
    _image(f"{_IQA}/I06.bmp", 5.0716),
    _image(f"{_IQA}/I08.bmp", 4.6458),
    _image(f"{_IQA}/I19.bmp", 3.0889),
    _image(
        "shunk031/simple-aesthetics-predictor assets/a-photo-of-an-astronaut-riding-a-horse.png",
        5.7546,
    ),
)
