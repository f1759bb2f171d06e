from __future__ import annotations

import json

import pytest

from bench.common import Goal, close, in_turn, process


@pytest.mark.parametrize(
    ("goal", "figure", "met"),
    [
        (Goal("<=", 2.0), 2.0, True),
        (Goal("<=", 2.0), 2.1, False),
        (Goal(">=", 0.9), 0.9, True),
        (Goal(">=", 0.9), 0.89, False),
    ],
)
def test_the_last_line_is_json_that_says_whether_the_goals_are_met(
    goal: Goal, figure: float, met: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    close("speed", {"ratio": figure, "other": 7.0}, {"ratio": goal})
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary == {
        "bench": "speed",
        "figures": {"ratio": figure, "other": 7.0},
        "goals": {"ratio": [goal.relation, goal.value]},
        "met": met,
    }
    assert ("MISSED" in lines[0]) is not met


def test_actions_are_timed_in_turn_after_one_untimed_round() -> None:
    calls: list[str] = []
    times = in_turn([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3)
    assert "".join(calls) == "ab" * 4
    assert len(times) == 2


def test_a_process_that_fails_stops_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="ended with 2"):
        process("sh", "-c", "echo broken >&2; exit 2")()
    process("sh", "-c", "exit 1")()
