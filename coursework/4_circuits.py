# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 4. Circuits
#
# A circuit is a set of edges that is thought to do the work. In this set you build everything between an edge and a verdict on a
# circuit: patch one edge, score all edges with one gradient, throw away what leads nowhere, measure what a circuit keeps, and test a
# method on a network whose circuit is known.
#
# **You need** chapters 11, 12 and 13 of the book. **Time**: about three hours. **Points**: 36.
#
# Every exercise stands alone: if one defeats you, go on with the next. Below each exercise is a check on a case small enough to
# do in your head; it says what is probably wrong. Other tests, on other numbers and prompts, are run when your work is marked. The last exercise has no right
# answer, and is read by a person. Cells that begin with `# See it` show what your function does; they do nothing until it is written.

# %%
# SETUP CELL

# %%
import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import otter
import torch

from hvp_utils import PatchedMetric, PromptPair, load_model, reference_pair
from hvp_utils.circuits import FRACTIONS, Circuit
from hvp_utils.planted import planted_model

grader = otter.Notebook("set4.ipynb")

# %% [markdown]
# ## A network with three edges
#
# The first two exercises are about a network that fits on a napkin. `A` reads the input $x$ and writes $a$. `B` reads $a$ and writes
# $b$. The output reads $a + b$, as everything in a transformer reads the sum of what was written before. So there are three edges:
# $A \to B$, $A \to \text{out}$, $B \to \text{out}$. We always name them in this order.


# %%
class Toy(NamedTuple):
    """Two writers and an output. Each part takes a vector [d]; `metric` gives a number."""

    A: Callable
    B: Callable
    metric: Callable

    def run(self, x):
        """The metric for the input x [d]."""
        a = self.A(x)
        return self.metric(a + self.B(a))


# %% [markdown]
# ## 4.1 One edge
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 4
#
# **Why it matters.** Patching a *head* changes what all later parts hear of it. Patching an *edge* changes what one of them hears,
# and that is how one learns who talks to whom.
#
# Write `patched(toy, base, other, alpha)`: the metric on the input `base`, with the three edges patched towards the run on `other`. `base`
# and `other` are inputs `[d]`, `alpha` is a tensor of three strengths. An edge of strength $\alpha$ adds to the input of its *reader*
#
# $$\alpha\,(\text{what its writer writes in the other run} - \text{what it writes now}).$$
#
# *Now* is meant: if $A \to B$ is patched, `B` writes something new, and $B \to \text{out}$ must count from there. So with all strengths 0
# the base run comes out, and with all strengths 1 the other run. Return a tensor that can be differentiated with respect to `alpha`.
#
# <details><summary>Hint</summary>
#
# Go through the network in its order: $a$, then what `B` hears, then $b$, then what the output hears. $a$ itself never changes.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# You need $a$ and $b$ of the other run as well: `a_other = toy.A(other)` and `b_other = toy.B(a_other)`. The output hears `a + b`, and two edges lead to it.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 4

# %% [raw]
# # BEGIN SOLUTION


# %%
def patched(toy, base, other, alpha):
    """The metric on `base` with the edges A->B, A->out, B->out at strengths alpha [3]."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    a, a_other = toy.A(base), toy.A(other)
    b_other = toy.B(a_other)
    b = toy.B(a + alpha[0] * (a_other - a))  # live: it has heard the patch
    return toy.metric(a + b + alpha[1] * (a_other - a) + alpha[2] * (b_other - b))
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("4.1 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Nothing upstream of `A` is patched, so $a$ is that of the base run. `B` hears $a$ and the first edge. The output
# hears both, and two edges. The difference of $B \to \text{out}$ is taken from the *live* $b$: with $A \to B$ at strength 1, $b$ is already
# that of the other run and the edge has nothing left to add. With fixed differences, all strengths 1 would add $B$'s change twice and
# land outside both runs. `alpha` enters by arithmetic only, so autograd can follow it: $M(\alpha)$ is a function like any other.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a network in whole numbers
points: 1
hidden: false
""" # END TEST CONFIG
def test_corners(patched, Toy):
    import torch

    toy = Toy(lambda x: 2 * x, lambda a: a * a, lambda h: 3 * h.sum())
    base, other = torch.tensor([1.0]), torch.tensor([2.0])  # a is 2 and 4, b is 4 and 16

    def M(*alpha):
        return float(patched(toy, base, other, torch.tensor(alpha)))

    none = M(0.0, 0.0, 0.0)
    assert none != 60, "With all strengths 0 you give the other run. Which run is the base?"
    assert none == 18, f"With all strengths 0 the base run must come out, 3 (2 + 4) = 18, not {none:g}."
    only = M(0.0, 1.0, 0.0)
    assert only != 60, (
        "You changed a itself, so B heard it too: that patches the node A. The edge A->out changes what the output hears, and nothing else."
    )
    assert only == 24, f"A->out alone must give 3 (4 + 4) = 24, not {only:g}."
    first = M(1.0, 0.0, 0.0)
    assert first != 18, "A->B does nothing. Does B hear what you add?"
    assert first == 54, f"A->B alone must give 3 (2 + 16) = 54, not {first:g}."
    last = M(0.0, 0.0, 1.0)
    assert last == 54, f"B->out alone must give 3 (2 + 16) = 54, not {last:g}."
    every = M(1.0, 1.0, 1.0)
    assert every != 96, (
        "All strengths 1 overshoot the other run, 96 for 60. B has changed already when B->out is patched: take the difference from what B writes now."
    )
    assert every == 60, f"All strengths 1 must give the other run, 3 (4 + 16) = 60, not {every:g}."

