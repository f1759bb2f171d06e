"""Laying out a copy: which of its bytes are new, which come from the model's template, and its digests.

    copy = prepare(home, key)                       # hashes what was not hashed before
    copy.sha256, copy.files["model_index.json"].sha256
    copy.files[path].layout.chunks(home.storage)    # a file, or any range of it
    copy.archive.chunks(home.storage)               # the whole folder as a tar archive

A copy is the model's template with the key's deltas added to a few tensors and the certificate written
into the file headers, plus two files about it: ``hallmark.json``, the registry's signed list of the files,
and ``model.sig``, the same in the form of OpenSSF model-signing. It is never stored. Its files' digests
are: each is computed once over the composed bytes and holds as long as the stored file beneath it was not
written again.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as DuplicateError
from sqlalchemy.orm import Session

from registry.copies import openssf
from registry.copies.archive import archive
from registry.copies.layout import Layout
from registry.copies.models import CopyFile, StoredDigest
from registry.copies.splice import Delta, Spliced, splice, whole
from registry.errors import IntegrityError
from registry.fingerprints.basis import Basis
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.keys.service import IssuedKey
from registry.storage import Manifest, Storage, manifest_digest
from verifier import inspect, signing
from verifier.certificate import COPY_PREFIX
from verifier.inspect import CERTIFICATE_METADATA, PUBLIC_KEY_METADATA
from verifier.phi import unpack

STATEMENTS = (inspect.MANIFEST, inspect.MODEL_SIGNATURE)
"""The two files about a copy, which its manifest does not list."""

KEPT_BYTES = 8 << 20
"""New bytes of laid-out copies that a process keeps, so that resuming need not derive them again."""

Seen = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """A copy's files by path, as the manifest lists them, and the marks of what they are made from."""

    files: Mapping[str, Layout]
    marks: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(layout.size for layout in self.files.values())


@dataclass(frozen=True)
class File:
    """A file that can be sent."""

    layout: Layout
    sha256: str


@dataclass(frozen=True)
class PreparedCopy:
    """A copy that is ready to be sent: every byte of it is determined, and every digest known."""

    copy_id: str
    issued_at: int
    plan: Plan
    manifest: Manifest
    statements: Mapping[str, bytes]

    @cached_property
    def sha256(self) -> str:
        """The copy's digest (hex): that of its manifest."""
        return manifest_digest(self.manifest)

    @cached_property
    def files(self) -> dict[str, File]:
        """All files by path, the two about the copy too."""
        made = {
            path: File(Layout([content]), hashlib.sha256(content).hexdigest())
            for path, content in self.statements.items()
        }
        listed = {
            path: File(layout, self.manifest[path]["sha256"]) for path, layout in self.plan.files.items()
        }
        return dict(sorted({**listed, **made}.items()))

    @cached_property
    def archive(self) -> Layout:
        """The tar archive of all files, in a folder named like the copy."""
        files = {path: file.layout for path, file in self.files.items()}
        return archive(self.copy_id, files, self.issued_at)

    @cached_property
    def archive_tag(self) -> str:
        """What stands for the archive's bytes: the digest (hex) of all its files' digests."""
        return signing.digest({path: file.sha256 for path, file in self.files.items()}).hex()


def plan(home: Home, key: IssuedKey) -> Plan:
    """Lay out the copy of ``key``: which bytes come from the template and which are its own."""
    template = generators.template_name(key.model)
    marks = home.storage.marks(template)
    return _plans.get(home, key, template, marks)


def prepare(home: Home, key: IssuedKey, seen: Seen = lambda _: None) -> PreparedCopy:
    """Lay out the copy of ``key`` and make sure of its digests; ``seen`` is told the bytes hashed so far.

    The first time, this reads the files that the key changes, and those of the template if no copy of it
    was prepared before; afterwards it reads nothing but the database.
    """
    laid_out = plan(home, key)
    sha256 = known_digests(home, key, laid_out)
    hashed = 0

    def count(length: int) -> None:
        nonlocal hashed
        hashed += length
        seen(hashed)

    missing = {path: layout for path, layout in laid_out.files.items() if path not in sha256}
    found = {path: layout.sha256(home.storage, count) for path, layout in missing.items()}
    if found:
        sha256 |= found
        _keep(home, key, laid_out, found)
    manifest: Manifest = {
        path: {"sha256": sha256[path], "size": layout.size} for path, layout in laid_out.files.items()
    }
    return assemble(home, key, laid_out, manifest)


