"""Networks for diffusion models: one for points, one for small images, and several trained as one.

Every network is a function of a noisy sample, its time, and perhaps a label; what its output means is the
business of the loss. The label ``num_classes`` means "no label", and so does leaving it out, as
classifier-free guidance needs it (Ho and Salimans, 2022). The image network is a U-Net (Ronneberger, Fischer
and Brox, 2015) whose blocks are scaled and shifted by time and label (Dhariwal and Nichol, 2021).

Nothing here is random when it runs, and nothing depends on other samples of a batch: so the networks can be
differentiated forwards and backwards, evaluated under ``torch.func.vmap``, and trained in stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

__all__ = ["TimeFeatures", "TimeMLP", "UNet", "Stack", "num_weights"]

Times = Float[Tensor, "*times"]
Labels = Int[Tensor, "*labels"]


def num_weights(net: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in net.parameters())


class TimeFeatures(nn.Module):
    """Sines and cosines of a time, at frequencies that grow geometrically.

    Args:
        width: how many features, even.
        highest: the highest angular frequency; the lowest is 1. Times that differ by much less than
            1 / highest look alike. Derivatives of a network by time grow with it.
    """

    def __init__(self, width: int, highest: float = 60.0) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, width // 2, dtype=torch.float64)
        self.register_buffer("frequencies", (highest**exponents).to(torch.get_default_dtype()))

    def forward(self, t: Times) -> Float[Tensor, "*times width"]:
        """Return the features of times, shape ``(*times, width)``."""
        angles = t[..., None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)


class Condition(nn.Module):
    """What a network is told beside the sample, times and label, as one vector.

    Args:
        width: of the vector.
        num_times: how many times it is told (two for flow maps).
        num_classes: how many labels there are; 0 for none.
        highest: as of :class:`TimeFeatures`.
    """

    def __init__(self, width: int, num_times: int = 1, num_classes: int = 0, highest: float = 60.0) -> None:
        super().__init__()
        self.num_times, self.num_classes = num_times, num_classes
        self.features = TimeFeatures(width, highest)
        self.first = nn.Linear(num_times * width, width)
        self.second = nn.Linear(width, width)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None

    def forward(
        self, times: tuple[Tensor, ...], label: Tensor | None, num: int
    ) -> Float[Tensor, "num width"]:
        """Return one vector for each of ``num`` samples; times are () or ``(num,)``."""
        if len(times) != self.num_times:
            raise ValueError(f"this network is told {self.num_times} time(s), got {len(times)}")
        features = torch.cat([self.features(t.expand(num)) for t in times], -1)
        told = F.silu(self.first(features.to(self.first.weight.dtype)))
        if self.label is not None:
            none = torch.full((num,), self.num_classes, dtype=torch.long, device=told.device)
            told = told + self.label(none if label is None else label.expand(num))
        elif label is not None:
            raise ValueError("this network was made without classes, so it takes no label")
        return F.silu(self.second(told))


class TimeMLP(nn.Module):
    """A residual network for points, told the time in every block.

    Args:
        dim: D, of the points.
        width: of the hidden layers, even.
        depth: how many residual blocks.
        num_times: 1, or 2 for a function of x, t and s.
        num_classes: how many labels; 0 for none.
        highest: as of :class:`TimeFeatures`.
        num_outputs: E, length of the vector that is returned; D by default, 1 for a discriminator.
    """

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        num_times: int = 1,
        num_classes: int = 0,
        highest: float = 60.0,
        num_outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.condition = Condition(width, num_times, num_classes, highest)
        self.enter = nn.Linear(dim, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.told = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, num_outputs or dim)

    def forward(
        self,
        x: Float[Tensor, "B D"],
        t: Times,
        s: Times | None = None,
        label: Labels | None = None,
    ) -> Float[Tensor, "B E"]:
        """Return a vector for every point.

        Args:
            x: noisy points, ``(B, D)``.
            t: their times, () or ``(B,)``, of order one.
            s: the second time of networks that have two.
            label: 0 .. num_classes - 1, or num_classes for "no label"; () or ``(B,)``.
        """
        told = self.condition((t,) if s is None else (t, s), label, x.shape[0])
        hidden = self.enter(x)
        for inner, by, outer in zip(self.inner, self.told, self.outer, strict=True):
            hidden = hidden + outer(F.silu(inner(F.silu(hidden)) + by(told)))
        return self.leave(F.silu(hidden))


class Block(nn.Module):
    """Two convolutions and a way past them; between them, time and label scale and shift every channel."""

    def __init__(self, channels: int, width: int, told: int) -> None:
        super().__init__()
        self.before, self.between = _norm(channels), _norm(width)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.told = nn.Linear(told, 2 * width)
        self.second = _silent(nn.Conv2d(width, width, 3, padding=1))
        self.past = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"], told: Float[Tensor, "B T"]) -> Float[Tensor, "B V H W"]:
        """Return features of the block's own width, of the same height and width of image."""
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        hidden = self.between(self.first(F.silu(self.before(x)))) * (1 + scale) + shift
        return self.past(x) + self.second(F.silu(hidden))


