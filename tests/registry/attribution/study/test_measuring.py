"""A study of the tiny model from end to end: short, but nothing in it is made up."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from registry import cli
from registry.attribution import service
from registry.attribution.study import measuring
from registry.attribution.study.measuring import accuracies, run
from registry.attribution.study.plan import Sweep
from registry.attribution.study.report import write_report
from registry.attribution.study.results import ATTACKS, CLEAN, MIX, Study
from registry.errors import InputError
from registry.fingerprints import learned, learned_stylegan2
from registry.fingerprints.basis import Basis
from registry.generators import service as generators
from registry.home import Home
from tests.registry.generators.stylegan2.support import make_model
from tests.registry.support import MODEL

SWEEP = Sweep(points=("pca:last:8:6", "pca:0:16:25dB"), steps=2, images=20)
LEARNED = Sweep(schemes="learned", bits="8,16", psnrs="25,28", steps=2, images=20)


@pytest.fixture(scope="module", autouse=True)
def _few_latents() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "HELD_OUT", 60)
        patch.setattr(measuring, "LEAST_LATENTS", 100)
        patch.setattr(measuring, "CALIBRATION", 30)
        patch.setattr(learned, "NOISE_IMAGES", 64)
        patch.setattr(learned, "PARAMETERS", 120)
        patch.setattr(learned_stylegan2, "CONTENT_IMAGES", 64)
        patch.setattr(learned_stylegan2, "PARAMETERS", 200)
        patch.setattr(learned_stylegan2, "MANY", 4)
        patch.setattr(learned_stylegan2, "JOINT_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def studied(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, list[str]]:
    """The home after a first study, which was stopped before its second point; that study; what was said."""
    folder = Path(shutil.copytree(ready_sqlite, tmp_path_factory.mktemp("study") / "home"))
    home = Home.open(folder)

    def stop(line: str) -> None:
        if line.startswith("point 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(home, MODEL, SWEEP, data=None, say=stop)
    said: list[str] = []
    study = run(home, MODEL, SWEEP, data=None, say=said.append)
    home.close()
    return folder, study, said


def networks(home: Path) -> dict[str, torch.Tensor]:
    """A tensor of each network trained so far."""
    return {
        path.parent.name: torch.load(path, weights_only=True)["averaged"]["head.weight"]
        for path in home.glob("training/*/*/study/*/network.pt")
    }


def test_a_stopped_study_goes_on_with_what_is_missing(studied: tuple[Path, Study, list[str]]) -> None:
    home, study, said = studied
    assert said[0].startswith("2 points, 1 of them measured before: about ")
    assert next(line for line in said if line.startswith("point")).startswith(
        "point 2 of 2: pca, shift 0, k 16"
    )
    assert len(networks(home)) == 2
    assert [result.steps for result in study.results] == [2, 2, None]


def test_every_figure_is_there_and_possible(studied: tuple[Path, Study, list[str]]) -> None:
    _, study, _ = studied
    for result in study.results:
        assert set(result.attacks) == {CLEAN, *ATTACKS, MIX}
        for figures in result.attacks.values():
            assert all(0 <= figures[name] <= 1 for name in ("every_bit", "bits_right", "identified"))
            assert 0 <= figures["evidence_5"] <= figures["evidence_50"] <= 0.31 * result.point.bits
        assert 5 < result.quality["psnr_db"] < 60
        assert 0 < result.quality["ssim"] < 1
        assert result.quality["perceptual"] > 0
        assert result.quality["frechet"] > 0
    assert study.results[0].strength == 6
    assert study.results[1].quality["psnr_db"] == pytest.approx(25, abs=1.5), "the target, on other latents"
    assert study.results[2].point.bits == 32, "the registered basis"
    assert study.recommendation.index in (0, 1)


def test_a_second_run_trains_and_measures_nothing(
    studied: tuple[Path, Study, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, study, _ = studied

    def never(*_: object, **__: object) -> None:
        raise AssertionError("everything is cached")

    monkeypatch.setattr(measuring, "train_network", never)
    monkeypatch.setattr(measuring, "accuracies", never)
    said: list[str] = []
    opened = Home.open(home)
    again = run(opened, MODEL, SWEEP, data=None, say=said.append)
    opened.close()
    assert said[0] == "2 points, all measured before."
    assert again.results == study.results


def test_more_images_are_measured_with_the_networks_there_are(studied: tuple[Path, Study, list[str]]) -> None:
    home, _, _ = studied
    before, opened = networks(home), Home.open(home)
    more = Sweep(points=SWEEP.points[:1], steps=2, images=24)
    assert run(opened, MODEL, more, data=None, say=lambda line: None).images == 24
    opened.close()
    after = networks(home)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_target_that_no_strength_reaches_is_refused_before_training(
    studied: tuple[Path, Study, list[str]],
) -> None:
    home, _, _ = studied
    before, opened = networks(home), Home.open(home)
    impossible = Sweep(points=("pca:8:8:25dB", "pca:8:8:11dB"), steps=2, images=20)
    with pytest.raises(InputError, match="pca, shift 8, k 8, 11 dB") as caught:
        run(opened, MODEL, impossible, data=None, say=lambda line: None)
    opened.close()
    assert "--psnrs" in caught.value.hint
    assert networks(home).keys() == before.keys()


def test_learned_directions_are_points_of_a_study(
    studied: tuple[Path, Study, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(studied[0], tmp_path / "home"))
    taken: list[int] = []
    columns = learned._columns
    monkeypatch.setattr(learned, "_columns", lambda *a: (taken.append(1), columns(*a))[1])
    opened, said = Home.open(home), list[str]()
    study = run(opened, MODEL, LEARNED, data=None, say=said.append)
    opened.close()
    swept = [result for result in study.results if not result.registered]
    assert [str(result.point) for result in swept] == [
        "learned, k 8, 25 dB", "learned, k 8, 28 dB", "learned, k 16, 25 dB", "learned, k 16, 28 dB"
    ]  # fmt: skip
    for result in swept:
        assert result.quality["psnr_db"] == pytest.approx(result.point.psnr, abs=1.5)
    assert len(taken) == learned.JACOBIANS, "the statistics serve both lengths and all strengths"
    assert "learned directions" in said[0]
    found = {path: Basis.load(path) for path in home.glob("training/*/*/study/*/basis.safetensors")}
    assert sum(basis.scheme == "learned" for basis in found.values()) == len(swept)
    for path, basis in found.items():
        if basis.scheme == "learned":
            with safe_open(path.with_name(learned.FILTERS), "pt") as filters:
                assert filters.get_slice("filters").get_shape()[1] == basis.bits, "each point has its own"
    write_report(study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "--scheme learned" in page
    assert "--shift" not in page


def test_a_stylegan2_is_studied_with_its_learned_directions_too(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    Home.create(tmp_path / "home")
    home = Home.open(tmp_path / "home")
    generators.add_model(home, "style", "stylegan2", str(tmp_path / "model"))
    sweep = Sweep(points=("learned:16:28dB", "learned:8:0.05", "pca:last:8:0.5"), steps=2, images=20)
    study = run(home, "style", sweep, data=None, say=lambda line: None)
    home.close()
    assert [result.point.scheme for result in study.results] == ["learned", "learned", "pca"]
    assert study.results[0].quality["psnr_db"] == pytest.approx(28, abs=1.5)
    assert study.results[1].strength == 0.05
    readers = list(tmp_path.glob(f"home/training/*/*/study/*/{learned.FILTERS}"))
    assert len(readers) == 1 + 2, "left by learning, and carried along to the two learned points"


def test_the_report_has_every_point_in_every_plot_and_stands_alone(
    studied: tuple[Path, Study, list[str]], tmp_path: Path
) -> None:
    _, study, _ = studied
    write_report(study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    plots = re.findall(r'<svg viewBox="0 0 \d+ \d+" role="img".*?</svg>', page)
    assert len(plots) == 1 + 4 * 4
    for plot in plots:
        points = re.findall(r'data-point="(\d+)"', plot)
        assert set(points) == {"1", "2", "3"}
        assert not re.search(r"\b(nan|inf)\b", re.sub(r"<title>.*?</title>", "", plot))
    for measure in ("every bit right", "bit accuracy", "named among a million", "evidence, decades"):
        assert sum(f"{measure}" in plot for plot in plots) >= 4
    for result in study.results:
        assert f"<td>{result.quality['psnr_db']:.2f}</td>" in page
    assert page.count("<img ") == 3 * len(study.pictures) > 0
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    assert study.perceptual_name in page


def test_the_command_writes_the_report_and_refuses_what_cannot_be(
    studied: tuple[Path, Study, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, study, _ = studied
    out = tmp_path / "study.html"
    arguments = ["--home", str(home), "model", "study", MODEL, "--steps", "2", "--images", "20"]
    points = [part for point in SWEEP.points for part in ("--points", point)]
    assert cli.run([*arguments, *points, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [p["attacks"] for p in document["points"]] == [dict(r.attacks) for r in study.results]
    assert out.stat().st_size > 10_000
    for refused in (
        ["--bits", "128"],
        ["--shifts", "63"],
        ["--schemes", "pca-projected"],
        ["--data", str(tmp_path / "none")],
        ["--out", str(tmp_path / "none" / "study.html")],
    ):
        assert cli.run([*arguments, *refused]) == 2
        error = capsys.readouterr().err
        assert refused[0] in error
        assert error.count("\n") == 1


def test_accuracies_of_known_readings() -> None:
    signs = np.ones((2, 64))
    perfect, half = np.full((2, 64), 8.0), np.where(np.arange(64) % 2, 8.0, -8.0) * np.ones((2, 1))
    found = accuracies({CLEAN: perfect, "blur": perfect, "noise": half}, signs)
    assert found[CLEAN]["every_bit"] == found[CLEAN]["bits_right"] == found[CLEAN]["identified"] == 1
    assert found[CLEAN]["evidence_50"] == pytest.approx(64 * np.log10(2), abs=1e-6)
    assert found["noise"]["bits_right"] == 0.5
    assert found["noise"]["identified"] == 0
    assert found[MIX]["every_bit"] == 0.5, "the mix pools the attacks and leaves the clean images out"


def test_a_bit_that_is_not_read_is_a_guess() -> None:
    found = accuracies({CLEAN: np.zeros((1, 8)), "blur": np.zeros((1, 8))}, np.ones((1, 8)))
    assert found[CLEAN]["bits_right"] == 0.5
    assert found[CLEAN]["every_bit"] == 0
    assert found[CLEAN]["evidence_5"] == 0


def test_photographs_add_the_increase_of_the_distance_to_them() -> None:
    rng = np.random.default_rng(0)
    base, real = rng.standard_normal((2, 60, 4))
    found = measuring._distances(base, base + 1.0, real)
    assert found["frechet"] == pytest.approx(4)
    assert found["frechet_increase_low"] < found["frechet_increase"] < found["frechet_increase_high"]
    assert "frechet_increase" not in measuring._distances(base, base, None)
