from __future__ import annotations

import json
import math

import numpy as np
import pytest

from registry.cli import run
from registry.errors import InputError
from registry.generators import service
from registry.generators.card import ceiling_decades, decades_needed, describe_card, images_needed
from registry.home import Home
from registry.keys.models import UserKey
from registry.keys.service import Issuer
from tests.registry.support import MODEL, RECIPIENT


def test_a_verdict_among_a_million_takes_twelve_decades() -> None:
    assert decades_needed(10**6, 1e-6) == pytest.approx(12)
    assert decades_needed(10**6, 1e-6, 0.99) == pytest.approx(12 - math.log10(0.99))
    assert ceiling_decades(64) == pytest.approx(19.27, abs=0.01)
    assert ceiling_decades(64, collusion_resistant=True) == pytest.approx(14.33, abs=0.01)


def test_the_number_of_images_is_that_of_the_rule() -> None:
    assert images_needed(12, 44, 33) == 1
    assert images_needed(12, 5.7, 5.7) == 3
    assert images_needed(12, 0.001, 0) is None
    assert images_needed(12, 5.7, 3.1, ceiling=11.9) is None
    rng = np.random.default_rng(1)
    decades = rng.normal(3.0, 1.5, (20_000, 40))
    weak = float(np.quantile(decades[:, 0], 0.05))
    usual, careful = images_needed(12, 3.0, 3.0), images_needed(12, 3.0, weak)
    assert usual is not None
    assert careful is not None
    enough = np.cumsum(decades, axis=1) >= 12
    assert enough[:, usual - 1].mean() >= 0.49 > enough[:, usual - 2].mean()
    assert enough[:, careful - 1].mean() >= 0.949 > enough[:, careful - 2].mean()


def test_the_card_says_what_was_measured_and_what_was_redrawn(
    sqlite_ready: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(5)
    with sqlite_ready.database.write() as session:
        session.query(UserKey).first().redraws = 3  # type: ignore[union-attr]
    with sqlite_ready.database.read() as session:
        model = service.get_model(session, MODEL)
        card = describe_card(sqlite_ready, session, model, recipients=100, alpha=1e-3)
        with pytest.raises(InputError, match="--alpha"):
            describe_card(sqlite_ready, session, model, alpha=0)
        with pytest.raises(InputError, match="--recipients"):
            describe_card(sqlite_ready, session, model, recipients=0)
    assert card["verdict"]["decades_needed"] == pytest.approx(5, abs=0.01)
    assert card["screening"]["keys_issued"] == 5
    assert (card["screening"]["keys_redrawn"], card["screening"]["candidates_redrawn"]) == (1, 3)
    home = ["--home", str(sqlite_ready.settings.home)]
    assert run(["model", "card", MODEL, "--recipients", "100", "--alpha", "1e-3", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out) == card
    assert run(["model", "card", MODEL, *home]) == 0
    assert "of 5 keys issued 1 were drawn again, 3 times in all" in capsys.readouterr().out
