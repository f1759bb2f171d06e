"""Check on your device, in a real browser with a real network: the same readings as the command line's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Request, expect
from sqlalchemy import select

from registry.accounts import service as accounts
from registry.attribution.attacks import ATTACKS
from registry.console.assets import Assets
from registry.fingerprints.basis import Basis
from registry.generators import service as generators
from registry.generators.adapters import get_adapter, to_images
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import UserKey
from tests.absent import absent
from tests.registry.accounts.support import add_admin
from tests.registry.console.browser import (
    DARK,
    LIGHT,
    PHONE,
    Console,
    Watched,
    accessibility,
    console,
    overflows,
)
from verifier.images import load_image
from verifier.network import Network
from verifier.phi import unpack

BUILTIN = Path(generators.__file__).parent.parent / "builtins" / "flowers-ldm" / "1"
RECIPIENT = "ada@example.org"
QUANTA = 1
"""By which logits may differ: rounding of another runtime's sums."""


@pytest.fixture(scope="module")
def copy_id(served: Console) -> str:
    return str(the_key(served.home).document["copy_id"])


@pytest.fixture(scope="module")
def suspects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suspects")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, suspects: Path) -> Iterator[Console]:
    """A registry with the flowers and one copy, whose image and others lie in ``suspects``."""
    if Assets.load().folder("onnxruntime") is None:
        absent("the runtime for browsers is not built: make assets")
    folder = tmp_path_factory.mktemp("device") / "home"
    Home.create(folder)
    home = Home.open(folder)
    generators.add_model(home, "flowers", "latent-diffusion", "builtin:flowers-ldm@1")
    with home.database.write() as session:
        accounts.add_recipient(session, RECIPIENT)
    keys.Issuer.open(home, "flowers", RECIPIENT).issue(1)
    signs = torch.from_numpy(unpack(keys.derive(home, the_key(home))))[None]
    generator = get_adapter("latent-diffusion").load(BUILTIN / "model")
    offsets = Basis.load(BUILTIN / "basis.safetensors").offsets(signs)
    (image,) = to_images(generator.render(generator.sample_latents(1, seed=3), offsets))
    make_suspects(image, suspects)
    add_admin(home)
    add_admin(home, "eve", "rival")
    with console(home) as found:
        yield found
    home.close()


def the_key(home: Home) -> keys.IssuedKey:
    with home.database.read() as session:
        (key_id,) = session.execute(select(UserKey.key_id)).scalars()
        return keys.get_key(session, home.identity.registry, f"copy-{key_id.hex()}")


def make_suspects(image: Image.Image, folder: Path) -> None:
    image.save(folder / "copy.png")
    image.resize((512, 512), Image.Resampling.LANCZOS).save(folder / "large.png")
    ATTACKS["jpeg50"](image, np.random.default_rng(0)).save(folder / "jpeg.png")
    image.crop((4, 6, 60, 58)).resize((200, 186), Image.Resampling.BICUBIC).save(folder / "crop.png")
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "foreign.png")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned back
    turned.resize((256, 256)).save(folder / "turned.jpg", quality=95, subsampling=0, exif=exif)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.arange(64) < 8, 0, 255).astype(np.uint8)[None].repeat(64, 0)))
    clear.save(folder / "clear.png")
    (folder / "no-image.png").write_text("no image")


@pytest.fixture(scope="module")
def ada(served: Console) -> Watched:
    tab = served.page()
    tab.sign_in("ada")
    tab.page.goto("/console/device")
    return tab


def check(tab: Watched, path: Path) -> Any:
    """The finding that the page shows for an image, newest first."""
    tab.page.get_by_label("Images").set_input_files(path)
    row = tab.page.locator("article[data-done]").filter(has_text=path.name).first
    row.wait_for()
    return row


READ_ALIKE = ("copy.png", "large.png", "jpeg.png", "crop.png", "foreign.png", "clear.png")


@pytest.mark.parametrize("name", READ_ALIKE)
def test_the_browser_reads_what_the_command_line_reads(ada: Watched, suspects: Path, name: str) -> None:
    row = check(ada, suspects / name)
    network = Network.load(BUILTIN / "network", "cpu")
    reading = network.read(load_image(suspects / name, network.side).image)
    assert json.loads(row.get_attribute("data-pose")) == {**vars(reading.pose)}
    read = np.array(json.loads(row.get_attribute("data-logits")))
    assert np.abs(read - reading.logits).max() <= QUANTA
    assert ada.wrong == []


def test_a_photograph_is_turned_as_it_says(ada: Watched, suspects: Path) -> None:
    row = check(ada, suspects / "turned.jpg")
    network = Network.load(BUILTIN / "network", "cpu")
    reading = network.read(load_image(suspects / "turned.jpg").image)
    read = np.array(json.loads(row.get_attribute("data-logits")))
    assert np.corrcoef(read, reading.logits)[0, 1] > 0.999, "two decoders may round colours differently"


def test_whose_copy_is_said_and_only_readings_are_sent(
    served: Console, ada: Watched, suspects: Path, copy_id: str
) -> None:
    sent: list[Request] = []
    ada.page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    row = check(ada, suspects / "copy.png")
    expect(row).to_contain_text(f"This image depends on the key of {copy_id}.")
    expect(row).to_contain_text(RECIPIENT)
    row.get_by_text("What this means").click()
    expect(row).to_contain_text("provisional")
    (request,) = sent
    body = json.loads(request.post_data or "")
    assert set(body) == {"model", "network", "images", "groups"}
    assert [set(image) for image in body["images"]] == [{"readings"}]

    row = check(ada, suspects / "foreign.png")
    expect(row).to_contain_text("No copy can be named for this image.")
    row = check(ada, suspects / "no-image.png")
    expect(row).to_contain_text("It is no image that this browser can read.")


def test_only_this_page_may_run_webassembly(served: Console, ada: Watched) -> None:
    answer = ada.page.request.get("/console/device")
    assert "'wasm-unsafe-eval'" in answer.headers["content-security-policy"]
    assert "wasm" not in ada.page.request.get("/console/models").headers["content-security-policy"]


def test_nothing_of_another_organisation(served: Console, ada: Watched) -> None:
    address = ada.page.locator("#f-model option").get_attribute("data-network")
    assert ada.page.request.get(f"{address}/network.json").ok
    assert ada.page.request.get(f"{address}/foreign.npz").status == 404
    eve = served.page()
    eve.sign_in("eve")
    eve.page.goto("/console/device")
    expect(eve.page.get_by_role("heading", name="No model to check against")).to_be_visible()
    assert eve.page.request.get(f"{address}/network.onnx").status == 404


@pytest.mark.parametrize("kind", [LIGHT, DARK, PHONE])
def test_the_page_looks_right(served: Console, suspects: Path, kind: str) -> None:
    tab = served.page(served.context(kind))
    tab.sign_in("ada")
    tab.page.goto("/console/device")
    check(tab, suspects / "large.png")
    check(tab, suspects / "foreign.png")
    tab.shot("device", kind)
    assert accessibility(tab.page) == []
    assert not overflows(tab.page)
