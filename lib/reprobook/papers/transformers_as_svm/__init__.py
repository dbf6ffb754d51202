"""Transformers as Support Vector Machines.

By Davoud Ataee Tarzanagh, Yingcong Li, Christos Thrampoulidis and Samet Oymak, arXiv:2308.16898 (2023).

One attention layer reads an input of T tokens through one query and answers with a number; gradient
descent trains only the attention weights. The paper shows that these weights grow without bound in a
direction that solves a hard-margin support vector machine, whose task is to separate in every input
the token that will be kept from the tokens that will be forgotten.

=============  ==============  ==========================================================
symbol         shape           meaning
=============  ==============  ==========================================================
B                              independent problems ("trials"), computed side by side
n, T, d                        inputs a problem, tokens an input, dimension of a token
X              (B, n, T, d)    tokens
z              (B, n, d)       one query an input (a token of X in self-attention)
Y              (B, n)          labels, -1 or +1
V              (B, r, d)       the fixed head; a linear head has r = 1 and V = v
W              (B, d, d)       attention weights; W = K Qᵀ when factored
K, Q           (B, d, m)       key and query weights
s              (B, n, T)       softmax(X W z), the attention an input pays to its tokens
gamma          (B, n, T)       token scores Y vᵀx
alpha          (B, n)          index of the one token an input keeps
kept           (B, n, T)       mask of the tokens an input keeps, when there may be several
=============  ==============  ==========================================================

All in float64: softmax tails reach 1e-17 and below, and the direction of W is decided there.
"""