# %%
""" # BEGIN TEST CONFIG
name: other networks, any strengths
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_values(patched, Toy):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 41)
    for _ in range(5):
        U, V, W = (torch.randn(4, 4, generator=rng, dtype=torch.double) for _ in range(3))
        toy = Toy(lambda x: torch.tanh(U @ x), lambda a: torch.tanh(V @ a), lambda h: (W @ h).square().sum())
        base, other = torch.randn(2, 4, generator=rng, dtype=torch.double)
        alpha = torch.rand(3, generator=rng, dtype=torch.double)
        a, c = torch.tanh(U @ base), torch.tanh(U @ other)
        heard = (1 - alpha[0]) * a + alpha[0] * c
        b, d = torch.tanh(V @ heard), torch.tanh(V @ c)
        right = (W @ ((1 - alpha[1]) * a + alpha[1] * c + (1 - alpha[2]) * b + alpha[2] * d)).square().sum()
        assert torch.allclose(patched(toy, base, other, alpha), right, rtol=1e-9)

# %%
""" # BEGIN TEST CONFIG
name: it can be differentiated
points: 1
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_slopes(patched, Toy):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 42)
    V = torch.randn(3, 3, generator=rng, dtype=torch.double)
    toy = Toy(lambda x: x, lambda a: torch.tanh(V @ a), lambda h: h.pow(3).sum())
    base, other = torch.randn(2, 3, generator=rng, dtype=torch.double)
    alpha = torch.rand(3, generator=rng, dtype=torch.double).requires_grad_()
    (slopes,) = torch.autograd.grad(patched(toy, base, other, alpha), alpha)

    def M(alpha):
        b = toy.B(base + alpha[0] * (other - base))
        return toy.metric(base + b + alpha[1] * (other - base) + alpha[2] * (toy.B(other) - b))

    right = torch.autograd.functional.jacobian(M, alpha.detach())
    assert torch.allclose(slopes, right, rtol=1e-8, atol=1e-10)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## 4.2 All edges from one gradient
#
# **Difficulty** ●●●○○ · **Time** 30 minutes · **Points** 6
#
# **Why it matters.** SmolLM2 has 123,211 edges, and patching each takes hours. *Edge attribution patching* (EAP) scores all of them with one
# gradient; where that gradient is taken makes more difference than one would think.
#
# The score of the edge $u \to v$ is
#
# $$(\text{what } u \text{ writes in the other run} - \text{what it writes in the base run}) \cdot \frac{\partial\,\text{metric}}{\partial\,\text{input of } v}.$$
#
# Write `edge_scores(toy, base, other, points=(0.0,))`, a tensor of three scores. The gradient is the *mean* over runs on the inputs
# `base + t * (other - base)`, for all `t` in `points`. With the default it is taken at the base run, and the scores are EAP; with five
# points from 0.2 to 1, and the corrupted run as base, they are EAP-IG. The difference in front stays the same.
#
# <details><summary>Hint</summary>
#
# You need the gradient at the *input* of `B`, and at the input of the output. Add a vector of zeros there, with `requires_grad_()`, and ask
# `torch.autograd.grad` for the gradients with respect to them.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `a = toy.A(x)`, `b = toy.B(a + into_B)`, `value = toy.metric(a + b + into_out)`. With gradients `g_B` and `g_out` and differences `d_A`
# and `d_B`, the scores are `g_B @ d_A`, `g_out @ d_A` and `g_out @ d_B`.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 6

# %% [raw]
# # BEGIN SOLUTION


# %%
def edge_scores(toy, base, other, points=(0.0,)):
    """Scores [3] of the edges A->B, A->out, B->out; gradients averaged over points."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    d_A = toy.A(other) - toy.A(base)
    d_B = toy.B(toy.A(other)) - toy.B(toy.A(base))
    scores = []
    for t in points:
        a = toy.A(base + t * (other - base))
        into_B, into_out = (torch.zeros_like(a, requires_grad=True) for _ in range(2))
        value = toy.metric(a + toy.B(a + into_B) + into_out)
        g_B, g_out = torch.autograd.grad(value, (into_B, into_out))
        scores.append(torch.stack([g_B @ d_A, g_out @ d_A, g_out @ d_B]))
    return torch.stack(scores).mean(0)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("4.2 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** On the axis of one edge the input of its reader moves by $\alpha$ times the writer's difference, so the slope there
# at $\alpha = 0$ is the difference times the gradient at the reader's input: EAP is the gradient of the $M(\alpha)$ of 4.1 at 0. Two edges into one
# reader share its gradient, two edges out of one writer share its difference; that is why one backward pass is enough for all. The
# gradient at the *output* of `A` would be the sum over both edges that leave it: the attribution of the node. EAP-IG is no derivative of
# $M$ along an axis any more, as all of the network moves; it is an average over what the reader may find on the way.
#
# EAP equals patching where the way from the reader's input to the metric is linear: for all three edges if `B` and the metric are.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a linear network, where EAP is exact
points: 1
hidden: false
""" # END TEST CONFIG
def test_linear(edge_scores, Toy):
    import torch

    toy = Toy(lambda x: 2 * x, lambda a: 3 * a, lambda h: 5 * h.sum())
    base, other = torch.tensor([1.0]), torch.tensor([2.0])  # a changes by 2, b by 6
    found = [round(float(s), 3) for s in edge_scores(toy, base, other)]
    assert found != [-30, -10, -30], "All signs are wrong: the difference is other less base."
    assert found[1] != 40, (
        "A->out gets 40, where patching gives 10. The gradient at what A writes counts both edges that leave A. Take the gradient at the input of the reader."
    )
    assert found[0] != 10, "A->B gets 10, where patching gives 30. What B hears is not yet the output: its gradient passes through B."
    assert found == [30, 10, 30], f"On a linear network scores equal patching, [30, 10, 30], not {found}."
    again = [round(float(s), 3) for s in edge_scores(toy, base, other, (0.0, 0.5, 1.0))]
    assert again != [90, 30, 90], "Three points give three times the score: take their mean, not their sum."
    assert again == [30, 10, 30], f"On a linear network the gradient is the same everywhere; {again} came out for three points."

