from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from actors.errors import PermanentJobError
from actors.images import Result, transform
from actors.payloads import ConvertOptions, FileOptions, OptimizeOptions, ResizeOptions

PLENTY = 1_000_000


def picture(
    size: tuple[int, int] = (80, 40), mode: str = "RGB", file_format: str = "PNG", **options: Any
) -> bytes:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, format=file_format, **options)
    return buffer.getvalue()


def opened(result: Result) -> Image.Image:
    image = Image.open(io.BytesIO(result.data))
    image.load()
    return image


def near(pixel: Any, expected: tuple[int, int, int], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel[:3], expected, strict=True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ResizeOptions(width=20), (20, 10)),
        (ResizeOptions(height=20), (40, 20)),
        (ResizeOptions(width=20, height=20), (20, 10)),
        (ResizeOptions(width=160), (160, 80)),
        (ResizeOptions(width=20, height=20, fit="cover"), (20, 20)),
        (ResizeOptions(width=20, height=30, fit="fill"), (20, 30)),
        (ResizeOptions(height=1), (2, 1)),
    ],
)
@pytest.mark.parametrize(("file_format", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg")])
def test_resize_keeps_format_and_picture(
    options: ResizeOptions, expected: tuple[int, int], file_format: str, suffix: str
) -> None:
    result = transform(picture(file_format=file_format), options, max_pixels=PLENTY)
    image = opened(result)
    assert (image.size, image.format, result.suffix) == (expected, file_format, suffix)
    if expected[0] >= 20:
        middle = image.height // 2
        assert near(image.getpixel((2, middle)), (255, 0, 0))
        assert near(image.getpixel((image.width - 3, middle)), (0, 0, 255))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "gif"])
def test_every_mode_converts_to_every_format(mode: str, target: Any) -> None:
    if mode == "I;16":
        buffer = io.BytesIO()
        Image.new("I;16", (8, 4), 40_000).save(buffer, format="PNG")
        source = buffer.getvalue()
    else:
        source = picture((8, 4), mode, "TIFF" if mode == "CMYK" else "PNG")
    result = transform(source, ConvertOptions(format=target), max_pixels=PLENTY)
    image = opened(result)
    assert image.format == target.upper()
    assert image.size == (8, 4)


def test_transparency_becomes_the_background_where_the_format_has_none() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(buffer, format="PNG")
    options = ConvertOptions(format="jpeg", background="#00ff00")
    image = opened(transform(buffer.getvalue(), options, max_pixels=PLENTY))
    assert near(image.getpixel((4, 4)), (0, 255, 0))


def test_transparency_stays_where_the_format_has_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(buffer, format="PNG")
    result = transform(buffer.getvalue(), ConvertOptions(format="webp"), max_pixels=PLENTY)
    pixel: Any = opened(result).convert("RGBA").getpixel((4, 4))
    assert pixel[3] == 0


def test_optimize_shrinks_and_keeps_the_pixels_of_a_lossless_image() -> None:
    source = picture((400, 400), file_format="PNG", compress_level=0)
    result = transform(source, OptimizeOptions(), max_pixels=PLENTY)
    assert len(result.data) < len(source) / 10
    assert opened(result).tobytes() == Image.open(io.BytesIO(source)).tobytes()


def test_optimize_never_makes_a_file_larger() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(buffer, format="JPEG", quality=5, optimize=True)
    source = buffer.getvalue()
    assert transform(source, OptimizeOptions(quality=95), max_pixels=PLENTY).data == source


def test_orientation_is_applied_and_exif_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "camera"
    source = picture((80, 40), file_format="JPEG", exif=exif)
    for options in (OptimizeOptions(), ResizeOptions(height=80), ConvertOptions(format="png")):
        image = opened(transform(source, options, max_pixels=PLENTY))
        assert image.size == (40, 80)
        assert not image.getexif()


@pytest.mark.parametrize(
    "options",
    [
        ResizeOptions(width=10),
        ConvertOptions(format="png"),
        OptimizeOptions(),
    ],
)
def test_an_image_over_the_limit_is_refused(options: FileOptions) -> None:
    with pytest.raises(PermanentJobError, match="100x101, at most 10000"):
        transform(picture((100, 101)), options, max_pixels=10_000)


def test_a_result_over_the_limit_is_refused() -> None:
    with pytest.raises(PermanentJobError, match="too large"):
        transform(picture((10, 10)), ResizeOptions(width=60_000), max_pixels=10_000)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    # A GIF's header says its size; behind it there is nothing to decode.
    bomb = b"GIF89a" + b"\xff\xff\xff\xff" + b"\x00\x00\x00" + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
    with pytest.raises(PermanentJobError, match="too large"):
        transform(bomb, OptimizeOptions(), max_pixels=PLENTY)


@pytest.mark.parametrize(
    "damaged", [b"", b"no image", picture()[:60], picture(file_format="JPEG")[:200]]
)
def test_damaged_data_is_permanent(damaged: bytes) -> None:
    with pytest.raises(PermanentJobError):
        transform(damaged, ConvertOptions(format="png"), max_pixels=PLENTY)


def test_an_animation_is_refused() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(PermanentJobError, match="animated"):
        transform(buffer.getvalue(), OptimizeOptions(), max_pixels=PLENTY)


def test_a_repeat_gives_the_same_bytes() -> None:
    once, twice = (transform(picture(), ResizeOptions(width=9), max_pixels=PLENTY) for _ in "12")
    assert once == twice
