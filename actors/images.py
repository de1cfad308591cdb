"""The operations on images: bytes in, bytes out. Nothing here knows about jobs or storage."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from actors.errors import PermanentJobError
from actors.payloads import ConvertOptions, FileOptions, OptimizeOptions, ResizeOptions

#: Formats that are read. Others stay closed: every decoder is something to attack.
READABLE: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}
_LOSSY: Final = frozenset({"JPEG", "WEBP"})


@dataclass(frozen=True, slots=True)
class Result:
    """The new image; ``suffix`` is its format's, as in ``.png``."""

    data: bytes
    suffix: str


def inspect(source: bytes, *, max_pixels: int) -> tuple[int, int, str]:
    """Width and height as seen, EXIF orientation applied, and the suffix of what is made of it.

    Raises as :func:`transform`.
    """
    with _opened(source, max_pixels) as opened:
        image = ImageOps.exif_transpose(opened)
        return image.width, image.height, _SUFFIXES[_format(opened)]


def transform(source: bytes, options: FileOptions, *, max_pixels: int) -> Result:
    """Apply the operation that the options belong to. EXIF orientation is applied, EXIF dropped.

    Raises:
      PermanentJobError: no readable image, damaged, animated, or more than ``max_pixels``.
    """
    with _opened(source, max_pixels) as opened:
        file_format = _format(opened)
        image = ImageOps.exif_transpose(opened)
        if isinstance(options, ResizeOptions):
            return _resize(image, file_format, options, max_pixels)
        if isinstance(options, ConvertOptions):
            return _convert(image, options)
        clean = opened.format == file_format and not opened.getexif()
        return _optimize(source, image, file_format, options, keep_source=clean)


@contextmanager
def _opened(source: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image for as long as the block runs; what Pillow says in it of bad data is permanent."""
    try:
        with Image.open(io.BytesIO(source), formats=READABLE) as opened:
            _check_size(opened.width, opened.height, max_pixels)
            _check_still(opened)
            yield opened
    except UnidentifiedImageError as error:
        raise PermanentJobError(f"not an image in one of {', '.join(READABLE)}") from error
    except Image.DecompressionBombError as error:
        raise PermanentJobError(f"image too large: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders say all of these about damaged data; no file or network is involved.
        raise PermanentJobError(f"damaged or unsupported image: {error}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    # From the header alone: nothing is decoded yet.
    if width * height > max_pixels:
        raise PermanentJobError(f"image too large: {width}x{height}, at most {max_pixels} pixels")


def _check_still(image: Image.Image) -> None:
    # An MPO is a camera's JPEG with a preview beside it, no animation.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise PermanentJobError("animated images are not processed; frames would be lost")


def _format(image: Image.Image) -> str:
    """The format to write: the source's where we write it, PNG for those we only read."""
    known = "JPEG" if image.format == "MPO" else image.format
    return known if known in _SUFFIXES else "PNG"


def _resize(
    image: Image.Image, file_format: str, options: ResizeOptions, max_pixels: int
) -> Result:
    size = _size(image, options)
    _check_size(*size, max_pixels)
    full_colour = _full_colour(image)
    if options.fit == "cover":
        resized = ImageOps.fit(full_colour, size, Image.Resampling.LANCZOS)
    else:
        resized = full_colour.resize(size, Image.Resampling.LANCZOS)
    return _encode(
        _without_alpha(resized, file_format, "#ffffff"), image, file_format, options.quality
    )


def _size(image: Image.Image, options: ResizeOptions) -> tuple[int, int]:
    width, height = options.width, options.height
    if options.fit != "contain" and width is not None and height is not None:
        return width, height
    scales = [
        wanted / present
        for wanted, present in ((width, image.width), (height, image.height))
        if wanted is not None
    ]
    scale = min(scales)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _convert(image: Image.Image, options: ConvertOptions) -> Result:
    file_format = options.format.upper()
    converted = _without_alpha(_full_colour(image), file_format, options.background)
    return _encode(converted, image, file_format, options.quality)


def _optimize(
    source: bytes,
    image: Image.Image,
    file_format: str,
    options: OptimizeOptions,
    *,
    keep_source: bool,
) -> Result:
    result = _encode(image, image, file_format, options.quality)
    if keep_source and len(result.data) >= len(source):
        return Result(source, result.suffix)
    return result


def _full_colour(image: Image.Image) -> Image.Image:
    """Without a palette, which can't be scaled; with alpha if the source has any."""
    if image.mode in ("RGB", "RGBA", "L"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _without_alpha(image: Image.Image, file_format: str, background: str) -> Image.Image:
    if file_format != "JPEG" or not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    ground = Image.new("RGBA", layered.size, ImageColor.getrgb(background))
    return Image.alpha_composite(ground, layered).convert("RGB")


def _encode(image: Image.Image, source: Image.Image, file_format: str, quality: int) -> Result:
    # The colour profile stays: without it the same numbers are other colours.
    options: dict[str, Any] = {"icc_profile": source.info.get("icc_profile")}
    if file_format in _LOSSY:
        options["quality"] = quality
    if file_format in ("JPEG", "PNG", "GIF"):
        options["optimize"] = True
    image.info.pop("exif", None)
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return Result(buffer.getvalue(), _SUFFIXES[file_format])
