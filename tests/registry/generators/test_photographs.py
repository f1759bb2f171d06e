import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from registry.errors import InputError
from registry.generators.photographs import load_photographs, random_crops


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    Image.new("RGB", (30, 20), (200, 0, 0)).save(images / "a.png")
    Image.new("L", (20, 40), 10).save(images / "below" / "b.jpg")
    (images / "broken.png").write_bytes(b"\x89PNG but no more")
    (images / "notes.txt").write_text("no image")
    return images


def test_a_folder_gives_its_images_in_order_of_their_names(folder: Path) -> None:
    photographs = load_photographs(folder, 16)
    assert photographs.shape == (2, 3, 16, 16)
    assert photographs.dtype == torch.uint8
    assert photographs[0, :, 8, 8].tolist() == [200, 0, 0]
    assert abs(int(photographs[1, 0, 8, 8]) - 10) <= 2


def test_a_zip_gives_the_same_as_its_folder(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.*"):
            file.write(path, path.relative_to(folder))
    assert torch.equal(load_photographs(archive, 16), load_photographs(folder, 16))


@pytest.mark.parametrize("content", [None, b"neither folder nor archive"])
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    source = tmp_path / "source"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match="source"):
        load_photographs(source, 16)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image"):
        load_photographs(tmp_path, 16)


def test_crops_keep_the_range_and_depend_on_the_generator_only(folder: Path) -> None:
    photographs = load_photographs(folder, 32)
    first, again = (random_crops(photographs, 16, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (2, 3, 16, 16)
    assert torch.equal(first, again)
    assert first.abs().max() <= 1
