"""Reading a scan's items on a Ray cluster, with Ray Data.

    with Cluster(packages, lineage, pose_search=True, workers=8) as cluster:
        for records in cluster.read(journal.unread(8)): journal.record(records)

Workers are actors with the networks, and nothing else of the bundle: no key leaves this machine. Where one
dies Ray starts another and repeats what it had; the journal keeps each item once, and what should still be
missing is simply unread. Files must be where every worker finds them under the same name (object storage, a
shared folder).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from verifier.errors import InputError, VerifierError
from verifier.lineage import Lineage
from verifier.network import Package
from verifier.quiet import quiet_libraries, quiet_warnings
from verifier.reading import Reader
from verifier.scan.journal import Record
from verifier.scan.local import Batch, read_batch
from verifier.scan.sources import Item

if TYPE_CHECKING:
    from types import TracebackType

ROUND = 1 << 14
"""Items handed to Ray at a time: bounds what the driver and the object store hold."""

Columns = dict[str, Any]
"""A batch as Ray passes it: arrays by name."""

QUIET = {"RAY_DATA_LOG_LEVEL": "CRITICAL", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""What Ray would print into the progress display; failures come as exceptions."""

BATCHES = 4
"""Batches in a task: so many that what Ray does for a task counts for little."""

_ITEM, _RECORD = [field.name for field in fields(Item)], [field.name for field in fields(Record)]


class _Worker:
    """An actor: it opens the networks once, and reads batches of items."""

    def __init__(self, packages: Any, device: str, pose_search: bool, batch: int) -> None:
        import ray

        opened, members = ray.get(packages)
        networks = [package.open(device, threads=1) for package in opened]
        lineage = None if members is None else Lineage.open(members, device, threads=1)
        self._batch, self._reader = batch, Reader(networks, pose_search, lineage)

    def __call__(self, batch: Columns) -> Columns:
        rows = zip(*(batch[name].tolist() for name in ("number", *_ITEM)), strict=True)
        items = [(row[0], _item(row[1:])) for row in rows]
        records: list[Record] = []
        for start in range(0, len(items), self._batch):
            records += read_batch(self._reader, items[start : start + self._batch])
        return _columns(_RECORD, [list(vars(record).values()) for record in records])


class Cluster:
    """A connection to Ray: a cluster's ``address``, or one started on this machine for the scan alone."""

    def __init__(
        self,
        packages: list[Package],
        lineage: dict[str, bytes] | None,
        device: str,
        pose_search: bool,
        workers: int,
        batch: int,
        address: str | None = None,
    ) -> None:
        """:class:`InputError` where Ray is not installed or the cluster cannot be reached."""
        for variable, level in QUIET.items():
            os.environ.setdefault(variable, level)
        try:
            import ray
            import ray.data
        except ImportError:
            raise InputError("--engine ray needs Ray.", "Run `pip install 'hallmark[scan]'`.") from None
        self._ray, self._block, self._workers = ray, BATCHES * batch, workers
        self._ours = not ray.is_initialized()
        if self._ours:
            address = address or os.environ.get("RAY_ADDRESS")
            local = {} if address else {"num_cpus": workers, "include_dashboard": False}
            try:
                with quiet_warnings(), quiet_libraries():
                    ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **local)
            except Exception as error:  # noqa: BLE001 - whatever keeps it from starting
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(f"Ray does not start: {reason[:300]}", "Check --address.") from None
        graphics = ray.cluster_resources().get("GPU", 0) if device != "cpu" else 0
        self._gpus = 1 if graphics else 0
        ray.data.DataContext.get_current().enable_progress_bars = False
        # Held here, so that an actor that is started again finds its networks.
        shared = ray.put((packages, lineage))
        self._arguments = {"packages": shared, "device": device, "pose_search": pose_search, "batch": batch}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            self._ray.shutdown()

    def read(self, batches: Iterable[Batch]) -> Iterator[list[Record]]:
        """The records of all items, as they come in; :class:`VerifierError` where Ray gives up."""
        items = chain.from_iterable(batches)
        while some := list(islice(items, ROUND)):
            try:
                yield from self._round(some)
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise VerifierError(
                    f"the cluster gave up: {reason}.", "Repeat the command: it goes on where it stopped."
                ) from None

    def _round(self, items: Batch) -> Iterator[list[Record]]:
        import pyarrow as pa

        rows = [[number, *asdict(item).values()] for number, item in items]
        blocks = [
            pa.table(
                {
                    name: [_plain(row[column]) for row in rows[start : start + self._block]]
                    for column, name in enumerate(("number", *_ITEM))
                }
            )
            for start in range(0, len(rows), self._block)
        ]
        read = self._ray.data.from_arrow(blocks).map_batches(
            _Worker,
            fn_constructor_kwargs=self._arguments,
            batch_size=self._block,
            compute=self._ray.data.ActorPoolStrategy(size=min(self._workers, len(blocks))),
            num_cpus=1,
            num_gpus=self._gpus,
        )
        for batch in read.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            yield [Record(*row) for row in zip(*(batch[name].tolist() for name in _RECORD), strict=True)]


def _columns(names: list[str], rows: list[list[Any]]) -> Columns:
    import numpy as np

    columns = {}
    for place, name in enumerate(names):
        values = [row[place] for row in rows]
        whole = all(isinstance(value, int) for value in values)
        columns[name] = np.array(values, np.int64 if whole else object)
    return columns


def _plain(value: Any) -> Any:
    """Arrow's text must be text: names of other bytes travel as bytes."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _item(row: Iterable[Any]) -> Item:
    values: list[Any] = [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for v in row]
    return Item(**dict(zip(_ITEM, values, strict=True)))
