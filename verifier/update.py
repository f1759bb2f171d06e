"""Fetching bundles through the trust root (TUF), so that nobody between can alter, withhold or mix them.

    found = update("https://registry.example", home, root="root.json")          # the first time
    found = update("https://registry.example", home)                            # from then on
    found.bundles["flowers-1-0"]                                                # a file for `verifier check`

The first root is pinned: a file, or its SHA-256 as the registry publishes it where its name is known. Every
later one must be signed by keys of the one before. python-tuf (the extra ``update``) does the checks of the
TUF specification; what it refuses is said here in words. Members that did not change are not fetched again.
A bundle is put together from its members and verified as any other. Two checkpoints of one registry, the
last one and the new one, must be proved to belong to one ledger that only grew.

:class:`TrustError` where something was refused (then nothing that was there before changes), and
:class:`InputError` where the registry could not be reached.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier import merkle, proof
from verifier.archive import ArchiveWriter
from verifier.bundle import (
    CHECKPOINT,
    MANIFEST,
    REVOCATIONS,
    TRUST,
    Bundle,
    read_revocations,
    read_trust,
    utc,
)
from verifier.client import Client, RefusedError
from verifier.errors import InputError, TrustError
from verifier.store import Store, replace_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from tuf.api.metadata import TargetFile
    from tuf.ngclient import Updater
    from tuf.ngclient.fetcher import FetcherInterface

    from verifier.merkle import Checkpoint

FIRST_ROOT = "1.root.json"
LARGEST_ROOT = 512_000  # bytes, as python-tuf takes them
_MEMBER = re.compile(r"bundles/(([a-z0-9][a-z0-9._-]*)-([0-9]+)-[0-9]+)/(.+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHARED = (TRUST, CHECKPOINT, REVOCATIONS)

Seen = Callable[[int], None]
Progress = Callable[[int], Seen]
"""Is given the bytes to fetch and returns what is told the bytes that came."""


@dataclass(frozen=True)
class Updated:
    """What an update found: ``bundles`` by their published names, and of the ledger its number of entries."""

    registry: str
    bundles: Mapping[str, Path]
    revocations: int
    entries: int
    fetched: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "bundles": {name: str(path) for name, path in self.bundles.items()}}


def update(
    url: str,
    home: Path,
    *,
    root: str | None = None,
    model: str | None = None,
    progress: Progress = lambda _: lambda _: None,
) -> Updated:
    """Bring the store of the registry at ``url`` up to date.

    ``root`` is the first root's file or SHA-256: needed once, compared later. ``model`` (``NAME`` or
    ``NAME@VERSION``) restricts the update to one model.
    """
    store = Store.at(url, home)
    if store.exists:
        _compare_root(store, root)
        return _update(store, None, model, progress)
    # What fails the first time leaves no trust behind.
    fresh = Store(store.url, store.folder.with_name(f".{store.folder.name}.{os.getpid()}.new"))
    _writable(fresh.folder)
    try:
        found = _update(fresh, _first_root(store.url, root), model, progress)
        shutil.rmtree(store.folder, ignore_errors=True)
        fresh.folder.rename(store.folder)
    finally:
        shutil.rmtree(fresh.folder, ignore_errors=True)
    moved = {name: store.bundle_path(name) for name in found.bundles}
    return Updated(found.registry, moved, found.revocations, found.entries, found.fetched)


def publish_to(found: Updated, out: Path) -> None:
    """Copy the bundle that was found to a file; :class:`InputError` where there is not exactly one."""
    if len(found.bundles) != 1:
        names = ", ".join(found.bundles) or "none"
        raise InputError(f"--out takes one bundle, and the update brought {names}.", "Name one with --model.")
    (path,) = found.bundles.values()
    try:
        replace_file(out, path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}.", "Choose another file.") from None


def _update(store: Store, bootstrap: bytes | None, model: str | None, progress: Progress) -> Updated:
    asked = _Asked(store.url)
    with _refusals(asked):
        updater = _updater(store, bootstrap, asked)
        updater.refresh()
        targets = _published(store)
    chosen = _chosen(targets, model)
    wanted = {name: targets[name] for name in (*_SHARED, *(p for paths in chosen.values() for p in paths))}
    with _refusals(asked):
        missing = [target for target in wanted.values() if updater.find_cached_target(target) is None]
        asked.seen = progress(sum(target.length for target in missing))
        for target in missing:
            updater.download_target(target)
        files = {name: Path(updater.find_cached_target(target) or "") for name, target in wanted.items()}
    key, registry = read_trust(files[TRUST].read_bytes())
    if store.exists and registry != store.registry:
        raise TrustError(
            f"the trust root of {store.url} now names registry {registry}, and it named {store.registry}.",
            "Ask the registry; do not use what it publishes until then.",
        )
    note = files[CHECKPOINT].read_text()
    head = merkle.Checkpoint.open(note, key)
    _only_grew(store, registry, key, head)
    bundles = {
        name: _assembled(store.bundle_path(name), members, files, registry)
        for name, members in chosen.items()
    }
    for path in (store.folder / "bundles").glob("*.bundle"):
        if model is None and path not in bundles.values():
            path.unlink()  # published no longer
    revoked = read_revocations(files[REVOCATIONS].read_bytes())
    replace_file(store.folder / REVOCATIONS, files[REVOCATIONS].read_bytes())
    replace_file(store.folder / CHECKPOINT, note.encode())
    store.describe(registry)
    return Updated(registry, bundles, len(revoked), head.size, asked.fetched)


class _Asked:
    """What is being fetched: which file, and how much came."""

    def __init__(self, url: str) -> None:
        self.url, self.file, self.fetched = url, "", 0
        self.seen: Seen = lambda _: None

    def came(self, octets: int) -> None:
        self.fetched += octets
        self.seen(octets)


def _updater(store: Store, bootstrap: bytes | None, asked: _Asked) -> Updater:
    from tuf.ngclient import Updater

    return Updater(
        str(store.folder / "metadata"),
        f"{store.url}/tuf/metadata/",
        str(store.folder / "targets"),
        f"{store.url}/tuf/targets/",
        _fetcher(asked),
        bootstrap=bootstrap,
    )


def _fetcher(asked: _Asked) -> FetcherInterface:
    """python-tuf's own, which also says what it does."""
    from tuf.api.exceptions import DownloadError
    from tuf.ngclient import Urllib3Fetcher

    class Fetcher(Urllib3Fetcher):
        def fetch(self, url: str) -> Iterator[bytes]:
            asked.file = url.rpartition("/")[2]
            try:
                for chunk in super().fetch(url):
                    asked.came(len(chunk))
                    yield chunk
            except DownloadError:
                raise
            except Exception as error:  # a connection that broke off
                raise DownloadError(str(error)) from error

    return Fetcher(app_user_agent="hallmark-verifier")


