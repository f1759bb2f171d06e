"""A backup, restored on an empty machine with another database, through the command lines alone."""

from __future__ import annotations

from pathlib import Path

from registry.storage import folder_manifest, manifest_digest
from tests.e2e.conftest import World, succeed
from tests.registry.support import postgres_database

PASSPHRASE = "correct horse battery staple"


def test_an_image_from_before_the_fire_leads_to_its_recipient(
    world: World, postgres_server: str, tmp_path: Path
) -> None:
    secret, backup, home = tmp_path / "passphrase", tmp_path / "monday.backup", tmp_path / "new"
    secret.write_text(PASSPHRASE + "\n")
    succeed(world.home, "registry", "backup", "--out", backup, "--passphrase-file", secret)
    assert b"ada@example.com" not in backup.read_bytes()

    with postgres_database(postgres_server) as url:
        elsewhere = {"HALLMARK_DATABASE_URL": url}
        key = ("--master-key", world.home / "master.key", "--passphrase-file", secret)
        succeed(home, "registry", "restore", backup, *key, environment=elsewhere)
        before = succeed(world.home, "registry", "ledger", "verify", "--json").json
        assert succeed(home, "registry", "ledger", "verify", "--json", environment=elsewhere).json == before

        ada = world.certificates["ada"]["copy_id"]
        succeed(home, "registry", "download", ada, "--out", tmp_path / "ada", environment=elsewhere)
        assert _digest(tmp_path / "ada") == _digest(world.copy)

        bundle = tmp_path / "new.bundle"
        export = ("bundle", "export", "--out", bundle, "--with-keys", "--with-recipients")
        succeed(home, "registry", *export, environment=elsewhere)
    done = world.check(world.images[0], bundle=bundle)
    assert done.code == 0, done.err
    (copy,) = done.json[0]["copies"]
    assert (copy["id"], copy["recipient"]) == (ada, "ada@example.com")


def _digest(folder: Path) -> str:
    return manifest_digest(folder_manifest(folder))
