"""Many at once: what holds once holds once, whichever worker is asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyotp
import pytest
from sqlalchemy import func, select

from registry.accounts import factors, lockout, people
from registry.accounts.models import Invitation, Person, SignInAttempts
from registry.accounts.permissions import Role
from registry.accounts.settings import Limits
from registry.api.limits import REQUESTS, Limiter
from registry.db import unix_now
from registry.errors import AuthenticationError, StateError, ThrottledError
from registry.home import Home
from tests.registry.accounts.support import ADMIN, PASSWORD, add_admin
from tests.servers import redis_server

THREADS = 8


def outcomes(work: Callable[[int], object]) -> Counter[object]:
    """What ``work`` returned or raised in threads that begin together."""
    found: list[object] = []
    gate = threading.Barrier(THREADS)

    def run(number: int) -> None:
        gate.wait()
        try:
            found.append(work(number))
        except Exception as error:  # noqa: BLE001  (its kind is the outcome)
            found.append(type(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(found)


def test_one_code_completes_one_sign_in(home: Home) -> None:
    add_admin(home)
    with home.database.write() as session:
        person = people.get_person(session, ADMIN)
        secret, _ = factors.begin_totp(session, home.master, person)
    totp, now = pyotp.TOTP(secret), unix_now()
    with home.database.write() as session:
        codes = factors.confirm_totp(session, home.master, person, totp.at(now - 30))

    def use_totp(_: int) -> bool:
        with home.database.write() as session:
            return factors.use_totp(session, home.master, person.id, totp.at(now))

    def use_recovery_code(_: int) -> bool:
        with home.database.write() as session:
            return factors.use_recovery_code(session, person.id, codes[0])

    assert outcomes(use_totp) == {True: 1, False: THREADS - 1}
    assert outcomes(use_recovery_code) == {True: 1, False: THREADS - 1}


def test_one_invitation_sets_one_password(home: Home) -> None:
    with home.database.write() as session:
        secret = people.invite(session, people.add_person(session, 1, "bob", Role.VIEWER))

    def accept(number: int) -> str:
        with home.database.write() as session:
            return people.accept_invitation(session, secret, f"{PASSWORD} {number}").name

    assert outcomes(accept) == {"bob": 1, AuthenticationError: THREADS - 1}
    with home.database.read() as session:
        assert session.execute(select(func.count()).select_from(Invitation)).scalar_one() == 0


def test_guesses_at_once_are_all_counted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    now = unix_now()
    monkeypatch.setattr(lockout, "unix_now", lambda: now)
    sources = lockout.account(ADMIN), lockout.address("198.51.100.1")
    found = outcomes(lambda _: lockout.attempt(home, *sources))
    assert found == {None: 6, ThrottledError: THREADS - 6}  # five are free, the sixth locks
    with home.database.read() as session:
        stored = dict(session.execute(select(SignInAttempts.source_sha256, SignInAttempts.failures)).all())
    assert stored == {source.key: 6 for source in sources}


def test_two_administrators_cannot_remove_each_other(home: Home) -> None:
    with home.database.write() as session:
        first = people.people(session)[0]
        people.add_person(session, 1, "keeper", Role.ADMIN)
        people.disable(session, first)
        for number in range(THREADS - 1):
            people.add_person(session, 1, f"admin{number}", Role.ADMIN)
    names = ["keeper", *(f"admin{number}" for number in range(THREADS - 1))]

    def demote(number: int) -> str:
        with home.database.write() as session:
            people.change_role(session, people.get_person(session, names[number]), Role.VIEWER)
        return "demoted"

    assert outcomes(demote) == {"demoted": THREADS - 1, StateError: 1}
    with home.database.read() as session:
        left = select(func.count()).where(Person.role == "admin", Person.disabled_at.is_(None))
        assert session.execute(left).scalar_one() == 1


def test_workers_count_together_in_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        workers = [Limiter(Limits(storage=url, requests="5/hour")) for _ in range(THREADS)]
        found = outcomes(lambda number: workers[number].hit(REQUESTS, "token a"))
        assert found == {None: 5, ThrottledError: THREADS - 5}
        workers[0].hit(REQUESTS, "token b")
    with pytest.raises(ThrottledError):
        for _ in range(7):  # Redis is gone: this worker counts for itself
            workers[0].hit(REQUESTS, "token a")