@contextmanager
def _refusals(asked: _Asked) -> Iterator[None]:
    """python-tuf's refusals in words: what each may mean, and what to do about it."""
    from tuf.api import exceptions as tuf

    def said() -> str:
        return f"{asked.url}: {asked.file}"

    try:
        yield
    except tuf.UnsignedMetadataError:
        raise TrustError(
            f"{said()} is not signed by the keys that your trust root names: another registry answers there, "
            "somebody without its keys has taken it over, or the root that you began with is another's.",
            "Do not use it; ask the registry by another way whether it has a new trust root.",
        ) from None
    except tuf.ExpiredMetadataError as error:
        raise TrustError(
            f"{said()} cannot be used: {error}. Either the registry does not renew it, or somebody between "
            f"keeps newer metadata, and with it revocations, from you; or this device's clock ({_now()}) is "
            "wrong.",
            "Check the clock and try from another network; if it stays so, ask the registry.",
        ) from None
    except tuf.BadVersionNumberError as error:
        raise TrustError(_version_refused(said(), str(error)), _VERSION_HINT) from None
    except (tuf.LengthOrHashMismatchError, tuf.DownloadLengthMismatchError):
        raise TrustError(
            f"{said()} is not what the registry signed: it was altered or cut off on the way, or on the "
            "server without the registry's keys.",
            "Try from another network; if it stays so, tell the registry.",
        ) from None
    except tuf.RepositoryError as error:
        raise TrustError(
            f"{said()} cannot be read: {error}. It was cut off or altered on the way, or is no trust root.",
            "Try from another network; if it stays so, tell the registry.",
        ) from None
    except tuf.DownloadHTTPError as error:
        raise InputError(
            f"{said()} cannot be fetched: the server answers {error.status_code}.",
            "Check the address, and ask the registry whether it has a trust root there.",
        ) from None
    except tuf.DownloadError as error:
        cause = error.__cause__ or error
        raise InputError(
            f"{said()} cannot be fetched: {' '.join(str(cause).split()) or type(cause).__name__}.",
            "Check the network and the address, then run it again; what was there before stays.",
        ) from None
    except OSError as error:
        raise InputError(f"cannot write what was fetched: {error}.", "Choose another --home.") from None


_VERSION_HINT = (
    "Try from another network. If it stays so, ask the registry: after it restored a backup, it has to "
    "publish above what verifiers have seen (`registry trust publish --beyond VERSION`)."
)


def _version_refused(what: str, reason: str) -> str:
    """Of a version that does not fit: metadata replaced by its own past, or parts of two states."""
    if not what.endswith("timestamp.json"):
        return (
            f"{what} does not belong with the rest of the metadata ({reason}): somebody mixes an old state "
            "of the registry with a new one."
        )
    return (
        f"{what} is older than what this device has seen ({reason}): somebody puts you back to an earlier "
        "state, one without later revocations, or the registry was restored from a backup."
    )


