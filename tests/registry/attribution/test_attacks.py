import numpy as np
import pytest
from PIL import Image

from registry.attribution import attacks
from registry.attribution.attacks import ATTACKS, BENCHMARK, PAPER, PLATFORM, WAVES, training_attack


def picture(width: int = 64, height: int = 64) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


@pytest.mark.parametrize("size", [(64, 64), (96, 50), (9, 7)])
@pytest.mark.parametrize("name", BENCHMARK)
def test_attacks_keep_size_and_mode_and_follow_their_generator(name: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    first, again = (BENCHMARK[name](image, np.random.default_rng(5)) for _ in range(2))
    assert (first.size, first.mode) == (size, "RGB")
    assert first.tobytes() == again.tobytes()
    if max(size) >= 64:  # half a pixel of blur at 64 is nothing at 9
        assert (difference(first, image) > 0) == (name != "clean")


def test_the_training_mix_leaves_some_images_alone_and_changes_most() -> None:
    image = picture()
    rng = np.random.default_rng(0)
    changed = [difference(training_attack(image, rng), image) > 0 for _ in range(60)]
    assert 30 < sum(changed) < 60


def test_noise_has_the_stated_deviation() -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.asarray(attacks.add_noise(grey, 0.1, np.random.default_rng(0)), float)
    assert noisy.std() / 255 == pytest.approx(0.1, rel=0.02)


def test_blur_is_measured_at_the_reference_side() -> None:
    small, large = Image.new("RGB", (64, 64)), Image.new("RGB", (256, 256))
    small.paste("white", (32, 0, 64, 64))
    large.paste("white", (128, 0, 256, 256))
    shrunk = attacks.blur(large, 1.0).resize((64, 64), Image.Resampling.BOX)
    assert difference(shrunk, attacks.blur(small, 1.0)) < 2


def test_a_crop_of_the_whole_is_the_image() -> None:
    image = picture()
    assert difference(attacks.crop_and_rescale(image, 1.0, np.random.default_rng(0)), image) < 1


def test_an_erased_rectangle_has_the_stated_area() -> None:
    image = Image.new("RGB", (100, 100))
    erased = np.asarray(attacks.erase(image, 0.25, np.random.default_rng(1)))
    assert erased.any(-1).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lower_quality_costs_more(kind: str) -> None:
    image = picture()
    losses = [difference(attacks.recompress(image, kind, quality), image) for quality in (95, 50, 10)]
    assert losses == sorted(losses)
    assert losses[0] < losses[2]


def test_no_attack_hides_another_of_the_same_name() -> None:
    assert len(BENCHMARK) == len(ATTACKS) + len(PAPER) + len(WAVES) + len(PLATFORM)


@pytest.mark.parametrize("name", WAVES)
def test_waves_distortions_grow_with_their_strength(name: str) -> None:
    image = picture()
    mild, middle, harsh = (
        np.mean(
            [
                difference(WAVES[name].at(image, strength, np.random.default_rng(seed)), image)
                for seed in range(5)
            ]
        )
        for strength in (0.0, 0.5, 1.0)
    )
    assert mild < middle < harsh


def test_the_middle_of_a_range_is_its_arithmetic_middle() -> None:
    image = picture()
    rng = np.random.default_rng
    assert WAVES["waves-jpeg"].at(image, 0.5, rng(0)).tobytes() == (
        attacks.recompress(image, "JPEG", 50).tobytes()
    )
    assert WAVES["waves-blur"].at(image, 0.5, rng(0)).tobytes() == attacks.blur(image, 1.25).tobytes()
    assert WAVES["waves-crop"].at(image, 0.5, rng(0)).tobytes() == (
        attacks.crop_and_rescale(image, 0.75**0.5, rng(0)).tobytes()
    )
    with pytest.raises(ValueError, match="between 0 and 1"):
        WAVES["waves-crop"].at(image, 1.5, rng(0))


def test_whole_parameters_reach_both_ends_and_nothing_beyond() -> None:
    seen = []
    quality = attacks.Ranged(lambda image, value, rng: seen.append(value) or image, 12, 10, whole=True)
    rng = np.random.default_rng(0)
    for _ in range(60):
        quality(picture(), rng)
    assert set(seen) == {10.0, 11.0, 12.0}


def test_a_rotation_turns_by_the_stated_angle_to_either_side() -> None:
    image = Image.new("RGB", (65, 65))
    image.paste("white", (33, 31, 65, 34))  # a hand that points right
    angles = set()
    for seed in range(8):
        turned = np.asarray(attacks.rotate(image, 30, np.random.default_rng(seed)), float).sum(-1)
        rows, columns = np.indices(turned.shape)
        up, right = (32 - rows) * turned, (columns - 32) * turned
        angles.add(round(np.degrees(np.arctan2(up.sum(), right.sum()))))
    assert len(angles) == 2
    assert sorted(angles) == pytest.approx([-30, 30], abs=3)


def test_the_papers_combination_is_its_three_attacks_in_turn() -> None:
    image, rng = picture(), np.random.default_rng
    step = PAPER["paper-noise"](PAPER["paper-blur"](image, rng(0)), rng(0))
    assert PAPER["paper-combination"](image, rng(0)).tobytes() == PAPER["paper-jpeg"](step, rng(0)).tobytes()
