r"""The theorem held against numbers: everything on the line, in double precision, by quadrature.

Xu, Nie and Vahdat (arXiv 2502.15681, Theorem 1) say that for :math:`q_t` the law of
:math:`x = \alpha G_\theta(z) + \sigma\varepsilon` and :math:`r = p_t/q_t`

.. math:: \partial_\theta D_f(p_t\|q_t) = -E[h(r)\,\nabla\log(p_t/q_t)\,\alpha\,\partial_\theta G].

Here both sides are computed by routes that share nothing but the two densities: the left one by
differentiating :math:`\int q f(p/q)`, which knows neither weights nor scores, the right one by summing over
latents and noise. Latents are a grid as well, so a student may be any function of z, and its density under
noise is a finite mixture: for that one the theorem holds exactly, whatever the grid.

The student's parameters are :math:`\theta = (m, s)`, and two more where it is bent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacfwd

from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import diffuse
from reprobook.diffusion.schedules import Schedule
from reprobook.papers.f_distill.divergences import Divergence
from reprobook.papers.f_distill.losses import scale_of_level, scale_of_sample, student_loss

__all__ = [
    "STUDENTS",
    "GAUSSIAN_DIVERGENCES",
    "NORMALISED_VARIANCES",
    "Problem",
    "problem_on_line",
    "log_kernel",
    "log_student",
    "score_of_student",
    "divergence_on_line",
    "gradient_by_derivative",
    "gradient_by_theorem",
    "gradient_by_sampling",
    "expected_step",
    "asymmetry",
    "walk",
    "mean_ratio",
    "alpha_generator",
    "dual_generator",
    "moments_of_weight",
    "variance_by_sampling",
    "draw_teacher",
]

Parameters = Float[Tensor, " P"]
Latents = Float[Tensor, " K"]
Line = Float[Tensor, " N"]
Number = Float[Tensor, ""]
Function = Callable[[Tensor], Tensor]

#: Students by name: parameters (P,) and latents of any shape to samples of that shape.
STUDENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight": lambda theta, z: theta[0] + theta[1] * z,
    "bent": lambda theta, z: theta[0] + theta[1] * z + theta[2] * torch.tanh(theta[3] * z),
}


@dataclass(frozen=True)
class Problem:
    """A teacher and a student at one noise level, with the grids of the quadrature (Theorem 1).

    Attributes:
        teacher: a mixture on the line, D = 1, in double precision.
        student: one of :data:`STUDENTS`.
        schedule: of the diffusion.
        t: the time, ().
        z: latents z_k, ``(K,)``.
        shares: w_k, with sum one, ``(K,)``.
        x: noised samples x_n, evenly spaced, ``(N,)``.
    """

    teacher: Mixture
    student: Callable[[Tensor, Tensor], Tensor]
    schedule: Schedule
    t: Tensor
    z: Tensor
    shares: Tensor
    x: Tensor

    @property
    def spacing(self) -> Tensor:
        """The distance of neighbouring x_n, ()."""
        return self.x[1] - self.x[0]

    def log_teacher(self) -> Line:
        """Return log p_t(x_n)."""
        return self.teacher.log_density(self.x[:, None], self.t, self.schedule)


def problem_on_line(
    teacher: Mixture,
    student: str,
    theta: Parameters,
    schedule: Schedule,
    t: Number,
    num_latents: int = 121,
    num_points: int = 601,
    reach: float = 9.0,
) -> Problem:
    """Return a problem of Theorem 1 whose grids hold all but exp(-reach²/2) of teacher and student.

    Args:
        teacher: a mixture with D = 1.
        student: a key of :data:`STUDENTS`.
        theta: parameters near which the student will be looked at, ``(P,)``.
        schedule, t: the noise level; t is ().
        num_latents, num_points: K and N.
        reach: in standard deviations.
    """
    z = torch.linspace(-reach, reach, num_latents, dtype=theta.dtype)
    shares = torch.softmax(-z.square() / 2, 0)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    blurred, drawn = teacher.diffused(t, schedule), alpha * STUDENTS[student](theta, z)
    widest = reach * blurred.covariances.max().sqrt()
    low = torch.minimum(blurred.means.min() - widest, drawn.min() - reach * sigma / 3)
    high = torch.maximum(blurred.means.max() + widest, drawn.max() + reach * sigma / 3)
    x = torch.linspace(low.item(), high.item(), num_points, dtype=theta.dtype)
    return Problem(teacher, STUDENTS[student], schedule, t, z, shares, x)


# --------------------------------------------------------------------------- the student under noise


def log_kernel(problem: Problem, theta: Parameters) -> Float[Tensor, "K N"]:
    """Return log N(x_n; α G(z_k), σ²), the law of a noised sample given its latent (Theorem 1)."""
    alpha, sigma = problem.schedule.alpha(problem.t), problem.schedule.sigma(problem.t)
    gaps = problem.x - alpha * problem.student(theta, problem.z)[:, None]
    return -(gaps / sigma).square() / 2 - sigma.log() - math.log(2 * math.pi) / 2


def log_student(problem: Problem, theta: Parameters) -> Line:
    """Return log q_t(x_n), q_t = Σ_k w_k N(x; α G(z_k), σ²) (Theorem 1)."""
    return (problem.shares.log()[:, None] + log_kernel(problem, theta)).logsumexp(0)


def score_of_student(problem: Problem, theta: Parameters) -> Line:
    """Return ∇ log q_t(x_n), the mean pull (α G(z) - x) / σ² of possible latents (Theorem 1)."""
    alpha, sigma = problem.schedule.alpha(problem.t), problem.schedule.sigma(problem.t)
    shares = (problem.shares.log()[:, None] + log_kernel(problem, theta)).softmax(0)
    drawn = (shares * problem.student(theta, problem.z)[:, None]).sum(0)
    return (alpha * drawn - problem.x) / sigma.square()


def mean_ratio(problem: Problem, theta: Parameters) -> Number:
    """Return E[r(x_t)] over latents and noise, which is one: r integrates to ∫ p (the paper's stage one)."""
    ratio = (problem.log_teacher() - log_student(problem, theta)).exp()
    return problem.shares @ (log_kernel(problem, theta).exp() @ ratio) * problem.spacing


# --------------------------------------------------------------------------- both sides of the theorem


def divergence_on_line(problem: Problem, theta: Parameters, f: Function) -> Number:
    """Return D_f(p_t‖q_t) = ∫ q f(p/q) by the trapezoidal rule (Table 1)."""
    log_q = log_student(problem, theta)
    return (log_q.exp() * f((problem.log_teacher() - log_q).exp())).sum() * problem.spacing


def gradient_by_derivative(
    problem: Problem, theta: Parameters, generators: list[Function]
) -> Float[Tensor, "F P"]:
    """Return the derivatives of D_f in the student's parameters: the left side of Theorem 1.

    ``generators`` are F functions f.
    """

    def all_of_them(at: Tensor) -> Tensor:
        return torch.stack([divergence_on_line(problem, at, f) for f in generators])

    return jacfwd(all_of_them)(theta)


def gradient_by_theorem(problem: Problem, theta: Parameters, weights: list[Function]) -> Float[Tensor, "F P"]:
    """Return -E[h(r) (∇log p_t - ∇log q_t) α ∂G/∂θ] for F functions h: the right side of Theorem 1."""
    ratio = (problem.log_teacher() - log_student(problem, theta)).exp()
    ours = score_of_student(problem, theta)
    gap = problem.teacher.score(problem.x[:, None], problem.t, problem.schedule)[:, 0] - ours
    force = torch.stack([h(ratio) * gap for h in weights])
    by_latent = force @ log_kernel(problem, theta).exp().T * problem.spacing
    moved = jacfwd(problem.student)(theta, problem.z)
    return -problem.schedule.alpha(problem.t) * (problem.shares * by_latent) @ moved


def gradient_by_sampling(
    teacher: Mixture,
    theta: Float[Tensor, "2"],
    divergence: Divergence,
    schedule: Schedule,
    t: Float[Tensor, "S B"],
    generator: torch.Generator,
) -> Float[Tensor, "S 2"]:
    """Return the student loss's gradient on S batches of B samples, scaled to be the theorem's (Theorem 1).

    Scores and ratio are exact; the student is straight, so its law is known. The loss steps with
    ω = σ² w h / α²; the weight handed over undoes σ² w / α².

    Args:
        teacher: a mixture with D = 1.
        theta: m and s of the student G(z) = m + s z.
        divergence: gives h.
        schedule: of the diffusion.
        t: times, ``(S, B)``.
        generator: of latents and noise.
    """
    z, noise = torch.randn(2, *t.shape, 1, generator=generator, dtype=theta.dtype)
    own = theta.detach().expand(t.shape[0], 2).clone().requires_grad_()
    generated = own[:, 0, None, None] + own[:, 1, None, None] * z
    student = Mixture.isotropic(theta.detach()[None, :1], theta[1].item())
    x = diffuse(generated.detach(), noise, t, schedule)
    ratio = (teacher.log_density(x, t, schedule) - student.log_density(x, t, schedule)).exp()
    undone = scale_of_level(schedule, t) * (schedule.alpha(t) / schedule.sigma(t)).square()
    weight = divergence.weight(ratio) * undone
    models = student.model(schedule), teacher.model(schedule)
    loss = student_loss(generated, noise, t, *models, weight, by_sample=False)
    return torch.autograd.grad(loss.sum(), own)[0]


def gaussian_kl(m_p: Number, v_p: Number, m_q: Number, v_q: Number) -> Number:
    """Return KL(p‖q) of two Gaussians with the given means and variances (forward KL of Table 1)."""
    return ((v_q / v_p).log() + (v_p + (m_p - m_q).square()) / v_q - 1) / 2


def gaussian_hellinger(m_p: Number, v_p: Number, m_q: Number, v_q: Number) -> Number:
    """Return 1 - ∫√(pq) of two Gaussians (squared Hellinger of Table 1)."""
    overlap = (2 * (v_p * v_q).sqrt() / (v_p + v_q)).sqrt()
    return 1 - overlap * (-(m_p - m_q).square() / (4 * (v_p + v_q))).exp()


#: Those of Table 1 that have closed forms for Gaussians, as functions of m_p, v_p, m_q, v_q.
GAUSSIAN_DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "reverse_kl": lambda m_p, v_p, m_q, v_q: gaussian_kl(m_q, v_q, m_p, v_p),
    "squared_hellinger": gaussian_hellinger,
    "forward_kl": gaussian_kl,
    "jeffreys": lambda m_p, v_p, m_q, v_q: gaussian_kl(m_p, v_p, m_q, v_q) + gaussian_kl(m_q, v_q, m_p, v_p),
}


