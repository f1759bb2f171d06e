"""`registry lineage`: how registered models are related, and fingerprints computed anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from registry.command_line import OUT, home_option, json_option, opened, print_json


@click.group()
def lineage() -> None:
    """See how registered models are related, told from their images alone."""


@lineage.command("tree")
@click.option("--out", type=OUT, metavar="FILE.svg", help="Write the dendrogram and distances as SVG.")
@home_option
@json_option
def lineage_tree(out: Path | None, as_json: bool) -> None:
    """Cluster the fingerprints of all registered models.

    Distances are one less the cosine of two fingerprints: near 0 for the same or derived weights, about 1 for
    models that have nothing to do with each other.
    """
    from registry.errors import InputError
    from registry.lineage import service

    if out is None and not as_json:
        raise InputError("nothing was asked for.", "Give --out FILE.svg, --json, or both.")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"{out}: no file can be written there.", "Name a file in a folder that exists.")
    with opened() as home, home.database.read() as session:
        tree = service.tree(session)
    if out is not None:
        out.write_text(tree.svg(service.network().spec.relative), encoding="utf-8")
    if as_json:
        print_json(tree.document())
    else:
        click.echo(f"The tree of {len(tree.models)} models is in {out}.")


@lineage.command("compute")
@click.argument("name")
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Images that the model made (folder or zip) [default: draw them now].",
)
@home_option
@json_option
def lineage_compute(name: str, samples: Path | None, as_json: bool) -> None:
    """Compute a model's fingerprint and show its nearest relative.

    NAME may be NAME@VERSION. At least 64 images are needed, as the model made them: resized or saved as JPEG
    they tell less. `registry model add` and `registry model train` do this by themselves, except for a model
    that samples slowly and is not trained yet, or whose sampler is not at hand.
    """
    from registry.errors import InputError
    from registry.generators import service as generators
    from registry.generators.adapters import get_adapter
    from registry.generators.photographs import load_images
    from registry.lineage import service

    if samples is not None and not samples.exists():
        raise InputError(f"{samples}: no such file or folder.", "Give --samples a folder or zip of images.")
    with opened() as home:
        with home.database.read() as session:
            model = generators.get_model(session, name)
        if samples is not None:
            found = service.fingerprint_of(load_images(samples), str(samples))
        else:
            with home.storage.local(generators.base_name(model)) as folder:
                generator = get_adapter(model.adapter).load(folder)
                if (obstacle := generator.sampling_obstacle()) is not None:
                    raise obstacle
                found = service.sample_fingerprint(generator, model.label)
        service.install(home.database, model, found)
        service.compare_weights(home, model)
        with home.database.read() as session:
            described = service.describe(session, model)
    if as_json:
        print_json(described)
        return
    click.echo(f"The lineage of {model.label} is known from {found.samples} images.")
    if sentence := nearest_sentence(described):
        click.echo(sentence)


def nearest_sentence(described: Mapping[str, Any] | None) -> str:
    """What is said of a model's nearest relative (``service.describe``), nothing where there is none."""
    nearest = described["nearest"] if described else None
    if nearest is None:
        return ""
    distance = nearest["distance"]
    images = "" if distance is None else f"; distance of the images {distance:.3f}"
    if nearest["weights"] is not None:
        return (
            f"Warning: it has the weights of {nearest['model']}, fine-tuned or pruned at most (likeness "
            f"{nearest['weights']:.2f}, unrelated weights have about 0{images})."
        )
    if nearest["derived"]:
        return (
            f"Warning: its images are as near to those of {nearest['model']} as pruned weights' are "
            f"(distance {distance:.3f}), but the weights show no descent: it may be distilled from it, or "
            "trained by the same recipe."
        )
    return f"Its nearest relative is {nearest['model']} (distance {distance:.3f}); neither seems derived."
