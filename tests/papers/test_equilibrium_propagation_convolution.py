"""The convolutional network that settles: its error signals, its penalty, and its training."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.func import jvp, vjp
from torch.nn import functional as F
from torch.testing import assert_close

from reprobook.data.catalogue import CATALOGUE, DataSet, File
from reprobook.papers.equilibrium_propagation.activations import ACTIVATIONS
from reprobook.papers.equilibrium_propagation.convolution_figures import (
    draw_bars_by_layer,
    draw_matrix,
    draw_orders,
    draw_points,
)
from reprobook.papers.equilibrium_propagation.convolutional import (
    Convolutional,
    full_derivative,
    full_jacobian,
    initial_kernels,
    softmax_pool,
)
from reprobook.papers.equilibrium_propagation.convolutional_training import (
    ESTIMATORS,
    ImageRecipe,
    asymmetry_share,
    asymmetry_slope,
    cosines,
    draw_variance,
    error_at,
    load_normalised,
    shifted,
    train_convolutional,
    wrong_share,
)
from reprobook.papers.equilibrium_propagation.errors import gradients, linear_error, nudged_error
from reprobook.papers.equilibrium_propagation.homeostasis import penalty_estimate, pushed
from reprobook.papers.equilibrium_propagation.relaxation import loss_slope, readout, relax
from reprobook.papers.equilibrium_propagation.training import Method

ANGLES = (0.0, 60.0)
BATCH = 3


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(paddings=(1, 1, 1), channels=(2, 4, 5, 6), angles=ANGLES, gain=1.2):
    """Members of one seed at several angles, with biases that are not zero."""
    weights = initial_kernels(channels, channels[-1], 3, angles, [0] * len(angles), gain)
    for k in range(1, len(channels)):
        weights[f"bias {k}"] = 0.3 * random(channels[k], seed=k).expand(len(angles), -1).clone()
    return Convolutional(weights, paddings)


def flat(layers):
    return torch.cat([part.flatten(2) for part in layers], -1)


def shaped(vector, like):
    """Cut vectors over all neurons into layers."""
    parts = vector.split([r[0, 0].numel() for r in like], -1)
    return [part.reshape(r.shape) for part, r in zip(parts, like, strict=True)]


@pytest.fixture(scope="module")
def settled_net():
    """A network with symmetric and turned kernels, settled on images, with targets."""
    net, x = network(), random(BATCH, 2, 8, 8, seed=9).expand(2, BATCH, 2, 8, 8)
    target = F.one_hot(torch.arange(BATCH) % 3, 3).double().expand(2, BATCH, 3)
    settled = relax(net, x, steps=400)
    assert settled.moved.max() < 1e-14
    return net, x, settled, target


# --------------------------------------------------------------------------- pooling and stages


def test_pooling_is_near_the_maximum_of_steep_squares_and_the_mean_of_flat_ones():
    square = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    assert softmax_pool(100 * square).item() == pytest.approx(300)
    assert softmax_pool(1e-6 * square).item() == pytest.approx(1.5e-6, rel=1e-5)
    by_hand = (square * square.exp()).sum() / square.exp().sum()
    assert_close(softmax_pool(square)[0, 0], by_hand)


def test_pooling_treats_each_square_by_itself_in_place():
    picture = random(2, 4, 6)
    pooled = softmax_pool(picture)
    for i in range(2):
        for j in range(3):
            alone = softmax_pool(picture[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2])
            assert_close(pooled[:, i, j], alone[:, 0, 0])


def test_a_bias_before_pooling_is_a_bias_after_it():
    assert_close(softmax_pool(random(3, 4, 4) + 0.7), softmax_pool(random(3, 4, 4)) + 0.7)


def test_each_member_convolves_with_its_own_kernels():
    net, r = network(angles=(0.0, 90.0)), random(2, BATCH, 4, 4, 4)
    net.weights["forth 2"] = random(2, 5, 4, 3, 3, seed=3)
    for m in range(2):
        v = F.conv2d(r[m], net.weights["forth 2"][m], net.weights["bias 2"][m], padding=1)
        assert_close(net.forth(2, r)[m], softmax_pool(v))


@pytest.mark.parametrize("paddings", [(1, 1, 1), (1, 0)])
def test_states_have_the_sizes_that_stages_make(paddings):
    net = network(paddings, (2, 4, 5, 6)[: len(paddings) + 1])
    x = random(2, BATCH, 2, 8, 8)
    received = net.received(net.drive(x), net.zeros(x))
    assert [r.shape for r in received] == [r.shape for r in net.zeros(x)]
    assert received[-1].shape[-2:] == (1, 1)


def test_the_way_back_is_the_transpose_that_automatic_differentiation_finds():
    net, r, above = network(), random(2, BATCH, 4, 4, 4), random(2, BATCH, 5, 2, 2, seed=1)

    def stage(part):
        return torch.stack(
            [
                softmax_pool(F.conv2d(p, w, padding=1))
                for p, w in zip(part, net.weights["back 2"], strict=True)
            ]
        )

    assert_close(net.stage("back", 2, r).down(above), vjp(stage, r)[1](above)[0])


@pytest.mark.parametrize("paddings", [(1, 1, 1), (1, 0)])
def test_products_with_the_derivative_agree_with_automatic_differentiation(paddings):
    net = network(paddings, (2, 4, 5, 6)[: len(paddings) + 1], (35.0, 90.0))
    like = net.zeros(random(2, BATCH, 2, 8, 8))
    r, e = (shaped(random(2, BATCH, flat(like).shape[-1], seed=s), like) for s in (1, 2))

    def received(*parts):
        return tuple(net.received(torch.zeros_like(r[0]), list(parts)))

    assert_close(net.push(r, e), list(jvp(received, tuple(r), tuple(e))[1]))
    assert_close(net.pull(r, e), list(vjp(received, *r)[1](tuple(e))))


def test_complex_steps_give_derivatives_so_everything_is_analytic():
    net = network(angles=(35.0, 90.0))
    like = net.zeros(random(2, BATCH, 2, 8, 8))
    drive = random(*like[0].shape, seed=5)
    r, e = (shaped(random(2, BATCH, flat(like).shape[-1], seed=s), like) for s in (1, 2))
    tiny = [torch.complex(a, 1e-30 * b) for a, b in zip(r, e, strict=True)]
    found = [part.imag / 1e-30 for part in net.received(drive, tiny)]
    assert_close(found, net.push(r, e))
    z = [a + 0.3j * b for a, b in zip(r, e, strict=True)]  # and away from the real axis

    def change(step):
        ends = [
            net.received(drive, [a + s * step * b for a, b in zip(z, e, strict=True)]) for s in (0.5, -0.5)
        ]
        return flat(ends[0]) - flat(ends[1])

    assert_close(change(1e-4j), 1j * change(1e-4), rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("name", ["capped", "logistic"])
def test_slopes_of_activations_are_their_derivatives_also_off_the_real_axis(name):
    phi, u = ACTIVATIONS[name], torch.linspace(-3, 4, 29, dtype=torch.float64)
    assert_close(phi.value(torch.complex(u, torch.full_like(u, 1e-30))).imag / 1e-30, phi.slope(u))
    z = torch.complex(u, 0.2 * u)
    assert_close((phi.value(z + 1e-5j) - phi.value(z - 1e-5j)) / 2e-5j, phi.slope(z), rtol=1e-7, atol=1e-8)


# --------------------------------------------------------------------------- error signals


def test_recurrent_error_is_backpropagation_through_settling(settled_net):
    net, x, settled, target = settled_net
    leaves = {k: w.clone().requires_grad_() for k, w in net.weights.items()}
    through = relax(Convolutional(leaves, net.paddings), x, steps=300)
    loss = -(target * readout(Convolutional(leaves, net.paddings), through.r).log()).sum(-1).mean(1).sum()
    wanted = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    error = linear_error(net, settled, target, steps=200, transposed=True)
    assert_close(gradients(net, x, settled, target, error), wanted, rtol=1e-8, atol=1e-12)


def test_errors_are_solutions_with_the_full_jacobian(settled_net):
    net, x, settled, target = settled_net
    j = full_jacobian(net, settled)
    source = torch.zeros_like(flat(settled.r))
    source[..., -6:] = loss_slope(net, settled.r, target).flatten(2)
    forward = flat(linear_error(net, settled, target, steps=200, transposed=False))
    delta = flat(linear_error(net, settled, target, steps=200, transposed=True))
    assert_close(forward, -torch.linalg.solve(j, source))
    assert_close(delta, -torch.linalg.solve(j.mT, source))
    assert_close(forward, torch.linalg.solve(j, (j.mT @ delta[..., None])[..., 0]))
    assert_close(flat(error_at(Method("recurrent", steps=200), net, x, settled, target)), delta)


def test_equal_kernels_make_the_jacobian_symmetric_whatever_the_biases(settled_net):
    net, x, settled, target = settled_net
    j = full_jacobian(net, settled)
    assert_close(j[0], j[0].mT)
    assert (j[1] - j[1].mT).abs().max() > 0.1
    assert_close(cosines(net, x, settled, target)[0], torch.ones(3, dtype=torch.float64))
    assert cosines(net, x, settled, target)[1, 0] < 0.99


@pytest.mark.parametrize("points", [1, 2, 4])
def test_nudges_on_a_circle_have_the_order_of_their_number(settled_net, points):
    net, x, settled, target = settled_net
    exact = flat(linear_error(net, settled, target, steps=200, transposed=False))
    off = []
    for radius in (0.2, 0.1):
        words = {"radius": radius, "num_points": points, "steps": 80}
        off.append((flat(nudged_error(net, x, settled, target, **words)) - exact).abs().max())
    assert torch.log2(off[0] / off[1]).item() == pytest.approx(points, rel=0.1)


# --------------------------------------------------------------------------- homeostasis


def stage_penalty(net, r):
    """Σ‖F - B‖² from full matrices of both ways, each by automatic differentiation."""
    lens, total = net.linearised(r), 0
    for k, part in enumerate(r[:-1]):
        eye = torch.eye(part[0, 0].numel(), dtype=part.dtype)
        for unit in eye:
            e = unit.reshape(part.shape[2:]).expand_as(part)
            only = [e if i == k else torch.zeros_like(p) for i, p in enumerate(r)]
            total = total + lens.differences(only)[k].square().flatten(2).sum(-1)
    return total


def test_all_asymmetry_is_the_difference_of_the_ways_forth_and_back(settled_net):
    net, _, settled, _ = settled_net
    w = full_derivative(net, settled.r)
    exact = 2 * ((w - w.mT) / 2).square().sum((2, 3))
    assert_close(stage_penalty(net, settled.r), exact)
    assert exact[0].max() < 1e-20
    assert (exact[1].std() / exact[1].mean()) > 1e-4  # depends on the state


def test_the_diagonal_and_the_estimator_change_no_expectation(settled_net):
    """Over unit vectors a quadratic form adds up to its trace: exact, nothing random."""
    net, _, settled, _ = settled_net
    like, n = settled.r, flat(settled.r).shape[-1]
    exact = stage_penalty(net, like)
    for push in (lambda e: pushed(net, settled, e), lambda e: net.push(like, e)):
        total = 0
        for unit in torch.eye(n, dtype=torch.float64):
            e = shaped(unit.expand(2, BATCH, n), like)
            once = push(e)
            total = total + (flat(once).square() - flat(e) * flat(push(once))).sum(-1)
        assert_close(total, exact, rtol=1e-7, atol=1e-6)  # the squared diagonal is large and cancels


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_agree_on_average(settled_net, name):
    net, _, settled, _ = settled_net
    found = ESTIMATORS[name](net.linearised(settled.r), torch.Generator().manual_seed(0), 400)
    assert_close(found.mean(1)[1], stage_penalty(net, settled.r).mean(1)[1], rtol=0.06, atol=0)
    assert found[0].mean().abs() < 0.1 * found[1].mean()


def test_the_variance_of_a_draw_is_as_derived():
    w, draws = random(1, 5, 5), torch.Generator().manual_seed(0)
    e = torch.randn(200_000, 5, 1, generator=draws, dtype=torch.float64)
    values = ((w @ e).square().sum((1, 2))) - (e.mT @ w @ w @ e)[:, 0, 0]
    assert values.var().item() == pytest.approx(draw_variance(w).item(), rel=0.05)
    assert draw_variance(w + w.mT).item() == pytest.approx(0, abs=1e-20)
    a = w - w.mT
    assert draw_variance(a).item() == pytest.approx(8 * (a @ a).square().sum().item())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_slope_of_the_penalty_is_that_of_the_estimate_at_a_fixed_state(settled_net, name):
    net, _, settled, _ = settled_net
    strength, way, h = torch.tensor([0.5, 2.0], dtype=torch.float64), random(2, 5, 4, 3, 3, seed=4), 1e-5

    def value(step, kernel):
        moved = Convolutional({**net.weights, kernel: net.weights[kernel] + step * way}, net.paddings)
        draws = torch.Generator().manual_seed(1)
        return (strength * ESTIMATORS[name](moved.linearised(settled.r), draws, 2).mean(1)).sum()

    words = {"draws": 2, "estimator": name}
    slopes = asymmetry_slope(net, settled.r, strength, torch.Generator().manual_seed(1), **words)
    assert set(slopes) == {"forth 2", "back 2", "forth 3", "back 3"}
    for kernel in ("forth 2", "back 2"):
        measured = (value(h, kernel) - value(-h, kernel)) / (2 * h)
        assert_close((slopes[kernel] * way).sum(), measured, rtol=1e-5, atol=1e-6)


def test_the_penalty_alone_makes_the_network_symmetric(settled_net):
    net, x, _, _ = settled_net
    net = Convolutional({k: w[1:].clone() for k, w in net.weights.items()}, net.paddings)
    r = relax(net, x[1:], steps=60).r
    before = asymmetry_share(net, r, torch.Generator().manual_seed(0))
    for k in range(25):
        luck = torch.Generator().manual_seed(k)
        slopes = asymmetry_slope(net, r, torch.ones(1).double(), luck, estimator="differences")
        for name, slope in slopes.items():
            net.weights[name] -= 0.05 * slope
    after = asymmetry_share(net, r, torch.Generator().manual_seed(0))
    assert before > 0.1
    assert after < 0.1 * before


def test_the_share_of_asymmetry_is_that_of_full_matrices(settled_net):
    net, _, settled, _ = settled_net
    w = full_derivative(net, settled.r)
    a = (w - w.mT) / 2
    exact = a.square().sum((2, 3)).mean(1) / w.square().sum((2, 3)).mean(1)
    found = asymmetry_share(net, settled.r, torch.Generator().manual_seed(0), 300)
    assert_close(found, exact, rtol=0.06, atol=1e-12)


def test_the_products_leave_the_diagonal_out(settled_net):
    net, _, settled, _ = settled_net
    draws = [torch.Generator().manual_seed(0) for _ in range(3)]
    lens = net.linearised(settled.r)
    mine = ESTIMATORS["products"](lens, draws[0], 3)
    assert_close(mine, penalty_estimate(lambda e: net.push(settled.r, e), settled.r, draws[1], 3))
    with_diagonal = penalty_estimate(lambda e: pushed(net, settled, e), settled.r, draws[2], 3)
    assert (mine - with_diagonal).abs().max() > 0.01


# --------------------------------------------------------------------------- training


RECIPE = ImageRecipe(
    1, batch=2, free_steps=30, learning_rate=0.01, rates=(4.0, 3.0, 2.0, 1.0), weight_decay=0.1
)


def run(lam, recipe=RECIPE, method=None, members=2):
    images, labels = random(8, 2, 8, 8, seed=3), torch.arange(8) % 3
    net = network(angles=(90.0,) * members)
    method = method or Method("recurrent", steps=30)
    train = train_convolutional(net, images, labels, recipe, method, homeostasis=lam, seeds=[0] * members)
    return net, list(train), images, labels


def test_one_step_is_the_gradient_of_loss_and_penalty_times_each_layers_rate():
    one = ImageRecipe(
        1, batch=8, free_steps=60, learning_rate=0.01, rates=(4.0, 3.0, 2.0, 1.0), weight_decay=0.1, draws=2
    )
    start = network(angles=(90.0, 90.0))
    net, _, images, labels = run([0.0, 3.0], one)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    x = images[order].expand(2, 8, 2, 8, 8)
    target = F.one_hot(labels, 3).double()[order].expand(2, 8, 3)
    settled = relax(start, x, steps=60)
    error = linear_error(start, settled, target, steps=30, transposed=True)
    slopes = gradients(start, x, settled, target, error)
    strength = torch.tensor([0.0, 3.0], dtype=torch.float64) / flat(settled.r).shape[-1]
    luck = torch.Generator().manual_seed(0)
    for name, slope in asymmetry_slope(start, settled.r, strength, luck, draws=2).items():
        slopes[name] = slopes[name] + slope
    rates = {"1": 0.04, "2": 0.03, "3": 0.02, "readout": 0.01, "bias": 0.01}
    for name, w in start.weights.items():
        rate = rates[name.split()[-1]]
        assert_close(net.weights[name], w - rate * (slopes[name] + 0.1 * w), rtol=1e-7, atol=1e-10)


def test_members_do_not_touch_each_other():
    together, _, _, _ = run([0.0, 0.0])
    alone, _, _, _ = run([0.0], members=1)
    for name, w in alone.weights.items():
        assert_close(together.weights[name], w.expand_as(together.weights[name]))


def test_the_learning_rate_ends_at_zero_and_the_last_short_batch_is_left_out():
    recipe = ImageRecipe(3, batch=3, free_steps=20, learning_rate=0.01, rates=(1.0,) * 4)
    _, steps, _, _ = run([0.0, 0.0], recipe)
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]
    assert all(s.loss.isfinite().all() for s in steps)


@pytest.mark.parametrize("method", [Method("derivative", steps=10), Method("nudged", 1.0, 2, 10)])
def test_every_error_signal_trains_it(method):
    recipe = ImageRecipe(6, batch=8, free_steps=20, learning_rate=0.4, rates=(1.0,) * 4, weight_decay=0.0)
    net, steps, images, labels = run([0.0, 0.0], recipe, method)
    assert (steps[0].loss - steps[-1].loss > 0.02).all()
    wrong = wrong_share(net, images, labels, steps=40, batch=3)
    settled = relax(net, images.expand(2, *images.shape), steps=40)
    assert_close(wrong, (readout(net, settled.r).argmax(-1) != labels).double().mean(1))


def test_shifts_move_and_mirror_whole_images_and_fill_with_zeros():
    images = random(2, 60, 1, 4, 4).abs() + 1
    moved = shifted(images, 1, torch.Generator().manual_seed(0))
    seen = set()
    for b in range(60):
        padded = {
            m: F.pad(p[:, b, 0], (1,) * 4) for m, p in (("as is", images), ("mirrored", images.flip(-1)))
        }
        matches = [
            (m, i, j)
            for m, p in padded.items()
            for i in range(3)
            for j in range(3)
            if torch.equal(p[:, i : i + 4, j : j + 4], moved[:, b, 0])
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 12
    assert shifted(images, 0, torch.Generator()) is images


def test_images_are_centred_and_have_two_thirds_of_a_deviation():
    images, labels, held_out, theirs = load_normalised("digits")
    assert (len(images), len(held_out), len(labels), len(theirs)) == (1498, 299, 1498, 299)
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1 / 1.5, rel=1e-3)
    assert held_out.std().item() == pytest.approx(1 / 1.5, rel=0.02)


def toy_cifar10(rows):
    return {f"cifar-10-batches-bin/data_batch_{i + 1}.bin": rows[2 * i : 2 * i + 2, 1:] for i in range(5)} | {
        "cifar-10-batches-bin/test_batch.bin": rows[10:, 1:]
    }


def toy_cifar100(rows):
    return {"cifar-100-binary/train.bin": rows[:10], "cifar-100-binary/test.bin": rows[10:]}


@pytest.fixture
def toy_photographs(tmp_path, monkeypatch):
    """Ten training images of random pixels and two others, in the published layout of each set."""
    rows = np.random.default_rng(0).integers(0, 256, (12, 3074), dtype=np.uint8)
    rows[:, :2] %= 10
    for name, members in (("cifar10", toy_cifar10), ("cifar100", toy_cifar100)):
        path = tmp_path / name / f"{name.replace('cifar', 'cifar-')}-binary.tar.gz"
        path.parent.mkdir()
        with tarfile.open(path, "w:gz") as archive:
            for member, content in members(rows).items():
                entry = tarfile.TarInfo(member)
                entry.size = content.size
                archive.addfile(entry, io.BytesIO(content.tobytes()))
        content = path.read_bytes()
        file = File(f"{name}/{path.name}", len(content), hashlib.sha256(content).hexdigest())
        words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
        monkeypatch.setitem(CATALOGUE, name, DataSet(name, **words, editions=((file,),)))
    (tmp_path / "imagenet32").mkdir()
    parts = {f"train_data_batch_{i + 1}": rows[i : i + 1] for i in range(10)} | {"val_data": rows[10:]}
    for name, part in parts.items():
        labels = part[:, 1].astype(np.int64) + 1
        np.savez(tmp_path / "imagenet32" / f"{name}.npz", data=part[:, 2:], labels=labels)
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path))
    return rows


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet32"])
def test_photographs_come_in_order_with_the_labels_that_count(toy_photographs, name):
    images, labels, held_out, theirs = load_normalised(name)
    assert torch.cat([labels, theirs]).tolist() == toy_photographs[:, 1].tolist()
    pixels = torch.from_numpy(toy_photographs[:, 2:].reshape(12, 3, 32, 32)).float()
    shift = pixels[:10].mean((0, 2, 3), keepdim=True)
    width = 1.5 * pixels[:10].std((0, 2, 3), keepdim=True)
    assert_close(torch.cat([images, held_out]), (pixels - shift) / width)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet32"])
def test_the_papers_network_takes_steps_on_photographs_with_its_settings(toy_photographs, name):
    images, labels, held_out, theirs = load_normalised(name)
    assert images.shape == (10, 3, 32, 32)
    channels, paddings = (3, 4, 8, 16, 16), (1, 1, 1, 0)  # the paper's are 32 times as many
    weights = initial_kernels(channels, 16, 10, [90.0, 90.0], [0, 0])
    net = Convolutional({k: w.float() for k, w in weights.items()}, paddings)
    assert [tuple(r.shape[2:]) for r in net.zeros(images[None].expand(2, -1, -1, -1, -1))] == [
        (4, 16, 16),
        (8, 8, 8),
        (16, 4, 4),
        (16, 1, 1),
    ]
    recipe = ImageRecipe(2, batch=10, free_steps=8, augment=4)
    words = {"homeostasis": [0.0, 15.0], "seeds": [0, 0]}
    steps = list(train_convolutional(net, images, labels, recipe, Method("derivative", steps=4), **words))
    assert len(steps) == 2
    assert all(w.isfinite().all() for w in net.weights.values())
    assert not torch.equal(net.weights["back 2"][0], net.weights["back 2"][1])
    assert 0 <= wrong_share(net, held_out, theirs, steps=5).min() <= 1


def test_the_papers_network_has_as_many_weights_as_published():
    weights = initial_kernels((3, 128, 256, 512, 512), 512, 10, [0.0], [0])
    assert sum(w.numel() for w in weights.values()) == pytest.approx(7.7e6, rel=0.01)


# --------------------------------------------------------------------------- figures


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_matrix_is_drawn_with_its_blocks(ax):
    draw_matrix(ax, torch.eye(5), (2, 3), "J")
    assert len(ax.images) == 1
    assert ax.get_title() == "J"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2"]


def test_bars_stand_by_layer(ax):
    draw_bars_by_layer(ax, {"a": (torch.rand(3, 4), "ours"), "b": (torch.rand(3, 4), "third")})
    assert len(ax.containers) >= 2
    assert len(ax.get_xticks()) == 4


def test_points_lie_where_they_were_measured(ax):
    draw_points(ax, torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]), "n", "ours")
    assert ax.collections[0].get_offsets().tolist() == [[1.0, 1.5], [2.0, 2.5]]


def test_orders_are_slopes_on_logarithmic_axes(ax):
    draw_orders(ax, (0.2, 0.1), {2: torch.tensor([0.04, 0.01])}, {2: "fifth"})
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.2", "0.1"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["N = 2"]
