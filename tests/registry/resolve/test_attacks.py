"""What somebody who may ask can learn about a key: attacks on the real service, and their bounds.

The attacker holds readings of an image of a copy in which many bits are wrong, asks, and wants the key. Every
answer is one bit; the budget bounds how many there are. The same attack without a budget succeeds, so
that it is the rules that stop it.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from registry.accounts.models import SecurityEvent
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.home import Home
from registry.resolve import budgets, deciding
from registry.resolve.models import Resolution
from tests.registry.resolve.support import QUANTA, Caller, caller, issue, query, signs
from tests.registry.support import BITS, MODEL

GRANTED = f"default/{MODEL}"


class Oracle:
    """The service as an attacker sees it: a verdict, or nothing more today."""

    def __init__(self, home: Home, asker: Caller, model: str = GRANTED) -> None:
        self.home, self.asker, self.model = home, asker, model
        self.answers = 0

    def __call__(self, reading: NDArray[np.int64]) -> bool | None:
        answer = self.asker.post("/resolve", query(self.home, reading, model=self.model))
        if answer.status_code == 429:
            return None
        assert answer.status_code == 200, answer.json
        self.answers += 1
        return bool(answer.json["verdict"] == "attributed")


class Unguarded:
    """The verdict alone, as often as one likes: what the same attacks reach without the rules."""

    def __init__(self, key: NDArray[np.int64], keys: int) -> None:
        self.key, self.keys, self.answers = key, keys, 0

    def __call__(self, reading: NDArray[np.int64]) -> bool:
        self.answers += 1
        (test,) = deciding.weighted_tests([[_Reading(reading)]])
        return bool(reading @ self.key >= deciding.threshold(test, self.keys, 1e-6, 1.0))


class _Reading:
    confidence = 1.0

    def __init__(self, logits: NDArray[np.int64]) -> None:
        self.logits = logits.astype(np.int32)


def bit_flipping(ask: Oracle | Unguarded, start: NDArray[np.int64]) -> NDArray[np.int64]:
    """The textbook attack: go to the edge of attribution, then flip bit by bit and watch the verdict.

    At the edge a flip of a right bit ends the attribution, and one of a wrong bit does not.
    """
    guess = np.sign(start)
    edge = start.copy()
    order = np.argsort(np.abs(start), kind="stable")
    for bit in order:  # weaken until the next step would lose it
        trial = edge.copy()
        trial[bit] = 0
        verdict = ask(trial)
        if verdict is None:
            return guess
        if not verdict:
            break
        edge = trial
    learned = guess.copy()
    for bit in order:
        trial = edge.copy()
        trial[bit] = -trial[bit] if trial[bit] else QUANTA * guess[bit]
        verdict = ask(trial)
        if verdict is None:
            break
        if verdict == bool(edge[bit]):  # a flip that keeps it, or a bit put back that loses it
            learned[bit] = -guess[bit]
    return learned


def climbing(ask: Oracle | Unguarded, start: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Hill climbing: random changes, of which those that keep the attribution at less strength are kept."""
    rng = np.random.default_rng(seed)
    point = start.copy()
    for _ in range(2000):
        trial = point.copy()
        some = rng.choice(len(point), 2, replace=False)
        trial[some[0]] = -trial[some[0]]
        trial[some[1]] = trial[some[1]] // 2
        verdict = ask(trial)
        if verdict is None:
            break
        if verdict:
            point = trial
    return np.where(point == 0, np.sign(start), np.sign(point))


