"""The demo's images: made so that every pixel of every result can be told beforehand.

A picture is a function from relative coordinates to a colour, so it is known at any size,
turned or cropped, without asking the code under test.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

Colour = tuple[int, int, int, int]
Picture = Callable[[float, float], Colour]

CHECKED = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where pixels are compared, relative, in both directions."""

ORIENTATION_TAG = 0x0112
TURNED = 6
"""EXIF: to be shown turned by 90 degrees clockwise."""

SUFFIX_OF = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}


def gradient(blue: int) -> Picture:
    """Red grows to the right, green downwards."""
    return lambda u, v: (round(255 * u), round(255 * v), blue, 255)


def disc(blue: int) -> Picture:
    """The gradient inside a circle, transparent around it."""
    inside = gradient(blue)

    def colour(u: float, v: float) -> Colour:
        red, green, _, _ = inside(u, v)
        opaque = (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.35**2
        return (red, green, blue, 255 if opaque else 0)

    return colour


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of the source that the result shows, relative."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def source(self, u: float, v: float) -> tuple[float, float]:
        """Where a point of the result lies in the source."""
        return (
            self.left + u * (self.right - self.left),
            self.top + v * (self.bottom - self.top),
        )


@dataclass(frozen=True, slots=True)
class ImageCase:
    """A source, an operation, and what has to come out of it."""

    file_id: str
    source: bytes
    operation: str
    options: Mapping[str, Any]
    output: str
    format: str
    size: tuple[int, int]
    picture: Picture | None = None
    """None: the pixels are exactly the source's."""
    crop: Crop = field(default_factory=Crop)
    tolerance: int = 12
    """How far a channel may be off: what the lossy format and the scaling cost."""
    background: tuple[int, int, int] | None = None
    """What shows where the picture is transparent; None: it stays transparent."""
    shrinks: bool = False
    """The result has fewer bytes than the source."""


def check_image(case: ImageCase, folder: Path) -> list[str]:
    """What is wrong with the case's result, one line a fault; empty: nothing."""
    path = folder / case.output
    if not path.is_file():
        return [f"image {case.output}: missing ({case.operation} of {case.file_id})"]
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            faults = list(_faults(case, image))
    except OSError as error:
        return [f"image {case.output}: can't be read: {error}"]
    if case.shrinks and len(data) >= len(case.source):
        faults.append(f"{len(data)} bytes, the source has {len(case.source)}")
    return [f"image {case.output}: {fault}" for fault in faults]


def _faults(case: ImageCase, image: Image.Image) -> Iterator[str]:
    if image.format != case.format:
        yield f"format {image.format}, expected {case.format}"
    if image.size != case.size:
        yield f"size {_sides(image.size)}, expected {_sides(case.size)}"
        return
    if image.getexif():
        yield "still has EXIF data"
    if case.picture is None:
        with Image.open(io.BytesIO(case.source)) as source:
            if source.convert("RGBA").tobytes() != image.convert("RGBA").tobytes():
                yield "pixels differ from the source's"
        return
    yield from _wrong_pixels(case, case.picture, image.convert("RGBA"))


def _wrong_pixels(case: ImageCase, picture: Picture, image: Image.Image) -> Iterator[str]:
    width, height = image.size
    for v in CHECKED:
        for u in CHECKED:
            x, y = int(u * width), int(v * height)
            # The colour at the middle of that pixel, in the source's coordinates.
            wanted = picture(*case.crop.source((x + 0.5) / width, (y + 0.5) / height))
            if wanted[3] == 0 and case.background is not None:
                wanted = (*case.background, 255)
            found = image.getpixel((x, y))
            assert isinstance(found, tuple)
            if not _alike(found, wanted, case.tolerance):
                yield f"pixel {x},{y} is {found}, expected {wanted} within {case.tolerance}"
                return


def _alike(found: tuple[int, ...], wanted: Colour, tolerance: int) -> bool:
    if wanted[3] == 0:
        return found[3] == 0  # what colour nobody sees doesn't matter
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


# ---- making sources


def draw(picture: Picture, size: tuple[int, int], *, alpha: bool = False) -> Image.Image:
    """The picture in pixels."""
    width, height = size
    pixels = bytearray()
    for y in range(height):
        v = (y + 0.5) / height
        for x in range(width):
            pixels += bytes(picture((x + 0.5) / width, v))
    image = Image.frombytes("RGBA", size, bytes(pixels))
    return image if alpha else image.convert("RGB")


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """Random pixels of a few colours: a file can get smaller, but nothing can be left out."""
    levels = (0, 85, 170, 255)
    return Image.frombytes(
        "RGB", size, bytes(random.Random(seed).choices(levels, k=size[0] * size[1] * 3))
    )


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def turned_photo(picture: Picture, size: tuple[int, int]) -> bytes:
    """A JPEG as a camera held upright makes it: lying, with EXIF saying how to turn it."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = TURNED
    exif[0x010F] = "Demo camera"
    lying = draw(picture, size).transpose(Image.Transpose.ROTATE_90)
    return encode(lying, "JPEG", quality=95, exif=exif)


def broken_photo() -> bytes:
    """A JPEG whose second half never arrived."""
    whole = encode(noise(1, (200, 150)), "JPEG", quality=90)
    return whole[: len(whole) // 2]


def image_cases(variant: int) -> list[ImageCase]:
    """One case for each thing that can go wrong; `variant` makes other files of the same."""
    blue = 30 + 40 * (variant % 5)
    name = f"photos/{variant:02d}"
    smooth, round_one = gradient(blue), disc(blue)
    plain = draw(smooth, (320, 240))
    cut = draw(round_one, (200, 160), alpha=True)
    jpeg = encode(plain, "JPEG", quality=95)
    return [
        ImageCase(
            f"{name}-wide.jpg", jpeg, "resize", {"width": 160}, f"{name}-wide.160x.jpg",
            "JPEG", (160, 120), smooth,
        ),
        ImageCase(
            f"{name}-square.png", encode(plain, "PNG"), "resize",
            {"width": 96, "height": 96, "fit": "cover"}, f"{name}-square.96x96.cover.png",
            "PNG", (96, 96), smooth, crop=Crop(left=0.125, right=0.875), tolerance=4,
        ),
        ImageCase(
            f"{name}-stretched.webp", encode(plain, "WEBP", lossless=True), "resize",
            {"width": 120, "height": 200, "fit": "fill"}, f"{name}-stretched.120x200.fill.webp",
            "WEBP", (120, 200), smooth,
        ),
        ImageCase(
            f"{name}-turned.jpg", turned_photo(smooth, (320, 240)), "resize",
            {"width": 200, "height": 200, "output": f"thumbnails/{variant:02d}-upright.jpg"},
            f"thumbnails/{variant:02d}-upright.jpg", "JPEG", (200, 150), smooth,
        ),
        ImageCase(
            f"{name}-logo.png", encode(cut, "PNG"), "convert",
            {"format": "jpeg", "background": "#204080", "quality": 95},
            f"{name}-logo.convert.jpg", "JPEG", (200, 160), round_one,
            background=(0x20, 0x40, 0x80), tolerance=16,
        ),
        ImageCase(
            f"{name}-badge.png", encode(cut, "PNG"), "convert", {"format": "webp"},
            f"{name}-badge.convert.webp", "WEBP", (200, 160), round_one, tolerance=16,
        ),
        ImageCase(
            f"{name}-scan.bmp", encode(noise(variant, (120, 90)), "BMP"), "convert",
            {"format": "png"}, f"{name}-scan.convert.png", "PNG", (120, 90), shrinks=True,
        ),
        ImageCase(
            f"{name}-page.tiff", encode(plain, "TIFF"), "convert",
            {"format": "webp", "output": f"web/{variant:02d}.webp"}, f"web/{variant:02d}.webp",
            "WEBP", (320, 240), smooth, shrinks=True,
        ),
        ImageCase(
            f"{name}-noise.png", encode(noise(100 + variant, (96, 96)), "PNG", compress_level=0),
            "optimize", {}, f"{name}-noise.optimize.png", "PNG", (96, 96), shrinks=True,
        ),
        ImageCase(
            f"{name}-heavy.jpg", turned_photo(smooth, (320, 240)), "optimize", {"quality": 70},
            f"{name}-heavy.optimize.jpg", "JPEG", (320, 240), smooth, shrinks=True,
        ),
    ]  # fmt: skip