# %%
""" # BEGIN TEST CONFIG
name: EAP on other networks
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_eap(edge_scores, Toy):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 43)
    for _ in range(3):
        U, V, W = (torch.randn(4, 4, generator=rng, dtype=torch.double) for _ in range(3))
        toy = Toy(lambda x: torch.tanh(U @ x), lambda a: torch.tanh(V @ a), lambda h: (W @ h).square().sum())
        base, other = torch.randn(2, 4, generator=rng, dtype=torch.double)
        a, c = toy.A(base), toy.A(other)
        d = toy.B(c)

        def M(alpha):
            b = toy.B(a + alpha[0] * (c - a))
            return toy.metric(a + b + alpha[1] * (c - a) + alpha[2] * (d - b))

        right = torch.autograd.functional.jacobian(M, torch.zeros(3, dtype=torch.double))
        assert torch.allclose(edge_scores(toy, base, other), right, rtol=1e-8, atol=1e-10)

# %%
""" # BEGIN TEST CONFIG
name: EAP-IG on other networks
points: 3
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_eap_ig(edge_scores, Toy):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 44)
    for m in (2, 5):
        U, V, w = (torch.randn(4, 4, generator=rng, dtype=torch.double) for _ in range(3))
        toy = Toy(lambda x: torch.tanh(U @ x), lambda a: torch.sigmoid(V @ a), lambda h: torch.sigmoid(w @ h).sum())
        base, other = torch.randn(2, 4, generator=rng, dtype=torch.double)
        points = [k / m for k in range(1, m + 1)]
        d_A = toy.A(other) - toy.A(base)
        d_B = toy.B(toy.A(other)) - toy.B(toy.A(base))
        right = torch.zeros(3, dtype=torch.double)
        for t in points:
            a = toy.A(base + t * (other - base))
            h = a + toy.B(a)
            s, p = torch.sigmoid(w @ h), torch.sigmoid(V @ a)
            g_out = (s * (1 - s)) @ w
            g_B = (g_out * p * (1 - p)) @ V
            right += torch.stack([g_B @ d_A, g_out @ d_A, g_out @ d_B]) / m
        assert torch.allclose(edge_scores(toy, base, other, points), right, rtol=1e-8, atol=1e-10)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# A network whose output is flat at the start: what does each score see?

# %%
# See it
with contextlib.suppress(NotImplementedError):
    flat = Toy(lambda x: x, lambda a: a, lambda h: torch.sigmoid(h - 6).sum())
    start, end = torch.tensor([0.0]), torch.tensor([6.0])
    print(f"the whole change  {flat.run(end) - flat.run(start):.3f}")
    print(f"EAP               {edge_scores(flat, start, end).tolist()}")
    print(f"EAP-IG, 5 points  {edge_scores(flat, start, end, [k / 5 for k in range(1, 6)]).tolist()}")

# %% [markdown]
# ## 4.3 What lies on a path
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 4
#
# **Why it matters.** The 100 edges with the best scores need not be connected. An edge whose writer hears nothing, or whose reader nobody
# hears, makes the circuit larger and does nothing.
#
# So one keeps only what lies on a path from the embedding of the tokens to the logits. Write `on_a_path(edges)`. `edges` is a collection of pairs `(writer, reader)` of names, without cycles, in any order. Return the set of those that lie
# on a path from `"embed"` to `"logits"`.
#
# <details><summary>Hint</summary>
#
# An edge lies on such a path if its writer can be reached from the embedding, and the logits can be reached from its reader. So you need two sets of
# names.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Start with `{"embed"}`, and add the reader of every edge whose writer is in the set, until nothing is added any more. Then the
# same from `{"logits"}` backwards.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 4

# %% [raw]
# # BEGIN SOLUTION


