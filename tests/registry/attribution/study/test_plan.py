from collections.abc import Sequence

import pytest

from registry.attribution.study.plan import Offer, Point, Sweep, default_bits
from registry.errors import InputError

COMPONENTS, LEARNABLE = 64, 120
STYLEGAN2 = ("pca", "learned", "pca-projected")


def plan(
    dimensions: int = COMPONENTS, allowed: Sequence[str] = ("learned", "pca"), **options: object
) -> list[Point]:
    offer = Offer("latent-diffusion", allowed, dimensions, LEARNABLE)
    return Sweep(**options).plan(offer)  # type: ignore[arg-type]


def test_a_grid_has_every_combination_once() -> None:
    points = plan(schemes="pca", shifts="0,48,last", bits="8,16", strengths="0.5,1")
    assert len(points) == len(set(points)) == 10, "the last 16 components begin at 48, which is given twice"
    assert Point("pca", 56, 8, strength=0.5) in points
    assert Point("pca", 48, 16, strength=1.0) in points


def test_words_stand_for_shifts_that_fit_each_length() -> None:
    assert {(p.shift, p.bits) for p in plan(schemes="pca", bits="8,32", psnrs="30")} == {
        (0, 8), (28, 8), (56, 8), (0, 32), (16, 32), (32, 32)
    }  # fmt: skip


def test_the_default_is_the_papers_length_and_ours_where_they_fit() -> None:
    assert default_bits(1024) == [64, 256]
    assert default_bits(512) == [64, 256]
    assert default_bits(256) == [64]
    assert default_bits(64) == [32]
    points = plan(dimensions=512, allowed=("pca",))
    assert len(points) == 12
    assert Point("pca", 448, 64, psnr=36.0) in points, "the paper's shift and k"


def test_single_points_are_read_as_written() -> None:
    assert plan(points=("pca:48:16:0.5", "pca:last:8:34dB", "learned:16:34dB")) == [
        Point("pca", 48, 16, strength=0.5),
        Point("pca", 56, 8, psnr=34.0),
        Point("learned", 0, 16, psnr=34.0),
    ]


def test_learned_directions_are_points_of_every_length_and_level_and_have_no_shift() -> None:
    points = plan(schemes="pca,learned", shifts="0,last", bits="8,16", psnrs="30,34")
    assert sum(point.learned for point in points) == 4
    assert len(points) == 8 + 4
    assert Point("learned", 0, 16, psnr=30.0) in points
    assert str(Point("learned", 0, 16, psnr=30.0)) == "learned, k 16, 30 dB"


def test_learned_directions_may_be_more_than_the_latent_has_components() -> None:
    assert plan(schemes="learned", bits="120", strengths="1") == [Point("learned", 0, 120, strength=1.0)]


def test_by_default_every_usual_scheme_that_the_model_allows_is_swept() -> None:
    assert {point.scheme for point in plan()} == {"pca", "learned"}
    assert {point.scheme for point in plan(allowed=STYLEGAN2)} == {"pca", "learned"}
    assert {point.scheme for point in plan(allowed=("pca",))} == {"pca"}
    few = plan(dimensions=512)
    assert {point.bits for point in few if point.learned} == {64}, "120 numbers do not carry 256 bits"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bits": "128"}, "--bits 128"),
        ({"bits": "12"}, "--bits 12"),
        ({"bits": "0"}, "--bits 0"),
        ({"bits": "8,,16"}, "--bits"),
        ({"bits": "eight"}, "--bits eight"),
        ({"shifts": "60", "bits": "8"}, "--shifts 60"),
        ({"shifts": "-1", "bits": "8"}, "--shifts -1"),
        ({"shifts": "end", "bits": "8"}, "--shifts end"),
        ({"strengths": "0"}, "--strengths 0"),
        ({"strengths": "nan"}, "--strengths nan"),
        ({"psnrs": "5"}, "--psnrs 5"),
        ({"psnrs": "inf"}, "--psnrs inf"),
        ({"strengths": "1", "psnrs": "30"}, "--strengths and --psnrs"),
        ({"schemes": "dct"}, "--schemes dct: no such scheme"),
        ({"schemes": "pca-projected"}, "--schemes pca-projected: the weights of this latent-diffusion"),
        ({"schemes": "pca,learned", "allowed": ("pca",)}, "--schemes learned: the weights of this"),
        ({"schemes": "learned", "bits": "128"}, "--bits 128: the weights have 120 numbers"),
        ({"schemes": "learned", "shifts": "0"}, "--shifts has no meaning with --schemes learned"),
        ({"points": ("learned:0:8:1",)}, "--points learned:0:8:1: expected"),
        ({"points": ("learned:8",)}, "--points learned:8"),
        ({"points": ("learned",)}, "--points learned"),
        ({"points": ("learned:128:1",)}, "--points 128"),
        ({"points": ("pca:0:8",)}, "--points pca:0:8"),
        ({"points": ("pca:0:8:strong",)}, "--points strong"),
        ({"points": ("pca:60:8:1",)}, "--points 60"),
        ({"points": ("pca:0:8:1",), "bits": "8"}, "--points and --bits"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_option(options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(**options)
    assert named in str(caught.value)


def test_the_projected_scheme_is_offered_where_the_weights_allow_it() -> None:
    points = plan(allowed=STYLEGAN2, schemes="pca,pca-projected", bits="8", shifts="0", strengths="1")
    assert [point.scheme for point in points] == ["pca", "pca-projected"]
