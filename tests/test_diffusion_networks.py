"""Facts about the networks: what they are told counts, what they are not told does not."""

import copy

import jaxtyping
import pytest
import torch
from torch import nn
from torch.func import jvp
from torch.nn import functional as F
from torch.testing import assert_close

from reprobook.diffusion.networks import Condition, Stack, TimeFeatures, TimeMLP, UNet, num_weights


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def awake(net, seed=0):
    """Give every weight a random value, also those that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))
    return net.double()


def mlp(**kwargs):
    return awake(TimeMLP(2, width=16, depth=2, **kwargs))


def unet(**kwargs):
    return awake(UNet(**{"width": 16, "multipliers": (1, 2), "num_classes": 3} | kwargs))


def test_the_frequencies_grow_geometrically_from_one():
    features = TimeFeatures(8, highest=27.0).double()
    assert_close(features.frequencies, torch.tensor([1.0, 3, 9, 27]).double())
    t = random(5)
    cos, sin = features(t).chunk(2, -1)
    assert_close(cos, torch.cos(t[:, None] * features.frequencies))
    assert_close(sin, torch.sin(t[:, None] * features.frequencies))


def test_the_network_for_points_is_the_formula_of_its_blocks():
    net, x, t = mlp(), random(4, 2), random(4, seed=1)
    told = net.condition.second(F.silu(net.condition.first(net.condition.features(t))))
    hidden = net.enter(x)
    for k in range(2):
        hidden = hidden + net.outer[k](F.silu(net.inner[k](F.silu(hidden)) + net.told[k](F.silu(told))))
    assert_close(net(x, t), net.leave(F.silu(hidden)))


@pytest.mark.parametrize(
    ("net", "x"), [(mlp(num_classes=3), random(4, 2)), (unet(), random(4, 1, 8, 8))], ids=["mlp", "unet"]
)
class TestBoth:
    def test_samples_of_a_batch_do_not_see_each_other(self, net, x):
        t, label = torch.rand(4).double(), torch.tensor([0, 1, 2, 3])
        alone = [net(x[i : i + 1], t[i : i + 1], label=label[i : i + 1]) for i in range(4)]
        assert_close(net(x, t, label=label), torch.cat(alone))

    def test_one_time_for_all_is_that_time_for_each(self, net, x):
        t, label = torch.tensor(0.3).double(), torch.tensor(1)
        assert_close(net(x, t, label=label), net(x, t.expand(4), label=label.expand(4)))

    def test_no_label_is_the_label_after_the_last(self, net, x):
        t = torch.tensor(0.3).double()
        assert_close(net(x, t), net(x, t, label=torch.tensor(3)), rtol=0, atol=0)
        answers = [net(x, t, label=torch.tensor(k)) for k in range(4)]
        for a in range(4):
            for b in range(a):
                assert (answers[a] - answers[b]).abs().max() > 1e-3

    def test_the_derivative_by_time_is_that_of_the_output(self, net, x):
        t, h = torch.tensor(0.4).double(), 1e-6
        _, slope = jvp(lambda t: net(x, t), (t,), (torch.ones_like(t),))
        assert slope.abs().max() > 1e-2
        assert_close(slope, (net(x, t + h) - net(x, t - h)) / (2 * h), rtol=1e-4, atol=1e-6)

    def test_single_precision_and_bfloat16_stay_near_double(self, net, x):
        t, exact = torch.tensor(0.4).double(), net(x, torch.tensor(0.4).double())
        single = copy.deepcopy(net).float()
        found = single(x.float(), t.float())
        assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            rough = single(x.float(), t.float())
        assert (rough.double() - exact).norm() < 0.03 * exact.norm()

    def test_a_compiled_network_computes_the_same(self, net, x, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # those checks cannot be compiled
        t = torch.tensor(0.4).double()
        compiled = torch.compile(copy.deepcopy(net), backend="aot_eager")
        assert_close(compiled(x, t), net(x, t))


def test_a_second_time_is_told_apart_from_the_first():
    net, x = mlp(num_times=2), random(4, 2)
    t, s = torch.tensor(0.8).double(), torch.tensor(0.2).double()
    assert (net(x, t, s) - net(x, s, t)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="2 time"):
        net(x, t)


def test_a_network_for_points_returns_as_many_numbers_as_it_is_asked_for():
    net, x = mlp(num_outputs=1), random(4, 2)
    assert net(x, torch.tensor(0.4).double()).shape == (4, 1)


def test_features_of_the_first_half_depend_on_the_image_and_on_what_is_told():
    net, x, t = awake(UNet(1, 8, (1, 2), num_classes=3)), random(2, 1, 8, 8), torch.tensor(0.4).double()
    told, hidden, skips = net.encode(x, t, torch.tensor([0, 1]))
    assert (told.shape, hidden.shape) == ((2, 32), (2, 16, 4, 4))
    assert [skip.shape[1] for skip in skips] == [8, 16]
    for other in (net.encode(x + 0.1, t), net.encode(x, t + 0.1), net.encode(x, t, torch.tensor([2, 2]))):
        assert (other[1] - hidden).abs().amax((1, 2, 3)).min() > 1e-4


def test_a_label_for_a_network_without_classes_is_refused():
    with pytest.raises(ValueError, match="takes no label"):
        Condition(8)((torch.tensor(0.5),), torch.tensor(1), 4)


def test_a_fresh_u_net_answers_zero_and_so_gets_its_first_gradient_in_the_last_layer():
    net = UNet(width=16, num_classes=2)
    out = net(random(2, 1, 8, 8, dtype=torch.float32), torch.tensor(0.5))
    assert_close(out, torch.zeros_like(out), rtol=0, atol=0)
    (out - 1).square().mean().backward()
    assert net.leave.bias.grad.abs().item() == 2
    assert net.enter.weight.grad.abs().max() == 0


def norm_by_hand(x, layer):
    groups = x.reshape(len(x), -1, 8 * x[0, 0].numel())  # of eight channels
    centred = groups - groups.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return scaled.reshape(x.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]


def block_by_hand(block, x, told):
    scale, shift = block.told(told).split(block.told.out_features // 2, 1)
    inner = norm_by_hand(block.first(F.silu(norm_by_hand(x, block.before))), block.between)
    inner = inner + scale[:, :, None, None] * inner + shift[:, :, None, None]
    return block.past(x) + block.second(F.silu(inner))


def attention_by_hand(layer, x):
    num, width, height, breadth = x.shape
    asked = F.conv2d(norm_by_hand(x, layer.before), layer.ask.weight, layer.ask.bias).flatten(2)
    answers, size = [], width // layer.heads
    for head in range(layer.heads):
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (part[:, rows] for part in asked.split(width, 1))
        shares = (query.mT @ key / size**0.5).softmax(-1)  # a row a place that looks
        answers.append((shares @ value.mT).mT)
    return x + layer.answer(torch.cat(answers, 1).reshape(num, width, height, breadth))


def test_the_u_net_is_the_formula_of_its_parts():
    net, x, t = unet(multipliers=(1, 2)), random(3, 1, 8, 8), torch.rand(3).double()
    told = net.condition((t,), torch.tensor([0, 2, 3]), 3)
    fine = block_by_hand(net.down[0], net.enter(x), told)
    coarse = block_by_hand(net.down[1], net.halve[0](fine), told)
    middle = attention_by_hand(net.look, block_by_hand(net.middle[0], coarse, told))
    middle = block_by_hand(net.middle[1], middle, told)
    up = block_by_hand(net.up[1], torch.cat([middle, coarse], 1), told)
    doubled = up.repeat_interleave(2, -1).repeat_interleave(2, -2)
    up = block_by_hand(net.up[0], torch.cat([doubled, fine], 1), told)
    expected = net.leave(F.silu(norm_by_hand(up, net.last)))
    assert_close(net(x, t, torch.tensor([0, 2, 3])), expected)


@pytest.mark.parametrize("side", [7, 8, 13])
def test_levels_of_odd_sizes_fit(side):
    assert unet(multipliers=(1, 1, 1))(random(2, 1, side, side), torch.tensor(0.5).double()).shape[-1] == side


def test_a_patch_is_a_place_with_as_many_channels():
    fine, x, t = unet(patch=2, channels=1), random(2, 1, 8, 8), torch.tensor(0.5).double()
    coarse = unet(patch=1, channels=4)
    coarse.load_state_dict(fine.state_dict())
    expected = F.pixel_shuffle(coarse(F.pixel_unshuffle(x, 2), t), 2)
    assert_close(fine(x, t), expected)


def test_the_order_of_the_memory_does_not_matter():
    net, x, t = unet(), random(2, 1, 8, 8), torch.tensor(0.5).double()
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert_close(last(x.to(memory_format=torch.channels_last), t), net(x, t))


def test_a_stack_answers_as_its_members():
    stack = Stack(lambda: TimeMLP(2, width=16, num_classes=3), seeds=[3, 4, 5]).double()
    x, t, label = random(3, 7, 2), torch.rand(3, 7).double(), torch.randint(3, (3, 7))
    together = stack(x, t, label=label)
    shared = stack(x, torch.tensor(0.5).double(), label=None)
    for i in range(3):
        one = stack.member(i, TimeMLP(2, width=16, num_classes=3).double())
        assert_close(together[i], one(x[i], t[i], label=label[i]))
        assert_close(shared[i], one(x[i], torch.tensor(0.5).double()))


def test_the_members_of_a_stack_begin_as_networks_of_their_seeds():
    before = torch.get_rng_state()
    stack = Stack(lambda: nn.Linear(2, 3), seeds=[3, 4])
    assert torch.equal(before, torch.get_rng_state())
    for i, seed in enumerate([3, 4]):
        torch.manual_seed(seed)
        alone = nn.Linear(2, 3)
        assert_close(stack.member(i, nn.Linear(2, 3)).weight, alone.weight, rtol=0, atol=0)
    assert num_weights(stack) == 2 * num_weights(alone) == 18