# %%
def on_a_path(edges):
    """The set of edges (writer, reader) on a path from "embed" to "logits"."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    edges = set(edges)

    def reached(start, steps):
        names = {start}
        while more := {end for begin, end in steps if begin in names} - names:
            names |= more
        return names

    fed = reached("embed", edges)
    heard = reached("logits", {(reader, writer) for writer, reader in edges})
    return {(writer, reader) for writer, reader in edges if writer in fed and reader in heard}
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("4.3 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** A path through the edge $u \to v$ is a path from the embedding to $u$, the edge, and a path from $v$ to the logits. The two
# sets say which ends have them. It is enough to look at the ends, and not at whole paths, of which there are very many. Taking away
# edges with a dead end *once* is not enough: it makes new dead ends. The metric of the circuit is the same before and after: an edge
# whose writer hears only corrupted inputs writes what it writes in the corrupted run, and nobody listens to a reader that is not heard. Only the
# number of edges, which one reports, changes.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: dead ends at both sides
points: 1
hidden: false
""" # END TEST CONFIG
def test_dead_ends(on_a_path):
    path = {("embed", "A"), ("A", "D"), ("D", "logits")}
    unheard, unfed = ("A", "B"), ("C", "D")
    found = on_a_path([("D", "logits"), unheard, unfed, ("A", "D"), ("embed", "A")])
    assert found is not None and not isinstance(found, list), "Return a set."
    assert unheard not in found, "A->B was kept, but nobody hears B. Did you look forwards only?"
    assert unfed not in found, "C->D was kept, but C hears nothing. Did you look backwards only?"
    assert found == path, f"{sorted(path)} lie on the path; {sorted(found)} came out."
    longer = on_a_path([*path, ("A", "E"), ("E", "F")])
    assert ("A", "E") not in longer, (
        "A->E was kept. Its reader E has a reader of its own, F, but nobody hears F. One round is not enough: repeat until nothing changes."
    )
    assert longer == path
    assert on_a_path([("A", "B")]) == set(), "Without a path nothing is left."

