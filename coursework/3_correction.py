# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 3. Correction
#
# Attribution patching follows a tangent, and tangents leave the road. In this set you build the ways back to it: a parabola, several parabolas,
# slopes taken along the way. Then you write the bill, and it will not flatter you. So you build what is worth its price: a screen that
# costs three gradients, and a rule for what to patch exactly. At the end you spend ten patches as well as you can.
#
# **You need** chapters 7, 8, 9 and 10 of the book. **Time**: about three hours. **Points**: 35.
#
# Every exercise stands alone: if one defeats you, go on with the next. Below each exercise is a check on a case small enough to
# do in your head; it says what is probably wrong. Other tests, on other numbers and prompts, are run when your work is marked. The last exercise
# has no right answer, and is read by a person. Cells that begin with `# See it` show what your functions do; they do nothing until these are written.
#
# Throughout, a metric $M(\alpha)$, in nats, is a function of $n$ patch strengths $\alpha = (\alpha_1, \dots, \alpha_n)$, one for each component. All zero is the base run; $\alpha_c = 1$
# patches component $c$ exactly. On the axis of one component it is a curve $g(t)$ with $t = \alpha_c$ and all others 0. So $f = g(1) - g(0)$ is the true effect of the component, and
# $f_\mathrm{AP} = g'(0)$ what attribution patching (AP) says it is. $q = \tfrac12 g''(0)$ is the quadratic term that AP leaves out.

# %%
# SETUP CELL

# %%
import contextlib

import numpy as np
import otter
import torch

from hvp_utils import PatchedMetric, load_model, make_prompts, reference_pair

grader = otter.Notebook("set3.ipynb")

# %% [markdown]
# The model, and something to try things on. `metric_of` is $M$ for a few heads of SmolLM2, made with nothing but hooks, and `curve_of` is $g$ for one.

# %%
model = load_model("smollm2-135m")


def metric_of(pair, heads):
    """M: the metric of the corrupted run as heads are patched towards the clean run.

    heads is a list of (layer, head). M takes their strengths, a tensor [n], and can be
    differentiated with respect to them.
    """
    resolved = pair.resolve(model)
    names = sorted({f"blocks.{layer}.attn.hook_z" for layer, _ in heads})
    with torch.no_grad():
        _, clean = model.run_with_cache(resolved.clean[None], names_filter=names)
        _, corrupted = model.run_with_cache(resolved.corrupted[None], names_filter=names)

    def patch(c, layer, head, alpha):
        name = f"blocks.{layer}.attn.hook_z"  # [batch, position, head, d_head]
        delta = torch.zeros_like(clean[name])
        delta[:, :, head] = (clean[name] - corrupted[name])[:, :, head]
        return name, lambda z, hook: z + alpha[c] * delta

    def M(alpha):
        hooks = [patch(c, *where, alpha) for c, where in enumerate(heads)]
        logits = model.run_with_hooks(resolved.corrupted[None], fwd_hooks=hooks)
        return resolved.metric(logits[:, -1])[0]

    return M


def curve_of(pair, layer, head):
    """g: the same for a single head. g takes a tensor of one number."""
    M = metric_of(pair, [(layer, head)])
    return lambda t: M(t[None])


# %% [markdown]
# ## 3.1 A parabola for each
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 4
#
# **Why it matters.** The correction adds to every estimate the quadratic term of its own component: a parabola in the place of the tangent. The Hessian that
# holds these terms holds the *interactions* of all components too, and whoever reads it carelessly adds those as well.
#
# Write `second_order(metric, n)`. `metric` takes strengths, a tensor `[n]`, and returns a tensor of one number. Return the estimates $f_{\mathrm{AP},c} + q_c$
# of all components, a tensor `[n]` that can no longer be differentiated. Call `metric` once, at zero; everything else is backward passes. The metric may be linear.
#
# <details><summary>Hint</summary>
#
# $q_c = H_{cc}/2$. Row $c$ of the Hessian $H$ is the gradient of entry $c$ of the gradient. How many entries of that row do you need?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# One gradient with `create_graph=True`. Then, for each `c`, `torch.autograd.grad(gradient[c], alpha, retain_graph=True)`, and entry `c` of what comes out. If
# `gradient.requires_grad` is false, the metric is linear and there is nothing to correct.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 4

# %% [raw]
# # BEGIN SOLUTION


# %%
def second_order(metric, n):
    """First-order effect plus quadratic term of each of n components, [n]."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    alpha = torch.zeros(n, requires_grad=True)
    (gradient,) = torch.autograd.grad(metric(alpha), alpha, create_graph=True)
    estimate = gradient.detach().clone()
    if gradient.requires_grad:
        for c in range(n):
            (row,) = torch.autograd.grad(gradient[c], alpha, retain_graph=True)
            estimate[c] += row[c] / 2
    return estimate
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("3.1 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** On the axis of component $c$, $g_c(t) = M(t e_c)$, so $g_c'(0)$ is entry $c$ of the gradient and $g_c''(0) = e_c^\top H e_c = H_{cc}$. One component moves at a time, so
# no entry off the diagonal has a part in it. The tempting short cut is a single product $H\mathbf{1}$: it gives $\sum_j H_{cj}$, which is right only for components that do not interact.
#
# **What it costs.** One run, one backward pass for all, and then one more *for each component*, through run and backward pass together. The gradient was free for everybody, the diagonal is not. Keep this
# in mind for exercise 3.4.
#
# **What you see.** Where the slope at the start was far too small (L17H4 and L20H0) the parabola takes off half of the error or more; in the second case it ends beyond the truth. On the other three it does little, and for L23H3, the largest of all, it
# goes the wrong way: this head starts straight and bends later.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two components that interact
points: 1
hidden: false
""" # END TEST CONFIG
def test_two_components(second_order):
    import torch
    def metric(a):
        return 7 + 2 * a[0] + 3 * a[1] + a[0] ** 2 - 2 * a[1] ** 2 + 4 * a[0] * a[1]

    estimate = second_order(metric, 2)
    assert isinstance(estimate, torch.Tensor), "Return a tensor."
    assert estimate.shape == (2,), f"Return one number a component: shape (2,), not {tuple(estimate.shape)}."
    assert not estimate.requires_grad, "The result still drags its graph along: detach it."
    found = [round(value, 3) for value in estimate.tolist()]
    assert found != [2, 3], "This is attribution patching: the quadratic terms are missing."
    assert found != [1, -2], "These are the quadratic terms alone. Add them to the gradient."
    assert found != [4, -1], "The half is missing: q = H_cc / 2."
    assert found != [5, 3], "These are sums over rows of H: the interactions do not belong here."
    assert found != [8, 3], "Rows of H were summed (no interactions, please), and without a half."
    assert found != [10, 8], "These are effects with M(0) in them. An effect is a difference."
    assert found == [3, 1], f"It should be [2 + 1, 3 - 2] = [3, 1], not {found}."
    try:
        line = second_order(lambda a: 2 * a[0] - a[1], 2)
    except RuntimeError as error:
        raise AssertionError(
            "A linear metric ends in an error of autograd: its gradient depends on nothing. "
            "Look at gradient.requires_grad first."
        ) from error
    assert line.tolist() == [2, -1], "Of a linear metric the gradient is the whole effect."

