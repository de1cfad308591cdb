"""file-processing-queue: the steps that make an image's renditions, its copies in other sizes.

Each is a job of its own; ``pipelines/image_pipeline.py`` makes a flow of them.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from actors.app import application
from actors.images import inspect, transform
from actors.job import job
from actors.payloads import (
    OptimizeOptions,
    ResizeOptions,
    Side,
    StoragePath,
    check_path,
)
from actors.storage import Storage
from middleware.payload import Payload

_QUEUE: Final = "file-processing-queue"
#: In the name of a rendition that is not optimized yet.
_RESIZED: Final = ".resized"


class Source(Payload, frozen=True, kw_only=True):
    """A stored image, and the folder that its renditions go to."""

    file_id: StoragePath
    folder: StoragePath

    def check(self) -> None:
        """Both stay inside the storage."""
        check_path(self.file_id, "$.fileId")
        check_path(self.folder, "$.folder")


class ImageInfo(Payload, frozen=True, kw_only=True):
    """A readable image, as its header says."""

    width: Annotated[int, Meta(ge=1)]
    height: Annotated[int, Meta(ge=1)]
    #: Of files in the format that renditions get, as in ``.png``.
    suffix: str


class Rendition(Payload, frozen=True, kw_only=True):
    """One size of a source: at most so wide."""

    source: Source
    width: Side


class RenditionFile(Payload, frozen=True, kw_only=True):
    """A rendition that was written."""

    path: StoragePath
    width: int
    size_bytes: int


class Manifest(Payload, frozen=True, kw_only=True):
    """What there is of an image; lies in the folder as ``manifest.json``."""

    file_id: StoragePath
    renditions: list[RenditionFile]


@job(queue_name=_QUEUE)
def validate_image(source: Source) -> ImageInfo:
    """See that the source is an image that can be processed; what can't be is buried at once."""
    data = Storage(application.storage.url).read(source.file_id)
    width, height, suffix = inspect(data, max_pixels=application.images.max_pixels)
    return ImageInfo(width=width, height=height, suffix=suffix)


@job(queue_name=_QUEUE)
def write_rendition(rendition: Rendition, info: ImageInfo) -> RenditionFile:
    """Write the source in this size, and never larger than it is; a repeat writes the same."""
    storage, source = Storage(application.storage.url), rendition.source
    width = min(rendition.width, info.width)
    result = transform(
        storage.read(source.file_id),
        ResizeOptions(width=width),
        max_pixels=application.images.max_pixels,
    )
    # Not under the final name: what optimizes it must not find its own result if it runs again.
    path = str(PurePosixPath(source.folder) / f"{rendition.width}{_RESIZED}{info.suffix}")
    storage.write(path, result.data)
    return RenditionFile(path=path, width=width, size_bytes=len(result.data))


@job(queue_name=_QUEUE)
def optimize_rendition(file: RenditionFile) -> RenditionFile:
    """Write the same image in fewer bytes under its final name; a repeat writes the same."""
    storage = Storage(application.storage.url)
    result = transform(
        storage.read(file.path), OptimizeOptions(), max_pixels=application.images.max_pixels
    )
    path = file.path.replace(_RESIZED, "")
    storage.write(path, result.data)
    return RenditionFile(path=path, width=file.width, size_bytes=len(result.data))


@job(queue_name=_QUEUE)
def write_manifest(source: Source, files: list[RenditionFile]) -> Manifest:
    """List the renditions where readers look for them; written last, so all of them are there."""
    manifest = Manifest(file_id=source.file_id, renditions=files)
    storage = Storage(application.storage.url)
    storage.write(manifest_path(source), msgspec.json.format(msgspec.json.encode(manifest)))
    for file in files:
        path = PurePosixPath(file.path)
        storage.remove(str(path.with_name(f"{path.stem}{_RESIZED}{path.suffix}")))
    return manifest


@job(queue_name=_QUEUE)
def remove_rendition(file: RenditionFile) -> None:
    """Take a rendition away again; one that is gone is fine."""
    Storage(application.storage.url).remove(file.path)


@job(queue_name=_QUEUE)
def remove_manifest(source: Source) -> None:
    """Take the manifest away again; one that is gone is fine."""
    Storage(application.storage.url).remove(manifest_path(source))


def manifest_path(source: Source) -> str:
    """Where the manifest lies in the storage."""
    return str(PurePosixPath(source.folder) / "manifest.json")