# %%
""" # BEGIN TEST CONFIG
name: circuits of a transformer
points: 3
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_circuits(on_a_path):
    import itertools
    import random

    from hvp_utils.circuits import Circuit
    from hvp_utils.components import edge_graph

    rng = random.Random(TEACHER_SEED + 45)
    for layers, heads, n in ((3, 2, 25), (3, 2, 40), (6, 3, 60), (6, 3, 200), (4, 2, 20)):
        circuit = Circuit.random(edge_graph(layers, heads), n, rng.randrange(2**30))
        ends = circuit.graph.nodes_of_edges
        edges = [ends[i] for i in circuit.numbers]
        rng.shuffle(edges)
        assert set(on_a_path(edges)) == {ends[i] for i in circuit.pruned().numbers}
    names = ["embed", *(f"N{i}" for i in range(rng.randrange(12, 20))), "logits"]
    chain = set(itertools.pairwise(names))
    assert set(on_a_path([*chain, ("N3", "M"), ("M", "M2")])) == chain

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Now the real network. EAP of all edges is the gradient of $M(\alpha)$ at 0. The base run is that of the clean prompt here, so an edge that helps has a
# negative score: patching it with the corrupted run makes the answer less likely.

# %%
model = load_model("smollm2-135m")
pair = reference_pair()
M = PatchedMetric(model, pair, "edges", direction="noising")
eap = M.gradient(torch.zeros(M.n)).cpu()
print(f"{M.n:,} edges; {pair.clean!r}")

# %%
# See it
with contextlib.suppress(NotImplementedError):
    for n in (10, 30, 100, 300, 1000):
        best = Circuit.top(M, eap, n)
        edges = {best.graph.nodes_of_edges[i] for i in best.numbers}
        print(f"of the best {n:4} edges, between {len(edges):3} pairs of nodes: {len(on_a_path(edges)):3} on a path")

# %% [markdown]
# ## 4.4 What a circuit keeps
#
# **Difficulty** ●●○○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** Papers compare methods by two areas, the *circuit performance ratio* (CPR) and the *circuit-model distance* (CMD). Small choices in computing them, of which papers say nothing,
# move them by more than the methods differ.
#
# Circuits of growing size were run on several prompts. Write `areas(values, full, empty, fractions)`:
#
# * `values [prompt, circuit]` is the metric of each circuit; `full [prompt]` that of the clean run, `empty [prompt]` that of the corrupted
#   run, `fractions [circuit]` the share of all edges in each circuit, growing. All are numpy arrays.
# * *Faithfulness* of a circuit says where its metric lies between the two runs: 0 is the corrupted run, 1 the clean one. It is a ratio of *means over
#   prompts*: prompts on which the two runs hardly differ must not rule it.
# * *CPR* is the area under the curve of faithfulness over `fractions`, by the trapezoidal rule, from the first fraction to the last. *CMD* is the area
#   between the curve and 1: the same rule for $|1 - f|$ at the circuits (also where the curve crosses 1 between two of them).
#
# Return `(faithfulness [circuit], cpr, cmd)`.
#
# <details><summary>Hint</summary>
#
# Take the means over prompts first, the ratio afterwards. Between two neighbouring circuits the trapezoid is their distance in `fractions` times the mean
# of their heights.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For CMD the height is $|1 - f|$. A circuit at 1.5 is as far from the model as one at 0.5, so it is not $1 - \text{CPR}$.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def areas(values, full, empty, fractions):
    """Faithfulness [circuit], CPR and CMD of circuits of growing size."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    f = (values.mean(0) - empty.mean()) / (full.mean() - empty.mean())

    def area(height):
        return float((np.diff(fractions) * (height[1:] + height[:-1]) / 2).sum())

    return f, area(f), area(abs(1 - f))
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("4.4 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** With `(values - empty) / (full - empty)` for each prompt, a prompt on which clean and corrupted run differ by 0.01 counts a
# hundred times as much as one on which they differ by 1. The ratio of means weighs each prompt by what there is to explain. The
# fractions are far from equidistant (half of the area lies between 0.5 and 1, where circuits are uninteresting), so a mean of heights is another
# number. CMD and $1 - \text{CPR}$ are the same only if no circuit goes above 1; where edges that work against the answer are cut, circuits do.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two prompts, three circuits
points: 1
hidden: false
""" # END TEST CONFIG
def test_three_circuits(areas):
    import numpy as np

    full, empty = np.array([11.0, 3.0]), np.array([1.0, 1.0])
    values = np.array([[1.0, 13.0, 11.0], [1.0, 7.0, 3.0]])
    f, cpr, cmd = areas(values, full, empty, np.array([0.0, 0.2, 1.0]))
    f = np.round(np.asarray(f, dtype=float), 6).tolist()
    assert len(f) == 3, "One faithfulness for each circuit: the mean goes over prompts."
    assert f[1] != 2.1, "That is the mean of each prompt's ratio. Take the ratio of the means."
    assert f[0] == 0, "The first circuit keeps nothing, so its faithfulness is 0. Did you subtract that of the corrupted run?"
    assert f == [0, 1.5, 1], f"The faithfulness is [0, 1.5, 1], not {f}."
    assert abs(cpr - 2.5 / 3) > 1e-6, "CPR is the mean height. The circuits are not equidistant: use the trapezoidal rule."
    assert abs(cpr - 1.15) < 1e-6, f"CPR is 0.2 * 0.75 + 0.8 * 1.25 = 1.15, not {cpr:g}."
    assert abs(cmd + 0.15) > 1e-6, "CMD came out as 1 - CPR. The curve is above 1 for a while: what lies above counts too."
    assert abs(cmd - 0.35) < 1e-6, f"CMD is 0.2 * 0.75 + 0.8 * 0.25 = 0.35, not {cmd:g}."

# %%
""" # BEGIN TEST CONFIG
name: any circuits
points: 4
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_curves(areas):
    import numpy as np

    from hvp_utils.circuits import FRACTIONS, Curve, Kept

    rng = np.random.default_rng(TEACHER_SEED + 46)
    for n in (1, 3, 8):
        full, empty = 5 + rng.random(n), rng.random(n)
        values = rng.uniform(-2, 9, (n, len(FRACTIONS)))
        curve = Curve(FRACTIONS, (), Kept(values, full, empty))
        f, cpr, cmd = areas(values, full, empty, np.array(FRACTIONS))
        assert np.allclose(f, curve.faithfulness)
        assert abs(cpr - curve.cpr(n_resamples=2).estimate) < 1e-9
        assert abs(cmd - curve.cmd(n_resamples=2).estimate) < 1e-9

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# The circuits of EAP on SmolLM2: a corner of the cube is 0 on the circuit's edges and 1 on all others.

# %%
# See it
with contextlib.suppress(NotImplementedError):
    masks = torch.stack([Circuit.top(M, eap, int(share * M.n)).mask() for share in FRACTIONS])
    kept = M((~masks).float()).cpu().numpy()[None]
    runs = (np.array([run]) for run in (M.base, M.other))
    f, cpr, cmd = areas(kept, *runs, np.array(FRACTIONS))
    for share, height in zip(FRACTIONS, f, strict=True):
        print(f"{100 * share:5.1f} % of the edges: faithfulness {height:.2f}")
    print(f"CPR {cpr:.2f}, CMD {cmd:.2f}")

# %% [markdown]
# ## 4.5 A circuit that is known
#
# **Difficulty** ●●●○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** On a real model nobody knows the circuit. So methods are tried first on a network in which the edges were planted, and two numbers
# say how well a ranking finds them.
#
# Write `recovery(scores, members, k)`, where `scores [n]` is a number for each edge and `members [n]` says which of them belong to the circuit
# (`bool`). Edges are ranked by the *size* of their score: an edge that works against the answer belongs too. Return two numbers:
#
# * *precision at k*: the share of members among the `k` edges with the largest size;
# * *AUROC*: the chance that a member, drawn at random, has a larger size than a non-member drawn at random. Ties count half.
#
# Count the pairs yourself; there are few enough. There are members and non-members, and no ties around place `k`.
#
# <details><summary>Hint</summary>
#
# `size[members][:, None] > size[~members]` is a table of all pairs.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The mean of the table is the AUROC, but for ties; add half of the mean of a second table with `==`. For the precision, `topk` of the sizes.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def recovery(scores, members, k):
    """Precision among the k largest |scores|, and the AUROC of |scores|."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    size = scores.abs()
    precision = members[size.topk(k).indices].double().mean()
    inside, outside = size[members][:, None], size[~members]
    auroc = (inside > outside).double().mean() + (inside == outside).double().mean() / 2
    return precision.item(), auroc.item()
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("4.5 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Precision divides by what was *taken*, `k`; dividing by the number of members gives recall. AUROC does not depend on
# `k`, nor on how many members there are: 1 is a ranking without a mistake, one half is a coin. Ties matter on planted networks, since all edges off the paths have
# a score of 0: they all tie with one another and with any member that the method does not see.
#
# Look at what the cell below prints. EAP tells members from others and is still off by a good part of the effects: to find a
# circuit, a score need not be right, it need only not be 0.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: five edges
points: 1
hidden: false
""" # END TEST CONFIG
def test_five_edges(recovery):
    import torch

    scores = torch.tensor([-4.0, 1.0, 3.0, 1.0, 0.0])
    members = torch.tensor([True, True, False, False, False])
    precision, auroc = recovery(scores, members, 1)
    assert precision != 0, "The largest size is that of the first edge, a member. Did you rank by sign?"
    assert precision != 0.5, "You divided by the number of members: that is recall. Precision divides by k."
    assert precision == 1, f"The precision at 1 is 1, not {precision}."
    assert recovery(scores, members, 2)[0] == 0.5, "The precision at 2 is one half: the second largest is no member."
    names = {
        4.0 / 6: "A tie counts half: you counted it as lost.",
        5.0 / 6: "A tie counts half: you counted it as won.",
        1.5 / 6: "The AUROC must use sizes too.",
    }
    for wrong, why in names.items():
        assert abs(auroc - wrong) > 1e-6, why
    assert abs(auroc - 4.5 / 6) < 1e-6, f"Members win 4 of 6 pairs and tie in one: 0.75, not {auroc:.3f}."

# %%
""" # BEGIN TEST CONFIG
name: rankings with ties
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_rankings(recovery):
    import torch
    from scipy.stats import mannwhitneyu

    rng = torch.Generator().manual_seed(TEACHER_SEED + 47)
    for n in (20, 60):
        members = torch.rand(n, generator=rng) < 0.3
        members[:2] = torch.tensor([True, False])
        scores = torch.randn(n, generator=rng).mul(2).round()
        first = torch.randperm(n, generator=rng)[:5]
        scores[first] = 100.0 + torch.arange(5.0)  # no ties around the fifth place
        scores *= torch.where(torch.rand(n, generator=rng) < 0.5, 1.0, -1.0)
        precision, auroc = recovery(scores, members, 5)
        assert abs(precision - members[first].double().mean()) < 1e-6
        size, pairs = scores.abs().numpy(), int(members.sum() * (~members).sum())
        right = mannwhitneyu(size[members.numpy()], size[~members.numpy()]).statistic / pairs
        assert abs(auroc - right) < 1e-6

# %%
""" # BEGIN TEST CONFIG
name: planted circuits
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_planted(recovery):
    import torch

    from hvp_utils.circuits import Circuit, auroc, overlap
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.planted import planted_model
    from hvp_utils.tasks import PromptPair

    rng = torch.Generator().manual_seed(TEACHER_SEED + 48)
    for _ in range(2):
        planted = planted_model(int(torch.randint(2**30, (1,), generator=rng)), n_layers=2)
        clean, corrupted = torch.randint(40, (2, 6), generator=rng).tolist()
        M = PatchedMetric(planted.model, PromptPair(clean, corrupted, answer=1), "edges")
        known = Circuit.of(M.batches[0].patches.graph, planted.circuit)
        effects = M.gradient(torch.zeros(M.n, dtype=torch.double)).cpu()
        effects += effects.std() * torch.randn(M.n, generator=rng, dtype=torch.double)
        found = recovery(effects, known.mask(), 30)
        best = Circuit.top(M, effects, 30, signed=False)
        assert abs(found[0] - overlap(best, known).precision) < 1e-9
        assert abs(found[1] - auroc(M, effects, known)) < 1e-9

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it
with contextlib.suppress(NotImplementedError):
    planted = planted_model(seed=3)
    tokens = PromptPair(clean=[5, 17, 3, 8, 30], corrupted=[9, 21, 13, 2, 11], answer=1)
    P = PatchedMetric(planted.model, tokens, "edges")
    members = torch.tensor([label in planted.circuit for label in P.labels])
    scores = P.gradient(torch.zeros(P.n, dtype=torch.double))
    effects = torch.cat([P(unit).detach() - P.base for unit in torch.eye(P.n, dtype=torch.double).split(200)])
    precision, auroc = recovery(scores, members, int(members.sum()))
    largest = effects.abs().topk(10).indices
    off = ((scores - effects).abs() / effects.abs())[largest].median()
    print(f"{int(members.sum())} of {P.n} edges were planted on a path. EAP: precision {precision:.3f}, AUROC {auroc:.3f}")
    print(f"On the ten largest effects EAP is off by {100 * off:.0f} % (median).")

# %% [markdown]
# ## 4.6 Features, and what they leave over
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 6
#
# **Why it matters.** Circuits of features are easier to read than circuits of heads. But a dictionary explains only part of an
# activation, and a circuit that forgets the rest explains another model.
#
# At one place of a network the base run has the activation $x$ and the other run $y$, both `[pos, d]`. A dictionary has an encoder,
# `encode(x)` of shape `[pos, n]`, and a direction for each feature, `W_dec [n, d]`. Patching feature $f$ adds, at every position,
#
# $$(a_f(y) - a_f(x))\, w_f,$$
#
# with $a_f$ the activation of the feature and $w_f$ its direction. What $y - x$ has beside the sum of these is one component more, the *error component*.
#
# Write `feature_effects(metric_of, x, y, encode, W_dec)`: the exact effects of patching each of them alone, a tensor `[n + 1]`, the
# error last. `metric_of(h)` runs the network on from the activation `h`, and gives a number.
#
# <details><summary>Hint</summary>
#
# Make the change of each component first, `[n + 1, pos, d]`. Together they must give `y - x`; that is how the last is found.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `change = encode(y) - encode(x)`, which is not `encode(y - x)`: an encoder is not linear. Then `change.T[:, :, None] * W_dec[:, None, :]` has the shape
# `[n, pos, d]`.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 6

# %% [raw]
# # BEGIN SOLUTION


# %%
def feature_effects(metric_of, x, y, encode, W_dec):
    """Exact effects [n + 1] of patching each feature, and last the error, from x to y."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    change = encode(y) - encode(x)
    moved = change.T[:, :, None] * W_dec[:, None, :]
    moved = torch.cat([moved, (y - x - moved.sum(0))[None]])
    base = metric_of(x)
    return torch.stack([metric_of(x + delta) - base for delta in moved])
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("4.6 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** The features are counted in both runs, and the difference is patched. The bias of the decoder is the same in both, so it
# drops out. The error component is defined as what is missing, so all components together give $y$, whatever the dictionary: a bad
# dictionary makes it large instead of making the patches wrong. The encoder is evaluated twice and then done with: what is patched are fixed vectors. Leave the
# error component out, and the effects of the features stay as they are, but nobody sees how much of the change they miss. Had we put the dictionary's
# reconstruction in the place of $x$, we should be studying another network.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two features in two dimensions
points: 1
hidden: false
""" # END TEST CONFIG
def test_two_features(feature_effects):
    import torch

    W = torch.tensor([[1.0, 0.0], [1.0, 1.0]])

    def encode(x):
        return torch.relu(x - 1)

    x, y = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 1.0]])
    # Activations (1, 2) and (4, 0): changes 3 (1, 0) and -2 (1, 1); y - x = (3, -2) leaves (2, 0).
    found = feature_effects(lambda h: (h * torch.tensor([1.0, 10.0])).sum(), x, y, encode, W)
    found = [round(float(v), 4) for v in found]
    assert len(found) == 3, "Two features and the error are three components."
    assert found[:2] != [-3, 22], "All signs are wrong: the patch goes from x to y."
    assert found[:2] != [2, 0], "That is encode(y - x). An encoder is not linear: take encode(y) - encode(x)."
    assert found[:2] != [4, 0], "You patched with what the features are in y. Their change is y's less x's."
    assert found[:2] == [3, -22], f"The features change by 3 (1, 0) and -2 (1, 1): effects 3 and -22, not {found[:2]}."
    assert found[2] != -17, "The last effect is that of all of y - x. The error component is what the features leave of it."
    assert found[2] == 2, f"The features leave (2, 0) of y - x, with the effect 2, not {found[2]}."

