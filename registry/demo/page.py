"""``report.html``: one self-contained page with every image and its verdict.

write_page(report, Path("demo"), keys=100_005, elapsed=240.0)      # reads images below the folder
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from registry.demo.results import Report, Result, Tally, tally

THUMBNAIL = 64
MARKS = {"right": "✓", "wrong": "✗", "none": "–"}
WORDS = {"right": "attributed to its recipient", "wrong": "attributed wrongly", "none": "not attributed"}

STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1d1f21; --soft: #6b7075;
  --line: #e3e3df; --right: #2f7d57; --wrong: #c43d3d; --none: #b9bcc0; }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --card: #1f2225; --ink: #e8e8e6;
  --soft: #9aa0a6; --line: #33373b; --right: #58b487; --wrong: #ef6f6f; --none: #5a5f64; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 72rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { max-width: 46rem; margin: .5rem 0; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.tile { padding: .9rem 1.1rem; } .tile b { display: block; font-size: 1.7rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; } .tile.bad b { color: var(--wrong); }
.card { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .8rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; } tr:last-child td { border-bottom: 0; }
th { font-weight: 500; color: var(--soft); font-size: .85rem; }
td:first-child, th:first-child { text-align: left; }
td.bar { width: 22%; min-width: 8rem; } .stack { display: flex; height: .6rem; gap: 1px;
  border-radius: .3rem; overflow: hidden; background: var(--line); }
.stack i.right { background: var(--right); } .stack i.wrong { background: var(--wrong); }
.stack i.none { background: var(--none); }
td img { width: 32px; height: 32px; border-radius: .2rem; vertical-align: middle; margin-right: .6rem; }
details { margin: .5rem 0; padding: .6rem 1rem; } summary { cursor: pointer; font-weight: 500; }
.row { display: grid; grid-template-columns: 5.5rem 1fr; gap: .75rem; margin: .7rem 0; }
.row > span { color: var(--soft); font-size: .9rem; padding-top: .3rem; }
.strip { display: flex; flex-wrap: wrap; gap: .35rem; }
figure { position: relative; margin: 0; line-height: 0; } figure img { width: 64px; height: 64px;
  border-radius: .3rem; border: 2px solid var(--none); }
figure.right img { border-color: var(--right); } figure.wrong img { border-color: var(--wrong); }
figcaption { position: absolute; right: 0; bottom: 0; width: 1.15rem; border-radius: .3rem 0;
  font: 700 .75rem/1.15rem system-ui, sans-serif; text-align: center; color: #fff;
  background: #777; } .right > figcaption { background: #2f7d57; }
.wrong > figcaption { background: #c43d3d; }
ul { padding-left: 1.2rem; } footer { margin-top: 3rem; }
"""


def write_page(report: Report, folder: Path, keys: int, elapsed: float) -> None:
    """Write ``folder/report.html``; the results' image paths are relative to ``folder``."""
    sections = (
        _heading(report, keys, elapsed),
        _table(report, folder),
        "<h2>Images of the copies</h2>",
        *(_gallery(report, folder, attack) for attack in report.attacks()),
        "<h2>Images that no copy of this registry made</h2>",
        *(_foreign(report, folder, source) for source in report.sources()),
        _reading(),
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Hallmark demo</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _heading(report: Report, keys: int, elapsed: float) -> str:
    singles, sets = tally(report.singles), tally(report.sets)
    foreign = tally(report.foreign)
    wrong = sum(
        tally(part).wrong for part in (report.singles, report.sets, report.foreign, report.foreign_sets)
    )
    recipients = len({result.truth.recipient for result in report.singles})
    tiles = (
        _tile(f"{singles.right} of {singles.total}", "images attributed to their recipient, each alone"),
        _tile(f"{sets.right} of {sets.total}", "sets of four attributed to their recipient"),
        _tile(f"{wrong}", "findings that name a wrong copy", bad=wrong > 0),
        _tile(f"{foreign.none} of {foreign.total}", "foreign images left unattributed", foreign.wrong > 0),
    )
    failures = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.failures())
    missed = f"<p>Goals missed:</p><ul>{failures}</ul>" if failures else ""
    return (
        "<h1>Whose copy made this image?</h1>"
        f'<p class="soft">{recipients} recipients hold a copy each of one image generator. Every copy '
        f"carries its own key in its weights. Their images went through {len(report.attacks())} attacks, and "
        f"the verifier searched {keys:,} keys for each. The whole run took {elapsed:.0f} seconds.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>{missed}'
    )


def _tile(figure: str, words: str, bad: bool = False) -> str:
    return f'<div class="tile{" bad" if bad else ""}"><b>{figure}</b>{escape(words)}</div>'


