"""Reading images with a bundle's networks, one after the other or many at a time.

    reader = Reader(networks, pose_search=True)
    for read in reader.read([("a.png", read_file), ...]):
        read.entry, read.readings

    for batch in in_parallel(reader.read, batches, workers=8): ...

Decoders and onnxruntime leave the interpreter alone while they work, so threads are enough: each takes a
batch from its files to its readings, with a session that uses one thread for a run. That is as fast as
handing batches from decoders to one session with many threads, and nobody waits for anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from PIL.Image import Image

from verifier.errors import InputError
from verifier.finding import ImageEntry
from verifier.images import load_bytes, read_bounded
from verifier.lineage import Lineage, Pixels, Vectors, window
from verifier.network import Network, Reading
from verifier.quiet import quiet_warnings

AHEAD = 3
"""Batches a worker that are under way or waiting: so many that one slow file does not hold up the others."""

File = tuple[str, Callable[[], bytes]]
"""A file's name, and what gives its bytes (or raises :class:`InputError`)."""

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ReadImage:
    """An image as the networks read it: for each its ranked readings, none where ``entry`` has an error.

    ``traits`` are those of :class:`verifier.images.Decoded`; lineage, if any, is told from ``features``.
    """

    entry: ImageEntry
    readings: list[list[Reading]] = field(default_factory=list)
    traits: tuple[str, ...] = ()
    features: Vectors | None = None


class Reader:
    """Networks that read the same images; may be used by several threads at a time."""

    def __init__(
        self, networks: Sequence[Network], pose_search: bool, lineage: Lineage | None = None
    ) -> None:
        self._networks, self._pose_search, self._lineage = networks, pose_search, lineage
        sides = [network.side for network in networks]
        self._side = max(sides if lineage is None else [*sides, lineage.side])
        self._alike = len({(network.spec.size, network.spec.resample) for network in networks}) == 1

    def read(self, files: Iterable[File]) -> list[ReadImage]:
        """Every file's reading, in order. Identity poses are read together, so batches should be small."""
        with quiet_warnings():  # once, and not for every image
            return self._read(files)

    def _read(self, files: Iterable[File]) -> list[ReadImage]:
        read: list[ReadImage] = []
        images: list[Image] = []
        windows: list[Pixels] = []
        for name, content in files:
            try:
                loaded = load_bytes(content(), name, self._side)
            except InputError as error:
                read.append(ReadImage(ImageEntry(name, error=error.diagnostics())))
                continue
            entry = ImageEntry(name, loaded.sha256, loaded.width, loaded.height, notes=list(loaded.notes))
            read.append(ReadImage(entry, traits=loaded.traits))
            if self._lineage is not None:
                windows.append(window(loaded.image, self._lineage.spec.window))
            images.append(self._kept(loaded.image))
        if self._lineage is not None:
            features = iter(self._lineage.features(windows))
            read = [
                image if image.entry.error is not None else replace(image, features=next(features))
                for image in read
            ]
        for network in self._networks:
            ranked = iter(network.ranked(images, self._pose_search))
            for image in read:
                if image.entry.error is None:
                    image.readings.append(next(ranked))
        return read

    def _kept(self, image: Image) -> Image:
        """What the networks read of the image, where they agree on that: large ones are not held."""
        if not self._alike:
            return image
        network = self._networks[0]
        return network.reduced(image) if self._pose_search else network.canvas(image)


def in_parallel(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """``work`` of every task in threads, as they finish; ``tasks`` are taken as they are needed.

    An error of ``work`` is raised here, and then no further task is begun.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    # Here: a check of one image starts faster without.
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    running: set[Future[Result]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                running.add(pool.submit(work, task))
                if len(running) >= AHEAD * workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


def file_at(path: Path | str) -> File:
    """The file at ``path``."""
    name = str(path)
    return name, lambda: read_bounded(name)
