r"""One-step Diffusion Models with f-Divergence Distribution Matching.

Xu, Nie and Vahdat, 2025, arXiv 2502.15681; tables and figures are those of version 1. A diffusion model
draws in many steps; a student shall draw as well in one. It is moved along the difference of two scores, that
of the teacher and that of its own samples, which lowers the reverse Kullback-Leibler divergence. The paper
finds that one positive weight of the density ratio, put before this difference, lowers any f-divergence
instead, and that the choice decides which modes survive.

==================================  ==============================================================
symbol                              meaning
==================================  ==============================================================
:math:`p_t, q_t`                    density of the teacher's and of the student's samples under noise
:math:`r = p_t / q_t`               density ratio, teacher over student
:math:`f`                           convex, :math:`f(1) = 0`; :math:`D_f(p \| q) = \int q\, f(p/q)`
:math:`h(r) = r^2 f''(r)`           the weight
:math:`G(z)`                        the student, a sample from noise :math:`z` in one step
:math:`\alpha, \sigma`              of the noised sample :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`
==================================  ==============================================================

Scores, schedules, exact mixtures, networks, teachers and measures of samples are the brick
``reprobook.diffusion``.
"""
