"""What the benchmarks share: a temporary registry with the reference model, timing, the closing line.

with prepared(keys=1000) as bench:
    bench.commands.check([bench.image], bench.bundle)
close("verify", {"ratio": 1.7}, {"ratio": Goal("<=", 2.0)})
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from registry.demo.commands import ATTRIBUTED_OR_NOT, Commands, json_objects
from registry.storage import atomic_file

Result = TypeVar("Result")

MODEL = "flowers"
BUILTIN = "builtin:flowers-ldm@1"
RECIPIENT = "ada@example.com"


@dataclass(frozen=True)
class Prepared:
    """A registry with one delivered copy; ``images`` were sampled from it."""

    folder: Path
    commands: Commands
    copy: Path
    images: list[Path]
    bundle: Path

    @property
    def home(self) -> Path:
        """The registry's home."""
        return self.folder / "home"


@contextmanager
def registered() -> Iterator[tuple[Path, Commands]]:
    """A temporary folder and a fresh registry with the reference model and one recipient."""
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as name:
        folder = Path(name)
        commands = Commands(folder / "home")
        commands.registry("init")
        commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
        commands.registry("recipient", "add", RECIPIENT)
        yield folder, commands


@contextmanager
def prepared(keys: int, images: int) -> Iterator[Prepared]:
    """The same with a delivered copy, ``keys`` further keys, sampled images and a bundle with all keys."""
    with registered() as (folder, commands):
        (certificate,) = json_objects(commands.registry("issue", "--model", MODEL, "--to", RECIPIENT))
        copy, sampled, bundle = folder / "copy", folder / "images", folder / "bundle.zip"
        commands.registry("download", certificate["copy_id"], "--out", copy)
        if keys:
            commands.registry("issue", "--model", MODEL, "--to", RECIPIENT, "--count", str(keys))
        commands.registry("sample", "--copy", copy, "-n", str(images), "--out", sampled, "--seed", "1")
        commands.registry("bundle", "export", "--out", bundle, "--with-keys", "--with-recipients")
        yield Prepared(folder, commands, copy, sorted(sampled.glob("*.png")), bundle)


def kept(
    folder: Path, name: str, used: Sequence[str], kind: type[Result], make: Callable[[], Result]
) -> Result:
    """``make()``, a dataclass of plain values, or what it was before: kept in ``folder`` as JSON.

    The file is named after ``name`` and the digest of ``used``: all that the result depends on.
    """
    path = folder / f"{name}-{short_digest(used)}.json"
    if path.exists():
        return kind(**json.loads(path.read_text()))
    result = make()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps(asdict(result)).encode() + b"\n")  # type: ignore[call-overload]
    return result


def short_digest(used: Sequence[str]) -> str:
    """A name for what depends on ``used``."""
    return hashlib.sha256("\n".join(used).encode()).hexdigest()[:12]


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def in_turn(actions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each action over ``rounds``, taken in turn so that a busy spell hits all alike."""
    for action in actions:
        action()  # files into the page cache
    times = [[seconds(action) for action in actions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def process(*command: str | Path) -> Callable[[], object]:
    """The action that runs ``command`` to its end; what it answers does not matter, a failure does."""

    def run() -> None:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode not in ATTRIBUTED_OR_NOT:
            raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")

    return run


@dataclass(frozen=True)
class Goal:
    """A figure's target."""

    relation: Literal["<=", ">="]
    value: float

    def met(self, figure: float) -> bool:
        """Whether ``figure`` reaches the target."""
        return figure <= self.value if self.relation == "<=" else figure >= self.value

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"


def close(bench: str, figures: Mapping[str, float], goals: Mapping[str, Goal]) -> None:
    """Print every figure with its goal, and as the last line the same as JSON."""
    for name, figure in figures.items():
        goal = goals.get(name)
        verdict = "" if goal is None else f"   goal {goal}: {'met' if goal.met(figure) else 'MISSED'}"
        print(f"{name:36} {figure:12.4g}{verdict}")
    summary = {
        "bench": bench,
        "figures": {name: float(f"{figure:.6g}") for name, figure in figures.items()},
        "goals": {name: [goal.relation, goal.value] for name, goal in goals.items()},
        "met": all(goal.met(figures[name]) for name, goal in goals.items()),
    }
    print(json.dumps(summary))