# --------------------------------------------------------------------------- the step that the paper takes


def expected_step(problem: Problem, theta: Parameters, weight: Function, by_sample: bool) -> Parameters:
    """Return the mean gradient of the student's loss, E[h (x̂_fake - x̂_teacher) ∂G/∂θ / scale] (Table 1).

    Args:
        problem, theta: teacher, student, grids and parameters.
        weight: h.
        by_sample: divide by each sample's mean absolute x - x̂_teacher, as the paper does, or by a function of
            the noise level alone; the second is a positive multiple of the theorem's gradient.
    """
    schedule, t = problem.schedule, problem.t
    log_q, alpha = log_student(problem, theta), schedule.alpha(t)
    ratio = (problem.log_teacher() - log_q).exp()
    fake = (problem.x + schedule.sigma(t).square() * score_of_student(problem, theta)) / alpha
    clean = problem.teacher.denoise(problem.x[:, None], t, schedule)[:, 0]
    drawn = problem.student(theta, problem.z)
    scale = scale_of_level(schedule, t).expand(len(drawn), len(clean))
    if by_sample:
        pairs = torch.broadcast_tensors(drawn[:, None], clean)
        scale = scale_of_sample(pairs[0][..., None], pairs[1][..., None], t.expand(scale.shape), schedule)
    push = (log_kernel(problem, theta).exp() / scale) @ (weight(ratio) * (fake - clean))
    return (problem.shares * push * problem.spacing) @ jacfwd(problem.student)(theta, problem.z)


