"""`verifier check --registry` against the served registry, compared with the same check offline."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from registry.accounts import tokens
from registry.accounts.permissions import Permission, Role
from registry.app import create_app
from registry.bundles.service import BundleOptions, export
from registry.generators import service as generators
from registry.generators.builtin import resolve_builtin
from registry.home import Home
from registry.keys import service as keys
from registry.lineage import service as lineage
from registry.trust import service as trust
from tests.registry.cases.support import samples
from tests.registry.resolve.support import caller, issue, organisation, signs
from tests.registry.support import BITS, MODEL, SIDE, TinyModel
from tests.registry.trust.clients import served
from verifier import Verifier, cli
from verifier.bundle import Bundle
from verifier.client import Client
from verifier.errors import InputError, TrustError
from verifier.finding import OnlineFinding
from verifier.network import Network
from verifier.online import OnlineVerifier, needed
from verifier.scan import scan
from verifier.update import update

UNDISCLOSED = ("matching_bits", "log10_p", "log10_p_family")


@dataclass
class Recorder:
    """Before the registry: what was sent to it, and answers of somebody else's."""

    app: Any
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)
    forged: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "POST":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            self.bodies.append(body)
            self.headers.append({name: value for name, value in environ.items() if name.startswith("HTTP_")})
            environ["wsgi.input"] = io.BytesIO(body)
        if path in self.forged:
            content = json.dumps(self.forged[path]).encode()
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        return self.app(environ, start_response)


@dataclass
class World:
    """A served registry with keys, a device that fetched its network, and the registry's own full bundle."""

    home: Home
    tiny: TinyModel
    folder: Path
    key_ids: list[str]
    url: str = ""
    recorder: Recorder = field(default_factory=lambda: Recorder(None))

    @property
    def device(self) -> Path:
        return self.folder / "device"

    def token(self, role: Role = Role.AUDITOR, owner: str = "default", **options: Any) -> str:
        number = organisation(self.home, owner)
        with self.home.database.write() as session:
            return tokens.create(session, number, "test", role, **options)[1]

    def bundle(self) -> Path:
        """With keys: what an auditor has offline."""
        path = self.folder / "full.bundle"
        export(self.home, path, BundleOptions(with_keys=True))
        return path

    def image(self, reading: np.ndarray, name: str) -> Path:
        """An image off which the network reads nearly these logits."""
        graph = onnx.load(self.tiny.network / "network.onnx").graph
        weight = next(onnx.numpy_helper.to_array(each) for each in graph.initializer if each.name == "weight")
        grey = np.full(len(weight), 128.0)
        pixels = grey + np.linalg.pinv(weight.T) @ (reading - grey @ weight)
        path = self.folder / f"{name}.png"
        rounded = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        Image.fromarray(rounded.reshape(SIDE, SIDE, 3)).save(path)
        return path

    def of_copy(self, number: int, name: str = "suspect") -> Path:
        return self.image(4.0 * signs(self.home, self.key_ids[number]), name)

    def foreign(self, seed: int = 5) -> Path:
        rng = np.random.default_rng(seed)
        path = self.folder / f"foreign{seed}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        return path

    def unsure(self, seed: int) -> Path:
        """An image that has to be searched."""
        return self.image(np.random.default_rng(seed).uniform(-0.5, 0.5, BITS), f"unsure{seed}")

    def online(self, token: str) -> OnlineVerifier:
        bundle = Bundle.open(next(self.device.glob("*/bundles/*.bundle")), self.home.identity.registry)
        return OnlineVerifier([bundle], Client(self.url, token), "cpu")

    def run(self, *arguments: Any, token: str | None = None) -> Result:
        """`verifier check ARGUMENTS --registry URL`, with the token in the environment."""
        shown = ["check", *map(str, arguments), "--registry", self.url, "--home", str(self.device)]
        return CliRunner().invoke(cli.cli, shown, env={"HALLMARK_TOKEN": token})


