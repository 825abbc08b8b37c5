"""Small JPEGs of images, of bounded size and cost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aesthetic_client.pixels import DEFAULT_OPTIONS, open_image
from aesthetic_curate.samples import Member

if TYPE_CHECKING:
    from PIL import Image

SIDE = 240  # pixels of the longer side; shown at about 160, so that they are sharp on fine screens
MOST_BYTES = 14_000  # of one thumbnail; a photograph takes 6 to 10 KB
QUALITIES = (78, 60, 42)  # tried until it is small enough; then at half the side
PAPER = (255, 255, 255)  # behind transparent pixels


@dataclass(frozen=True)
class Small:
    """A JPEG, and its (width, height)."""

    jpeg: bytes
    size: tuple[int, int]


def scored_member(
    members: Sequence[Member], image: str | None, extensions: Sequence[str] = ()
) -> bytes | None:
    """The bytes of the member that was scored; `image` is what the row's column of that name says.

    That is an extension, a path, a URL, or nothing. Where it names no member, the first one of
    `extensions` is meant: a table's row has one image, whatever it is called.
    """
    for member in members:
        if image and (member.extension == image or image.lower().endswith("." + member.extension)):
            return member.data
    return next((member.data for member in members if member.extension in extensions), None)


def shrink(data: bytes) -> Small:
    """A thumbnail of an image file. Raises ImageError, or whatever Pillow raises on broken files.

    EXIF orientation is ignored, as scores ignore it: the image is shown the way it was scored.
    """
    from PIL import Image

    with open_image(data, DEFAULT_OPTIONS) as image:
        # The decoder itself halves JPEGs, to no less than twice the side.
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        flat = _flattened(image)
    for quality in QUALITIES:
        jpeg = _encoded(flat, quality)
        if len(jpeg) <= MOST_BYTES:
            return Small(jpeg, flat.size)
    flat.thumbnail((SIDE // 2, SIDE // 2))
    return Small(_encoded(flat, QUALITIES[-1]), flat.size)


def _flattened(image: Image.Image) -> Image.Image:
    """RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGB", layer.size, PAPER)
    paper.paste(layer, mask=layer.getchannel("A"))
    return paper


def _encoded(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
