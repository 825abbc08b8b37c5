"""What a hostile image must not do: take gigabytes, seconds, or leak addresses into an error text.

Pillow's own bomb limit looks at pixels alone. Time also goes into scans (a 100 KB progressive JPEG
may hold a thousand), into PNG chunks and JPEG markers (Pillow walks them in Python, microseconds
each) and into compressed bytes. The estimates below were measured with Pillow 13 on one core of an
AMD EPYC (2024), each at the worst content found for it (noise, Paeth filters, 4:4:4).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aesthetic_client.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

MAX_PNG_CHUNKS = 50_000  # 0.2 s of walking; 8 KB chunks of a 100 MP photograph are fewer
# Pillow unpacks each of these to 1 MB or 64 MB at most, 10 ms a megabyte, also where it then
# throws the text away. A PNG may have one profile; photographs have a handful of texts.
MAX_PNG_PROFILES = 1
MAX_PNG_PACKED_TEXTS = 20
MAX_JPEG_MARKERS = 5_000  # before the first scan; photographs have fewer than 100
MAX_JPEG_JUNK = 65_536  # bytes between markers, which Pillow skips one by one

JPEG_MAGIC = b"\xff\xd8\xff"
SCAN = b"\xff\xda"
# Not a stuffed zero, a fill byte or a restart, all of which stand inside of a scan.
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Formats people send although they are not allowed by default; only for a better error.
KNOWN_MAGIC = (
    ("GIF", b"GIF8", 0),
    ("BMP", b"BM", 0),
    ("TIFF", b"II*\x00", 0),
    ("TIFF", b"MM\x00*", 0),
    ("JPEG2000", b"\x00\x00\x00\x0cjP  ", 0),
    ("AVIF", b"ftypavif", 4),
    ("HEIF", b"ftyphei", 4),
    ("ICO", b"\x00\x00\x01\x00", 0),
    ("PSD", b"8BPS", 0),
    ("PNG", PNG_MAGIC, 0),
    ("JPEG", JPEG_MAGIC, 0),
    ("WEBP", b"WEBP", 8),
)


def check_structure(data: bytes) -> None:
    """Refuse files whose header alone would keep Pillow busy. Raises ImageError."""
    if data.startswith(PNG_MAGIC):
        _check_png_chunks(data)
    elif data.startswith(JPEG_MAGIC):
        _check_jpeg_markers(data)


def check_cost(data: bytes, image: Image.Image, max_pixels: int, max_decode_ms: int) -> float:
    """Refuse, before decoding, what would take too much memory or time. Raises ImageError.

    The milliseconds that decoding it once with Pillow may take.
    """
    pixels = image.width * image.height
    size = f"the image is {image.width}x{image.height} ({pixels / 1e6:.1f} megapixels)"
    if pixels > max_pixels:
        raise ImageError(
            "too_large",
            f"{size}; the limit is {max_pixels / 1e6:.1f} megapixels: "
            "scale it down, or raise `max_pixels`",
        )
    estimate = decode_ms(data, image)
    if estimate > max_decode_ms:
        raise ImageError(
            "too_slow",
            f"{size}; decoding this {image.format} may take {estimate:.0f} ms, "
            f"the limit is {max_decode_ms} ms: scale it down, or raise `max_decode_ms`",
        )
    return estimate


def decode_ms(data: bytes, image: Image.Image) -> float:
    """Milliseconds that decoding and resizing may take, from the header and the file's length."""
    megapixels = image.width * image.height / 1e6
    megabytes = len(data) / 1e6
    if image.format in ("JPEG", "MPO"):
        scans = _jpeg_scans(data)
        return megapixels * (12 + (1.2 * scans + 5 if scans > 1 else 0)) + 10 * megabytes
    if image.format == "PNG":
        return megapixels * (12 + 10 * _png_bytes_per_pixel(data)) + megabytes
    return 45 * megapixels + 25 * megabytes  # WebP; for a format let in by option, a guess