def asymmetry(field: Callable[[Tensor], Tensor], theta: Float[Tensor, "2"]) -> float:
    """Return |∂₂v₁ - ∂₁v₂| / (|∂₂v₁| + |∂₁v₂|) of a plane field, zero for a gradient such as Theorem 1's."""
    slopes = jacfwd(field)(theta)
    one, other = slopes[0, 1], slopes[1, 0]
    return float((one - other).abs() / (one.abs() + other.abs()))


def walk(
    field: Callable[[Tensor], Tensor], theta: Parameters, stride: float, num_steps: int
) -> Iterator[Parameters]:
    """Yield a path against a field such as Theorem 1's gradient, in steps of at most ``stride``.

    Far from a stationary point every step has that length, so paths of fields of different size compare; near
    one it is 0.3 times the field.
    """
    for _ in range(num_steps + 1):
        yield theta
        push = field(theta)
        theta = theta - stride * push / push.norm().clamp(min=stride / 0.3)


# --------------------------------------------------------------------------- generators and weights


def alpha_generator(alpha: float) -> Function:
    """Return f whose weight is h(r) = r^alpha; 0, ½ and 1 are rows of Table 1 (up to a factor of 4 for ½).

    Args:
        alpha: any number; f = (r^α - 1 - α (r - 1)) / (α (α - 1)), and its limits at 0 and 1.
    """
    if alpha == 0:
        return lambda r: r - 1 - r.log()
    if alpha == 1:
        return lambda r: r * r.log() - r + 1
    return lambda r: (r.pow(alpha) - 1 - alpha * (r - 1)) / (alpha * (alpha - 1))