# %%
""" # BEGIN TEST CONFIG
name: a curved function
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_curved(feature_effects):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 49)
    W_enc, W_dec = (torch.randn(*s, generator=rng, dtype=torch.double) for s in ((5, 7), (7, 5)))
    x, y = torch.randn(2, 3, 5, generator=rng, dtype=torch.double)

    def encode(h):
        return torch.relu(h @ W_enc - 0.3)

    def metric_of(h):
        return torch.tanh(h).pow(2).sum() + h[0] @ h[1]

    found = feature_effects(metric_of, x, y, encode, W_dec)
    left, right = y - x, []
    for f in range(7):
        delta = torch.zeros(3, 5, dtype=torch.double)
        for p in range(3):
            delta[p] = (encode(y)[p, f] - encode(x)[p, f]) * W_dec[f]
        left = left - delta
        right.append(metric_of(x + delta) - metric_of(x))
    right.append(metric_of(x + left) - metric_of(x))
    assert torch.allclose(found, torch.stack(right), rtol=1e-8, atol=1e-10)

# %%
""" # BEGIN TEST CONFIG
name: a dictionary on SmolLM2
points: 3
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_model(feature_effects, model):
    import torch

    from hvp_utils.components import SAEFeatures
    from hvp_utils.estimators import activation_patching
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.saes import SAE
    from hvp_utils.tasks import make_prompts

    rng = torch.Generator().manual_seed(TEACHER_SEED + 50)
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 51)[0]
    tokens, hook = pair.resolve(model), "blocks.20.hook_resid_pre"
    n, d = 12, model.cfg.d_model

    def entering(ids):
        with torch.no_grad():
            return model.run_with_cache(ids[None], names_filter=hook)[1][hook][0].cpu()

    def metric_of(h):
        replace = [(hook, lambda live, hook: h[None].to(live))]
        with torch.no_grad():
            logits = model.run_with_hooks(tokens.corrupted[None], fwd_hooks=replace)
        return tokens.metric(logits[:, -1])[0].cpu()

    x, y = entering(tokens.corrupted), entering(tokens.clean)
    W_enc, W_dec = torch.randn(d, n, generator=rng) / d**0.5, torch.randn(n, d, generator=rng)
    # The first feature explains half of the last token, and leaves half to the error: they interact.
    along = (y - x)[-1] / (y - x)[-1].norm()
    W_enc[:, 0], W_dec[0] = along, along / 2
    b_enc = torch.zeros(n)
    b_enc[0] = 1 - min((x @ along).min(), (y @ along).min())
    sae = SAE(W_enc, b_enc, W_dec, torch.zeros(d), hook=hook)
    M = PatchedMetric(model, pair, SAEFeatures(sae))
    right = dict(zip(M.labels, activation_patching(M).tolist(), strict=True))
    found = feature_effects(metric_of, x, y, sae.encode, W_dec)
    right = torch.tensor([right.get(f"L20F{f}", 0.0) for f in range(n)] + [right["L20.error"]])
    assert torch.allclose(found.float(), right, rtol=2e-3, atol=1e-3)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# A dictionary of twelve random directions explains next to nothing of an activation with 576 dimensions. Where does the effect go?

