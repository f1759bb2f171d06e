"""The report of a study: one HTML file with plots (inline SVG), pictures and every figure.

write_report(study, Path("flowers-study.html"))
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from registry.attribution.study.plots import ROWS, legend, measures, overview, panel
from registry.attribution.study.results import ATTACKS, CLEAN, GOAL, KEYS, MIX, NEEDED, Result, Study
from registry.storage import atomic_file

LARGEST_PICTURE = 256

STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1d1f21; --soft: #63686d;
  --line: #e3e3df; --mark: #eef4fb; --s0: #2a6fc9; --s1: #c8641b; --s2: #1d8f6a; --s3: #8350b8;
  --s4: #b8863b; --s5: #c23b6b; --s6: #4d7d1f; --s7: #5f6b78; }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --card: #1f2225; --ink: #e8e8e6;
  --soft: #9aa0a6; --line: #33373b; --mark: #22303f; --s0: #6ea8f0; --s1: #f0975a; --s2: #55c49b;
  --s3: #b792e4; --s4: #dcb26a; --s5: #ee82a6; --s6: #9cc76a; --s7: #a9b4c0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p, li { max-width: 46rem; } p { margin: .5rem 0; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.tile { padding: .8rem 1rem; line-height: 1.35; } .tile b { display: block; font-size: 1.5rem;
  font-variant-numeric: tabular-nums; } .card { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; } tr:last-child td { border-bottom: 0; }
th { font-weight: 500; color: var(--soft); font-size: .82rem; } th.group { text-align: center; }
tr.taken td { background: var(--mark); font-weight: 600; } tr.used td { color: var(--soft); }
td:nth-child(2), th:nth-child(2) { text-align: left; }
.grid { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
@media (max-width: 48rem) { .grid { grid-template-columns: 1fr; } }
figure { margin: 0; } .plot { padding: .6rem .4rem .2rem; } svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .soft { fill: var(--soft); }
svg .axis, svg .tick { stroke: var(--line); } svg .needed { stroke: var(--soft); stroke-dasharray: 4 4; }
svg .front { fill: none; stroke: var(--soft); stroke-width: 1.2; }
svg .number { font-weight: 600; font-size: 12px; } svg .taken { fill: none; stroke: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0; font-size: .9rem; }
.legend span { display: inline-flex; align-items: center; gap: .35rem; }
.legend svg { width: 16px; height: 16px; }
.pictures { display: grid; grid-template-columns: 6.5rem repeat(var(--n), minmax(3rem, 8rem)); gap: .35rem;
  align-items: center; padding: .8rem; } .pictures span { color: var(--soft); font-size: .9rem; }
.pictures img { width: 100%; border-radius: .3rem; image-rendering: pixelated; }
details { margin: .75rem 0; } summary { cursor: pointer; font-weight: 500; margin: .3rem 0; }
code { font-size: .88em; overflow-wrap: anywhere; } footer { margin-top: 3rem; }
"""


