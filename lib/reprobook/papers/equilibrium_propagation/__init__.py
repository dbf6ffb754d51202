r"""Improving equilibrium propagation without weight symmetry through Jacobian homeostasis.

Laborieux and Zenke, ICLR 2024, arXiv 2309.02214 (version 2). A network with ways forth and back settles for
an input. Nudged a little towards (or away from) an answer it settles elsewhere, and the difference of the
two states is the error signal that backpropagation would compute, if every way back were the transpose of
its way forth. The paper separates two biases, of a finite nudge and of asymmetric weights, removes the
first with complex nudges and reduces the second with a penalty that makes the Jacobian of the dynamics
symmetric.

=========================  ==============================================================================
symbol                     meaning
=========================  ==============================================================================
:math:`u, r = \varphi(u)`  states of the neurons and their activities
:math:`H(r)`               what the neurons receive, linear in the activities for layered networks
:math:`F(r)`               the dynamics in activities, :math:`H(r) - \varphi^{-1}(r)`
:math:`J`                  its Jacobian at rest, :math:`W - \operatorname{diag}(1/\varphi')` if layered
:math:`S, A`               symmetric and antisymmetric part of :math:`J`
:math:`\beta`              the nudge, real or complex; a positive one increases the loss
:math:`\delta`             recurrent backpropagation's error, :math:`-J^{-\top} (\partial L/\partial r)^\top`
:math:`d_\beta r`          equilibrium propagation's, :math:`-J^{-1} (\partial L/\partial r)^\top`
=========================  ==============================================================================
"""
