"""Pixel preparation exactly as the reference does it: encoded image in, 224x224 RGB out.

The reference is OpenAI CLIP's transform (github.com/openai/CLIP, `clip/clip.py`, `_transform`;
open_clip has the same): on the image as PIL opens it, resize the shorter side to 224 (bicubic,
antialiased), centre crop, and only then convert to RGB. EXIF orientation is ignored. Every pixel
equals the reference's, made with the same Pillow, for images up to 64:1; beyond that only the part
that the crop keeps is resized, which does not need gigabytes: 8-bit RGB, greyscale and CMYK differ
by 2/255 at most there, what alpha divides or a palette names at few pixels by any amount.

The work is done by whatever gives these pixels soonest (`_jpeg`, `_resample`), never by what gives
others; only `mode="fast"` may, and carries an id of its own.

Needs Pillow (the `pixels` extra), imported on first use, so that the constants need nothing. Large
images take half the time with the `kernels` extra, which is compiled at the first one: call
`warm_up` before requests come, and before workers are forked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import _guards, _jpeg, _resample
from aesthetic_client.contract import IMAGE_SIZE
from aesthetic_client.errors import ImageError, InputError

if TYPE_CHECKING:
    from PIL import Image

# --- the transform's constants; mean and std are applied inside the `clip_image` graph ---

# The installed Pillow's pixels: 13 resizes images taller than 2:1 vertically first, 12 does not
# (github.com/python-pillow/Pillow, pull request 9549), so that these differ between the two: by up
# to 13/255 in a quarter of the values of noise.
PREPROCESSING_ID = "openai-clip-pil-bicubic-224-v1"
FAST_PREPROCESSING_ID = "openai-clip-dct-scaled-448-bicubic-224-v1"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB, of values in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# A longer image is resized only where the crop keeps it: 1x10000 would else become 224x2240000.
EXACT_ASPECT = 64
EXIF_ORIENTATION = 0x0112
# `fast` leaves this much of the shorter side while decoding: at 1x instead of 2x IMAGE_SIZE the
# difference triples (benchmarks/preprocessing.py).
FAST_LEAST = 2 * IMAGE_SIZE

Mode = Literal["exact", "fast"]

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

    `formats` are Pillow's names. `max_pixels` bounds memory (650 MB a process at the default) and
    `max_decode_ms` time: decode milliseconds, estimated from the header, on one core of 2024.
    `mode="fast"` shrinks JPEGs by halves while they are decoded: other pixels, and other scores.
    """

    formats: tuple[str, ...] = ("JPEG", "MPO", "PNG", "WEBP")
    max_pixels: int = 50_000_000
    max_decode_ms: int = 800
    apply_exif_orientation: bool = False
    mode: Mode = "exact"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError(f'mode must be "exact" or "fast", got {self.mode!r}')

    @property
    def preprocessing_id(self) -> str:
        """What provenance calls these pixels."""
        return PREPROCESSING_ID if self.mode == "exact" else FAST_PREPROCESSING_ID

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
                mode=parameters.get("mode", default.mode),  # type: ignore[arg-type]  # checked
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
    image, decode_ms = _opened(data, options)
    with image:
        scale = _scale(image, options)
        # The reference's crop is of the whole image, also where less of it is decoded.
        size = image.size
        # What `_jpeg` gives up on, Pillow decodes again: only where both fit into the limit.
        twice_fits = 2 * decode_ms <= options.max_decode_ms
        if twice_fits and not options.apply_exif_orientation and _is_taken(size):
            decoded = _jpeg.decode(data, image, scale)
            if decoded is not None:
                pixels = _resize_and_crop_array(decoded.pixels, size)
                decoded.release()
                return pixels
        if scale > 1:
            image.draft(image.mode, (size[0] // scale, size[1] // scale))
        return _pixels(image, size, options)


def pixels_from_image(
    image: Image.Image, options: PixelOptions = DEFAULT_OPTIONS
) -> NDArray[np.uint8]:
    """The reference's pixels of a PIL image in any mode: uint8 (224, 224, 3), RGB, HWC.

    Raises ImageError `corrupt` where Pillow cannot decode, resize or convert it.
    """
    if min(image.size) < 1:
        raise ImageError("corrupt", f"the image has no pixels: {image.width}x{image.height}")
    return _pixels(image, image.size, options)


def _pixels(image: Image.Image, size: tuple[int, int], options: PixelOptions) -> NDArray[np.uint8]:
    """The pixels of an image that may be decoded smaller than its `size`."""
    try:
        image.load()
        if options.apply_exif_orientation:
            from PIL import ImageOps

            upright = ImageOps.exif_transpose(image)
            if upright.size != image.size:
                size = size[::-1]
            image = upright
        if image.mode in ("RGB", "L") and _is_taken(size):
            return _resize_and_crop_large(image, size)
        image = _resize_and_crop(image, size)
        # It changes no pixel of an RGB conversion, but makes Pillow warn about some palettes.
        image.info.pop("transparency", None)
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen types on broken files
        raise ImageError(
            "corrupt", f"the image is broken or cut off ({_guards.reason(error)})"
        ) from None


def warm_up() -> str | None:
    """Import and compile what the first large image would wait for: up to some seconds, once.

    Why Pillow resizes large images too, for instance since the `kernels` extra is not installed;
    None where the faster kernels do.
    """
    return _resample.unused_because()


def open_image(data: bytes, options: PixelOptions = DEFAULT_OPTIONS) -> Image.Image:
    """The PIL image of a file whose header passed every check; nothing is decoded yet.

    Raises ImageError with one of IMAGE_CODES.
    """
    return _opened(data, options)[0]


def _opened(data: bytes, options: PixelOptions) -> tuple[Image.Image, float]:
    """The same, and the milliseconds that decoding it may take."""
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
    return image, _guards.check_cost(data, image, options.max_pixels, options.max_decode_ms)


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


def _scale(image: Image.Image, options: PixelOptions) -> int:
    """The reduction while decoding."""
    scale = _jpeg.scale_for(image, FAST_LEAST) if options.mode == "fast" else 1
    if options.apply_exif_orientation and any(side % scale for side in image.size):
        # The part of a pixel at the right or the lower end may be turned to another (`_extent`).
        try:
            upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
        except Exception:  # of a broken EXIF block; `_pixels` says so
            upright = False
        return scale if upright else 1
    return scale


def _crop(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (width, height) that the reference resizes to, and its crop's (left, top)."""
    short, long = min(size), max(size)
    # torchvision's Resize truncates the longer side, its CenterCrop rounds half to even.
    resized_long = int(IMAGE_SIZE * long / short)
    start = round((resized_long - IMAGE_SIZE) / 2)
    if size[0] <= size[1]:
        return (IMAGE_SIZE, resized_long), (0, start)
    return (resized_long, IMAGE_SIZE), (start, 0)


def _extent(decoded: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """How far an image of `size` reaches that was decoded smaller: its last pixel may be part."""
    scale = round(size[0] / decoded[0])
    return (size[0] / scale, size[1] / scale)


def _is_taken(size: tuple[int, int]) -> bool:
    return max(size) <= EXACT_ASPECT * min(size) and _resample.takes(size)


def _resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL.Image import Resampling

    resized, (left, top) = _crop(size)
    if max(size) > EXACT_ASPECT * min(size):
        return _resample.resize_kept(image, *_crop(image.size))
    if image.size != resized:
        box = (0, 0, *_extent(image.size, size))
        image = image.resize(resized, Resampling.BICUBIC, box=box)
    return image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


def _resize_and_crop_large(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The same for a large RGB or greyscale image."""

    def read(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
        return np.asarray(image.crop((left, top, right, bottom)))

    extent, bands = _extent(image.size, size), len(image.mode)
    return _as_rgb(_resample.resize_and_crop(read, image.size, extent, *_crop(size), bands))


def _resize_and_crop_array(decoded: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The same for the decoded pixels of one, (height, width, 3 or 1)."""
    height, width, bands = decoded.shape
    found, read = (width, height), _resample.rows_of(decoded)
    extent = _extent(found, size)
    return _as_rgb(_resample.resize_and_crop(read, found, extent, *_crop(size), bands))


def _as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)
