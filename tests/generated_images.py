"""Images of every mode, size and quirk that the reference treats in its own way."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image


def texture(width: int, height: int, channels: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, channels): smooth shapes with some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(x / (7 + 5 * k) + k) * np.cos(y / (11 + 3 * k)) * 90 + 128 for k in range(channels)
    ]
    noise = rng.normal(0, 12, (height, width, channels))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from raw filtered rows, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows, 1))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def generated() -> Iterator[tuple[str, bytes]]:
    """(name, encoded file) of each case."""
    yield from _modes()
    yield from _sizes()
    yield from _variants()


def _modes() -> Iterator[tuple[str, bytes]]:
    rgb = Image.fromarray(texture(301, 225, 3))
    rgba = Image.fromarray(texture(301, 225, 4))
    for mode in ("RGB", "L", "1"):
        yield f"mode-{mode}.png", encoded(rgb.convert(mode))
    yield "mode-RGBA.png", encoded(rgba)
    yield "mode-LA.png", encoded(rgba.convert("LA"))
    yield "mode-RGBA.webp", encoded(rgba, "WEBP", lossless=True)
    yield "mode-RGB.webp", encoded(rgb, "WEBP", quality=85)
    palette = rgb.quantize(64)
    yield "mode-P.png", encoded(palette)
    yield "mode-P-one-transparent.png", encoded(palette, transparency=3)
    yield "mode-P-alphas.png", encoded(palette, transparency=bytes(range(64)))
    yield "mode-L-transparent.png", encoded(rgb.convert("L"), transparency=128)
    yield "mode-RGB-transparent.png", encoded(rgb, transparency=(1, 2, 3))
    yield "mode-CMYK.jpg", encoded(Image.fromarray(texture(301, 225, 4), "CMYK"), "JPEG")
    yield "mode-L.jpg", encoded(rgb.convert("L"), "JPEG")
    grey16 = (texture(301, 225, 1)[..., 0].astype(np.uint16) << 8) + 77
    yield "16-bit-grey.png", encoded(Image.fromarray(grey16))
    for colour, channels in ((2, 3), (6, 4), (4, 2)):
        wide = texture(240, 230, channels).repeat(2, axis=2)
        rows = np.concatenate([np.zeros((230, 1), np.uint8), wide.reshape(230, -1)], axis=1)
        yield f"16-bit-colour{colour}.png", png(240, 230, 16, colour, rows.tobytes())


def _sizes() -> Iterator[tuple[str, bytes]]:
    for width, height in (
        *((1, 1), (1, 7), (7, 1), (2, 3), (224, 224), (224, 225), (225, 224), (223, 224)),
        *((225, 301), (500, 333), (333, 500), (640, 427), (231, 224), (227, 227), (448, 224)),
        *((1023, 767), (50, 3000), (3000, 50), (1, 64), (64, 1)),
    ):
        yield f"{width}x{height}.png", encoded(Image.fromarray(texture(width, height, 3)))


def _variants() -> Iterator[tuple[str, bytes]]:
    photo = Image.fromarray(texture(500, 333, 3))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif-{orientation}.jpg", encoded(photo, "JPEG", exif=exif)
    yield "progressive.jpg", encoded(photo, "JPEG", progressive=True, quality=90)
    yield "444.jpg", encoded(photo, "JPEG", subsampling=0, quality=95)
    others = [Image.fromarray(texture(500, 333, 3, seed)) for seed in (1, 2)]
    yield "animated.webp", encoded(photo, "WEBP", save_all=True, append_images=others)
    yield "animated.png", encoded(photo, "PNG", save_all=True, append_images=others)
    yield "two-frames.mpo.jpg", encoded(photo, "MPO", save_all=True, append_images=others[:1])
