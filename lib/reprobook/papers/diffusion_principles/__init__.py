r"""The Principles of Diffusion Models.

Lai, Song, Kim, Mitsufuji and Ermon, 2025, arXiv 2510.21890; numbers of equations and sections are those of
version 2. The monograph derives diffusion models three times, from variational inference, from the score of
a noisy density, and from flows, shows that the three are one, and builds on that: guidance, fast solvers,
distillation, and flow maps that jump in one step. The chapter checks what it asserts where the truth is
known, on Gaussian mixtures, and then on learned models.

==============================  =============================================================
symbol                          meaning
==============================  =============================================================
:math:`x_0, x_t`                clean sample, noisy sample :math:`\alpha_t x_0 + \sigma_t \varepsilon`
:math:`\alpha,\sigma`           what is left of the sample, standard deviation of the noise
:math:`\lambda`                 :math:`\log(\alpha/\sigma)`, half the log signal-to-noise ratio
:math:`f, g`                    drift and diffusion of the stochastic equation
:math:`s, \varepsilon`          score :math:`\nabla\log p_t` and noise, as predictions
:math:`v`                       velocity of the probability flow
==============================  =============================================================

What several papers share (schedules, solvers, losses, networks) is the brick ``reprobook.diffusion``; here
is what only this chapter needs.
"""
