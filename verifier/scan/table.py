"""A scan's findings as a Parquet file, a row an image, and their summary.

    summary = write(Path("findings.parquet"), journal, about)

Columns (null where they do not apply; logarithms are decimal):

- ``path``, ``sha256``, ``width``, ``height``, ``notes``, and ``error`` where the image was not read;
- ``verdict``: ``attributed`` (a test of this image by itself names the copy), ``group`` (its group names the
  copy: at least one image of it depends on the key, which one is not said), ``not-attributed`` or ``error``;
- ``group`` (a number) and ``group_images``: what was tested together;
- ``copy``, ``key_id``, ``copy_sha256``, ``recipient``, ``issued_at``, ``revoked``, ``model``,
  ``model_version``: the copy that is named, and ``copies`` all that the group names;
- ``log10_p`` and ``log10_p_family``: bounds of the test that named the copy, for one key and for all; with
  ``matching_bits``; null where the images of a group name different copies by themselves, so that the group
  has no verdict of its own. ``log10_p_image`` and ``log10_p_without`` are this image's own bound for the copy
  and the rest of its group's, where the group names one copy;
- ``lineage_model``, ``lineage_confidence``, ``lineage_note``: which model the group is of, told without keys;
- ``bits``, ``hypotheses``; ``network``, ``device``, ``pose``;
- ``ledger_index``, ``ledger_size``, ``ledger_verified``: the certificate's place.

The file's metadata ``hallmark`` is a JSON object: the schema ``hallmark/scan/1``, alpha and the number of
groups that share it, registry, models, rule of grouping, and whether every image had been read.
"""

from __future__ import annotations

import errno
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.errors import InputError
from verifier.scan.journal import Journal

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "hallmark/scan/1"
UNDISCLOSED = "not disclosed"

BOUNDS = ("matching_bits", "log10_p", "log10_p_family")

_NUMBER = re.compile(r"\d+")
_ROWS = 8192  # in memory at a time, and in a row group