# %%
# See it
with contextlib.suppress(NotImplementedError):
    hook, tokens = "blocks.20.hook_resid_pre", pair.resolve(model)
    draw = torch.Generator().manual_seed(0)
    W_dec = torch.randn(12, model.cfg.d_model, generator=draw)
    x, y = (
        model.run_with_cache(ids[None], names_filter=hook)[1][hook][0].detach().cpu()
        for ids in (tokens.corrupted, tokens.clean)
    )

    @torch.no_grad()
    def metric_of(h):
        replace = [(hook, lambda live, hook: h[None].to(live))]
        logits = model.run_with_hooks(tokens.corrupted[None], fwd_hooks=replace)
        return tokens.metric(logits[:, -1])[0].cpu()

    effects = feature_effects(metric_of, x, y, lambda h: torch.relu(h @ W_dec.T / 576), W_dec)
    print(f"the whole change {metric_of(y) - metric_of(x):+.2f} nats")
    print(f"the largest feature {effects[:-1][effects[:-1].abs().argmax()]:+.2f}, the error component {effects[-1]:+.2f}")

# %% [markdown]
# ## 4.7 Which circuit do you believe?
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 6
#
# **Why it matters.** Papers often end with a circuit and its faithfulness. Two circuits can have the same, and say different things about the model.
#
# On the same ten prompts, circuit P has 200 edges and a faithfulness of 0.85; circuit Q has 200 edges and 0.85. They share 60 edges. P was found by EAP-IG on
# those ten prompts. Q was found by going through all edges and removing each one whose loss lowers the metric, on the same prompts, by less than a small threshold.
#
# In at most 300 words: can both be right? Which do you believe, or what would you have to know? Name at least two measurements that could change your
# mind, say for each which result would speak for which circuit, and what it would cost in runs of the model. You may run code; if you do, say what you found.
#
# | points | for |
# | --- | --- |
# | 2 | whether both can be right, with a reason that concerns mechanisms and not only numbers |
# | 1 | what the way in which each circuit was found does to its number |
# | 2 | two measurements, and for each the result that would speak for P and the one that would speak for Q |
# | 1 | what they cost |
#
# <details><summary>Hint</summary>
#
# Think of prompts that neither method saw, of the edges that only one circuit has, and of what each method looked at while it chose.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Faithfulness of 0.85 over ten prompts with equally much to explain can be ten times 0.85, or eight times 1.1 and two times −0.15. And a circuit above 1 has lost what works
# against the answer.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 6
# manual: true

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# <!-- canary-answer-key -->
# **A good answer.** Both can have the number, since it is a number about 200 edges *together* on ten prompts: there may be two sufficient ways through
# the network (backup heads), or one of the circuits may be fitted to the prompts. Q was chosen by the very metric it is judged by, with tens of thousands of choices
# on ten prompts, so its 0.85 is optimistic; P was chosen by gradients and judged by something else, which is a weak form of a held-out test.
#
# *Measurements.* (1) Both circuits on 50 prompts that neither method saw: 100 runs, and the corrupted and clean runs. If Q falls and P does not, Q was fitted. (2) The
# shared 60 edges alone, and each circuit with one of its own edges removed, on the ten prompts: 10 runs, and up to 1,400 for each circuit (140 edges of its own, ten prompts). If the 60 keep nearly all, the rest is decoration. (3) Prompt by prompt instead of the mean. (4)
# Completeness: the *model without* the circuit. If removing P leaves the behaviour intact, other edges can do it too. (5) The same search with another seed or order: what does not come back is not a finding.
#
# **Rubric** (6 points). 2: sees that equal faithfulness does not mean equal mechanism, with a reason (redundancy, mean over prompts, values above 1). 1: sees that Q was selected on what it is
# judged by. 2: two measurements, each with the result that would speak for P and for Q (one point each; no point for "test on more data" without a result that would decide). 1: a price in runs that
# is right to a factor of two. No point for length; one point less for a claim without a reason.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # END QUESTION
