"""Lineage: which model made a set of images, beside what was used before, on the same images.

python -m bench.lineage [--quick] [--work FOLDER] [--steps N] [--data FOLDER]

Needs the zoo in ``--work`` (``python -m registry.lineage.zoo``, see docs/lineage.md). Every method is given
the same samples: the first part of each model's to learn from, the last to be asked about. Baselines:
averaged noise residuals and correlation (Marra et al. 2019), a classifier of single images whose votes are
counted (Yu et al. 2019), once on pixels and once on the set encoder's own features, the spectrum of single
images. Ablations: a high-pass in place of the learned residual, averaged image embeddings in place of set
encoding, either part of the loss alone. Open set: encoders that never saw one family, asked about it.
Clustering: encoders trained on two variants of each family, asked about the others.

The classifier on our features is trained for as many steps as the shipped encoder, the one on pixels for
three times as many, the encoders that are compared for half as many (``--steps``), "same-steps" being the
shipped one's recipe. A quick run uses those that an earlier run left in ``--work``, and trains none.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from bench.common import Goal, close
from registry.generators.adapters import get_adapter
from registry.generators.sampling import adapter_of
from registry.generators.small import SmallGenerator, save_small
from registry.generators.small_network import SmallNetwork
from registry.generators.small_training import train
from registry.lineage.building import Embed, encoder_embed, fingerprint, only_source, random_sets
from registry.lineage.degrade import TESTED, degrade
from registry.lineage.encoder import EncoderLayout, SetEncoder
from registry.lineage.service import network
from registry.lineage.training import CLASSES, CONTRASTIVE, STANDARD, STEPS, Sets, train_encoder
from registry.lineage.tree import Tree, adjusted_rand
from registry.lineage.variants import FAMILIES, IMAGENET, OTHER_SAMPLING, SAMPLING, VARIANTS
from registry.lineage.weights import DERIVED, Weights
from registry.lineage.zoo import REAL, SIZE, TEST, TRAIN, photographs, resampled, samples_of
from registry.progress import progress
from registry.storage import Storage
from registry.training import Training
from verifier.lineage import Fingerprint, Lineage

Pixels = NDArray[np.uint8]
Scores = Callable[[Pixels, Sequence[Sequence[int]]], NDArray[np.float64]]
"""Likeness (s, m) of sets of images to each of the models, the larger the more alike."""

SIZES = (1, 2, 4, 8, 16, 32)
DRAWS, QUICK_DRAWS = 200, 50
HALVES = ("ab", "cd")
"""Variants that encoders are trained on which are then asked to cluster the others."""
SLOW_LEARNER = 3
"""Times as many steps for the classifier of pixels, which has its features to learn."""
FINE_TUNED = 60
"""Steps on other photographs of a derivative."""
SEED_PAIRS = {f"{family}-{letter}" for family in FAMILIES for letter in "ab"}
OPEN_SIZE = 16
NOTE = "images that were resized are brought back to 32 pixels for the methods that need one size"


def auroc(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    """Probability that a known set scores higher than an unknown one."""
    order = np.argsort(np.concatenate([known, unknown]), kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    return float(
        (ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown))
    )


def by_embedding(embed: Embed, learned: Mapping[str, Pixels]) -> Scores:
    """Cosine with the models' fingerprints, of the parts that tell models apart."""
    source = only_source(embed, network().spec.source)
    directions = np.stack([fingerprint(source, learned[name]) for name in sorted(learned)])
    return lambda pixels, sets: source(pixels, sets) @ directions.T


def _square(pixels: Pixels) -> NDArray[np.float32]:
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    if x.shape[-1] != SIZE:
        x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True)
    return x.numpy()


def _noise(pixels: Pixels) -> NDArray[np.float32]:
    """What a 3 x 3 median leaves of each image, flat (n, 3 * 32 * 32)."""
    x = torch.from_numpy(_square(pixels))
    patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3).view(len(x), 3, 9, SIZE, SIZE)
    return (x - patches.median(2).values).flatten(1).numpy()


