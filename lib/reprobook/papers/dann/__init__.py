r"""Domain-Adversarial Training of Neural Networks.

Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand and Lempitsky, JMLR 17(59), 2016,
arXiv 1505.07818. A classifier is trained on one domain, the source, where labels are known, and shall
work on another, the target, where there are none. Its features are trained to serve the label classifier
and, at the same time, to leave a domain classifier unable to tell the domains apart; one layer, which
turns the sign of the gradient on its way back, is all that it takes.

=================  ================================================================================
symbol             meaning
=================  ================================================================================
:math:`G_f`        feature extractor, with parameters :math:`\theta_f`
:math:`G_y`        label classifier, with parameters :math:`\theta_y`
:math:`G_d`        domain classifier, with parameters :math:`\theta_d`; 0 is source, 1 is target
:math:`\lambda`    weight of the domain's reversed gradient on the features; grows as :math:`\lambda_p`
:math:`\mu_p`      learning rate at progress p, the share of the training that is done
=================  ================================================================================

Modules: :mod:`.reversal` (the layer and the schedules), :mod:`.shallow` (Algorithm 1), :mod:`.moons`,
:mod:`.distance` (proxy A-distance), :mod:`.dual`, :mod:`.msda`, :mod:`.selection` and :mod:`.reviews`
(sentiment of reviews), :mod:`.networks`, :mod:`.training`, :mod:`.alignment` and :mod:`.shifts` (images).
"""
