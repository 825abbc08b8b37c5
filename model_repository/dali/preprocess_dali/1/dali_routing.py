"""Which image files DALI turns into the reference's pixels, and the way of each file.

DALI's answer equals the reference's within 1/255 for 8-bit RGB and grey images. Others differ: the
reference resizes palette, alpha and 1-bit images as they are, and converts to RGB afterwards.
"""

from collections.abc import Awaitable, Callable

from aesthetic_client.contract import MAX_DALI_BATCH
from aesthetic_client.errors import ImageError
from aesthetic_client.pixels import EXACT_ASPECT, PixelOptions, open_image

MODES = ("RGB", "L")
# A whole batch of these, decoded, takes 3 GB of the GPU's memory.
MAX_PIXELS = 1_000_000_000 // MAX_DALI_BATCH
PNG_DEPTH_AT = 24  # bits a channel, in the header
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
JPEG_COMPONENTS = ([1], [0], [1, 2, 3], [0, 1, 2])  # grey or YCbCr, not RGB by name

Step = Callable[[bytes], Awaitable[object]]


class StepError(Exception):
    """A model that was asked for pixels answered with an error."""


async def pixels_of(data: bytes, options: PixelOptions, decode: Step, prepare: Step) -> object:
    """The pixels of one file: by `decode` where DALI gives the same, by `prepare` else.

    Files are decoded in batches that fail as a whole. So a failure says little about this file, and
    `prepare`, for which each file stands alone, has the last word. Raises its StepError.
    """
    if decodes_the_same(data, options):
        try:
            return await decode(data)
        except StepError:
            pass
    return await prepare(data)


def decodes_the_same(data: bytes, options: PixelOptions) -> bool:
    """Whether DALI gives this file the reference's pixels, by its header and its end."""
    try:
        with open_image(data, options) as image:
            return (
                image.mode in MODES
                and image.width * image.height <= MAX_PIXELS
                and max(image.size) <= EXACT_ASPECT * min(image.size)
                and (image.format == "MPO" or not getattr(image, "is_animated", False))
                and not (options.apply_exif_orientation and image.getexif())
                and CHECKS[image.format or ""](data, image)
            )
    except (ImageError, KeyError):  # refused, or of a format let in by option
        return False


def _whole_jpeg(data, image):
    components = [component[0] for component in image.layer]
    return (
        data.endswith(JPEG_END)
        and components in JPEG_COMPONENTS
        and image.info.get("adobe_transform", 1) == 1
    )


def _whole_png(data, image):
    return data.endswith(PNG_END) and data[PNG_DEPTH_AT] == 8


def _whole_webp(data, image):
    return len(data) == 8 + int.from_bytes(data[4:8], "little")


CHECKS = {"JPEG": _whole_jpeg, "MPO": _whole_jpeg, "PNG": _whole_png, "WEBP": _whole_webp}
