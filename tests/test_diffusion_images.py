"""Facts about learned models of images: the data, the judge, samples by label and guidance, and a sheet."""

import hashlib
import io
import tarfile

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.testing import assert_close

from reprobook.data.catalogue import CATALOGUE, DataSet, File
from reprobook.data.cifar10 import load_cifar10
from reprobook.diffusion.figures import draw_sheet
from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.images import Judge, guided, load_pictures, quality, sample, train_judge
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.teachers import Recipe
from reprobook.errors import UserError

matplotlib.use("Agg")
FM = SCHEDULES["fm"]
RECIPE = Recipe(schedule="fm", kind="velocity")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    return load_pictures("digits")


@pytest.fixture(scope="module")
def judge(digits):
    return train_judge(digits, 150)


def test_the_digits_are_divided_without_overlap_and_reach_from_black_to_white(digits):
    assert (len(digits.images), len(digits.held_out)) == (1498, 299)
    assert (digits.images.min(), digits.images.max()) == (-1, 1)
    kept, out = ({x.numpy().tobytes() for x in part} for part in (digits.images, digits.held_out))
    assert not kept & out
    assert all(100 < n < 200 for n in digits.labels.bincount())


def test_mixed_images_keep_their_labels(digits):
    from reprobook.data import handwritten_digits

    original = handwritten_digits()
    pixels = torch.from_numpy(original.images).float() / 127.5 - 1
    known = {x.numpy().tobytes(): label for x, label in zip(pixels, original.labels, strict=True)}
    for images, labels in (digits[:2], digits[2:]):
        assert [known[x.numpy().tobytes()] for x in images] == labels.tolist()
    first = digits.labels[:300].bincount(minlength=10)
    assert first.min() > 15  # mixed: the original order would do that too, but not for writers


def test_the_judge_knows_digits(judge, digits):
    _, seen = judge.look(digits.held_out)
    assert (seen == digits.held_out_labels).double().mean() > 0.9
    features, seen = judge.look(digits.images[:50])
    assert_close(judge.head(features.float()).argmax(1), seen)
    assert_close(judge(digits.images[:50]).argmax(1), seen)


def test_the_judge_looks_at_images_in_parts_of_any_size():
    judge, x = Judge(1, 28).eval(), random(2100, 1, 28, 28).float()
    features, _ = judge.look(x)
    assert_close(features[2050:2060].float(), judge.look(x[2050:2060])[0].float(), rtol=1e-4, atol=1e-6)


def test_real_images_are_judged_perfect(judge, digits):
    real, seen = judge.look(digits.images[:200])
    found = quality(judge, digits.images[:200], seen, real)
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert found[1:] == (1, 1, 1)
    assert quality(judge, digits.images[:200], (seen + 1) % 10, real).agreement == 0


def test_copies_of_few_images_have_precision_but_little_recall(judge, digits):
    real, seen = judge.look(digits.images[:200])
    copies = digits.images[torch.arange(200) % 10]
    found = quality(judge, copies, seen[torch.arange(200) % 10], real)
    assert found.precision == 1
    assert found.recall < 0.2


def test_samples_are_judged_within_the_range_of_images(judge, digits):
    real, seen = judge.look(digits.images[:200])
    loud = digits.images[:200] + 5 * (digits.images[:200] == 1) - 5 * (digits.images[:200] == -1)
    assert quality(judge, loud, seen, real).frechet == pytest.approx(0, abs=1e-6)


class Constant(nn.Module):
    """A velocity that depends on nothing but the label: -label, or 1 without one."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, label=None):
        self.calls += 1
        value = torch.tensor(1.0) if label is None else -label.to(x.dtype)
        return value.expand(len(x))[:, None, None, None].expand_as(x)


def test_samples_move_by_the_velocity_of_their_own_label():
    noise, label, grid = random(7, 1, 2, 2).float(), torch.arange(7), time_grid(FM, 3)
    drawn = sample(Constant(), RECIPE, noise, label, grid, "euler", part=3)
    length = FM.last - FM.first
    assert_close(drawn, noise * FM.last + length * label[:, None, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 5), (1.0, 5), (2.0, 10), (0.5, 10)])
def test_guidance_goes_along_the_line_through_both_models_at_the_cost_of_both(weight, calls):
    net, noise, label = Constant(), random(4, 1, 2, 2).float(), torch.full((4,), 3)
    drawn = sample(net, RECIPE, noise, label, time_grid(FM, 5), "euler", weight=weight)
    velocity = weight * -3 + (1 - weight) * 1
    assert_close(drawn, noise * FM.last - (FM.last - FM.first) * velocity, rtol=1e-5, atol=1e-5)
    assert net.calls == calls
    assert_close(
        guided(net, RECIPE, label, weight)(noise, torch.tensor(0.5), "velocity")[0, 0, 0, 0].item(), velocity
    )


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_sheet_reads_from_left_to_right(ax):
    values = torch.linspace(-1, 1, 6)
    draw_sheet(ax, values[:, None, None, None].expand(6, 1, 3, 3), 3)
    shown = np.asarray(ax.images[0].get_array()).reshape(8, 12)
    assert_close(torch.tensor(shown[::4, ::4].ravel()), (values + 1) / 2, check_dtype=False)


# --------------------------------------------------------------------------- CIFAR-10


def packed(folder, batches):
    """Write an archive in CIFAR-10's binary layout, and enter it into the catalogue as the published one."""
    path = folder / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, rows in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(rows)
            archive.addfile(member, io.BytesIO(rows))
    content = path.read_bytes()
    file = File(f"cifar10/{path.name}", len(content), hashlib.sha256(content).hexdigest())
    words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
    return DataSet("cifar10", **words, editions=((file,),))


@pytest.fixture
def toy_cifar(tmp_path, monkeypatch):
    """Two images in every batch, of random pixels; returns them by name of the batch."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    rows = np.random.default_rng(0).integers(0, 256, (6, 2, 3073), dtype=np.uint8)
    rows[:, :, 0] %= 10
    entry = packed(tmp_path, {name: rows[i].tobytes() for i, name in enumerate(names)})
    monkeypatch.setitem(CATALOGUE, "cifar10", entry)
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path))
    return rows


def test_cifar10_is_read_plane_by_plane_in_the_published_order(toy_cifar):
    train, test = load_cifar10("train"), load_cifar10("test")
    np.testing.assert_array_equal(train.labels, toy_cifar[:5, :, 0].ravel())
    np.testing.assert_array_equal(test.images[1, 2, 5, 7], toy_cifar[5, 1, 1 + 2 * 1024 + 5 * 32 + 7])
    assert (len(train), len(test), train.images.shape[1:]) == (10, 2, (3, 32, 32))


def test_cifar10_comes_as_pictures_in_the_range_of_networks(toy_cifar):
    pictures = load_pictures("cifar10")
    assert pictures.images.shape == (10, 3, 32, 32)
    assert -1 <= pictures.images.min() < -0.9 < 0.9 < pictures.images.max() <= 1


def test_an_archive_that_is_not_cifar10_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "cifar10", packed(tmp_path, {"data_batch_1.bin": b"short"}))
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path))
    with pytest.raises(UserError, match="not the binary edition of CIFAR-10"):
        load_cifar10("train")
    with pytest.raises(UserError, match="unknown split 'valid'; allowed: train, test"):
        load_cifar10("valid")