def write_report(study: Study, path: Path) -> None:
    """Write the whole report to ``path``; it refers to no other file."""
    sections = (
        _heading(study),
        _recommended(study),
        _overview(study),
        _matrix(study),
        _table(study),
        _by_attack(study),
        _reading(study),
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Study of {escape(study.model)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )
    with atomic_file(path) as file:
        file.write(page.encode())


def _heading(study: Study) -> str:
    swept = sum(not result.registered for result in study.results)
    return (
        f"<h1>What a fingerprint on {escape(study.model)} costs, and what it buys</h1>"
        f'<p class="soft">Every copy of this model ({escape(study.adapter)}, {study.size} pixels, a latent '
        f"of {study.dimensions} dimensions) can carry a key of its own. A stronger mark is read more surely "
        f"and changes the images more. This study made {swept} choices, trained a small reading network for "
        f"each ({study.steps} steps) and measured {study.images} images of each that no training had seen, "
        "as they are and after the attacks of the latent-fingerprint paper: blur, noise, JPEG, and the three "
        "in turn.</p>"
    )


def _recommended(study: Study) -> str:
    taken = study.recommended
    mix = taken.attacks[MIX]
    shift = () if taken.point.learned else (_tile(str(taken.point.shift), "shift: first component used"),)
    tiles = (
        *shift,
        _tile(f"{taken.strength:.3g}", "sigma: strength"),
        _tile(str(taken.point.bits), "k: bits of a key"),
        _tile(f"{taken.quality['psnr_db']:.1f} dB", "PSNR between copy and base"),
        _tile(f"{taken.weakest:.0%}", f"named among {KEYS:,} keys, the worst of five conditions"),
        _tile(f"{mix['evidence_5']:.1f}", "decades of evidence, weakest 5 % after the attacks"),
    )
    option = f"--scheme {taken.point.scheme} --bits {taken.point.bits}"
    if not taken.point.learned:
        option += f" --shift {taken.point.shift}"
    return (
        f"<h2>Recommended: point {study.recommendation.index + 1}, scheme {escape(taken.point.scheme)}</h2>"
        f"<p>{escape(study.recommendation.reason)}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>{_pictures(study)}'
        f"<p>To use it, add the model with <code>{escape(option)} --strength {taken.strength:.6g}</code>, "
        "then run <code>registry model train</code>.</p>"
    )


def _tile(figure: str, words: str) -> str:
    return f'<div class="tile"><b>{escape(figure)}</b>{escape(words)}</div>'


def _pictures(study: Study) -> str:
    if not study.pictures:
        return ""
    labels = ("base model", "a copy of it", "difference, eight times amplified")
    rows = "".join(
        f"<span>{label}</span>{''.join(_image(images[i], label) for images in study.pictures)}"
        for i, label in enumerate(labels)
    )
    return f'<div class="card pictures" style="--n:{len(study.pictures)}">{rows}</div>'


def _image(image: Image.Image, label: str) -> str:
    small = image.copy()
    small.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{label}" src="data:image/png;base64,{content}">'


def _overview(study: Study) -> str:
    return (
        "<h2>The trade-off in one picture</h2>"
        f"<p>Evidence of the weakest twentieth of the attacked images against PSNR. Above the dashed line "
        f"({NEEDED:.0f} decades) one image names one key among {KEYS:,} with a chance of one in a million "
        "to be wrong. Numbers are those of the table; the grey line is the front: no point lies above and "
        "to the right of it.</p>"
        f'<figure class="card plot">{overview(study)}</figure>{legend(study)}'
    )


def _matrix(study: Study) -> str:
    plots = "".join(
        f'<figure class="card plot">{panel(study, measure, row)}</figure>'
        for row in ROWS
        for measure in measures(study)
    )
    return (
        "<h2>Accuracy and evidence against each measure of quality</h2>"
        "<p>In every plot better quality is to the right, so the upper right is where one wants to be. "
        "Hollow marks: before the attacks; filled: after them, all four together. In the plots of evidence a "
        "mark is the 5th percentile and the line above it ends at the median.</p>"
        f'{legend(study)}<div class="grid">{plots}</div>'
    )


def _table(study: Study) -> str:
    names = ("psnr_db", "ssim", "ms_ssim", "perceptual", "frechet", "frechet_increase")
    titles = dict(
        zip(names, ("PSNR, dB", "SSIM", "MS-SSIM", "perceptual", "Frechet", "to photographs"), strict=True)
    )
    shown = [name for name in names if name in study.results[0].quality]
    head = "".join(f"<th>{titles[name]}</th>" for name in shown)
    columns = "<th>every bit</th><th>bits</th><th>named</th><th>5th</th><th>50th</th>"
    rows = "".join(_table_row(study, i, result, shown) for i, result in enumerate(study.results))
    return (
        '<h2>Every point</h2><div class="card"><table>'
        f'<tr><th colspan="5"></th><th class="group" colspan="{len(shown)}">quality, copy against base</th>'
        '<th class="group" colspan="5">before the attacks</th>'
        '<th class="group" colspan="5">after the attacks</th></tr>'
        f"<tr><th>point</th><th>scheme</th><th>shift</th><th>sigma</th><th>k</th>{head}{columns}{columns}</tr>"
        f'{rows}</table></div><p class="soft">★ on the front: no other point has at least as much evidence '
        "and at least as good quality by every measure. Every bit: attribution accuracy, the share of images "
        "whose whole key is read right. Bits: share of bits read right; one whose "
        "logit is zero counts half, as a guess does. Named: share of single images that name their key among "
        f"{KEYS:,}. 5th and 50th: percentiles of the evidence, in decades.</p>"
    )


def _table_row(study: Study, index: int, result: Result, shown: Sequence[str]) -> str:
    taken = index == study.recommendation.index
    kind = ' class="taken"' if taken else ' class="used"' if result.registered else ""
    number = "in use" if result.registered else f"{'★ ' if index in study.front else ''}{index + 1}"
    point = result.point
    shift = "–" if point.learned else str(point.shift)
    cells = [number, escape(point.scheme), shift, f"{result.strength:.3g}", str(point.bits)]
    cells += [_quality(name, result.quality[name]) for name in shown]
    for when in (CLEAN, MIX):
        figures = result.attacks[when]
        cells += [f"{figures[name]:.1%}" for name in ("every_bit", "bits_right", "identified")]
        cells += [f"{figures[name]:.1f}" for name in ("evidence_5", "evidence_50")]
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _quality(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "psnr_db" else f"{value:.4f}" if "ssim" in name else f"{value:.3g}"


def _by_attack(study: Study) -> str:
    names = (CLEAN, *ATTACKS)
    head = "".join(f'<th class="group" colspan="3">{name}</th>' for name in names)
    columns = "<th>bits</th><th>named</th><th>5th</th>" * len(names)
    rows = []
    for i, result in enumerate(study.results):
        cells = "".join(
            f"<td>{figures['bits_right']:.1%}</td><td>{figures['identified']:.1%}</td>"
            f"<td>{figures['evidence_5']:.1f}</td>"
            for figures in (result.attacks[name] for name in names)
        )
        label = "in use" if result.registered else str(i + 1)
        rows.append(f"<tr><td>{label}</td><td>{escape(str(result.point))}</td>{cells}</tr>")
    return (
        '<details><summary>Each attack by itself</summary><div class="card"><table>'
        f'<tr><th colspan="2"></th>{head}</tr><tr><th>point</th><th>asked for</th>{columns}</tr>'
        f"{''.join(rows)}</table></div></details>"
    )


def _reading(study: Study) -> str:
    photographs = (
        f"<li>“To photographs” is by how much the copies are further from the {study.photographs} "
        "photographs given than the base model is, on the same features.</li>"
        if study.photographs
        else ""
    )
    used = (
        "<li>“In use” are the basis and network that the model is registered with. That network was trained "
        "for longer than the study's, and may have seen these latents under other keys, so it is shown for "
        "comparison and is no candidate.</li>"
        if any(result.registered for result in study.results)
        else ""
    )
    return f"""<h2>How to read this</h2><ul>
<li><b>Shift, sigma and k</b> are the design variables of Nie et al. (ICML 2023). The directions in which
images of this model vary are ordered by how much they vary; the key occupies k of them, beginning at the
shift, each pushed by sigma one way or the other. A shift of 0 uses the directions that vary most; the last
possible shift, those that vary least. The scheme <code>learned</code> has no shift: its k directions are
changes of biases and other ordinary weights, those with most evidence for the change of the image they
cost, so no tensor can be deleted to take the fingerprint off, as it can where <code>pca</code> adds one to a
latent-diffusion model.</li>
<li><b>Evidence</b> is -log10 of a proved bound on the chance that a key which has nothing to do with the
image scores as well: 3 decades are one in a thousand. A key of k bits can give at most 0.30 k decades; with
k = 32 no single image can name one key among a million.</li>
<li><b>Quality</b> compares each copy's image with the base model's image of the same latent. PSNR counts the
squared error of the pixels; SSIM compares structure, 1 for equal images. The perceptual distance, 0 for
equal images, is taken by: {escape(study.perceptual_name)}. The Frechet distance compares the set of copies'
images with the base's; its features are the reference generator's, so it is no FID of the literature.</li>
{photographs}{used}
<li>The networks were trained briefly, all for the same number of steps: figures compare the points with each
other, and rise with <code>registry model train</code>. Between points that are closer than the spread of
{study.images} images (some 2 % of a share near {GOAL:.0%}) this study does not decide.</li>
</ul><footer class="soft">Written by <code>registry model study</code>. The same figures for programs:
<code>--json</code>.</footer>"""