@dataclass
class Summary:
    """What came of a scan. ``by_copy``, ``by_model`` and ``by_recipient`` count the images that are
    attributed by themselves (``images``) and the groups that name it (``groups``).

    ``by_lineage`` counts all images and groups, by the model that made them as it is told without keys.
    ``undecided`` images are neither attributed nor in a group that is; ``passed_over`` files are no images.
    """

    out: str
    complete: bool
    images: int = 0
    attributed: int = 0
    in_attributed_groups: int = 0
    undecided: int = 0
    errors: int = 0
    passed_over: int = 0
    groups: int = 0
    alpha: float = 0.0
    elapsed_s: float = 0.0
    by_model: dict[str, dict[str, int]] = field(default_factory=dict)
    by_recipient: dict[str, dict[str, int]] = field(default_factory=dict)
    by_copy: dict[str, dict[str, int]] = field(default_factory=dict)
    by_lineage: dict[str, dict[str, int]] = field(default_factory=dict)
    by_error: dict[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/scan/1``."""
        return {"schema": SCHEMA, **asdict(self)}


def write(out: Path, journal: Journal, about: dict[str, Any], summary: Summary) -> None:
    """Write the journal's findings to ``out``, completely or not at all, and fill in the summary's counts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({"hallmark": json.dumps({"schema": SCHEMA, **about})})
    partial = out.with_name(f".{out.name}.partial")
    counts = _Counts(summary)
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for row in _rows(journal, counts):
                rows.append(row)
                if len(rows) == _ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows.clear()
            writer.write_table(pa.Table.from_pylist(rows, schema))
        partial.replace(out)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "no space is left" if full else f"cannot write it ({error.strerror or error})"
        raise InputError(
            f"{out}: {reason}; everything that was read is kept in {journal.path}.",
            "Repair that, then repeat the command: it goes on where it stopped.",
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    counts.close()


def _rows(journal: Journal, counts: _Counts) -> Iterator[dict[str, Any]]:
    for number, verdict in journal.verdicts():
        finding, named = verdict["finding"], verdict["named"]
        copies = {_name(copy): copy for copy in finding["copies"]}
        counts.group(named, finding["lineage"], len(finding["images"]))
        for image in finding["images"]:
            row = _row(image, finding)
            row |= {"group": number, "group_images": len(finding["images"]), "copies": list(named)}
            name = next(iter(image["alone"]), None) or next(iter(copies), None)
            if name is not None:
                row |= _copy_columns(named[name])
                row |= {column: copies[name][column] for column in BOUNDS} if name in copies else {}
                if len(copies) == 1:
                    row |= {"log10_p_image": image["log10_p"], "log10_p_without": image["log10_p_without"]}
            row["verdict"] = "attributed" if image["alone"] else "group" if copies else "not-attributed"
            counts.image(row)
            yield row
    for entry in journal.failures():
        row = {**_image(vars(entry)), "verdict": "error"}
        counts.image(row)
        yield row


def _row(image: dict[str, Any], finding: dict[str, Any]) -> dict[str, Any]:
    lineage, evidence, ledger = finding["lineage"] or {}, finding["evidence"], finding["ledger"]
    return {
        **_image(image),
        "lineage_model": lineage.get("model"),
        "lineage_confidence": lineage.get("confidence"),
        "lineage_note": lineage.get("note") or None,
        "bits": evidence["bits"],
        "hypotheses": evidence["hypotheses"],
        "network": finding["network"]["digest"],
        "device": finding["network"]["device"],
        "ledger_size": ledger["tree_size"],
        "ledger_verified": ledger["verified"],
    }


def _image(image: dict[str, Any]) -> dict[str, Any]:
    row = {name: image[name] for name in ("sha256", "width", "height", "pose")}
    told = {name: image[name] and _printable(image[name]) for name in ("path", "error")}
    return {**row, **told, "notes": image["notes"]}


def _copy_columns(named: dict[str, Any]) -> dict[str, Any]:
    """What is known of a copy, whichever test named it."""
    copy = named["copy"]
    told = ("key_id", "recipient", "issued_at", "revoked")
    return {
        **{column: copy[column] for column in told},
        "copy": _name(copy),
        "copy_sha256": copy["sha256"],
        "model": named["model"],
        "model_version": named["version"],
        "ledger_index": named["ledger_index"],
    }


def _name(copy: dict[str, Any]) -> str:
    return str(copy["id"] or f"pseudonym {copy['key_id']}")


def _printable(text: str) -> str:
    """File names may be any bytes, Parquet's text may not."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Counts:
    """The summary's counts, row by row."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._verdicts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._named: dict[str, dict[str, Counter[str]]] = {
            kind: defaultdict(Counter) for kind in ("by_copy", "by_model", "by_recipient")
        }
        self._lineage: dict[str, Counter[str]] = defaultdict(Counter)

    def group(self, named: dict[str, dict[str, Any]], lineage: dict[str, Any] | None, images: int) -> None:
        self._summary.groups += 1
        if lineage is not None:
            # Which models a set mixes comes after a colon, and is another for each such group.
            label = lineage["model"] or lineage["note"].partition(":")[0]
            self._lineage[label].update(images=images, groups=1)
        labels = [_labels(_copy_columns(each)) for each in named.values()]
        for kind, found in self._named.items():
            for label in {each[kind.removeprefix("by_")] for each in labels}:
                found[label]["groups"] += 1

    def image(self, row: dict[str, Any]) -> None:
        self._verdicts[row["verdict"]] += 1
        if row["error"]:
            self._errors[_kind(row["error"], row["path"])] += 1
        if row["verdict"] == "attributed":
            labels = _labels(row)
            for kind in self._named:
                self._named[kind][labels[kind.removeprefix("by_")]]["images"] += 1

    def close(self) -> None:
        summary, verdicts = self._summary, self._verdicts
        summary.images = verdicts.total()
        summary.attributed, summary.errors = verdicts["attributed"], verdicts["error"]
        summary.in_attributed_groups, summary.undecided = verdicts["group"], verdicts["not-attributed"]
        summary.by_error = dict(self._errors.most_common())
        for kind, found in [*self._named.items(), ("by_lineage", self._lineage)]:
            ranked = sorted(found.items(), key=lambda each: (-each[1]["images"], -each[1]["groups"], each[0]))
            counts = {label: {"images": n["images"], "groups": n["groups"]} for label, n in ranked}
            setattr(summary, kind, counts)


def _labels(row: dict[str, Any]) -> dict[str, str]:
    model = f"{row['model']}@{row['model_version']}"
    return {"copy": row["copy"], "model": model, "recipient": row["recipient"] or UNDISCLOSED}


def _kind(error: str, path: str) -> str:
    """An error without file name and numbers: equal ones are counted together, and their kinds are few."""
    return _NUMBER.sub("N", error.replace(path, "it").split(". ")[0].rstrip("."))[:100]


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, texts, whole, real, yes = pa.string(), pa.list_(pa.string()), pa.int64(), pa.float64(), pa.bool_()
    sides = [(side, pa.int32()) for side in ("left", "top", "width", "height")]
    pose = pa.struct([*sides, ("mirrored", yes), ("angle", pa.float32())])
    return pa.schema(
        [
            *(("path", text), ("sha256", text), ("width", pa.int32()), ("height", pa.int32())),
            *(("notes", texts), ("error", text), ("verdict", text)),
            *(("group", whole), ("group_images", pa.int32())),
            *(("copy", text), ("key_id", text), ("copy_sha256", text), ("recipient", text)),
            *(("issued_at", text), ("revoked", yes), ("model", text), ("model_version", pa.int32())),
            ("copies", texts),
            *(("log10_p", real), ("log10_p_family", real), ("matching_bits", pa.int32())),
            *(("log10_p_image", real), ("log10_p_without", real)),
            *(("lineage_model", text), ("lineage_confidence", real), ("lineage_note", text)),
            *(
                ("bits", pa.int32()),
                ("hypotheses", whole),
                ("network", text),
                ("device", text),
                ("pose", pose),
            ),
            *(("ledger_index", whole), ("ledger_size", whole), ("ledger_verified", yes)),
        ]
    )