@pytest.fixture
def world(sqlite_ready: Home, tiny: TinyModel, tmp_path: Path) -> Iterator[World]:
    made = World(sqlite_ready, tiny, tmp_path, issue(sqlite_ready, 4))
    trust.create(sqlite_ready, [Ed25519PrivateKey.generate()])
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, MODEL)
    trust.publish(sqlite_ready, add=[model])
    root = tmp_path / "root.json"
    root.write_bytes(trust.first_root(sqlite_ready))
    with served(sqlite_ready) as (made.url, between):
        made.recorder = between.app = Recorder(between.app)
        update(made.url, made.device, root=str(root))
        yield made


def printed(result: Result) -> list[dict[str, Any]]:
    """The findings; the served registry writes its log to the same stream."""
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"schema"')]


def comparable(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding but for what a registry does not disclose, and for what belongs to one run."""
    kept = {name: finding[name] for name in ("schema", "verdict", "model", "lineage", "network")}
    evidence = {name: finding["evidence"][name] for name in ("bits", "alpha", "groups")}
    images = [{k: v for k, v in image.items() if not k.startswith("log10")} for image in finding["images"]]
    naming = [image for image in images if image["alone"]]
    for image in naming[1:] if finding["verdict"] == "attributed" else []:
        image["alone"] = []  # of a set that names somebody, only the first image that does so is told
    copies = [{k: v for k, v in copy.items() if k not in UNDISCLOSED} for copy in finding["copies"]]
    return {**kept, "evidence": evidence, "images": images, "copies": copies, "ledger": finding["ledger"]}


@pytest.mark.parametrize("as_set", [False, True], ids=["alone", "set"])
def test_the_finding_is_the_same_online_and_offline(world: World, as_set: bool) -> None:
    keys.revoke(world.home, world.key_ids[2], "leaked")
    update(world.url, world.device)
    trust.publish(world.home)
    update(world.url, world.device)
    images = [world.of_copy(2), world.of_copy(2, "again"), world.unsure(5), world.folder / "missing.png"]
    options = ["--json", "--device", "cpu", *(["--set"] if as_set else [])]
    online = world.run(*images, *options, token=world.token())
    offline = CliRunner().invoke(
        cli.cli, ["check", *map(str, images), "--bundle", str(world.bundle()), *options]
    )
    assert online.exit_code == offline.exit_code == 2, online.output
    found, expected = printed(online), printed(offline)
    assert [comparable(each) for each in found] == [comparable(each) for each in expected]
    verdicts = ["attributed"] if as_set else ["attributed", "attributed", "not-attributed", "not-attributed"]
    assert [each["verdict"] for each in found] == verdicts
    assert found[0]["copies"][0]["key_id"] == world.key_ids[2]
    assert found[0]["copies"][0]["revoked"]
    assert found[0]["ledger"]["verified"]
    assert (found[0]["provisional"], len(found[0]["resolution"])) == (True, 24)
    assert list(expected[0]) == [name for name in found[0] if name not in ("resolution", "provisional")]


def test_images_that_contradict_each_other_get_no_verdict_online_either(world: World) -> None:
    images = [world.of_copy(1), world.unsure(5), world.of_copy(2, "other")]
    online = world.run(*images, "--set", "--json", token=world.token())
    options = ["--bundle", str(world.bundle()), "--set", "--json", "--device", "cpu"]
    offline = CliRunner().invoke(cli.cli, ["check", *map(str, images), *options])
    assert online.exit_code == offline.exit_code == 1, online.output
    (found,), (expected,) = printed(online), printed(offline)
    assert comparable(found) == comparable(expected)
    assert (found["verdict"], found["copies"], found["ledger"]["index"]) == ("not-attributed", [], None)
    first, second = (f"copy-{world.key_ids[number]}" for number in (1, 2))
    assert [image["alone"] for image in found["images"]] == [[first], [], [second]]
    said = world.run(*images, "--set", token=world.token()).output
    assert "contradict each other" in said


def test_only_integers_leave_and_the_token_is_nowhere_but_in_its_header(world: World) -> None:
    token = world.token()
    images = [world.of_copy(0, "secret-name"), world.unsure(1)]
    result = world.run(*images, "--json", token=token)
    assert result.exit_code == 1, result.output
    assert len(world.recorder.bodies) == 2
    for body, headers in zip(world.recorder.bodies, world.recorder.headers, strict=True):
        document = json.loads(body)
        assert set(document) == {"model", "network", "images", "alpha", "groups"}
        (image,) = document["images"]
        assert list(image) == ["readings"]
        assert all(type(logit) is int for reading in image["readings"] for logit in reading)
        assert b"secret-name" not in body
        assert token.encode() not in body
        assert headers["HTTP_AUTHORIZATION"] == f"Bearer {token}"
    assert token not in result.output
    assert len(json.loads(world.recorder.bodies[0])["images"][0]["readings"]) == 1
    assert len(json.loads(world.recorder.bodies[1])["images"][0]["readings"]) > 1, "it was searched"


def test_people_read_that_it_is_provisional(world: World) -> None:
    result = world.run(world.of_copy(1), token=world.token())
    assert result.exit_code == 0, result.output
    for said in ("copy-" + world.key_ids[1], "provisional", "not the image", "asked with the readings alone"):
        assert said in result.stdout
    assert "signature and proof hold" in result.stdout
    assert "which you trust" in result.stdout


def test_under_a_grant_there_are_pseudonyms_and_nothing_is_verified(world: World) -> None:
    auditors = organisation(world.home, "Auditors")
    assert auditors
    owner = world.online(world.token(Role.ADMIN))
    assert owner.left_out == []
    token = world.token(owner="Auditors")
    with pytest.raises(InputError, match="may not ask about tiny@1"):
        world.online(token)
    grant(world)
    result = world.run(world.of_copy(3), "--json", token=token)
    assert result.exit_code == 0, result.output
    (found,) = printed(result)
    (copy,) = found["copies"]
    assert (copy["id"], copy["issued_at"], copy["sha256"]) == (None, None, None)
    assert copy["key_id"] != world.key_ids[3]
    assert found["ledger"]["verified"] is False
    shown = world.run(world.of_copy(3), token=token)
    assert f"pseudonym {copy['key_id']}" in shown.stdout
    assert "the registry's word" in shown.stdout


def grant(world: World, **fields: Any) -> None:
    owner = caller(world.home, create_app(world.home), role=Role.ADMIN)
    answer = owner.post("/grants", {"model": MODEL, "organisation": "Auditors", **fields})
    assert answer.status_code == 201, answer.json


def forged_key(world: World, key_id: str, **changes: Any) -> dict[str, Any]:
    """What the registry says about a key, altered."""
    return {**Client(world.url, world.token()).key(key_id), **changes}


def test_a_certificate_that_does_not_hold_is_refused(world: World) -> None:
    suspect, token, key_id = world.of_copy(0), world.token(), world.key_ids[0]
    path = f"/api/v1/keys/{key_id}"
    genuine = Client(world.url, token).key(key_id)["certificate"]
    other = Client(world.url, token).key(world.key_ids[1])
    for described, said in (
        ({"certificate": {**genuine, "redraws": 7}}, "signature of the certificate"),
        ({"certificate": other["certificate"], "ledger_index": other["ledger_index"]}, "another key"),
        ({"ledger_index": other["ledger_index"]}, "another record"),
        ({"ledger_index": None}, "no place in the ledger"),
    ):
        world.recorder.forged[path] = forged_key(world, key_id, **described)
        result = world.run(suspect, token=token)
        assert (result.exit_code, said in result.stderr) == (3, True), result.output
        world.recorder.forged.clear()
    assert world.run(suspect, token=token).exit_code == 0


def test_a_ledger_that_does_not_extend_the_one_that_was_fetched_is_refused(world: World) -> None:
    suspect, token = world.of_copy(0), world.token()
    issue(world.home, 3)  # the ledger has grown since the bundle was fetched
    assert world.run(suspect, token=token).exit_code == 0
    growth = Client(world.url).consistency(5, 8)
    forged = {**growth, "proof": [bytes(32).hex() for _ in growth["proof"]]}
    world.recorder.forged["/api/v1/ledger/consistency"] = forged
    result = world.run(suspect, token=token)
    assert result.exit_code == 3
    assert "does not extend" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "perhaps"},
        {"verdict": "attributed", "copies": []},
        {"copies": [{"id": "copy-1"}]},
        {"schema": "hallmark/finding/9"},
        {"evidence": None},
        {"images": []},
        {"images": [{"alone": None}]},
        {"resolution": None, "provisional": None, "evidence": {"hypotheses": "many"}},
    ],
)
def test_an_answer_that_is_no_finding_is_refused(world: World, change: dict[str, Any]) -> None:
    genuine = Client(world.url, world.token()).resolve(json.loads(query(world)))
    world.recorder.forged["/api/v1/resolve"] = {**genuine, **change}
    result = world.run(world.foreign(), token=world.token())
    assert result.exit_code == 3, result.output
    assert "finding" in result.stderr


def query(world: World) -> bytes:
    """What the verifier asks about the foreign image."""
    assert world.run(world.foreign(), token=world.token()).exit_code == 1
    return world.recorder.bodies[-1]


def test_refusals_are_sentences(world: World) -> None:
    suspect = world.of_copy(0)
    organisation(world.home, "Auditors")

    def refused(token: str | None, *said: str, status: int = 2) -> None:
        result = world.run(suspect, token=token)
        lines = [line for line in result.stderr.splitlines() if line.startswith("verifier:")]
        assert (result.exit_code, len(lines)) == (status, 1), result.output
        for text in said:
            assert text in lines[0]

    refused(None, "needs a token", "HALLMARK_TOKEN", "--token-file")
    refused("two words", "holds no token")
    refused("hmk_nothing", "does not accept the token")
    refused(world.token(Role.VIEWER), "may not do this", "resolve")
    refused(world.token(owner="Auditors"), "may not ask about tiny@1", "grant")
    grant(world, daily_units=1)
    token = world.token(owner="Auditors")
    assert world.run(world.foreign(), token=token).exit_code == 1
    refused(token, "the budget of queries is spent", "Try again in")


def test_a_model_that_is_closed_meanwhile_and_a_network_that_is_gone(world: World) -> None:
    organisation(world.home, "Auditors")
    grant(world)
    verifier = world.online(world.token(owner="Auditors"))
    owner = caller(world.home, create_app(world.home), role=Role.ADMIN)
    (given,) = owner.get("/grants").json["items"]
    assert owner.request("DELETE", f"/grants/{given['id']}").status_code == 204
    with pytest.raises(InputError, match="nothing of this name is open to the token"):
        verifier.check([world.of_copy(0)])
    own = world.online(world.token())
    own.networks[0].digest = "0" * 64
    with pytest.raises(InputError, match="cannot answer for this network") as caught:
        own.check([world.of_copy(0)])
    assert "verifier update" in caught.value.hint
    offered = list(Client(world.url, world.token()).resolvable())
    for network in offered[0]["networks"]:
        network["digest"] = "0" * 64
    world.recorder.forged["/api/v1/resolvable-models"] = {"items": offered, "next": None}
    with pytest.raises(InputError, match="accepts no readings of this network"):
        world.online(world.token())


def test_a_token_without_the_right_to_certificates_gets_the_registrys_word(world: World) -> None:
    token = world.token(scopes=[Permission.RESOLVE])
    (found,) = world.online(token).check([world.of_copy(0)])
    assert found.attributed
    assert not found.ledger.verified


def test_a_revocation_that_only_the_fetched_list_knows_counts(world: World) -> None:
    suspect, key_id = world.of_copy(0), world.key_ids[0]
    assert not world.online(world.token()).check([suspect])[0].copies[0].revoked
    genuine = Client(world.url, world.token()).resolve(json.loads(query_of(world, suspect)))
    assert genuine["copies"][0]["revoked"] is False
    keys.revoke(world.home, key_id, "leaked")
    trust.publish(world.home)
    update(world.url, world.device)
    world.recorder.forged["/api/v1/resolve"] = genuine
    assert world.online(world.token()).check([suspect])[0].copies[0].revoked


def test_an_older_bundle_with_keys_learns_the_revocations_that_were_fetched_since(world: World) -> None:
    suspect, bundle = world.of_copy(0), world.bundle()
    keys.revoke(world.home, world.key_ids[0], "leaked")
    trust.publish(world.home)

    def revoked(home: Path) -> bool:
        arguments = ["check", str(suspect), "--bundle", str(bundle), "--home", str(home), "--json"]
        (found,) = printed(CliRunner().invoke(cli.cli, arguments))
        assert found["ledger"]["verified"]
        return bool(found["copies"][0]["revoked"])

    assert not revoked(world.device), "not fetched yet"
    update(world.url, world.device)
    assert revoked(world.device)
    assert not revoked(world.folder / "empty")


def query_of(world: World, image: Path) -> bytes:
    world.run(image, token=world.token())
    return world.recorder.bodies[-1]


def test_a_set_of_many_images_sends_no_more_than_is_tested(world: World) -> None:
    network = Network.load(world.tiny.network, "cpu")
    images = [Image.open(world.unsure(seed)) for seed in range(3)]
    ranked = network.ranked(images)
    kept = needed(ranked)
    assert sum(map(len, kept)) <= 128 + 2 < sum(map(len, ranked))
    assert [each[0] for each in kept] == [each[0] for each in ranked]
    with pytest.raises(InputError, match="64 images in a set, not 65"):
        world.online(world.token()).check([world.of_copy(0)] * 65, as_set=True)
    assert not world.recorder.bodies


def test_what_cannot_be_read_is_not_asked_about(world: World) -> None:
    (found,) = world.online(world.token()).check([world.folder / "missing.png"])
    assert not isinstance(found, OnlineFinding)
    assert (found.verdict, found.has_errors, world.recorder.bodies) == ("not-attributed", True, [])
    with pytest.raises(InputError, match="at an alpha of 1e-06 at most"):
        world.online(world.token()).check([world.of_copy(0)], alpha=1e-3)


def test_tokens_are_not_sent_where_others_listen_nor_along_redirections(world: World) -> None:
    with pytest.raises(InputError, match="is not encrypted"):
        Client("http://registry.example", "hmk_secret")
    elsewhere: list[str] = []

    def redirecting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        elsewhere.append(environ["PATH_INFO"])
        location = f"{world.url}/elsewhere"
        start_response("302 Found", [("Location", location), ("Content-Length", "0")])
        return []

    world.recorder.app = redirecting
    with pytest.raises(InputError, match=r"refused \(302\)"):
        list(Client(world.url, "hmk_secret").resolvable())
    assert elsewhere == ["/api/v1/resolvable-models"]


def test_the_token_may_be_in_a_file(world: World) -> None:
    path = world.folder / "token"
    path.write_text(world.token() + "\n")
    assert world.run(world.of_copy(0), "--token-file", path).exit_code == 0
    path.write_text("\n")
    assert world.run(world.of_copy(0), "--token-file", path).exit_code == 2
    assert world.run(world.of_copy(0), "--token-file", world.folder / "none").exit_code == 2


def test_without_a_bundle_the_one_that_was_fetched_is_used(world: World) -> None:
    def check(*arguments: Any) -> Result:
        return CliRunner().invoke(cli.cli, ["check", str(world.of_copy(0)), *map(str, arguments)])

    offline = check("--home", world.device)
    assert offline.exit_code == 2
    assert "holds no keys of model tiny" in offline.stderr
    assert "--registry URL" in offline.stderr
    nothing = check("--home", world.folder / "empty")
    assert (nothing.exit_code, "nothing was fetched yet" in nothing.stderr) == (2, True)
    unknown = check("--home", world.device, "--registry", "https://other.example")
    assert (unknown.exit_code, "nothing was fetched from" in unknown.stderr) == (2, True)
    another = check("--home", world.device, "--trust", "0" * 32)
    assert (another.exit_code, "not " + "0" * 32 in another.stderr) == (3, True)
    assert check("--home", world.device, "--token-file", "x").exit_code == 2


def test_a_registry_that_cannot_be_reached(world: World) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        list(Client("http://127.0.0.1:9", "hmk_secret").resolvable())
    world.recorder.forged["/api/v1/resolvable-models"] = {"items": [{}], "next": None}
    with pytest.raises(TrustError, match="no list of models"):
        world.online(world.token())
    world.recorder.forged["/api/v1/resolvable-models"] = {}
    with pytest.raises(TrustError, match="no registry answers"):
        world.online(world.token())


def test_a_scan_asks_for_each_group_once_however_often_it_is_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        world.of_copy(2, name)
    world.unsure(5)
    out = world.folder / "findings.parquet"
    verifier = world.online(world.token())
    resolve, asked = verifier._client.resolve, []

    def spent(query: Any) -> dict[str, Any]:
        asked.append(query)
        if len(asked) == 2:
            raise InputError("the budget of queries is spent.", "Wait.")
        return resolve(query)

    monkeypatch.setattr(verifier._client, "resolve", spent)
    monkeypatch.setattr("verifier.scan.GROUPS_AT_A_TIME", 1)
    options: dict[str, Any] = {"rule": "none", "pose_search": False}
    with pytest.raises(InputError, match="budget"):
        scan([str(world.folder / "*.png")], out, verifier, **options)
    summary = scan([str(world.folder / "*.png")], out, verifier, **options)
    assert len(asked) == 3 + 1  # the refused one again
    assert {query["groups"] for query in asked} == {3}
    assert (summary.groups, summary.attributed, summary.undecided) == (3, 2, 1)
    by_name = {Path(row["path"]).name: row for row in pq.read_table(out).to_pylist()}
    assert by_name["first.png"]["key_id"] == world.key_ids[2]
    assert by_name["first.png"]["verdict"] == "attributed"
    together = scan([str(world.folder / "*.png")], out, world.online(world.token()), pose_search=False)
    # Of a set the registry tells the first image only that names somebody by itself.
    assert (together.groups, together.attributed, together.in_attributed_groups) == (1, 1, 2)


def test_the_example_of_the_python_page_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/verifier-api.md, the example that asks a registry."""
    from tests.verifier.test_api import examples, run

    monkeypatch.chdir(world.folder)
    world.of_copy(0)
    export(world.home, world.folder / "public.bundle", BundleOptions())
    (example,) = [(code, shown) for code, shown in examples() if "from_registry" in code]
    run(*example, {"url": world.url, "token": world.token()}, logged=True)
    fetched = Verifier.from_registry(world.url, token=world.token(), home=world.device, device="cpu")
    assert fetched.check([world.of_copy(1)])[0].attributed
    with pytest.raises(TrustError, match="not 0000"):
        Verifier.from_registry(world.url, token=world.token(), home=world.device, trust="0" * 32)
    with pytest.raises(InputError, match="nothing was fetched"):
        Verifier.from_registry(world.url, token=world.token(), home=world.folder / "empty")


def test_lineage_is_told_here_among_the_models_of_all_bundles(world: World) -> None:
    home, tiny = world.home, world.tiny
    other = generators.add_model(home, "other", "latent-diffusion", str(tiny.weights))
    with home.database.write() as session:
        generators.install_basis(session, home.storage, other, tiny.basis)
        generators.install_network(session, home.storage, other, tiny.network)
        model = generators.get_model(session, MODEL)
    for of, family in ((model, "vae"), (other, "flow")):
        shipped = resolve_builtin(f"builtin:zoo-{family}@1").lineage
        assert shipped is not None
        fingerprint = lineage.read_shipped(shipped)
        assert fingerprint is not None
        lineage.install(home.database, of, fingerprint)
    trust.publish(home, add=[other])
    update(world.url, world.device)
    for family in ("vae", "flow"):
        (world.folder / family).mkdir()
        for number, image in enumerate(samples(family, 8)):
            image.save(world.folder / family / f"{number}.png")
    for family, named in (("vae", "tiny@1"), ("flow", "other@1")):
        images = sorted((world.folder / family).iterdir())
        result = world.run(*images, "--set", "--json", "--no-pose-search", token=world.token())
        assert result.exit_code == 1, result.output
        (found,) = printed(result)
        assert (found["verdict"], found["lineage"]["model"]) == ("not-attributed", named)
        for body in world.recorder.bodies:
            assert [list(image) for image in json.loads(body)["images"]] == [["readings"]] * 8
    bundles = [Bundle.open(path, home.identity.registry) for path in world.device.glob("*/bundles/*.bundle")]
    checker = OnlineVerifier(bundles, Client(world.url, world.token()), "cpu")
    out = world.folder / "findings.parquet"
    summary = scan([str(world.folder / "flow")], out, checker, pose_search=False)
    assert summary.by_lineage == {"other@1": {"images": 8, "groups": 1}}
    assert set(pq.read_table(out)["lineage_model"].to_pylist()) == {"other@1"}