def _now() -> str:
    return utc(int(time.time()))


def _writable(folder: Path) -> None:
    """An empty folder; :class:`InputError` where it cannot be."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder.parent}: {error.strerror}.", "Choose another --home.") from None


def _first_root(url: str, root: str | None) -> bytes:
    """The root to begin with, from its file, or from the registry if it has the pinned digest."""
    if root is None:
        raise InputError(
            f"nothing is known of {url} yet, so its first root must be named.",
            "Give --root FILE, or --root SHA256 as the registry publishes it.",
        )
    if not _DIGEST.fullmatch(root.lower()):
        return _read_root(root)
    asked = _Asked(url)
    with _refusals(asked):
        content = _fetcher(asked).download_bytes(f"{url}/tuf/metadata/{FIRST_ROOT}", LARGEST_ROOT)
    found = hashlib.sha256(content).hexdigest()
    if found != root.lower():
        raise TrustError(
            f"the first root of {url} has SHA-256 {found}, not {root.lower()}: another registry answers "
            "there, or somebody between.",
            "Compare the digest with what the registry publishes by another way.",
        )
    return content


def _compare_root(store: Store, root: str | None) -> None:
    """A root that is named again must be one that this store trusts."""
    if root is None:
        return
    digest = root.lower() if _DIGEST.fullmatch(root.lower()) else hashlib.sha256(_read_root(root)).hexdigest()
    known = (store.folder / "metadata" / "root_history").glob("*.root.json")
    if digest not in {hashlib.sha256(path.read_bytes()).hexdigest() for path in known}:
        raise TrustError(
            f"{store.folder} trusts another root than {root}.",
            f"If you know that the registry has begun anew, delete {store.folder} first.",
        )


def _read_root(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(LARGEST_ROOT)
    except OSError as error:
        raise InputError(
            f"cannot read the root {path}: {error.strerror}.",
            "Give the file of `registry trust root`, or its SHA-256 in hexadecimal digits.",
        ) from None


def _published(store: Store) -> dict[str, TargetFile]:
    """All targets; python-tuf has verified the file a moment ago."""
    from tuf.api.metadata import Metadata, Targets

    metadata: Metadata[Targets] = Metadata.from_file(str(store.folder / "metadata" / "targets.json"))
    targets = metadata.signed.targets
    if lacking := [name for name in _SHARED if name not in targets]:
        raise TrustError(f"the trust root of {store.url} lacks {lacking[0]}.", "Tell the registry.")
    return targets


def _chosen(targets: Iterable[str], model: str | None) -> dict[str, list[str]]:
    """The paths of the members of each bundle wanted, by the bundle's name."""
    found: dict[str, list[str]] = {}
    labels: dict[str, tuple[str, str]] = {}
    for path in targets:
        if member := _MEMBER.fullmatch(path):
            found.setdefault(member[1], []).append(path)
            labels[member[1]] = (member[2], f"{member[2]}@{member[3]}")
    chosen = {name: paths for name, paths in found.items() if model is None or model in labels[name]}
    if model is not None and not chosen:
        published = ", ".join(sorted(label for _, label in labels.values())) or "none"
        raise InputError(f"the registry publishes no network of {model}; published: {published}.")
    return chosen


def _assembled(path: Path, members: Sequence[str], files: Mapping[str, Path], registry: str) -> Path:
    """The bundle of these members at ``path``, after it was verified."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    names = {_member_name(member): files[member] for member in members}
    try:
        with temporary.open("wb") as file, ArchiveWriter(file) as archive:
            for name in sorted(names, key=lambda name: (name == MANIFEST, name)):
                archive.add(name, names[name])
        Bundle.open(temporary, registry).verify()
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}.", "Choose another --home.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _member_name(target: str) -> str:
    found = _MEMBER.fullmatch(target)
    assert found is not None
    return found[4]


def _only_grew(store: Store, registry: str, key: Ed25519PublicKey, head: Checkpoint) -> None:
    """Whether the ledger of the new checkpoint extends the one of the update before."""
    kept = store.folder / CHECKPOINT
    if not kept.exists():
        return
    note = kept.read_text()
    last = merkle.Checkpoint.open(note, key)
    try:
        if last.size >= head.size or not last.size:
            merkle.verify_consistency(last.size, head.size, [], last.root, head.root)
            return
        document = Client(store.url).consistency(last.size, head.size)
        newest = proof.check_consistency(document, registry, note)
    except (TrustError, RefusedError) as error:
        raise TrustError(
            f"the registry does not prove that its ledger of {head.size} entries extends the one of "
            f"{last.size} that this device has seen ({error}): entries may have been changed or dropped.",
            f"Keep {kept} as evidence and ask the registry.",
        ) from None
    if newest != head:
        raise TrustError(
            f"the registry shows two ledgers of {head.size} entries: one in its trust root, one beside it.",
            f"Keep {store.folder} as evidence and ask the registry.",
        )
