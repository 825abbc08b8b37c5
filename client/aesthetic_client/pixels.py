"""Pixel preparation exactly as the reference does it: encoded image in, 224x224 RGB out.

The reference is OpenAI CLIP's transform (github.com/openai/CLIP, `clip/clip.py`, `_transform`;
open_clip has the same): on the image as PIL opens it, resize the shorter side to 224 (bicubic,
antialiased), centre crop, and only then convert to RGB. EXIF orientation is ignored. Every pixel
equals the reference's for images up to 64:1; beyond that only the part that the crop keeps is
resized, which differs by 2/255 at most and does not need gigabytes.

Needs Pillow (the `pixels` extra). Imports it on first use, so that the constants need nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import _guards
from aesthetic_client.contract import IMAGE_SIZE
from aesthetic_client.errors import ImageError, InputError

if TYPE_CHECKING:
    from PIL import Image

# --- the transform's constants; mean and std are applied inside the `clip_image` graph ---

PREPROCESSING_ID = "openai-clip-pil-bicubic-224-v1"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB, of values in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# A longer image is resized only where the crop keeps it: 1x10000 would else become 224x2240000.
EXACT_ASPECT = 64

# `code` of every ImageError; stable, so that callers may branch on them.
IMAGE_CODES = (
    "empty",  # no bytes
    "unreadable",  # the caller's file could not be read
    "unknown_format",  # not an image file that is known here
    "format_not_allowed",  # an image, in a format that is not in `formats`
    "too_large",  # more pixels than `max_pixels`
    "too_slow",  # decoding would take longer than `max_decode_ms`
    "corrupt",  # broken or cut off
)


@dataclass(frozen=True)
class PixelOptions:
    """What is accepted, and how orientation is treated.

    `formats` are Pillow's names. `max_pixels` bounds memory (600 MB a process at the default) and
    `max_decode_ms` time: decode milliseconds, estimated from the header, on one core of 2024.
    """

    formats: tuple[str, ...] = ("JPEG", "MPO", "PNG", "WEBP")
    max_pixels: int = 50_000_000
    max_decode_ms: int = 800
    apply_exif_orientation: bool = False

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> PixelOptions:
        """Options from a Triton config's `parameters`; those not named keep their defaults."""
        default = cls()
        try:
            return cls(
                formats=tuple(
                    parameters.get("formats", ",".join(default.formats))
                    .replace(" ", "")
                    .upper()
                    .split(",")
                ),
                max_pixels=int(parameters.get("max_pixels", default.max_pixels)),
                max_decode_ms=int(parameters.get("max_decode_ms", default.max_decode_ms)),
                apply_exif_orientation={"ignore": False, "apply": True}[
                    parameters.get("exif_orientation", "ignore")
                ],
            )
        except (ValueError, KeyError) as error:
            raise InputError(
                f"preprocess parameters: {error}; max_pixels and max_decode_ms are whole numbers, "
                "exif_orientation is ignore or apply"
            ) from None


DEFAULT_OPTIONS = PixelOptions()


def prepare_pixels(data: bytes, options: PixelOptions = DEFAULT_OPTIONS) -> NDArray[np.uint8]:
    """The reference's pixels of one encoded image: uint8 (224, 224, 3), RGB, HWC.

    Of an animation, the first frame. Raises ImageError with one of IMAGE_CODES.
    """
    with open_image(data, options) as image:
        return pixels_from_image(image, options)


def pixels_from_image(
    image: Image.Image, options: PixelOptions = DEFAULT_OPTIONS
) -> NDArray[np.uint8]:
    """The reference's pixels of a PIL image in any mode: uint8 (224, 224, 3), RGB, HWC.

    Raises ImageError `corrupt` where Pillow cannot decode, resize or convert it.
    """
    if min(image.size) < 1:
        raise ImageError("corrupt", f"the image has no pixels: {image.width}x{image.height}")
    try:
        image.load()
        if options.apply_exif_orientation:
            from PIL import ImageOps

            image = ImageOps.exif_transpose(image)
        image = _resize_and_crop(image)
        # It changes no pixel of an RGB conversion, but makes Pillow warn about some palettes.
        image.info.pop("transparency", None)
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen types on broken files
        raise ImageError(
            "corrupt", f"the image is broken or cut off ({_guards.reason(error)})"
        ) from None


def open_image(data: bytes, options: PixelOptions = DEFAULT_OPTIONS) -> Image.Image:
    """The PIL image of a file whose header passed every check; nothing is decoded yet.

    Raises ImageError with one of IMAGE_CODES.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError("empty", "the image has no bytes")
    _guards.check_structure(data)
    decoders = _decoders(options.formats)
    try:
        image = Image.open(io.BytesIO(data), formats=decoders)
    except UnidentifiedImageError:
        raise _guards.unidentified(data, options.formats) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            "too_large", f"the image has over 89 megapixels, the limit is {options.max_pixels:,}"
        ) from None
    except Exception as error:
        raise ImageError(
            "corrupt", f"the image's header is broken ({_guards.reason(error)})"
        ) from None
    if image.format not in options.formats:
        raise _guards.not_allowed(str(image.format), options.formats)
    _guards.check_cost(data, image, options.max_pixels, options.max_decode_ms)
    return image


def _decoders(formats: tuple[str, ...]) -> list[str]:
    """Pillow's decoders for the formats. Raises InputError for a name it does not know."""
    from PIL import Image

    # Pillow's JPEG decoder opens MPO as well, and tells which of the two it was.
    names = list(dict.fromkeys("JPEG" if name == "MPO" else name for name in formats))
    if not all(name in Image.OPEN for name in names):
        Image.init()
    if unknown := [name for name in names if name not in Image.OPEN]:
        raise InputError(f"formats: Pillow reads no {', '.join(unknown)}")
    return names


def _resize_and_crop(image: Image.Image) -> Image.Image:
    from PIL.Image import Resampling

    width, height = image.size
    short, long = min(width, height), max(width, height)
    # torchvision's Resize truncates the longer side, its CenterCrop rounds half to even.
    resized_long = int(IMAGE_SIZE * long / short)
    start = round((resized_long - IMAGE_SIZE) / 2)
    if long > EXACT_ASPECT * short:
        scale = long / resized_long
        kept = (start * scale, (start + IMAGE_SIZE) * scale)
        box = (kept[0], 0, kept[1], height) if width > height else (0, kept[0], width, kept[1])
        return image.resize((IMAGE_SIZE, IMAGE_SIZE), Resampling.BICUBIC, box=box)
    if width <= height:
        size, left, top = (IMAGE_SIZE, resized_long), 0, start
    else:
        size, left, top = (resized_long, IMAGE_SIZE), start, 0
    if image.size != size:
        image = image.resize(size, Resampling.BICUBIC)
    return image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
