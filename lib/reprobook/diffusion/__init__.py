"""Diffusion models, exact and learned: the brick under the chapters on diffusion.

One convention throughout: x_t = α_t x_0 + σ_t ε, t = 0 is data, and the last time is noise.
"""