class Attention(nn.Module):
    """Every place of an image looks at every other one; with a way past it."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.before = heads, _norm(width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.answer = _silent(nn.Conv2d(width, width, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        num, channels, height, width = x.shape
        parts = self.ask(self.before(x)).reshape(num, 3, self.heads, -1, height * width)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value)
        return x + self.answer(seen.transpose(-1, -2).reshape(num, channels, height, width))


class UNet(nn.Module):
    """A small U-Net for images of 8 to 32 pixels a side.

    Down and up again with a block a level and a skip between equal levels; attention at the coarsest one.

    Args:
        channels: of the images.
        width: features at the finest level, a multiple of 8.
        multipliers: features of each level, in widths; the image is halved between levels.
        num_classes: how many labels; 0 for none.
        patch: side of the squares of pixels that the network takes as one place; 2 works at half the
            resolution, at a quarter of the cost.
        highest: as of :class:`TimeFeatures`.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        num_classes: int = 0,
        patch: int = 1,
        highest: float = 200.0,
    ) -> None:
        super().__init__()
        widths, told = [width * m for m in multipliers], 4 * width
        self.patch = patch
        self.condition = Condition(told, 1, num_classes, highest)
        self.enter = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down = nn.ModuleList(
            Block(a, b, told) for a, b in zip([width, *widths[:-1]], widths, strict=True)
        )
        self.halve = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = nn.ModuleList(Block(widths[-1], widths[-1], told) for _ in range(2))
        self.look = Attention(widths[-1])
        self.up = nn.ModuleList(
            Block(a + b, b, told) for a, b in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        self.last = _norm(width * multipliers[0])
        self.leave = _silent(nn.Conv2d(width * multipliers[0], channels * patch**2, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Times, label: Labels | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Return an image for every image.

        Args:
            x: noisy images, ``(B, C, H, W)``, with sides that ``patch`` divides.
            t: their times, () or ``(B,)``, of order one.
            label: 0 .. num_classes - 1, or num_classes for "no label"; () or ``(B,)``.
        """
        told, hidden, skips = self.encode(x, t, label)
        for level in reversed(range(len(skips))):
            hidden = F.interpolate(hidden, skips[level].shape[-2:])  # the identity at the coarsest level
            hidden = self.up[level](torch.cat([hidden, skips[level]], 1), told)
        return F.pixel_shuffle(self.leave(F.silu(self.last(hidden))), self.patch)

    def encode(
        self, x: Float[Tensor, "B C H W"], t: Times, label: Labels | None = None
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B V h w"], list[Tensor]]:
        """Return what the first half of the network makes of images; arguments as of :meth:`forward`.

        Returns:
            What the blocks are told, ``(B, T)``; features at the coarsest level, ``(B, V, h, w)``; and those
            of every level on the way, finest first.
        """
        told = self.condition((t,), label, x.shape[0])
        hidden, skips = self.enter(F.pixel_unshuffle(x, self.patch)), []
        for level, block in enumerate(self.down):
            hidden = block(self.halve[level - 1](hidden) if level else hidden, told)
            skips.append(hidden)
        return told, self.middle[1](self.look(self.middle[0](hidden, told)), told), skips


class Stack(nn.Module):
    """Several networks of one architecture as a single module, evaluated together.

    A forward pass takes inputs with the network as the leading axis, shape ``(S, B, ...)``, or of shape ()
    where all share them, and member i sees the i-th. Optimisers that work number by number, such as Adam,
    train each member exactly as they would train it alone, given the sum of the members' losses.

    Args:
        make: builds one network, with fresh weights.
        seeds: one a member; ``torch.manual_seed`` is called with it before ``make``, inside a fork of the
            global generator.
    """

    def __init__(self, make: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        super().__init__()
        members = [_seeded(make, seed) for seed in seeds]
        weights, buffers = stack_module_state(members)
        self.seeds, self._skeleton = tuple(seeds), [members[0].to("meta")]  # in a list: not a submodule
        self._names = {name.replace(".", "__"): name for name in [*weights, *buffers]}
        for name, value in weights.items():
            self.register_parameter(name.replace(".", "__"), nn.Parameter(value.detach()))
        for name, value in buffers.items():
            self.register_buffer(name.replace(".", "__"), value)

    def forward(self, *inputs: Tensor, **named: Tensor | None) -> Tensor:
        """Return the members' outputs, ``(S, B, ...)``."""
        state = {self._names[n]: v for n, v in [*self.named_parameters(), *self.named_buffers()]}
        named = {name: value for name, value in named.items() if value is not None}

        def one(state: dict[str, Tensor], inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
            return functional_call(self._skeleton[0], state, inputs, named)

        axes = (0, tuple(_axis(v) for v in inputs), {k: _axis(v) for k, v in named.items()})
        return vmap(one, in_dims=axes)(state, inputs, named)

    def member(self, index: int, into: nn.Module) -> nn.Module:
        """Copy the weights of one member into a plain network, and return that."""
        state = {self._names[n]: v[index].detach() for n, v in self.state_dict().items()}
        into.load_state_dict(state)
        return into


def _axis(value: Tensor) -> int | None:
    """Return the axis along which an input belongs to different members; none for a single number."""
    return 0 if value.ndim else None


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _norm(channels: int) -> nn.GroupNorm:
    """Return a normalisation over groups of eight channels, or of all where eight does not divide them."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a layer's weights to zero, so that at first the block is its own way past."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