def _table(report: Report, folder: Path) -> str:
    rows = [
        _table_row(attack, _of(report.singles, attack), _of(report.sets, attack), folder)
        for attack in report.attacks()
    ]
    rows += [
        _table_row(
            f"no copy: {source}", _of(report.foreign, source), _of(report.foreign_sets, source), folder
        )
        for source in report.sources()
    ]
    columns = "<th>right</th><th>wrong</th><th>none</th>"
    return (
        '<h2>Attributed to the right recipient, to a wrong one, or to none</h2><div class="card"><table>'
        '<tr><th></th><th colspan="4">each image alone</th><th colspan="3">sets of four</th><th></th></tr>'
        f"<tr><th>attack or source</th>{columns}<th></th>{columns}"
        f'<th title="of the images attributed alone">median log10 p</th></tr>{"".join(rows)}</table></div>'
    )


def _of(results: Iterable[Result], attack: str) -> list[Result]:
    return [result for result in results if result.attack == attack]


def _table_row(label: str, alone: Sequence[Result], sets: Sequence[Result], folder: Path) -> str:
    counted = tally(alone)
    evidence = sorted(r.log10_p_family for r in alone if r.log10_p_family is not None)
    median = f"{evidence[len(evidence) // 2]:.1f}" if evidence else ""
    return (
        f"<tr><td>{_image(folder / alone[0].images[0])}{escape(label)}</td>{_counts(counted)}"
        f'<td class="bar">{_bar(counted)}</td>{_counts(tally(sets))}<td>{median}</td></tr>'
    )


def _counts(counted: Tally) -> str:
    return f"<td>{counted.right}</td><td>{counted.wrong}</td><td>{counted.none}</td>"


def _bar(counted: Tally) -> str:
    parts = (("right", counted.right), ("wrong", counted.wrong), ("none", counted.none))
    return (
        '<div class="stack">'
        + "".join(f'<i class="{kind}" style="flex:{count}"></i>' for kind, count in parts if count)
        + "</div>"
    )


def _gallery(report: Report, folder: Path, attack: str) -> str:
    chosen = _of(report.singles, attack)
    recipients = dict.fromkeys(str(result.truth.recipient) for result in chosen)
    rows = "".join(
        _row(name.partition("@")[0], (r for r in chosen if r.truth.recipient == name), folder)
        for name in recipients
    )
    return _details(attack, chosen, rows, shown=attack == "clean")


def _foreign(report: Report, folder: Path, source: str) -> str:
    chosen = _of(report.foreign, source)
    return _details(source, chosen, _row("", chosen, folder), shown=True)


def _details(name: str, results: Sequence[Result], rows: str, shown: bool) -> str:
    counted = tally(results)
    counts = f"{counted.right} right, {counted.wrong} wrong, {counted.none} not attributed"
    return (
        f'<details class="card"{" open" if shown else ""}><summary>{escape(name)} '
        f'<span class="soft">{counts}</span></summary>{rows}</details>'
    )


def _row(label: str, results: Iterable[Result], folder: Path) -> str:
    figures = "".join(_figure(result, folder) for result in results)
    return f'<div class="row"><span>{escape(label)}</span><div class="strip">{figures}</div></div>'


def _figure(result: Result, folder: Path) -> str:
    title = WORDS[result.outcome]
    if result.recipient is not None:
        title += f": {result.recipient}, log10 p {result.log10_p_family:.1f}"
    return (
        f'<figure class="{result.outcome}" title="{escape(title)}">{_image(folder / result.images[0])}'
        f"<figcaption>{MARKS[result.outcome]}</figcaption></figure>"
    )


def _image(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(buffer, "WEBP", quality=85)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img loading="lazy" alt="" src="data:image/webp;base64,{content}">'


def _reading() -> str:
    return """<h2>How to read this</h2><ul>
<li>p bounds the probability of naming any innocent key at all, over every key ever issued; an image is
attributed only where it is at most one in a million, shared among the images checked in one call.</li>
<li>The bound assumes nothing about images. It says that an image depends on a key, not who pressed the
button: whoever holds the copy, its weights or many of its images can make such an image.</li>
<li>A set verdict says that at least one of its images depends on the key.</li>
<li>The fingerprint of this reference model is a tensor of its own: a recipient who deletes it is not
found. It shows the method at work; it does not bind people one does not trust.</li>
<li>“Another registry” is the hardest foreign source: the same model, with a fingerprint of the same
kind under a key that this registry never issued.</li></ul>
<footer class="soft">Written by <code>make demo</code>. The same results for programs:
<code>report.json</code>.</footer>"""