# %%
""" # BEGIN TEST CONFIG
name: a small network
points: 1
hidden: true
""" # END TEST CONFIG
def test_network_canary_hidden(second_order):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 11)
    for n in (1, 5):
        W, b, u = (torch.randn(s, generator=rng) for s in ((n, 8), (8,), (8,)))

        def f(a, W=W, b=b, u=u):
            return torch.tanh(a @ W + b) @ u

        zero = torch.zeros(n)
        H = torch.autograd.functional.hessian(f, zero)
        truth = torch.autograd.functional.jacobian(f, zero) + H.diagonal() / 2
        torch.testing.assert_close(second_order(f, n).float(), truth, rtol=1e-4, atol=1e-4)

# %%
""" # BEGIN TEST CONFIG
name: the price
points: 1
hidden: true
""" # END TEST CONFIG
def test_price_canary_hidden(second_order):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 12)
    b, runs = torch.randn(6, generator=rng), []

    def metric(a):
        runs.append(a.detach().clone())
        return torch.exp(a * b.to(a.dtype)).sum()

    torch.testing.assert_close(second_order(metric, 6).float(), b + b**2 / 2, rtol=1e-4, atol=1e-4)
    assert len(runs) == 1 and not runs[0].any()

# %%
""" # BEGIN TEST CONFIG
name: heads of the model
points: 1
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(second_order, model):
    import torch
    from hvp_utils.estimators import hvp
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 1)[0]
    M = PatchedMetric(model, pair)
    heads = M.gradient().abs().topk(3).indices.cpu()
    axes = torch.eye(M.n)[heads]
    mine = second_order(lambda a: M(a.float() @ axes), 3).float()
    truth = hvp(M, heads).cpu()
    assert (mine.cpu() - truth).abs().max() < 1e-3 * (1 + truth.abs().max())

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: the five heads with the largest effects on one prompt.
with contextlib.suppress(NotImplementedError):
    heads = [(23, 3), (20, 0), (29, 1), (17, 4), (24, 4)]
    M, axes = metric_of(reference_pair(), heads), torch.eye(len(heads))
    corrected = second_order(M, len(heads))
    (f_ap,) = torch.autograd.functional.jacobian(M, (0 * axes[0],))
    for c, (layer, head) in enumerate(heads):
        with torch.no_grad():
            f = M(axes[c]) - M(0 * axes[c])
        print(f"L{layer}H{head}: f = {f:+.2f}, AP {f_ap[c]:+.2f}, corrected {corrected[c]:+.2f} nats")

# %% [markdown]
# ## 3.2 Several steps
#
# **Difficulty** ●●○○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** One parabola knows only the start of the curve. Multi-step HVP (MS-HVP) cuts the way into $K$ equal pieces and starts a new parabola at the start of each.
#
# Write `in_steps(g, K)`: the estimate of $g(1) - g(0)$ in $K$ steps, a float. `g` takes a tensor of one number and returns one; it may be a straight line. Step $k = 0, \dots, K - 1$ starts at $t_k = k/K$, is
# $1/K$ long, and adds what a parabola at $t_k$ gains over that length. Call `g` $K$ times, at tensors of type `torch.float64`.
#
# <details><summary>Hint</summary>
#
# A parabola with slope $s$ and curvature $b$ at its start gains $s h + \tfrac12 b h^2$ over a length $h$. What is $h$ here?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# In a loop over `k`: `t = torch.tensor(k / K, dtype=torch.float64, requires_grad=True)`, slope and curvature by two calls of `torch.autograd.grad`, the first with `create_graph=True`.
# If `slope.requires_grad` is false, the curvature is 0.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def in_steps(g, K):
    """The effect g(1) - g(0), estimated by K parabolas laid end to end."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    h, total = 1 / K, 0.0
    for k in range(K):
        t = torch.tensor(k / K, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
        total += slope.item() * h
        if slope.requires_grad:  # the slope of a straight line depends on nothing
            total += torch.autograd.grad(slope, t)[0].item() * h**2 / 2
    return total
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("3.2 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** $f = \sum_k \big(g(t_{k+1}) - g(t_k)\big)$ exactly, and each difference is replaced by its Taylor polynomial of degree two. What a step leaves out is cubic in its length:
# $g'''(t_k)\, h^3 / 6$. There are $K$ steps of length $1/K$, so together they leave out about $\frac{1}{6K^2}\int_0^1 g''' = \frac{g''(1) - g''(0)}{6K^2}$. The step is of third order and the whole method
# of second, since the number of steps grows as their length shrinks. On a cubic $ct^3$ the error is $c/K^2$ exactly: the visible check uses it.
#
# **A trap.** `torch.arange(0, 1, 1 / K)` has $K + 1$ points for some $K$ (49 is the first), because $1/K$ is rounded. Count with integers and divide.
#
# **What you see.** The head that one parabola could not mend is right to a few hundredths of a nat after five steps, and to a hundredth after ten. From five steps to ten the error falls to about a quarter, as theory says; from one step to two it falls faster than that, because a
# step is still longer than the wiggles of the curve, and the leading term does not lead yet.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a cubic and a straight line
points: 1
hidden: false
""" # END TEST CONFIG
def test_cubic(in_steps):
    def g(t):
        return 2 + 3 * t + 4 * t**2 - 5 * t**3

    def near(a, b):
        return abs(a - b) < 1e-4

    one, two = in_steps(g, 1), in_steps(g, 2)
    assert one is not None and two is not None, "Return a number."
    one, two = float(one), float(two)
    assert not near(one, 11), "The half is missing: a parabola gains s h + b h² / 2."
    assert not near(one, 9), "The effect is g(1) - g(0): do not add g(0) to it."
    assert not near(one, -15), "This starts at the end of the piece. Steps start at k/K, from 0."
    assert near(one, 7), f"One step is the correction f_AP + q: 3 + 4 = 7, not {one}."
    assert not near(two, 5), "Take slope and curvature anew at each step, at t = k/K."
    assert not near(two, 3.125), "These are slopes only: the curvatures are missing."
    assert not near(two, 3.375), "The curvature is weighted by h² / 2, and h = 1/K: 1/8 for K = 2."
    assert not near(two, 6.75), "A step is 1/K long: slopes count 1/K, and curvatures 1/(2K²)."
    assert not near(two, -4), "These are the ends of the pieces. Steps start at k/K, from 0."
    assert not near(two, 0.5625), "These are the middles of the pieces. Steps start at k/K, from 0."
    assert near(two, 3.25), f"Two steps should give 2 + 5/4 (the error of a cubic falls as 1/K²), not {two}."
    assert near(float(in_steps(g, 5)), 2.2), "Five steps should give 2 + 5/25."
    try:
        line = float(in_steps(lambda t: 3 * t + 1, 2))
    except RuntimeError as error:
        raise AssertionError(
            "A straight line ends in an error of autograd: its slope depends on nothing. "
            "Look at slope.requires_grad before you differentiate it."
        ) from error
    assert near(line, 3), f"On 3t + 1 any number of steps gives 3, not {line}."

# %%
""" # BEGIN TEST CONFIG
name: curves of other kinds
points: 2
hidden: true
""" # END TEST CONFIG
def test_curves_canary_hidden(in_steps):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 2)
    for K in (1, 3, 4, 7, 49):
        a, b, c = (torch.rand(3, generator=rng, dtype=torch.float64) * 4 - 2).tolist()
        k = torch.arange(K, dtype=torch.float64)
        s = torch.sigmoid(a + b * k / K)
        slope, bend = c * b * s * (1 - s), c * b * b * s * (1 - s) * (1 - 2 * s)
        truth = float((slope / K + bend / (2 * K * K)).sum())
        calls = []

        def g(t, a=a, b=b, c=c, calls=calls):
            calls.append(1)
            return c * torch.sigmoid(a + b * t)

        assert abs(float(in_steps(g, K)) - truth) < 1e-7
        assert len(calls) == K

# %%
""" # BEGIN TEST CONFIG
name: heads of the model on another prompt
points: 2
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(in_steps, model):
    import torch
    from hvp_utils.estimators import ms_hvp
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 2)[0]
    M = PatchedMetric(model, pair)
    heads = M.gradient().abs().topk(2).indices.cpu()
    for c, truth in zip(heads.tolist(), ms_hvp(M, 3, heads).tolist(), strict=True):
        axis = torch.eye(M.n)[c]
        mine = float(in_steps(lambda t, axis=axis: M(t * axis), 3))
        assert abs(mine - truth) < 1e-3 * (1 + abs(truth))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: a head that one parabola cannot mend. Watch the error as the steps are doubled.
with contextlib.suppress(NotImplementedError):
    g = curve_of(reference_pair(), 23, 3)
    with torch.no_grad():
        f = float(g(torch.tensor(1.0)) - g(torch.tensor(0.0)))
    print(f"f = {f:+.3f} nats")
    for K in (1, 2, 5, 10):
        estimate = in_steps(g, K)
        print(f"K = {K:2}: {estimate:+.3f}, error {f - estimate:+.4f}")

# %% [markdown]
# ## 3.3 Slopes on the way
#
# **Difficulty** ●●○○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** The effect is an integral, $f = \int_0^1 g'(t)\,dt$, so any rule that integrates a function from some of its values is an estimator, without any second derivative. This is integrated
# gradients (IG), and *where* it looks decides what it is worth.
#
# Write `by_rule(g, n, rule)`: the integral of $g'$ over $[0, 1]$ from its values at $n$ points, a float. The rules:
#
# * `"left"`: $n$ equal pieces, each counts with its slope at its left end;
# * `"midpoint"`: the same with the slope in the middle of each;
# * `"gauss"`: Gauss–Legendre with $n$ points. `np.polynomial.legendre.leggauss(n)` gives points and weights, but for an integral over $[-1, 1]$.
#
# Any other rule gets a `ValueError`. Take slopes at tensors of type `torch.float64`. `g` may be a straight line.
#
# <details><summary>Hint</summary>
#
# Every rule is a list of points in $[0, 1]$ and a list of weights that add up to 1. Find the two lists first; the rest is one loop for all rules.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# With $x \in [-1, 1]$, take $t = (x + 1)/2$. Then $dt = dx/2$: what does this do to the weights?
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def by_rule(g, n, rule):
    """The effect g(1) - g(0), from n slopes of g and a quadrature rule."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    points, weights = np.arange(n) / n, np.full(n, 1 / n)
    if rule == "midpoint":
        points = points + 0.5 / n
    elif rule == "gauss":
        points, weights = np.polynomial.legendre.leggauss(n)
        points, weights = (points + 1) / 2, weights / 2
    elif rule != "left":
        raise ValueError(f"rule must be left, midpoint or gauss, not {rule!r}.")
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        t = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(g(t), t)
        total += weight * slope.item()
    return total
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("3.3 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** All three rules are the same sum. `"left"` with one point is attribution patching itself. Its leading error is $\frac{1}{2n}(g'(1) - g'(0))$, and adding the curvatures to it (exercise 3.2) takes just
# this term away. The midpoint rule takes it away for nothing, by symmetry, and leaves $\frac{1}{24n^2}(g''(1) - g''(0))$: a *quarter* of the $\frac{1}{6K^2}$ of as many parabolas, with the same sign. Gauss–Legendre is exact for slopes that are
# polynomials up to degree $2n - 1$. The map from $[-1, 1]$ halves every weight, since the weights there add up to 2.
#
# **What you see.** Five midpoints are more than four times as near as five parabolas, for little more than half the price; five Gauss points are right to all digits shown. So the second derivative was the expensive way to follow the road. It is good for other things.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a cubic and a straight line
points: 1
hidden: false
""" # END TEST CONFIG
def test_cubic(by_rule):
    def g(t):
        return 2 + 3 * t + 4 * t**2 - 5 * t**3  # g' is 3 at 0, 3.25 at 1/2, -4 at 1

    def near(a, b):
        return a is not None and abs(float(a) - b) < 1e-4

    left = by_rule(g, 2, "left")
    assert left is not None, "Return a number."
    assert not near(left, -0.375), "These are right ends. The pieces start at 0 and at 1/2."
    assert not near(left, -0.5), "These are the ends of the whole way. Take the left end of each piece."
    assert not near(left, 6.25), "Each of n pieces is 1/n long: a mean of slopes, not their sum."
    assert near(left, 3.125), f"left, n = 2: (3 + 3.25)/2 = 3.125, not {left}."
    assert near(by_rule(g, 1, "left"), 3), "left with one point is attribution patching: 3."
    middle = by_rule(g, 1, "midpoint")
    assert near(middle, 3.25), f"midpoint, n = 1: the slope at 1/2, which is 3.25, not {middle}."
    middle = by_rule(g, 2, "midpoint")
    assert not near(middle, 3.25), "midpoint, n = 2: the points are 1/4 and 3/4."
    assert near(middle, 2.3125), f"midpoint, n = 2: (4.0625 + 0.5625)/2, not {middle}."
    gauss = by_rule(g, 2, "gauss")
    assert not near(gauss, 4), "The weights of leggauss add up to 2, the length of [-1, 1]. Yours is 1."
    assert not near(gauss, -4), "leggauss is made for [-1, 1]: map points and weights to [0, 1]."
    assert not near(gauss, -2), "leggauss is made for [-1, 1]: map the points too, by t = (x + 1)/2."
    assert near(gauss, 2), f"Two Gauss points are exact on a cubic: 2, not {gauss}."
    assert near(by_rule(lambda t: 3 * t + 1, 3, "gauss"), 3), "On 3t + 1 every rule gives 3."
    try:
        by_rule(g, 2, "simpson")
    except ValueError:
        return
    raise AssertionError("A rule that is not among the three gets a ValueError.")

# %%
""" # BEGIN TEST CONFIG
name: curves of other kinds
points: 2
hidden: true
""" # END TEST CONFIG
def test_curves_canary_hidden(by_rule):
    import torch
    from hvp_utils.estimators.integrals import quadrature
    rng = torch.Generator().manual_seed(TEACHER_SEED + 3)
    names = {"left": "left", "midpoint": "midpoint", "gauss": "gausslegendre"}
    for n in (1, 3, 8):
        a, b, c = (torch.rand(3, generator=rng, dtype=torch.float64) * 4 - 2).tolist()
        for rule, name in names.items():
            t, w = quadrature(n, name)
            s = torch.sigmoid(a + b * t)
            truth = float((w * c * b * s * (1 - s)).sum())
            mine = by_rule(lambda t, a=a, b=b, c=c: c * torch.sigmoid(a + b * t), n, rule)
            assert abs(float(mine) - truth) < 1e-9

# %%
""" # BEGIN TEST CONFIG
name: heads of the model on another prompt
points: 2
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(by_rule, model):
    import torch
    from hvp_utils.estimators import integrated_gradients
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 3)[0]
    M = PatchedMetric(model, pair)
    heads = M.gradient().abs().topk(2).indices.cpu()
    for rule, name in (("midpoint", "midpoint"), ("gauss", "gausslegendre")):
        truths = integrated_gradients(M, 3, name, heads).tolist()
        for c, truth in zip(heads.tolist(), truths, strict=True):
            axis = torch.eye(M.n)[c]
            mine = float(by_rule(lambda t, axis=axis: M(t * axis), 3, rule))
            assert abs(mine - truth) < 1e-3 * (1 + abs(truth))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: five slopes of each kind, beside five parabolas if you have written them.
with contextlib.suppress(NotImplementedError):
    g = curve_of(reference_pair(), 23, 3)
    with torch.no_grad():
        f = float(g(torch.tensor(1.0)) - g(torch.tensor(0.0)))
    for rule in ("left", "midpoint", "gauss"):
        print(f"{rule:>10}: error {f - by_rule(g, 5, rule):+.4f} nats")
    print(f" parabolas: error {f - in_steps(g, 5):+.4f} nats")

# %% [markdown]
# ## 3.4 The bill
#
# **Difficulty** ●●●○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** A correction is sold by its error. What it is worth depends on its price, and the exact answer is for sale too: one more run. Prices that are *counted* are the same on every machine.
#
# Write `bill(method, g)`. `method` is an estimator of one component, a function of a curve; `g` is the curve. Call `method` once, with a curve of your own that behaves as `g` does
# and keeps count. Return two whole numbers:
#
# * how often the curve was run forward;
# * how many *backward passes* went through it: every derivative of it that was computed is one, a derivative of a derivative too.
#
# What the method computes must stay what it is, whatever derivatives it takes, in whatever way; it may also run the curve under `torch.no_grad()`, and take no derivative of some runs.
#
# <details><summary>Hint</summary>
#
# A backward pass through `g` arrives at its input. Who could tell you that something arrived there?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `tensor.register_hook(function)` calls `function` with the gradient whenever one has been computed for `tensor`. Give `g` a copy of `t` (`t.clone()`) with such a hook on it. A tensor that
# does not require a gradient takes no hook. The hook must return None, or it changes the gradient.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def bill(method, g):
    """Forward runs and backward passes of method(g)."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    forward, backward = [], []

    def counted(t):
        forward.append(1)
        copy = t.clone()
        if copy.requires_grad:
            copy.register_hook(lambda gradient: backward.append(1))  # append returns None
        return g(copy)

    method(counted)
    return len(forward), len(backward)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("3.4 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Whatever is differentiated, the chain rule has to come back to the input of $g$, and the hook sits there. For a curvature it rings twice: once for the slope, and once when the slope, which is itself a
# function of the copy, is differentiated again. Counting calls of `torch.autograd.grad` misses `.backward()`; counting one backward pass for each run misses second derivatives, which are the very point.
#
# **What the counts do not say.** The second backward pass goes through the run *and* the first backward pass, so it is longer than either. And what is shared: the run at $t = 0$ and its gradient
# serve all components at once. So for 270 heads attribution patching is 1 run and 1 backward pass in all, and exact patching 1 run and 270 more.
#
# **What you see.** Nothing that looks along the way of a single component is cheaper than the exact answer for it. Even one parabola costs more than the patch that makes it superfluous. A second-order term has to serve all components at
# once to be worth anything: next exercise.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a few methods
points: 1
hidden: false
""" # END TEST CONFIG
def test_a_few(bill):
    import torch
    def g(t):
        return torch.exp(t)

    results = []

    def exact(g):
        with torch.no_grad():
            results.append(float(g(torch.tensor(1.0)) - g(torch.tensor(0.0))))

    def derivatives(g, order, start=0.0):
        t = torch.tensor(start, requires_grad=True)
        value = g(t)
        for _ in range(order):
            (value,) = torch.autograd.grad(value, t, create_graph=True)
        results.append(round(value.item(), 3))

    def count(method):
        counts = bill(method, g)
        assert counts is not None and len(counts) == 2, "Return two numbers: runs, backward passes."
        return tuple(counts)

    try:
        found = count(exact)
    except RuntimeError as error:
        raise AssertionError(
            f"Without a derivative it ends in an error: {error} "
            "Under torch.no_grad() nothing requires a gradient; look before you register a hook."
        ) from error
    assert found == (2, 0), f"g(1) - g(0) under no_grad is two runs and no backward pass, not {found}."
    found = count(lambda g: derivatives(g, 0))
    assert found == (1, 0), f"A run of which no derivative is taken has no backward pass; yours: {found}."
    found = count(lambda g: derivatives(g, 1))
    assert found == (1, 1), f"A slope is one run and one backward pass, not {found}."
    found = count(lambda g: derivatives(g, 2))
    assert found != (1, 1), "A curvature takes a second backward pass: count that too."
    assert found == (1, 2), f"A curvature is one run and two backward passes, not {found}."
    assert len(results) == 4, "Call the method once, no more and no less."
    found = count(lambda g: [derivatives(g, 2, k / 3) for k in range(3)])
    assert found == (3, 6), f"Three curvatures are 3 runs and 6 backward passes, not {found}."
    assert results[-1] == 1.948, "The counting changes what is computed: here g''(2/3) = e^(2/3)."

# %%
""" # BEGIN TEST CONFIG
name: methods of other kinds
points: 2
hidden: true
""" # END TEST CONFIG
def test_methods_canary_hidden(bill):
    import torch
    backward, forward = [], []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            backward.append(1)
            return gradient.clone()

    def g(t):
        forward.append(1)
        return torch.exp(2 * Counted.apply(t)) + t**3

    rng = torch.Generator().manual_seed(TEACHER_SEED + 4)
    orders = torch.randint(0, 4, (6,), generator=rng).tolist() + [1, 2, 3, 0]
    starts = torch.rand(len(orders), generator=rng, dtype=torch.float64).tolist()
    values = []

    def by_grad(g):
        for order, start in zip(orders, starts, strict=True):
            t = torch.tensor(start, dtype=torch.float64, requires_grad=True)
            value = g(t)
            for _ in range(order):
                (value,) = torch.autograd.grad(value, t, create_graph=True)
            values.append(value.item())

    def by_backward(g):
        for start in starts:
            t = torch.tensor(start, dtype=torch.float64, requires_grad=True)
            g(t).backward()
            values.append(t.grad.item())
        with torch.no_grad():
            values.append(g(torch.zeros((), dtype=torch.float64)).item())

    for method in (by_grad, by_backward):
        mine = bill(method, g)
        assert tuple(mine) == (len(forward), len(backward))
        found = values[:]
        values.clear()
        method(g)
        torch.testing.assert_close(found, values, rtol=1e-10, atol=1e-10)
        values.clear(), forward.clear(), backward.clear()

# %%
""" # BEGIN TEST CONFIG
name: a head of the model
points: 2
hidden: true
""" # END TEST CONFIG
def test_head_canary_hidden(bill, model):
    import torch
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 4)[0]
    M = PatchedMetric(model, pair)
    c = M.gradient().abs().argmax().cpu()
    axis, values = torch.eye(M.n)[c], []

    def method(g):
        with torch.no_grad():
            g(torch.ones(()))
        for start in (0.0, 0.5):
            t = torch.tensor(start, requires_grad=True)
            (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
            values.append(torch.autograd.grad(slope, t)[0].item())

    assert tuple(bill(method, lambda t: M(t * axis))) == (3, 4)
    truth = M.along_axes(torch.tensor([0.0, 0.5]), 2, torch.stack([c, c])).curvature.tolist()
    for mine, exact in zip(values, truth, strict=True):
        assert abs(mine - exact) < 1e-3 * (1 + abs(exact))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: what one component costs. Of what AP does, one run and one backward pass serve all.
methods = {
    "exact patch": lambda g: g(torch.ones(())) - g(torch.zeros(())),
    "one parabola": lambda g: in_steps(g, 1),
    "five parabolas": lambda g: in_steps(g, 5),
    "five midpoints": lambda g: by_rule(g, 5, "midpoint"),
}
for name, method in methods.items():
    with contextlib.suppress(NotImplementedError):
        runs, passes = bill(method, torch.exp)
        print(f"{name:>15}: {runs} runs, {passes} backward passes")

# %% [markdown]
# ## 3.5 Shake everything
#
# **Difficulty** ●●●○○ · **Time** 30 minutes · **Points** 5
#
# **Why it matters.** What a single gradient misses is how the slopes *change*. Shake all strengths at once, each up or down at random, and look at the gradient again: two shakes tell something of all components together,
# however many there are.
#
# Write `shake(gradient, signs, step=0.01)`. `gradient` takes strengths `[n]` and returns the gradient of $M$ there, `[n]`. `signs` is a tensor `[m, n]` of $\pm 1$: $m$ shakes $w$. One
# shake gives, nearly, a product with the Hessian,
#
# $$Hw \approx \frac{\nabla M(\text{step} \cdot w) - \nabla M(0)}{\text{step}} .$$
#
# Return three tensors `[n]`. $f_\mathrm{AP}$; an estimate of the quadratic terms, and one of half the lengths of the rows of $H$:
#
# $$\hat q_c = \tfrac12 \operatorname{mean}_w \, w_c (Hw)_c, \qquad \hat r_c = \tfrac12 \sqrt{\operatorname{mean}_w \, (Hw)_c^2} .$$
#
# Call `gradient` $m + 1$ times.
#
# <details><summary>Hint</summary>
#
# Collect the products $Hw$ in a tensor `[m, n]` first. Both estimates are means over its first dimension.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `products = torch.stack([(gradient(step * w) - f_ap) / step for w in signs])`. Square before you take the mean: entries of opposite sign must not cancel.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def shake(gradient, signs, step=0.01):
    """First-order effects, quadratic terms and half row lengths of the Hessian, each [n]."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    f_ap = gradient(torch.zeros_like(signs[0]))
    products = torch.stack([(gradient(step * w) - f_ap) / step for w in signs])
    q = (signs * products).mean(0) / 2
    r = products.square().mean(0).sqrt() / 2
    return f_ap, q, r
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("3.5 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** $(Hw)_c = \sum_j H_{cj} w_j$. The signs are independent, so $w_j w_k$ averages to 0 unless $j = k$. Hence $w_c (Hw)_c$ averages to $H_{cc}$, and $(Hw)_c^2$ to $\sum_j H_{cj}^2$, the square of the row's length. Both are
# without bias (before the root). But the first carries all interactions of $c$ as *noise*, and the second carries them as *signal*. A diagonal entry among hundreds of interactions drowns. The noise of one shake, $\sqrt{\sum_{j \ne c} H_{cj}^2}$, is nearly the whole length of the row; $m$ shakes divide it by the root of $m$, so after two it is still seven tenths of that.
#
# **Why a row is good for choosing.** $r_c \ge |q_c|$, always: a row is no shorter than one of its entries. So $|f_\mathrm{AP}| + r$ says how large the effect may be to second order, and a head whose slope is flat at the start but whose row is
# long gets a second look.
#
# **What you see.** After two shakes $\hat q$ has next to nothing to do with $q$, while $\hat r$ sorts the heads much as the true rows would. Three gradients, for all 270 heads.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two components that interact
points: 1
hidden: false
""" # END TEST CONFIG
def test_two_components(shake):
    import torch
    # M(a) = 2 a0 + 3 a1 + a0² - 2 a1² + 4 a0 a1, so that H = [[2, 4], [4, -4]].
    b = torch.tensor([2.0, 3.0], dtype=torch.float64)
    H = torch.tensor([[2.0, 4.0], [4.0, -4.0]], dtype=torch.float64)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    answer = shake(lambda a: b + H @ a, signs)
    assert answer is not None and len(answer) == 3, "Return three tensors: f_ap, q and r."
    for name, part in zip(("f_ap", "q", "r"), answer, strict=True):
        assert isinstance(part, torch.Tensor) and part.shape == (2,), f"{name} should be a tensor [n]."
    f_ap, q, r = ([round(x, 3) for x in part.tolist()] for part in answer)
    assert f_ap == [2, 3], f"f_ap is the gradient at 0, [2, 3], not {f_ap}."
    assert q != [2, -4], "The half is missing: q = H_cc / 2."
    assert q != [1, 2], "Multiply each product by its signs before you take the mean: w_c (Hw)_c."
    assert q != [0.01, -0.02], "Divide the change of the gradient by the step."
    assert q == [1, -2], f"q should be [1, -2], half the diagonal of H, not {q}."
    assert r != [4.472, 5.657], "The half is missing: r is half the length of a row."
    assert r != [1, 2], "Square first, then take the mean: here entries of opposite sign cancel."
    assert r != [2, 2], "This is a mean of magnitudes. A length is the root of a mean of squares."
    assert r != [10, 16], "The root is missing."
    assert r == [2.236, 2.828], f"r should be [√20, √32] / 2, not {r}."
    assert signs.tolist() == [[1, 1], [1, -1]], "You changed the signs themselves: work on a copy."

# %%
""" # BEGIN TEST CONFIG
name: more components, other steps
points: 2
hidden: true
""" # END TEST CONFIG
def test_steps_canary_hidden(shake):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 5)
    for n, m, step in ((4, 3, 0.01), (9, 5, 0.3), (3, 1, 0.1)):
        A = torch.randn(n, n, generator=rng, dtype=torch.float64)
        b = torch.randn(n, generator=rng, dtype=torch.float64)
        signs = 2 * torch.randint(0, 2, (m, n), generator=rng).double() - 1
        calls = []

        def gradient(a, A=A, b=b, calls=calls):
            calls.append(1)
            return b + torch.sin(A @ a)

        answer = shake(gradient, signs, step)
        assert len(calls) == m + 1
        Hw = torch.sin(signs @ (step * A).T) / step
        truth = (b, (signs * Hw).sum(0) / (2 * m), (Hw**2).sum(0).sqrt() / (2 * m**0.5))
        for mine, exact in zip(answer, truth, strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-8)

# %%
""" # BEGIN TEST CONFIG
name: all heads of the model
points: 2
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(shake, model):
    import torch
    from hvp_utils.curvature import diagonal, row_norms
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    seed, m = TEACHER_SEED + 5, 3
    M = PatchedMetric(model, make_prompts("ioi", model, 1, seed=seed)[0])
    signs = torch.randint(0, 2, (M.n, m), generator=torch.Generator().manual_seed(seed))
    signs = (2 * signs - 1).T.to(M.delta_norm)
    f_ap, q, r = shake(M.gradient, signs)
    rows, exact = row_norms(M, m, seed=seed), diagonal(M, "hutchinson", m, seed)
    torch.testing.assert_close(f_ap, rows.slopes, rtol=1e-3, atol=1e-3)
    assert (r - rows.values / 2).abs().max() < 1e-2 * r.max()
    assert (q - exact.values / 2).abs().max() < 5e-2 * r.max()

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: two shakes of all 270 heads against the truth. 1 would be the same order, 0 none.
with contextlib.suppress(NotImplementedError):
    M = PatchedMetric(model, reference_pair())
    signs = 2.0 * torch.randint(0, 2, (2, M.n), generator=torch.Generator().manual_seed(0)) - 1
    _, q, r = shake(M.gradient, signs.to(M.delta_norm))
    H = M.hessian_matvec(torch.eye(M.n).to(M.delta_norm))
    for name, mine, truth in (("q", q, H.diagonal() / 2), ("r", r, H.norm(dim=1) / 2)):
        order = torch.stack([mine, truth]).argsort(1).argsort(1).double()
        print(f"{name}: correlation of the ranks {torch.corrcoef(order)[0, 1]:.2f}")

# %% [markdown]
# ## 3.6 Screen, flag, fix, and stay within the budget
#
# **Difficulty** ●●●○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** What estimates are good for is choosing. You have cheap numbers on all components and a budget of runs: patch those exactly that may be large, and leave the rest as they are.
#
# Write `spend(f_ap, r, patch, budget, screen)`.
#
# * `f_ap`, `r`: tensors `[n]`, from a screen that has cost `screen` runs (a fraction, say 11.1). `budget`: runs that you may spend in all, screen included.
# * `patch(components)`: the exact effects of some components, for a tensor of their numbers; one run each. Call it at most once.
#
# Patch as many components as the budget still pays for in full, those with the largest $|f_\mathrm{AP}| + r$. Components where that is 0 are never patched: they are the same in both runs. If nothing is left to spend, or nothing to patch,
# do not call `patch` at all. Return the effects, `[n]` (exact where patched, $f_\mathrm{AP}$ elsewhere), and the numbers of those that were patched, the largest $|f_\mathrm{AP}| + r$ first. Leave `f_ap` as it was.
#
# <details><summary>Hint</summary>
#
# How many? Three limits: what is left of the budget, rounded down; how many components are not 0; and it cannot be less than none.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `size.argsort(descending=True)[:k]` gives the `k` largest, if `k` is not negative. With a negative `k` Python leaves out the *last* ones, and gives nearly all.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def spend(f_ap, r, patch, budget, screen):
    """Effects [n] after exact patches for what is left of the budget, and what was patched."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    size = f_ap.abs() + r
    k = max(0, min(int(budget - screen), int((size > 0).sum())))
    chosen = size.argsort(descending=True)[:k]
    effects = f_ap.clone()
    if k:
        effects[chosen] = patch(chosen)
    return effects, chosen
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("3.6 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** The two terms are added in magnitude, because they are used to *suspect*, not to estimate. $|f_\mathrm{AP} + q|$ would drop a component just where slope and curvature cancel, and that is where the rest of the series decides.
# The ratio $r/|f_\mathrm{AP}|$ asks which estimates are bad in proportion; most of those are of components that hardly matter, and the budget would be gone before the first large one.
#
# **Why the screen is in the budget.** A method that calls its screen free can be compared with nothing. Screening every head by the exact $q$ costs more than patching every head, and with this rule there would be nothing left.
#
# **What you see.** Ten patches and three gradients, 21 runs, bring the error on the five largest effects from about 15 % to nearly none; what is left, if anything, is a head that none of the numbers suspected.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: five components
points: 1
hidden: false
""" # END TEST CONFIG
def test_five(spend):
    import torch
    f_ap = torch.tensor([1.0, -5.0, 0.5, 2.0, 0.0])
    r = torch.tensor([0.1, 0.5, 4.0, 1.0, 0.0])
    exact, calls = torch.tensor([1.5, -4.0, 3.0, 2.5, 0.0]), []

    def patch(components):
        calls.append(components)
        return exact[components]

    answer = spend(f_ap, r, patch, 5, 2.2)
    assert answer is not None and len(answer) == 2, "Return the effects, and what was patched."
    effects, chosen = answer
    chosen = torch.as_tensor(chosen).tolist()
    assert f_ap.tolist() == [1, -5, 0.5, 2, 0], "You changed f_ap itself: work on a copy."
    assert len(calls) == 1, f"Call patch once, with all components; you called it {len(calls)} times."
    assert len(chosen) != 5, "The screen has to be paid too: 5 runs less 2.2 leave 2 patches."
    assert len(chosen) != 4, "The screen has to be paid too: 5 runs less 2.2 leave 2 patches."
    assert len(chosen) != 3, "2.8 runs pay for 2 patches in full: round down."
    assert len(chosen) == 2, f"5 runs less 2.2 leave 2 patches, not {len(chosen)}."
    assert sorted(chosen) != [1, 3], "Chosen by |f_ap| alone: component 2 has a long row."
    assert 4 not in chosen, "Component 4 is the same in both runs: it is never patched. (r / |f_ap| is NaN there; the sum is asked for.)"
    assert sorted(chosen) != [2, 3], "Chosen by r, by r / |f_ap|, or by f_ap with its sign. The size is |f_ap| + r, and -5 is large."
    assert chosen != [2, 1], "The largest first: component 1 (5.5) before component 2 (4.5)."
    assert chosen == [1, 2], f"Components 1 (5.5) and 2 (4.5) are the largest, not {chosen}."
    found = [round(x, 4) for x in effects.tolist()]
    assert found == [1, -4, 3, 2, 0], f"Exact for 1 and 2, f_ap elsewhere: [1, -4, 3, 2, 0], not {found}."
    _, chosen = spend(f_ap, r, patch, 100, 2.2)
    assert torch.as_tensor(chosen).tolist() == [1, 2, 3, 0], (
        "With runs to spare, all are patched but component 4, which is the same in both runs."
    )

# %%
""" # BEGIN TEST CONFIG
name: budgets large and small
points: 2
hidden: true
""" # END TEST CONFIG
def test_budgets_canary_hidden(spend):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 6)
    f_ap, r, exact = (torch.randn(40, generator=rng, dtype=torch.float64) for _ in range(3))
    r = r.abs()
    f_ap[::5], r[::5] = 0.0, 0.0
    size = f_ap.abs() + r
    ranked = sorted(range(40), key=lambda c: -float(size[c]))
    for left in (-25.5, -3.5, -0.5, 0.5, 1.5, 7.5, 31.5, 32.5, 60.5):
        calls = []

        def patch(components, calls=calls):
            calls.append(len(components))
            return exact[components]

        effects, chosen = spend(f_ap, r, patch, 12.25 + left, 12.25)
        k = min(max(int(left), 0), 32)
        assert torch.as_tensor(chosen).tolist() == ranked[:k]
        assert calls == ([k] if k else [])
        truth = f_ap.clone()
        truth[ranked[:k]] = exact[ranked[:k]]
        assert torch.equal(effects, truth)

# %%
""" # BEGIN TEST CONFIG
name: heads of the model
points: 2
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(spend, model):
    import math
    import torch
    from hvp_utils.costs import Costs
    from hvp_utils.estimators import activation_patching
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.reliability import row_screen, screen_flag_fix
    from hvp_utils.tasks import make_prompts
    M = PatchedMetric(model, make_prompts("ioi", model, 1, seed=TEACHER_SEED + 6)[0])
    found = row_screen(M, seed=TEACHER_SEED + 6)
    f_ap, r = found.first_order.cpu(), found.quadratic.cpu()
    effects, chosen = spend(f_ap, r, lambda c: activation_patching(M, c).cpu(), 17, 10.75)
    truth = screen_flag_fix(
        M, math.inf, "activation_patching", costs=Costs(*[1.0] * 9), screen="rows",
        largest=6, seed=TEACHER_SEED + 6,
    )
    assert set(torch.as_tensor(chosen).tolist()) == set(truth.flagged.nonzero()[:, 0].tolist())
    torch.testing.assert_close(effects, truth.estimates.cpu(), rtol=1e-3, atol=1e-3)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: three gradients and ten patches. The error is on the five largest effects, in % of their range.
with contextlib.suppress(NotImplementedError):
    M = PatchedMetric(model, reference_pair())
    signs = 2.0 * torch.randint(0, 2, (2, M.n), generator=torch.Generator().manual_seed(0)) - 1
    f_ap, _, r = shake(M.gradient, signs.to(M.delta_norm))
    f = M.effects(M.along_axes(1.0, order=0).value)
    top = f.abs().topk(5).indices
    effects, _ = spend(f_ap, r, lambda c: f[c], budget=21.1, screen=11.1)
    for name, estimate in (("attribution patching", f_ap), ("ten patches more", effects)):
        error = 100 * (estimate - f)[top].abs().mean() / (f.max() - f.min())
        print(f"{name}: {error:.2f} %")

# %% [markdown]
# ## 3.7 Ten patches
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 6
#
# **Why it matters.** Real budgets are small. You have attribution patching for every head of a prompt and ten exact patches. You want the error left on the five *truly* largest effects to be as small as it can be: their mean absolute error, in percent of
# the range of all true effects, as in the cell under 3.6.
#
# How do you spend the ten? Answer in at most 250 words, with evidence that you measured. Propose *one* rule, compare it with sorting by $|f_\mathrm{AP}|$ and with one rule more, on at least five prompts. The rule may look at any quantity
# that you also pay for, and at the outcome of earlier patches. The cell below holds slopes, quadratic terms and true effects of all heads on one prompt: with the true effects at hand, trying a rule costs nothing. Marks are given for:
#
# | points | for |
# | --- | --- |
# | 2 | a rule stated so that somebody else could run it, and its error on five prompts or more, beside both others, prompt by prompt |
# | 1 | the whole price of each rule, screen included, in runs; a rule that needs $q$ of every head says what that costs |
# | 1 | *why* the rules differ: a head that one finds and another misses, and the shape of its curve |
# | 1 | prompts that chose the rule kept apart from prompts that judge it, or a word on why the comparison is flattered |
# | 1 | what ten patches cannot promise, and when you would rather patch everything |
#
# <details><summary>Hint</summary>
#
# Write a function `left(f, f_ap, size)` that patches the ten largest of any `size` and returns the error that remains. Then every rule is one line. The error of "ten random heads" and that of an oracle, $|f - f_\mathrm{AP}|$, tell
# how much there is to win.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# You may patch in two rounds: five first, and the others by what you learnt. What does the error of AP on the first five tell of the others?
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 6
# manual: true

# %%
# A start: about 20 seconds on a laptop for each prompt.
pair = make_prompts("ioi", model, 1, seed=0)[0]
M = PatchedMetric(model, pair)
at = M.along_axes(0.0)
f_ap, q = at.slope, at.curvature / 2
f = M.effects(M.along_axes(1.0, order=0).value)

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **Your answer:** canary-answer-key
#
# *A model answer.* "I patch the ten heads with the largest $|f_\mathrm{AP}| + r$, with $r$ from two shakes. I compared it with $|f_\mathrm{AP}|$ and with $R$ on SmolLM2, six IOI and six factual prompts (seed 0). Error left on the five largest, in % of the range:
#
# | | IOI | factual | price, runs |
# | --- | --- | --- | --- |
# | no patches | 25.5, 8.7, 2.0, 14.9, 12.0, 17.5 | 11.8, 5.4, 5.1, 26.9, 5.0, 9.3 | 3.7 |
# | ten by $R$ | 5.7, 8.7, 2.0, 1.9, 8.0, 3.4 | 6.7, 5.4, 5.1, 26.9, 5.0, 9.3 | 612 |
# | ten by $|f_\mathrm{AP}|$ | 0, 0, 0, 0, 0, 14.1 | 0, 0, 0, 0, 0, 0 | 13.7 |
# | ten by $|f_\mathrm{AP}| + r$ | 0, 0, 0, 0, 0, 0 | 0.6, 0, 0, 0, 1.3, 0 | 21.1 |
#
# The 14.1 is L20H0 (AP +0.26, truth +1.93): its slope rises from 0.3 to 2.5 on the way, so it has place 14 by slope and 3 with its row. The 1.3 is L5H0 ($f = -0.24$, $r = 0.02$): heads with long rows and small effects push it out.
#
# I had fixed the rule before I looked, from the book, but its authors chose it on IOI prompts of this model. Twelve prompts cannot separate the two: each fails where the other does not, rows less badly. For 21.1 runs, slopes alone buy 17 patches, and with 17 nothing is left on any of the twelve. So if only runs count, I would take those.
#
# What ten patches cannot promise: a head flat at the start, with a short row, stays unseen. On 72 heads I would patch all: the screen and ten patches are nearly a third of it. $R$ costs more than patching everything anyway."
#
# *Marking.* Two points for a rule that can be run and a table by prompt with both comparisons (one if only means are given, or fewer than five prompts). One for prices with the screen in them; a rule on $q$ or $R$ without the remark that $q$ of every head costs more than all exact patches gets none. One for a
# named head with its curve or its numbers. One for prompts kept apart, or an honest word on the choice of the rule. One for the limits. A rule that loses to $|f_\mathrm{AP}|$, and is reported so, earns full marks; a rule declared the best on a difference of one prompt does not.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # END QUESTION
