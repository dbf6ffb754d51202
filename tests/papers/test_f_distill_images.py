"""Distilled images: where students begin, what is frozen, what learns, and published settings on a toy."""

import copy
import hashlib
import io
import math
import tarfile

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from torch.testing import assert_close

from reprobook.data.catalogue import CATALOGUE, DataSet, File
from reprobook.diffusion.images import Pictures, load_pictures
from reprobook.diffusion.predictions import Model, diffuse
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.teachers import Architecture, Recipe, as_model, new_network, train_teacher
from reprobook.errors import UserError
from reprobook.jobs import tier_files
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.figures import LOOKS
from reprobook.papers.f_distill.image_student_figures import (
    draw_against_teacher,
    draw_learning,
    draw_rows,
    draw_shares,
)
from reprobook.papers.f_distill.image_students import (
    CHOICES,
    chosen,
    class_means,
    draw,
    evaluations,
    first_gradient,
    image_players,
    image_scene,
    mean_logits,
)
from reprobook.papers.f_distill.training import Players, Settings, distil

matplotlib.use("Agg")
FM = SCHEDULES["fm"]
SMALL = Architecture(width=16, multipliers=(1,), patch=2)
QUICK = Settings(
    steps=2,
    updates=1,
    learning_rate=1e-3,
    fake_rate=2e-3,
    discriminator_rate=1e-2,
    gan_weight=0.3,
    r1=0.0,
)


def recipe(**changes) -> Recipe:
    return Recipe(schedule="fm", steps=60, batch=32, learning_rate=5e-3, label_dropped=0.2, **changes)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits() -> Pictures:
    return load_pictures("digits")


@pytest.fixture(scope="module")
def teacher(digits):
    net = new_network(SMALL, 0)
    for _ in train_teacher(net, *digits[:2], recipe(), 10):
        pass
    return net.eval()


def weights(net) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def trained(teacher, digits, name="forward_kl", seed=0, settings=QUICK) -> Players:
    players = image_players(teacher, recipe(), seed)
    for _ in distil(players, image_scene(teacher, recipe(), digits, 8), DIVERGENCES[name], settings, seed):
        pass
    return players


# --------------------------------------------------------------------------- the start


def test_the_first_student_is_the_teachers_clean_prediction_at_the_last_time(teacher):
    z, label = noise(20, 1, 8, 8), torch.arange(20) % 10
    last = torch.tensor(FM.last)
    with torch.no_grad():
        wanted = as_model(teacher, recipe(), label)(last * z, last)
        by_hand = last * z - last * teacher(last * z, last, label)  # x_0 = x_t - t v on the straight path
    drawn = draw(image_players(teacher, recipe(), 0).student, z, label)
    assert_close(drawn, wanted, rtol=1e-5, atol=1e-6)
    assert_close(drawn, by_hand, rtol=1e-4, atol=1e-5)


def test_players_are_copies_that_share_no_memory_with_the_teacher_or_each_other(teacher):
    players = image_players(teacher, recipe(), 0)
    nets = (teacher, players.student, players.fake, players.discriminator)
    places = [{p.data_ptr() for p in net.parameters()} for net in nets]
    assert sum(map(len, places)) == len(set.union(*places))
    for net in (players.student.net, players.fake, players.discriminator.teacher):
        assert all(torch.equal(a, b) for a, b in zip(weights(net), weights(teacher), strict=True))