def dual_generator(f: Function) -> Function:
    """Return f*(r) = r f(1/r), which exchanges teacher and student in D_f (Table 1): h*(r) = r h(1/r)."""
    return lambda r: r * f(1 / r)


#: Var h / (E h)² under q = N(m, 1) with p = N(0, 1), by the gap m, where it has a closed form (Fig. 4a).
NORMALISED_VARIANCES: dict[str, Function] = {
    "reverse_kl": torch.zeros_like,
    "squared_hellinger": lambda m: torch.expm1(m.square() / 4),
    "forward_kl": lambda m: torch.expm1(m.square()),
    "jeffreys": lambda m: torch.expm1(m.square()) / 4,
}


def moments_of_weight(weight: Function, gap: Number) -> tuple[Number, Number]:
    """Return E_q[h(r)] and Var_q h / (E_q h)² for unit Gaussians ``gap`` apart, by quadrature (Fig. 4a).

    Under q = N(m, 1), log r = -m²/2 - m z is normal with variance m².

    """
    z = torch.linspace(-10.0 - 2 * gap.item(), 10.0, 4001, dtype=gap.dtype)
    density = (-z.square() / 2).exp() * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    h = weight((-gap.square() / 2 - gap * z).exp())
    mean = density @ h
    return mean, density @ (h - mean).square() / mean.square()


def variance_by_sampling(weight: Function, gap: Number, num: int, generator: torch.Generator) -> Number:
    """Return Var h / (E h)² estimated from ``num`` samples of q = N(m, 1) (Fig. 4a)."""
    z = torch.randn(num, generator=generator, dtype=gap.dtype, device=generator.device)
    h = weight((-gap.square() / 2 - gap * z).exp())
    return h.var() / h.mean().square()


def draw_teacher(generator: torch.Generator, num_modes: int = 3) -> Mixture:
    """Draw a mixture on the line with modes in [-2.5, 2.5], as a teacher for Theorem 1."""
    places, widths, weights = torch.rand(3, num_modes, generator=generator, dtype=torch.float64)
    weights = (0.2 + weights) / (0.2 + weights).sum()
    return Mixture.isotropic(5 * places[:, None] - 2.5, 0.4 + 0.4 * widths, weights)