def distorted(key: NDArray[np.int64], wrong: int, seed: int) -> NDArray[np.int64]:
    """Readings of the key in which ``wrong`` bits are wrong."""
    rng = np.random.default_rng(seed)
    reading = rng.integers(QUANTA // 2, QUANTA + 1, len(key)) * key
    reading[rng.choice(len(key), wrong, replace=False)] *= -1
    return reading


def guarded(home: Home, units: int) -> tuple[Oracle, str]:
    """An auditor of another organisation with a grant of so many units, and the key he is after."""
    app = create_app(home)
    auditor, admin = caller(home, app, "auditors"), caller(home, app, role=Role.ADMIN)
    granted = admin.post("/grants", {"model": MODEL, "organisation": "auditors", "daily_units": units})
    assert granted.status_code == 201
    (key,) = issue(home)
    return Oracle(home, auditor), key


@pytest.mark.parametrize("attack", [bit_flipping, climbing])
def test_adaptive_queries_run_out_of_budget_before_they_tell_the_key(
    sqlite_ready: Home, attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = 200
    ask, key = guarded(sqlite_ready, units)
    secret = signs(sqlite_ready, key)
    start = distorted(secret, 1, 7)
    learned = attack(ask, start)
    # After the first query all others are repeats: REPEATED units each, NAMED more when attributed.
    assert ask.answers <= 1 + units // budgets.REPEATED
    assert ask(start) is None
    wrong_before, wrong_after = int((np.sign(start) != secret).sum()), int((learned != secret).sum())
    assert wrong_before - wrong_after <= ask.answers  # one bit each is the most there can be
    assert ask.answers < BITS  # and fewer answers than the key has bits


def test_the_same_attack_succeeds_where_nothing_stops_it() -> None:
    """Otherwise the test above would prove nothing."""
    rng = np.random.default_rng(5)
    secret = rng.choice([-1, 1], 256)
    ask = Unguarded(secret, 1000)
    learned = bit_flipping(ask, distorted(secret, 60, 8))
    assert ask.answers > 256
    assert (learned == secret).mean() > 0.95


def test_a_stranger_to_all_images_finds_nothing_to_climb_from(sqlite_ready: Home) -> None:
    """Without an image of the copy, a query is attributed with a probability of alpha at most."""
    ask, _ = guarded(sqlite_ready, 300)
    issue(sqlite_ready, 50)
    rng = np.random.default_rng(9)
    verdicts = [ask(rng.integers(-QUANTA, QUANTA + 1, BITS)) for _ in range(320)]
    assert verdicts.count(True) == 0
    assert verdicts.count(None) >= 20
    assert ask.answers <= 300


def test_answers_below_alpha_are_the_same_byte_for_byte_however_near(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    (key,) = issue(sqlite_ready)
    auditor = caller(sqlite_ready, app)
    secret = signs(sqlite_ready, key)
    bodies, headers = set(), set()
    for wrong in (6, 8, 12, 16, 32):
        near = QUANTA * secret
        near[:wrong] *= -1
        answer = auditor.post("/resolve", query(sqlite_ready, near))
        resolution = answer.json["resolution"]
        bodies.add(answer.get_data(as_text=True).replace(resolution, ""))
        headers.add(tuple(sorted((n, v) for n, v in answer.headers if n not in ("X-Request-Id", "Date"))))
    assert len(bodies) == len(headers) == 1


def test_the_work_below_alpha_does_not_depend_on_how_near_a_key_is(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No exact tail is worked out for candidates: their nearness would show in the time that takes."""
    app = create_app(sqlite_ready)
    (key,) = issue(sqlite_ready)
    auditor = caller(sqlite_ready, app)
    called: list[str] = []

    def counted(name: str):
        real = getattr(deciding.evidence, name)

        def call(*args):
            called.append(name)
            return real(*args)

        return call

    for name in ("log10_tail", "chernoff_log10", "score_at"):
        monkeypatch.setattr(deciding.evidence, name, counted(name))
    near = QUANTA * signs(sqlite_ready, key)
    near[:5] *= -1
    auditor.post("/resolve", query(sqlite_ready, near))
    nearly = called.copy()
    called.clear()
    auditor.post("/resolve", query(sqlite_ready, QUANTA * np.resize([1, -1], BITS)))
    assert nearly == called == ["score_at"]


def test_a_refusal_depends_on_what_the_asker_knows_alone(sqlite_ready: Home) -> None:
    """With few units left, a query that would name a key is admitted or refused like any other."""
    ask, key = guarded(sqlite_ready, 3)
    rng = np.random.default_rng(3)
    for _ in range(2):
        ask(rng.integers(-QUANTA, QUANTA + 1, BITS))
    asked = query(sqlite_ready, QUANTA * signs(sqlite_ready, key), model=GRANTED)
    assert ask.asker.post("/resolve", asked).json["verdict"] == "attributed"  # on credit: 21 units
    answer = ask.asker.post("/resolve", asked)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) <= budgets.DAY_SECONDS
    assert "copies" not in answer.json


def test_repeats_are_told_from_new_images(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    keys = issue(sqlite_ready, 2)
    auditor = caller(sqlite_ready, app)
    first, second = (QUANTA * signs(sqlite_ready, key) for key in keys)
    flipped, halved, zeroed = first.copy(), first // 2, first.copy()
    flipped[0] *= -1
    zeroed[::8] = 0
    rng = np.random.default_rng(4)
    for reading in (first, first, flipped, halved, zeroed, second, rng.integers(-QUANTA, QUANTA, BITS)):
        auditor.post("/resolve", query(sqlite_ready, reading))
    with sqlite_ready.database.read() as session:
        logged = session.execute(select(Resolution.repeated).order_by(Resolution.id)).scalars().all()
    assert logged == [False, True, True, True, True, False, False]


def test_one_repeated_reading_among_new_ones_makes_a_repeat(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    (key,) = issue(sqlite_ready)
    auditor = caller(sqlite_ready, app)
    rng = np.random.default_rng(6)
    windows = rng.integers(-QUANTA, QUANTA + 1, (4, BITS))
    near = 100 * signs(sqlite_ready, key)
    auditor.post("/resolve", query(sqlite_ready, near))
    auditor.post("/resolve", query(sqlite_ready, *windows, near))
    with sqlite_ready.database.read() as session:
        logged = session.execute(select(Resolution.repeated).order_by(Resolution.id)).scalars().all()
    assert logged == [False, True]


def test_a_token_cannot_spend_all_of_its_organisation(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "ACTOR_UNITS", 2)
    app = create_app(sqlite_ready)
    first, second = caller(sqlite_ready, app), caller(sqlite_ready, app)
    rng = np.random.default_rng(7)
    statuses = [
        asker.post("/resolve", query(sqlite_ready, rng.integers(-QUANTA, QUANTA, BITS))).status_code
        for asker in (first, first, first, second)
    ]
    assert statuses == [200, 200, 429, 200]


def test_spent_budgets_are_in_the_security_log_of_the_distributor(sqlite_ready: Home) -> None:
    ask, key = guarded(sqlite_ready, 1)
    ask(QUANTA * signs(sqlite_ready, key))
    assert ask(QUANTA * signs(sqlite_ready, key)) is None
    with sqlite_ready.database.read() as session:
        kinds = session.execute(select(SecurityEvent.kind)).scalars().all()
    assert "resolve.budget-spent" in kinds


def test_what_is_stored_of_a_query_does_not_hold_its_logits(sqlite_ready: Home) -> None:
    """Sketches are taken under a sealed secret: those of another secret do not resemble them."""
    app = create_app(sqlite_ready)
    (key,) = issue(sqlite_ready)
    reading = QUANTA * signs(sqlite_ready, key)
    caller(sqlite_ready, app).post("/resolve", query(sqlite_ready, reading))
    with sqlite_ready.database.read() as session:
        (row,) = session.execute(select(Resolution)).scalars()
    stored = np.frombuffer(row.sketches, np.uint8)
    guess = budgets.Sketcher(bytes(32)).sketches(reading[None])[0]
    assert 90 < int(np.bitwise_count(stored ^ guess).sum()) < 166
    assert len(row.logits_sha256) == 32
    assert not any(isinstance(value, str) and "128" in value for value in vars(row).values())