def test_only_the_head_of_the_discriminator_depends_on_the_seed(teacher):
    one, same, other = (image_players(teacher, recipe(), k) for k in (0, 0, 1))
    heads = [torch.cat([w.flatten() for w in weights(p.discriminator.head)]) for p in (one, same, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_divergence_has_a_gradient_before_the_fake_score_learns(teacher, digits, name):
    players, scene = image_players(teacher, recipe(), 0), image_scene(teacher, recipe(), digits, 8)
    assert first_gradient(players, scene, DIVERGENCES[name], 0) == 0
    with torch.no_grad():
        players.fake.leave.bias += 0.1
    assert first_gradient(players, scene, DIVERGENCES[name], 0) > 1e-5


def test_the_gradient_vanishes_in_low_precision_too(teacher, digits):
    scene = image_scene(teacher, recipe(bf16=True), digits, 8)
    players = image_players(teacher, recipe(bf16=True), 0)
    assert first_gradient(players, scene, DIVERGENCES["forward_kl"], 0, bf16=True) == 0


def test_the_first_gradient_is_that_of_the_formula(teacher, digits):
    """A fake score that is off by a constant velocity c is off by -t c in the clean picture."""
    players, scene = image_players(teacher, recipe(), 0), image_scene(teacher, recipe(), digits, 6)
    with torch.no_grad():
        players.fake.leave.bias += 0.1
    source = torch.Generator().manual_seed(3)
    (z, label), t = scene.latent(source), scene.times(source)
    eps = torch.randn(z.shape, generator=source)
    x = draw(players.student, z, label)
    with torch.no_grad():
        clean = as_model(teacher, recipe(), label)(diffuse(x, eps, t, FM), t)
        ratio = players.discriminator(diffuse(x, eps, t, FM), t, label=label).exp()
    level = t / ((1 - t).square() + t.square()).sqrt()
    far = (x - clean).abs().mean((1, 2, 3)).maximum(0.1 * level)
    by_hand = (0.1 * t * ratio / far).max() / (64 * 6)
    found = first_gradient(players, scene, DIVERGENCES["forward_kl"], 3)
    assert found == pytest.approx(by_hand.item(), rel=1e-3)


def test_class_means_are_what_a_perfect_denoiser_answers_to_noise(digits):
    means = class_means(digits)
    x, t = FM.last * noise(1, 1, 8, 8), FM.last
    for k in (0, 7):
        members = digits.images[digits.labels == k]
        logits = -(x - (1 - t) * members).square().sum((1, 2, 3)) / (2 * t**2)
        posterior = (logits.softmax(0)[:, None, None, None] * members).sum(0)
        assert (posterior - means[k]).abs().max() < 0.02
    assert (means[0] - means[7]).abs().max() > 0.5


# --------------------------------------------------------------------------- what learns


def test_what_is_frozen_stays_and_what_learns_moves(teacher, digits):
    before, start = weights(teacher), image_players(teacher, recipe(), 0)
    players = trained(teacher, digits)
    assert all(torch.equal(a, b) for a, b in zip(weights(teacher), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(players.discriminator.teacher), before, strict=True))
    for part in ("student", "fake"):
        moved = zip(weights(getattr(players, part)), weights(getattr(start, part)), strict=True)
        assert any(not torch.equal(a, b) for a, b in moved), part
    heads = zip(weights(players.discriminator.head), weights(start.discriminator.head), strict=True)
    assert all(not torch.equal(a, b) for a, b in heads)


def test_equal_seeds_give_equal_students_and_others_do_not(teacher, digits):
    one, same, other = (weights(trained(teacher, digits, seed=k).student) for k in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_divergences_with_a_seed_in_common_draw_alike_and_differ_by_the_weight_alone(teacher, digits):
    """Until the student's first update nothing depends on the divergence: the followers agree to the bit."""
    one, other = (
        trained(teacher, digits, name, settings=Settings(1, updates=2, head_start=2, r1=0.0))
        for name in ("reverse_kl", "forward_kl")
    )
    for part in ("fake", "discriminator"):
        pairs = zip(weights(getattr(one, part)), weights(getattr(other, part)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(weights(one.student), weights(other.student), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_the_students_gradient_passes_through_the_frozen_features(teacher):
    players, label = image_players(teacher, recipe(), 0), torch.arange(5)
    x = players.student(noise(5, 1, 8, 8), label=label)
    players.discriminator(x, torch.full((5,), 0.3), label=label).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in players.student.parameters())
    assert all(p.grad is None for p in players.discriminator.teacher.parameters())


def test_the_head_learns_to_tell_data_from_a_student_under_noise(teacher, digits):
    """A student of averages is easily told from data; after a head start logits differ on fresh samples."""
    settings = Settings(1, updates=1, head_start=60, fake_rate=0.0, discriminator_rate=1e-2, r1=0.0)
    players = trained(teacher, digits, settings=settings)
    scene, label = image_scene(teacher, recipe(), digits, 100), digits.held_out_labels[:100]
    students = draw(players.student, noise(100, 1, 8, 8, seed=5), label)
    of_student = mean_logits(players, scene, students, label, 0.3, 2, 0)
    of_data = mean_logits(players, scene, digits.held_out[:100], label, 0.3, 2, 0)
    assert (of_data[:, None] > of_student).double().mean() > 0.9


def test_mean_logits_average_over_noises_of_their_own_seed(teacher, digits):
    players, scene = image_players(teacher, recipe(), 0), image_scene(teacher, recipe(), digits, 4)
    x, label = digits.images[:3], digits.labels[:3]
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        t = torch.full((3,), 0.4)
        looks = [
            players.discriminator(0.6 * x + 0.4 * torch.randn(x.shape, generator=source), t, label)
            for _ in range(3)
        ]
    assert_close(mean_logits(players, scene, x, label, 0.4, 3, 4), sum(looks) / 3, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------- the scene, and samples


def test_a_scene_draws_real_images_with_their_own_labels_and_times_within_its_ends(teacher, digits):
    scene = image_scene(teacher, recipe(), digits, 400, ends=(0.1, 0.6))
    known = {x.numpy().tobytes(): k for x, k in zip(*digits[:2], strict=True)}
    images, labels = scene.data(torch.Generator().manual_seed(0))
    assert [known[x.numpy().tobytes()] for x in images] == labels.tolist()
    z, asked = scene.latent(torch.Generator().manual_seed(0))
    assert z.shape == (400, 1, 8, 8)
    assert asked.bincount(minlength=10).min() > 20
    assert abs(z.std().item() - 1) < 0.02
    low, high = (FM.first + share * (FM.last - FM.first) for share in (0.1, 0.6))
    t = scene.times(torch.Generator().manual_seed(0))
    assert low <= t.min() < low + 0.01
    assert high - 0.01 < t.max() <= high


def test_the_scenes_teacher_listens_to_the_label(teacher, digits):
    scene, x = image_scene(teacher, recipe(), digits, 4), noise(2, 1, 8, 8)
    model, t = scene.teacher(torch.tensor([3, 5])), torch.tensor([0.5, 0.6])
    with torch.no_grad():
        wanted = Model(lambda x, t: teacher(x, t, torch.tensor([3, 5])), "velocity", FM)(x, t)
        assert_close(model(x, t), wanted)
        assert (scene.teacher(torch.tensor([5, 3]))(x, t) - wanted).abs().max() > 1e-3


def test_samples_do_not_depend_on_the_parts_in_which_they_are_drawn(teacher):
    student = image_players(teacher, recipe(), 0).student
    z, label = noise(23, 1, 8, 8), torch.arange(23) % 10
    whole = draw(student, z, label)
    assert_close(draw(student, z, label, part=7), whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == z.shape
    assert not whole.requires_grad
    assert draw(student, z, label, bf16=True).dtype == torch.float32


def test_every_choice_is_known_divergences_and_others_are_one_clear_line():
    assert list(chosen("six")) == list(DIVERGENCES)
    assert [f.name for f in chosen("three").values()] == ["reverse_kl", "jensen_shannon", "forward_kl"]
    assert set(CHOICES["three"]) <= set(LOOKS)
    with pytest.raises(UserError, match="'two'; allowed: three, six") as caught:
        chosen("two")
    assert "\n" not in str(caught.value)


class Counted(torch.nn.Module):
    """Counts samples that go through a U-Net, a first half as a half."""

    total = 0.0

    def __init__(self, net, share):
        super().__init__()
        self.net, self.share = net, share
        part = net.encode if share == 0.5 else net.forward
        setattr(self.net, "encode" if share == 0.5 else "forward", self.counting(part))

    def counting(self, part):
        def function(x, *rest, **named):
            Counted.total += self.share * len(x)
            return part(x, *rest, **named)

        return function


def test_the_budget_is_what_goes_through_the_networks(teacher, digits):
    Counted.total, seen = 0.0, copy.deepcopy(teacher)
    players, scene = image_players(teacher, recipe(), 0), image_scene(seen, recipe(), digits, 8)
    for net in (players.student.net, players.fake, seen):
        Counted(net, 1.0)
    Counted(players.discriminator.teacher, 0.5)
    settings = Settings(2, updates=3, head_start=1, r1=0.0)
    for _ in distil(players, scene, DIVERGENCES["reverse_kl"], settings, 0):
        pass
    assert evaluations(2, 8, 3, 1) == Counted.total


# --------------------------------------------------------------------------- the published settings


@pytest.fixture
def toy_cifar(tmp_path, monkeypatch):
    """Four images of random pixels in every batch of an archive with CIFAR-10's layout."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    rows = np.random.default_rng(0).integers(0, 256, (6, 4, 3073), dtype=np.uint8)
    rows[:, :, 0] %= 10
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, row in zip(names, rows, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = row.size
            archive.addfile(member, io.BytesIO(row.tobytes()))
    content = path.read_bytes()
    file = File(f"cifar10/{path.name}", len(content), hashlib.sha256(content).hexdigest())
    words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
    monkeypatch.setitem(CATALOGUE, "cifar10", DataSet("cifar10", **words, editions=((file,),)))
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path))


def published() -> dict:
    return yaml.safe_load(tier_files("f_distill/images")["paper-cifar10"].read_text(encoding="utf-8"))


def test_the_parameter_file_has_the_settings_of_table_5():
    given = published()
    table = {"batch": 2048, "updates": 5, "gan_weight": 1e-3, "steps": 60_000, "r1": 1.0}
    rates = dict.fromkeys(("student_rate", "fake_rate", "discriminator_rate"), 1e-4)
    assert {name: given[name] for name in table | rates} == table | rates
    assert Settings(1).weight_decay == 1e-2
    assert 2e9 < evaluations(given["steps"], given["batch"], given["updates"], given["head_start"]) < 3e9


@pytest.mark.parametrize("bf16", [False, True])
def test_the_published_settings_run_on_an_archive_of_that_layout(toy_cifar, bf16):
    given, pictures, how = published(), load_pictures("cifar10"), recipe(bf16=bf16)
    net = new_network(
        Architecture(channels=3, width=8, multipliers=(1, 2, 2), patch=given["patch"]), 0
    ).eval()
    settings = Settings(
        steps=2,
        updates=given["updates"],
        head_start=given["head_start"],
        learning_rate=given["student_rate"],
        fake_rate=given["fake_rate"],
        discriminator_rate=given["discriminator_rate"],
        gan_weight=given["gan_weight"],
        r1=given["r1"],
        bf16=bf16,
    )
    players, scene = image_players(net, how, 0), image_scene(net, how, pictures, 4)
    start = weights(players.student)
    for now in distil(players, scene, DIVERGENCES["forward_kl"], settings, 0):
        assert all(math.isfinite(value) for value in map(float, now[1:]))
    assert any(not torch.equal(a, b) for a, b in zip(weights(players.student), start, strict=True))
    drawn = draw(players.student, noise(5, 3, 32, 32), torch.arange(5), bf16=bf16)
    assert drawn.shape == (5, 3, 32, 32)
    assert drawn.isfinite().all()


# --------------------------------------------------------------------------- drawings


def axes():
    return Figure().subplots()


def test_rows_are_named_and_as_many_as_there_are_names():
    rows = {"black": -torch.ones(4, 1, 8, 8), "white": torch.ones(4, 1, 8, 8)}
    ax = draw_rows(axes(), rows)
    sheet = ax.images[0].get_array()
    assert sheet.shape[:2] == (18, 36)
    assert (sheet[:8, :8].max(), sheet[9:17, :8].min()) == (0, 1)
    assert [text.get_text() for text in ax.texts] == ["black", "white"]


def test_each_divergence_keeps_its_colour_in_every_drawing():
    curves = {name: {0: [3.0, 4.0], 5: [1.0, 2.0]} for name in CHOICES["three"]}
    wanted = {LOOKS[name]["label"]: LOOKS[name]["color"] for name in curves}
    shares = {name: [[1.0, 0.5, 0.25, 0.75]] for name in curves}
    for ax in (draw_learning(axes(), curves), draw_shares(axes(), shares, 2)):
        named = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
        assert {name: line.get_color() for name, line in named.items()} == wanted
    assert_close(named["reverse KL"].get_xdata(), np.array([1.5, 2.5, 3.5]))
    assert_close(named["reverse KL"].get_ydata(), np.array([0.75, 0.375, 0.5]))


def test_students_stand_about_one_evaluation_beside_their_teacher():
    students = {name: [1.0, 1.1] for name in CHOICES["three"]}
    ax = draw_against_teacher(axes(), {1: [9.0, 9.5], 2: [5.0, 5.5], 8: [1.0, 1.5]}, students)
    handles, names = ax.get_legend_handles_labels()
    places = {name: handle[0].get_xdata() for handle, name in zip(handles, names, strict=True)}
    assert list(places["teacher"]) == [1, 2, 8]
    beside = [float(places[LOOKS[name]["label"]][0]) for name in students]
    assert math.prod(beside) == pytest.approx(1)
    assert max(beside) < 1.5
