from __future__ import annotations

import signal
import threading

import pytest

from registry.interrupts import between_steps


def test_ctrl_c_waits_for_the_end_of_the_step() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), between_steps() as check:
        for step in range(5):
            check()
            if step == 1:
                signal.raise_signal(signal.SIGINT)
            steps.append(step)
    assert steps == [0, 1]


def test_a_second_ctrl_c_acts_at_once() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), between_steps():
        signal.raise_signal(signal.SIGINT)
        steps.append("first noted")
        signal.raise_signal(signal.SIGINT)
        steps.append("not reached")
    assert steps == ["first noted"]


def test_without_ctrl_c_nothing_happens_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with between_steps() as check:
        check()
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_cannot_handle_signals_and_go_on_without() -> None:
    done = []

    def work() -> None:
        with between_steps() as check:
            check()
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