def assemble(home: Home, key: IssuedKey, laid_out: Plan, manifest: Manifest) -> PreparedCopy:
    """The copy with this manifest, and the two files about it."""
    copy_id = COPY_PREFIX + key.row.key_id.hex()
    statement = _statement(home, key, manifest)
    digests = {path: entry["sha256"] for path, entry in manifest.items()}
    digests[inspect.MANIFEST] = hashlib.sha256(statement).hexdigest()
    signature = openssf.signature(home, copy_id, digests)
    statements = dict(zip(STATEMENTS, (statement, signature), strict=True))
    return PreparedCopy(copy_id, key.row.issued_at, laid_out, manifest, statements)


def known_digests(home: Home, key: IssuedKey, laid_out: Plan) -> dict[str, str]:
    """The digests (hex) that were computed before and still hold, by path."""
    with home.database.read() as session:
        return dict(_known(session, key, laid_out))


def _known(session: Session, key: IssuedKey, laid_out: Plan) -> Iterator[tuple[str, str]]:
    own = select(CopyFile).where(CopyFile.user_key_id == key.row.id)
    found = {row.path: (row.mark, row.sha256) for row in session.execute(own).scalars()}
    names = {layout.stored_name: path for path, layout in laid_out.files.items() if layout.stored_name}
    shared = select(StoredDigest).where(StoredDigest.name.in_(names))
    for row in session.execute(shared).scalars():
        found[names[row.name]] = (row.mark, row.sha256)
    for path, (mark, sha256) in found.items():
        if laid_out.marks.get(path) == mark:
            yield path, sha256.hex()


def _keep(home: Home, key: IssuedKey, laid_out: Plan, sha256: Mapping[str, str]) -> None:
    rows: list[CopyFile | StoredDigest] = []
    for path, text in sha256.items():
        digest, mark, name = bytes.fromhex(text), laid_out.marks[path], laid_out.files[path].stored_name
        if name is None:
            rows.append(CopyFile(user_key_id=key.row.id, path=path, mark=mark, sha256=digest))
        else:
            rows.append(StoredDigest(name=name, mark=mark, sha256=digest))
    try:
        with home.database.write() as session:
            for row in rows:
                session.merge(row)
    except DuplicateError:
        pass  # another process hashed the same files at the same moment, to the same end


class _Plans:
    """The plans that were last used; a plan is good until a file of its template is written again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[bytes, Plan] = OrderedDict()

    def get(self, home: Home, key: IssuedKey, template: str, marks: Mapping[str, str]) -> Plan:
        with self._lock:
            found = self._kept.get(key.row.key_id)
            if found is not None and found.marks == marks:
                self._kept.move_to_end(key.row.key_id)
                return found
        made = Plan(_layouts(home, key, template), marks)
        with self._lock:
            self._kept[key.row.key_id] = made
            while self._held() > KEPT_BYTES:
                self._kept.popitem(last=False)
        return made

    def _held(self) -> int:
        return sum(layout.new_bytes for plan in self._kept.values() for layout in plan.files.values())


_plans = _Plans()


def _layouts(home: Home, key: IssuedKey, template: str) -> dict[str, Layout]:
    deltas = _deltas(home, key)
    metadata = {
        CERTIFICATE_METADATA: signing.canonical(key.document).decode(),
        PUBLIC_KEY_METADATA: home.identity.public_text,
    }
    files = {}
    for path, size in home.storage.files(template).items():
        if path in STATEMENTS:
            continue  # a base model's own signature says nothing of its copies
        name = f"{template}/{path}"
        files[path] = Layout.of(name, _spliced(home.storage, name, size, deltas.pop(path, {}), metadata))
    if deltas:
        raise IntegrityError(f"{template} lacks {sorted(deltas)[0]}, which the basis changes.")
    return files


def _deltas(home: Home, key: IssuedKey) -> dict[str, dict[str, Delta]]:
    """What the key adds, by file and tensor."""
    with home.storage.local(generators.basis_name(key.model)) as path:
        basis = Basis.load(path)
    if key.model.basis is None or basis.digest != key.model.basis.hex():
        raise IntegrityError(f"the stored basis of model {key.model.label} does not have its digest.")
    by_file: dict[str, dict[str, Delta]] = {}
    for (file, tensor), delta in basis.deltas(unpack(keys.derive(home, key))).items():
        by_file.setdefault(file, {})[tensor] = delta
    return by_file


def _spliced(
    storage: Storage, name: str, size: int, deltas: Mapping[str, Delta], metadata: Mapping[str, str]
) -> Spliced:
    if not deltas:
        return whole(size)
    with storage.open(name) as base:
        return splice(base, size, deltas, metadata)


def _statement(home: Home, key: IssuedKey, manifest: Manifest) -> bytes:
    document = home.identity.sign(
        {
            "schema": inspect.SCHEMA,
            "registry": home.identity.registry,
            "public_key": home.identity.public_text,
            "adapter": key.model.adapter,
            "certificate": key.document,
            "files": manifest,
        }
    )
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