def by_noise(learned: Mapping[str, Pixels]) -> Scores:
    """Marra et al.: the mean residual of a set, correlated with each model's."""
    prints = np.stack([_normalised(_noise(learned[name]).mean(0)) for name in sorted(learned)])

    def scores(pixels: Pixels, sets: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        noise = _noise(pixels)
        return np.stack([_normalised(noise[list(chosen)].mean(0)) for chosen in sets]) @ prints.T

    return scores


def _normalised(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    centred = vector.astype(np.float64) - vector.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-12)


def _spectrum(pixels: Pixels) -> NDArray[np.float64]:
    """Log magnitudes of the grey images' Fourier transform, flat."""
    grey = _square(pixels).mean(1)
    window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
    return np.log(np.abs(np.fft.rfft2((grey - grey.mean((1, 2), keepdims=True)) * window)) + 1).reshape(
        len(grey), -1
    )


def by_spectrum(learned: Mapping[str, Pixels]) -> Scores:
    """The nearest mean log spectrum, every frequency in units of its spread within models."""
    spectra = [_spectrum(learned[name]) for name in sorted(learned)]
    means = np.stack([found.mean(0) for found in spectra])
    spread = np.sqrt(np.mean([found.var(0) for found in spectra], axis=0)) + 1e-6

    def scores(pixels: Pixels, sets: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        found = _spectrum(pixels) / spread
        asked = np.stack([found[list(chosen)].mean(0) for chosen in sets])
        return -((asked[:, None] - means / spread) ** 2).mean(2)

    return scores


class PixelClassifier(nn.Module):
    """Logits of single images from their pixels by convolutions alone, as Yu et al. have it.

    No layer normalises batches: each is degraded in one way, and at inference images are not.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 48, 2), (48, 64, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
        self.body, self.classes = nn.Sequential(*layers), nn.Linear(64, classes)

    def forward(self, pixels: torch.Tensor, _measured: torch.Tensor | None = None) -> torch.Tensor:
        found = self.body(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        logits: torch.Tensor = self.classes(found.mean((2, 3)))
        return logits


class FeatureClassifier(nn.Module):
    """Logits of single images from the set encoder's own features, each image a set of its own."""

    def __init__(self, sets: Sets) -> None:
        super().__init__()
        self.body = SetEncoder(EncoderLayout(embedding=64))
        self.body.standardise(sets.typical(STANDARD))
        self.classes = nn.Linear(64, len(sets.names))

    def forward(self, pixels: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        source = self.body.source(self.body.features(pixels, measured), torch.eye(len(pixels)))
        logits: torch.Tensor = self.classes(10 * source)
        return logits


def by_votes(model: nn.Module, sets: Sets, work: Path, steps: int) -> Scores:
    """A classifier of single images, the log probabilities of a set's images added up."""
    models = [number for number, name in enumerate(sets.names) if name != REAL]

    def loss(rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batches, chosen, number = sets.draw(rng)
        labels = chosen.repeat_interleave(number)
        logits = [model(batch.pixels, batch.measured) for batch in batches]
        value = F.cross_entropy(torch.cat(logits), labels.repeat(2))
        return value, {"loss": value.item()}

    training = Training(model, work / "classifier.pt", steps, 3e-3, 0.99)
    work.mkdir(parents=True, exist_ok=True)
    with progress(f"classifier {work.name}", steps, training.step) as bar:
        trained = training.run(loss, bar).eval()

    def scores(pixels: Pixels, asked: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        with torch.no_grad():
            found = trained(torch.from_numpy(pixels)).log_softmax(1).numpy()[:, models]
        return np.stack([found[list(chosen)].sum(0) for chosen in asked]).astype(np.float64)

    return scores


def accuracy(scores: Scores, asked: Mapping[str, Pixels], draws: int) -> NDArray[np.float64]:
    """Share of sets whose likeliest model is their own, by model (in order of names) and number of images:
    (m, ``SIZES``). Of single images, all are asked about."""
    rng, rows = np.random.default_rng(0), []
    for number, name in enumerate(sorted(asked)):
        count = len(asked[name])
        sets = [[[i] for i in range(count)]] + [random_sets(draws, size, count, rng) for size in SIZES[1:]]
        right = scores(asked[name], [chosen for of_size in sets for chosen in of_size]).argmax(1) == number
        ends = np.cumsum([len(of_size) for of_size in sets])[:-1]
        rows.append([part.mean() for part in np.split(right, ends)])
    return np.array(rows)


def best(scores: Scores, pixels: Pixels, size: int, draws: int) -> NDArray[np.float64]:
    """Likeness of random sets to their likeliest model."""
    return scores(pixels, random_sets(draws, size, len(pixels), np.random.default_rng(1))).max(1)


def clustering(embed: Embed, images: Mapping[str, Pixels]) -> dict[str, float]:
    """Adjusted Rand index against families, the share of triples in their families' order, and how near two
    models are at least."""
    names = sorted(images)
    prints = np.stack([fingerprint(embed, images[name]) for name in names])
    tree, families = Tree.of(names, prints), [name.split("-")[0] for name in names]
    triples = [
        tree.distances[a, b] < tree.distances[a, c]
        for a, b, c in itertools.permutations(range(len(names)), 3)
        if families[a] == families[b] != families[c]
    ]
    index = adjusted_rand(tree.clusters(len(set(families))), families)
    nearest = tree.distances[np.triu_indices(len(names), 1)].min()
    return {
        "rand": round(index, 3),
        "triples": round(float(np.mean(triples)), 3),
        "nearest": round(float(nearest), 5),
    }


def stability(embed: Embed, images: Mapping[str, Pixels]) -> dict[str, float]:
    """Distance of fingerprints of a model's two halves, as a share of that to the nearest other model."""
    names = sorted(images)
    halves = {name: [fingerprint(embed, half) for half in np.array_split(images[name], 2)] for name in names}
    shares = []
    for name in names:
        own = 1 - halves[name][0] @ halves[name][1]
        other = min(1 - halves[name][0] @ half for rest in names if rest != name for half in halves[rest])
        shares.append(float(own / other))
    return {"worst": round(max(shares), 3), "median": round(float(np.median(shares)), 3)}


def derivatives(work: Path, data: Path | None) -> dict[str, Path]:
    """Models derived from variants ``c``, a fifth of the weights pruned, or fine-tuned on other photographs:
    their folders by ``PARENT pruned`` and ``PARENT tuned``. Without ``data`` only those made before are."""
    found = {}
    for family in FAMILIES:
        parent = f"{family}-c"
        for kind in ("pruned", "tuned"):
            folder = work / f"{parent}-{kind}" / "model"
            if not (folder / "zoo.json").exists() and (kind == "pruned" or data is not None):
                generator = get_adapter(family).load(work / parent / "model")
                assert isinstance(generator, SmallGenerator)
                network = _pruned(generator) if kind == "pruned" else _tuned(generator, data, folder.parent)
                save_small(network, family, folder, SAMPLING[family])
            if (folder / "zoo.json").exists():
                found[f"{parent} {kind}"] = folder
    return found


def _pruned(generator: SmallGenerator) -> SmallNetwork:
    with torch.no_grad():
        for weights in generator.network.parameters():
            if weights.dim() > 1:
                limit = weights.abs().flatten().float().quantile(0.2)
                weights[weights.abs() < limit] = 0
    return generator.network


def _tuned(generator: SmallGenerator, data: Path | None, work: Path) -> SmallNetwork:
    assert data is not None
    generator.network.float().requires_grad_(True)
    return train(generator.network, photographs(data, IMAGENET, SIZE), work, FINE_TUNED, 16, 9)


def weights_alike(work: Path, names: Sequence[str], derived: Mapping[str, Path]) -> dict[str, float]:
    """The least likeness of derived weights to their parents', and the most of two independent models'."""
    storage = Storage(str(work.resolve()))

    @functools.cache
    def weights(name: str) -> Weights:
        return Weights(storage, f"{name}/model")

    def alike(one: str, other: str) -> float:
        return weights(one).likeness(weights(other)) or 0.0

    parents = {label: alike(folder.parent.name, label.split()[0]) for label, folder in derived.items()}
    click.echo("likeness of weights: " + ", ".join(f"{label} {found}" for label, found in parents.items()))
    apart = [alike(one, other) for one, other in itertools.combinations(names, 2)]
    return {"derived_weights_least": min(parents.values()), "independent_weights_most": max(apart)}


def shipped_lineage(learned: Mapping[str, Pixels]) -> Lineage:
    """The shipped network with the fingerprints of these models registered."""
    embed = network_embed()
    entries = [
        Fingerprint(name, tuple(fingerprint(embed, learned[name]).tolist()), len(learned[name]), SIZE)
        for name in sorted(learned)
    ]
    return Lineage(network(), entries)


def network_embed() -> Embed:
    """Embeddings by the shipped ONNX network."""

    def embed(pixels: Pixels, sets: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return network().embed(np.stack([f for f in network().features(list(pixels)) if f is not None]), sets)

    return embed


def answers(lineage: Lineage, asked: Mapping[str, Pixels], real: Pixels, draws: int) -> dict[str, float]:
    """What `verifier check` would say: rejections, confidence, mixtures."""
    rng, names = np.random.default_rng(3), sorted(asked)
    features = {
        name: np.stack([f for f in lineage.features(list(asked[name])) if f is not None]) for name in names
    }
    found: dict[str, float] = {}
    for size in (1, 16):
        told = [
            (name, lineage.of([features[name][i] for i in chosen]).entry)
            for name in names
            for chosen in random_sets(draws // 2, size, len(asked[name]), rng)
        ]
        named = [(name, entry) for name, entry in told if entry is not None and entry.model is not None]
        found[f"turned_away_{size}"] = round(1 - len(named) / len(told), 3)
        found[f"named_right_{size}"] = round(float(np.mean([e.model == n for n, e in named])), 3)
        found[f"mean_confidence_{size}"] = round(float(np.mean([e.confidence for _, e in named])), 3)
        if size > 1:
            mixed = [entry for _, entry in told if entry is not None and "mixes" in entry.note]
            found["pure_called_mixed"] = round(len(mixed) / len(told), 3)
    photos = np.stack([f for f in lineage.features(list(real)) if f is not None])
    for size in (1, 16):
        told_real = [
            lineage.of([photos[i] for i in chosen]).entry
            for chosen in random_sets(4 * draws, size, len(photos), rng)
        ]
        found[f"real_accepted_{size}"] = round(
            float(np.mean([e is not None and e.model is not None for e in told_real])), 3
        )
    seen, right = [], []
    for _ in range(4 * draws):
        first, second = rng.choice(len(names), 2, replace=False)
        parts = [
            features[names[one]][i]
            for one in (first, second)
            for i in random_sets(1, 8, len(asked[names[one]]), rng)[0]
        ]
        entry = lineage.of(parts).entry
        assert entry is not None
        seen.append("mixes" in entry.note)
        right.append(seen[-1] and all(f"{names[one]} (" in entry.note for one in (first, second)))
    found["mixture_seen"] = round(float(np.mean(seen)), 3)
    found["mixture_named_right"] = round(float(np.mean(right)), 3)
    return found


def unregistered(lineage: Lineage, asked: Mapping[str, Pixels], draws: int) -> dict[str, float]:
    """What is said of sets of 16 images of a model where its whole family is not registered."""
    rng, told = np.random.default_rng(4), []
    for name in sorted(asked):
        known = [entry for entry in lineage.fingerprints if entry.model[:-2] != name[:-2]]
        others = Lineage(lineage.network, known)
        features = others.features(list(asked[name]))
        for chosen in random_sets(draws // 4, 16, len(features), rng):
            entry = others.of([features[i] for i in chosen]).entry
            assert entry is not None
            told.append("named" if entry.model else "mixed" if "mixes" in entry.note else "turned_away")
    return {f"unregistered_{what}": round(told.count(what) / len(told), 3) for what in sorted(set(told))}


def cost() -> float:
    """Time of the lineage network for an image, as a share of the reference attribution network's."""
    from registry.generators.builtin import resolve_builtin
    from verifier.network import Network

    package = resolve_builtin("builtin:flowers-ldm@1").network
    assert package is not None
    attribution = Network.load(package, "cpu")
    side = attribution.spec.size
    pixels = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), dtype=np.uint8)
    windows, whole = list(pixels), [range(32)]

    def lineage() -> None:
        features = np.stack([f for f in network().features(windows) if f is not None])
        network().embed(features, whole)

    def best_of(run: Callable[[], object]) -> float:
        spent = []
        for _ in range(15):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
        return min(spent)

    return best_of(lineage) / best_of(lambda: attribution.logits(pixels))


def encoder(
    name: str,
    work: Path,
    sets: Callable[[], Sets],
    steps: int,
    quick: bool,
    layout: EncoderLayout,
    **how: Any,
) -> Embed | None:
    """The encoder called ``name``, trained where it is not there; None in a quick run without it."""
    folder = work / "bench" / name
    if quick and not (folder / "done").exists():
        return None
    found = train_encoder({}, layout, folder, steps, sets=sets(), **how)
    (folder / "done").touch()
    return encoder_embed(found.eval())


def shipped_only(figures: dict[str, float], draws: int) -> None:
    """Source attribution among the small generators that ship as builtins, for a checkout without a zoo."""
    from registry.generators.adapters import get_adapter
    from registry.generators.builtin import known_builtins, resolve_builtin

    images = {}
    for label in [name for name in known_builtins() if name.startswith("zoo-")] + ["flowers-stylegan2@1"]:
        folder = resolve_builtin(label).weights
        generator = get_adapter(adapter_of(folder)).load(folder)
        images[label] = np.stack([np.asarray(image) for image in generator.sample(256, 1)])
    learned = {name: pixels[:128] for name, pixels in images.items()}
    asked = {name: pixels[128:] for name, pixels in images.items()}
    ours = by_embedding(network_embed(), learned)
    for size, value in zip(SIZES, accuracy(ours, asked, draws).mean(0).tolist(), strict=True):
        figures[f"shipped_accuracy_{size}"] = round(value, 3)


def whole(
    figures: dict[str, float],
    work: Path,
    data: Path | None,
    folders: Mapping[str, Path],
    steps: int,
    draws: int,
    quick: bool,
) -> None:
    """Every figure for which there is a zoo, an encoder and time."""
    images = {name: samples_of(folder) for name, folder in folders.items()}
    learned = {name: pixels[TRAIN] for name, pixels in images.items()}
    asked = {name: pixels[TEST] for name, pixels in images.items()}
    real, kept = _photographs(work, data)
    figures["models"] = len(images)

    def sets(names: Sequence[str]) -> Callable[[], Sets]:
        return lambda: all_sets().only([*names, REAL])

    @functools.cache
    def all_sets() -> Sets:
        return Sets({**learned, REAL: real[TRAIN]})

    methods: dict[str, Scores] = {"ours": by_embedding(network_embed(), learned)}
    methods |= {"noise": by_noise(learned), "spectrum": by_spectrum(learned)}
    for name, classifier, times in (
        ("votes", lambda: PixelClassifier(len(all_sets().names)), SLOW_LEARNER),
        ("own-votes", lambda: FeatureClassifier(all_sets()), 1),
    ):
        folder = work / "bench" / name
        if not quick or (folder / "classifier.pt").exists():
            torch.manual_seed(0)
            methods[name] = by_votes(classifier(), all_sets(), folder, times * STEPS)
    ablations: dict[str, tuple[EncoderLayout, dict[str, Any]]] = {
        "same-steps": (EncoderLayout(), {}),
        "high-pass": (EncoderLayout(residual="high-pass"), {}),
        "no-sets": (EncoderLayout(pooled=False), {}),
        "no-contrast": (EncoderLayout(), {"losses": (CLASSES,)}),
        "contrast": (EncoderLayout(), {"losses": (CONTRASTIVE,)}),
    }
    for name, (layout, how) in ablations.items():
        embed = encoder(name, work, all_sets, steps, quick, layout, **how)
        if embed is not None:
            methods[name] = by_embedding(embed, learned)
    _sources(figures, methods, asked, draws)
    _open_set(figures, work, images, learned, asked, kept, sets, steps, quick)
    _relations(figures, work, asked, sets, steps, quick)
    figures |= {f"stability_{kind}": value for kind, value in stability(network_embed(), asked).items()}
    _product(figures, work, data, folders, learned, asked, kept, draws)


def _photographs(work: Path, data: Path | None) -> tuple[Pixels, Pixels]:
    """Flowers that training may see, and those kept out of it, (n, 32, 32, 3)."""
    found = []
    for name, kept_out in (("real32", False), ("kept32", True)):
        path = work / f"{name}.npy"
        if not path.exists():
            if data is None:
                raise click.UsageError("--data is needed for the photographs.")
            np.save(path, photographs(data, "flowers", SIZE, kept_out=kept_out).permute(0, 2, 3, 1).numpy())
        found.append(np.load(path))
    return found[0], found[1]


def _sources(
    figures: dict[str, float], methods: Mapping[str, Scores], asked: Mapping[str, Pixels], draws: int
) -> None:
    click.echo(f"source accuracy over {len(asked)} models by set size; {NOTE}")
    click.echo(f"{'':12}{'':12}" + "".join(f"{size:>7}" for size in SIZES))
    for kind in TESTED:
        changed = {name: degrade(pixels, kind, 5) for name, pixels in asked.items()}
        table = {name: accuracy(scores, changed, draws).mean(0).tolist() for name, scores in methods.items()}
        for name, row in table.items():
            click.echo(f"{kind:12}{name:12}" + "".join(f"{value:7.3f}" for value in row))
            if kind == "clean":
                figures |= {f"{name}_{size}": round(v, 4) for size, v in zip(SIZES, row, strict=True)}
        mine = table["ours"]
        figures["accuracy_16" if kind == "clean" else f"accuracy_16_{kind}"] = round(mine[SIZES.index(16)], 4)
        rivals = [table[name] for name in ("noise", "spectrum", "votes", "own-votes") if name in table]
        lead = min(a - max(others) for a, *others in zip(mine, *rivals, strict=True))
        figures["least_lead" if kind == "clean" else f"least_lead_{kind}"] = round(lead, 4)
    of_each = dict(zip(sorted(asked), accuracy(methods["ours"], asked, draws), strict=True))
    for size in (1, 16):
        told = {name: float(row[SIZES.index(size)]) for name, row in of_each.items()}
        pairs = [value for name, value in told.items() if name in SEED_PAIRS]
        rest = [value for name, value in told.items() if name not in SEED_PAIRS]
        figures[f"accuracy_{size}_seed_pairs"] = round(float(np.mean(pairs)), 4)
        figures[f"accuracy_{size}_others"] = round(float(np.mean(rest)), 4)
        click.echo(f"by model, {size} images: " + ", ".join(f"{n} {value:.2f}" for n, value in told.items()))


def _open_set(
    figures: dict[str, float],
    work: Path,
    images: Mapping[str, Pixels],
    learned: Mapping[str, Pixels],
    asked: Mapping[str, Pixels],
    kept: Pixels,
    sets: Callable[[Sequence[str]], Callable[[], Sets]],
    steps: int,
    quick: bool,
) -> None:
    def known_best(scores: Scores, names: Sequence[str]) -> NDArray[np.float64]:
        return np.concatenate([best(scores, asked[name], OPEN_SIZE, 30) for name in names])

    ours = by_embedding(network_embed(), learned)
    real = best(ours, kept, OPEN_SIZE, 400)
    figures["open_real_auroc"] = round(auroc(known_best(ours, sorted(learned)), real), 4)
    areas = []
    for family in FAMILIES:
        rest = [name for name in sorted(learned) if not name.startswith(family)]
        embed = encoder(f"without-{family}", work, sets(rest), steps, quick, EncoderLayout())
        if embed is None:
            continue
        scores = by_embedding(embed, {name: learned[name] for name in rest})
        strangers = [name for name in sorted(images) if name.startswith(family)]
        unknown = np.concatenate([best(scores, asked[name], OPEN_SIZE, 30) for name in strangers])
        areas.append(auroc(known_best(scores, rest), unknown))
        figures[f"open_auroc_without_{family}"] = round(areas[-1], 4)
    if len(areas) == len(FAMILIES):
        figures["open_family_auroc"] = round(float(np.mean(areas)), 4)


def _relations(
    figures: dict[str, float],
    work: Path,
    asked: Mapping[str, Pixels],
    sets: Callable[[Sequence[str]], Callable[[], Sets]],
    steps: int,
    quick: bool,
) -> None:
    """Clustering of models that an encoder has seen, and of those that it has not."""
    unseen = []
    for letters in HALVES:
        seen = [name for name in sorted(asked) if name[-1] in letters]
        embed = encoder(f"half-{letters}", work, sets(seen), steps, quick, EncoderLayout())
        if embed is None:
            continue
        others = {name: pixels for name, pixels in asked.items() if name not in seen}
        unseen.append(clustering(embed, others))
        learned_alone = clustering(only_source(embed, network().spec.source), others)
        click.echo(
            f"trained on {letters}, asked about the others: {unseen[-1]}; source alone {learned_alone}"
        )
    if len(unseen) == len(HALVES):
        for what in ("rand", "triples"):
            figures[f"unseen_{what}"] = round(float(np.mean([found[what] for found in unseen])), 3)
            figures[f"unseen_{what}_worst"] = min(found[what] for found in unseen)
        figures["unseen_nearest"] = min(found["nearest"] for found in unseen)
    figures |= {f"seen_{what}": value for what, value in clustering(network_embed(), asked).items()}
    alone = clustering(only_source(network_embed(), network().spec.source), asked)
    figures |= {f"seen_{what}_source_alone": value for what, value in alone.items()}


def _product(
    figures: dict[str, float],
    work: Path,
    data: Path | None,
    folders: Mapping[str, Path],
    learned: Mapping[str, Pixels],
    asked: Mapping[str, Pixels],
    kept: Pixels,
    draws: int,
) -> None:
    """What users see: verdicts, another sampler, derived weights."""
    lineage, embed = shipped_lineage(learned), network_embed()
    figures |= answers(lineage, asked, kept, draws)
    figures |= unregistered(lineage, asked, draws)
    names = sorted(learned)
    directions = np.stack([fingerprint(embed, learned[name]) for name in names])
    same = {
        name: resampled(folders[name], "resampled", OTHER_SAMPLING[name.split("-")[0]], 192, 77)
        for name in names
        if name.endswith("-a")
    }
    right, near = [], []
    for name, pixels in same.items():
        found = by_embedding(embed, learned)(
            pixels, random_sets(draws, 16, len(pixels), np.random.default_rng(2))
        )
        right.append(float((found.argmax(1) == names.index(name)).mean()))
        near.append(float(1 - fingerprint(embed, pixels) @ directions[names.index(name)]))
    figures["other_sampler_right_16"] = round(float(np.mean(right)), 3)
    figures["other_sampler_distance"] = round(max(near), 4)
    limit, flagged, nearest = lineage.spec.relative, [], []
    derived = derivatives(work, data)
    for label, folder in derived.items():
        pixels = samples_of(folder, 192, 5)
        distances = 1 - directions @ fingerprint(embed, pixels)
        first = names[int(distances.argmin())]
        nearest.append(first == label.split()[0])
        flagged.append(nearest[-1] and distances.min() <= limit)
        click.echo(f"{label}: nearest {first} at {distances.min():.4f} (limit {limit:g})")
    others = 1 - directions @ directions.T + 2 * np.eye(len(names))
    click.echo(
        "nearest other model: "
        + ", ".join(f"{n} {row.min():.4f}" for n, row in zip(names, others, strict=True))
    )
    figures["derived_flagged"] = round(float(np.mean(flagged)), 3)
    figures["derived_nearest"] = round(float(np.mean(nearest)), 3)
    figures["independent_flagged"] = round(float((others.min(1) <= limit).mean()), 3)
    if derived:
        figures |= weights_alike(work, names, derived)


GOALS = {
    "accuracy_16": Goal(">=", 0.98),
    "accuracy_16_jpeg75": Goal(">=", 0.90),
    "least_lead": Goal(">=", 0.0),
    "open_family_auroc": Goal(">=", 0.97),
    "open_real_auroc": Goal(">=", 0.97),
    "unseen_rand": Goal(">=", 0.8),
    "unseen_triples": Goal(">=", 0.95),
    "stability_worst": Goal("<=", 0.1),
    "derived_weights_least": Goal(">=", DERIVED),
    "independent_weights_most": Goal("<=", DERIVED),
    "cost": Goal("<=", 0.3),
}


@click.command()
@click.option("--quick", is_flag=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("zoo"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="flowers128.zip and imagenet32.zip.")
@click.option("--steps", default=STEPS // 2, show_default=True, help="Of each encoder that is compared.")
def main(quick: bool, work: Path, data: Path | None, steps: int) -> None:
    """Measure and print a table for each figure of docs/lineage.md."""
    torch.set_num_threads(1)
    draws = QUICK_DRAWS if quick else DRAWS
    figures: dict[str, float] = {"cost": round(cost(), 3)}
    folders = {v.name: work / v.name / "model" for v in VARIANTS if (work / v.name / "model").is_dir()}
    if not folders:
        click.echo(f"no zoo in {work}: the shipped models alone (python -m registry.lineage.zoo makes it)")
        shipped_only(figures, draws)
    else:
        whole(figures, work, data, folders, steps, draws, quick)
    close("lineage", figures, {name: goal for name, goal in GOALS.items() if name in figures})


if __name__ == "__main__":
    main()
