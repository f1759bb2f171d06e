import pytest

from registry.attribution.study.plan import Point, Sweep, default_bits
from registry.errors import InputError
from registry.generators.adapters import get_adapter

COMPONENTS = 64


def plan(adapter: str = "latent-diffusion", dimensions: int = COMPONENTS, **options: object) -> list[Point]:
    return Sweep(**options).plan(get_adapter(adapter), dimensions)  # type: ignore[arg-type]


def test_a_grid_has_every_combination_once() -> None:
    points = plan(shifts="0,48,last", bits="8,16", strengths="0.5,1")
    assert len(points) == len(set(points)) == 10, "the last 16 components begin at 48, which is given twice"
    assert Point("pca", 56, 8, strength=0.5) in points
    assert Point("pca", 48, 16, strength=1.0) in points


def test_words_stand_for_shifts_that_fit_each_length() -> None:
    assert {(p.shift, p.bits) for p in plan(bits="8,32", psnrs="30")} == {
        (0, 8), (28, 8), (56, 8), (0, 32), (16, 32), (32, 32)
    }  # fmt: skip


def test_the_default_is_the_papers_length_and_ours_where_they_fit() -> None:
    assert default_bits(1024) == [64, 256]
    assert default_bits(512) == [64, 256]
    assert default_bits(256) == [64]
    assert default_bits(64) == [32]
    points = plan(dimensions=512)
    assert len(points) == 12
    assert Point("pca", 448, 64, psnr=36.0) in points, "the paper's shift and k"


def test_single_points_are_read_as_written() -> None:
    assert plan(points=("pca:48:16:0.5", "pca:last:8:34dB")) == [
        Point("pca", 48, 16, strength=0.5),
        Point("pca", 56, 8, psnr=34.0),
    ]


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
        ({"schemes": "pca-projected"}, "--schemes pca-projected: the weights of latent-diffusion"),
        ({"schemes": "pca,learned"}, "--schemes learned: a study cannot train it"),
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
    points = plan("stylegan2", schemes="pca,pca-projected", bits="8", shifts="0", strengths="1")
    assert [point.scheme for point in points] == ["pca", "pca-projected"]
