"""file-processing-queue: make other images of stored ones."""

from __future__ import annotations

from pathlib import PurePosixPath

from actors.app import application
from actors.images import transform
from actors.job import job
from actors.payloads import FileJob, FileOptions, ResizeOptions
from actors.storage import Storage


@job(queue_name="file-processing-queue")
def process_file(file: FileJob) -> None:
    """Write the operation's result into the storage, whole or not at all; the source stays.

    A repeat writes the same result again.
    """
    options = file.parsed_options()
    storage = Storage(application.storage.url)
    source = storage.read(file.file_id)
    result = transform(source, options, max_pixels=application.images.max_pixels)
    storage.write(output_path(file, options, result.suffix), result.data)


def output_path(file: FileJob, options: FileOptions, suffix: str) -> str:
    """Where the result goes: as asked for, or beside the source.

    Beside it, ``a/photo.png`` becomes ``a/photo.200x100.png`` (resize, the sides as asked
    for, x for one left open), ``a/photo.convert.webp`` or ``a/photo.optimize.png``.
    """
    if options.output is not None:
        return options.output
    mark: str = file.operation
    if isinstance(options, ResizeOptions):
        mark = f"{options.width or ''}x{options.height or ''}"
        mark += "" if options.fit == "contain" else f".{options.fit}"
    source = PurePosixPath(file.file_id)
    return str(source.with_name(f"{source.stem}.{mark}{suffix}"))