def unidentified(data: bytes, allowed: tuple[str, ...]) -> ImageError:
    """The error for bytes that no allowed decoder takes."""
    found = next(
        (name for name, magic, at in KNOWN_MAGIC if data[at : at + len(magic)] == magic), None
    )
    if found is None:
        return ImageError(
            "unknown_format", f"not an image file; {', '.join(allowed)} are read here"
        )
    if found in allowed:
        return ImageError("corrupt", f"the {found} file's header is broken or cut off")
    return not_allowed(found, allowed)


def not_allowed(found: str, allowed: tuple[str, ...]) -> ImageError:
    """The error for an image in a format that is not let in."""
    return ImageError(
        "format_not_allowed",
        f"{found} is not allowed; {', '.join(allowed)} are: convert it, or add it to `formats`",
    )


def reason(error: Exception) -> str:
    """A decoder's own words without what must not leave the process: addresses and paths."""
    text = str(error) or type(error).__name__
    text = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+|(?:/[\w.+-]+){2,}", "...", text)
    return text.splitlines()[0][:120] if text else type(error).__name__


def _png_bytes_per_pixel(data: bytes) -> float:
    depth, colour = data[24], data[25]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    return channels * max(depth, 8) / 8


def _check_png_chunks(data: bytes) -> None:
    at, profiles, texts = len(PNG_MAGIC), 0, 0
    for _ in range(MAX_PNG_CHUNKS):
        kind = data[at + 4 : at + 8]
        if at + 8 > len(data) or kind == b"IEND":
            break
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        profiles += kind == b"iCCP"
        texts += kind == b"zTXt" or (kind == b"iTXt" and _is_packed(data, at + 8, end))
        at = end + 4
    else:
        raise ImageError("too_slow", f"the PNG has over {MAX_PNG_CHUNKS:,} chunks: save it anew")
    if profiles > MAX_PNG_PROFILES or texts > MAX_PNG_PACKED_TEXTS:
        raise ImageError(
            "too_slow",
            f"the PNG has {profiles} colour profiles and {texts} compressed texts; at most "
            f"{MAX_PNG_PROFILES} and {MAX_PNG_PACKED_TEXTS} are unpacked: save it without",
        )


def _is_packed(data: bytes, start: int, end: int) -> bool:
    """Of an iTXt chunk: the byte after its keyword's end says whether its text is compressed."""
    keyword_end = data.find(b"\0", start, end)
    return keyword_end >= 0 and data[keyword_end + 1 : keyword_end + 2] != b"\0"


def _jpeg_scans(data: bytes) -> int:
    """The scans that libjpeg decodes: those of an EXIF preview or of an MPO's other frames are not.

    Walks the markers up to the frame's end as libjpeg does (`jdmarker.c`): what follows a marker
    that has no length, or none that it knows, is looked at again.
    """
    at, scans = 2, 0
    for _ in range(MAX_JPEG_MARKERS):
        found = JPEG_MARKER.search(data, at)
        if found is None or found[0] == b"\xff\xd9":
            return scans
        at = found.end()
        if found[0] >= b"\xff\xc0":
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)
        scans += found[0] == SCAN
    return data.count(SCAN)


def _check_jpeg_markers(data: bytes) -> None:
    at, junk = 2, 0
    for _ in range(MAX_JPEG_MARKERS):
        marker = data.find(b"\xff", at)
        if marker < 0:
            junk += len(data) - at
            break
        code = data[marker + 1 : marker + 2]
        while code == b"\xff":  # fill bytes
            marker += 1
            junk += 1
            code = data[marker + 1 : marker + 2]
            if junk > MAX_JPEG_JUNK:
                break
        junk += marker - at
        if junk > MAX_JPEG_JUNK:
            break
        if code in (b"\xda", b"\xd9", b""):
            return
        alone = code in b"\x00\x01" or 0xD0 <= code[0] <= 0xD8
        at = marker + 2 + (0 if alone else int.from_bytes(data[marker + 2 : marker + 4], "big"))
    else:
        raise ImageError(
            "too_slow", f"the JPEG has over {MAX_JPEG_MARKERS:,} markers before its first scan"
        )
    if junk > MAX_JPEG_JUNK:
        raise ImageError("corrupt", "the JPEG's header is broken (junk between its markers)")
