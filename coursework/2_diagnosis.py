# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 2. Diagnosis
#
# Attribution patching follows a tangent. In this set you build what is needed to say how far the tangent is off *before* you patch:
# the split of its error, a Hessian-vector product, the operation that does the bending, a score, a fair judgement of that score, and a
# bound that comes with a guarantee. At the end you say when you would trust it.
#
# **You need** chapters 4, 5 and 6 of the book, and chapter 3 for exercise 2.2.
# **Time**: about three hours. **Points**: 30.
#
# Every exercise stands alone: if one defeats you, go on with the next. Below each exercise is a check on a case small enough to
# do in your head; it says what is probably wrong. Other tests, on other numbers and prompts, are run when your work is marked. The last exercise
# has no right answer, and is read by a person. Cells that begin with `# See it` show what your function does; they do nothing until it is written.
#
# Throughout, $g(t)$ is the metric (in nats) as one component is patched with strength $t$: $t = 0$ is the base run, $t = 1$ the exact patch. So
# $f = g(1) - g(0)$ is the true effect of the component, and $f_\mathrm{AP} = g'(0)$ what attribution patching (AP) says it is.

# %%
# SETUP CELL

# %%
import contextlib

import otter
import torch

from hvp_utils import PatchedMetric, load_model, make_prompts, reference_pair

grader = otter.Notebook("set2.ipynb")

# %% [markdown]
# The model, and a curve to try things on. `head_curve` is $g$ for one head of SmolLM2, made with nothing but hooks.

# %%
model = load_model("smollm2-135m")


def head_curve(pair, layer, head):
    """g: the metric of the corrupted run as one head is patched towards the clean run.

    g takes a strength t, a tensor of one number, and can be differentiated with respect to it.
    """
    resolved = pair.resolve(model)
    name = f"blocks.{layer}.attn.hook_z"  # [batch, position, head, d_head]
    with torch.no_grad():
        _, clean = model.run_with_cache(resolved.clean[None], names_filter=[name])
        _, corrupted = model.run_with_cache(resolved.corrupted[None], names_filter=[name])
    delta = torch.zeros_like(clean[name])
    delta[:, :, head] = (clean[name] - corrupted[name])[:, :, head]

    def g(t):
        hooks = [(name, lambda z, hook: z + t * delta)]
        logits = model.run_with_hooks(resolved.corrupted[None], fwd_hooks=hooks)
        return resolved.metric(logits[:, -1])[0]

    return g


# %% [markdown]
# ## 2.1 What the tangent leaves out
#
# **Difficulty** ●○○○○ · **Time** 15 minutes · **Points** 3
#
# **Why it matters.** Attribution patching is off by an error, and the error has two parts that behave quite differently: one that the
# start of the curve knows of, and one that it does not. Every diagnosis in this set is about the first, every failure about the second.
#
# Write `split(g)`. `g` takes a tensor of one number and returns one. Return three numbers, in the units of the metric:
#
# $$f_\mathrm{AP} = g'(0), \qquad q = \tfrac12 g''(0), \qquad R_3 = g(1) - g(0) - f_\mathrm{AP} - q .$$
#
# Take the derivatives with `torch.autograd.grad`, at a $t$ of type `torch.float64`. `g` may be a straight line.
#
# <details><summary>Hint</summary>
#
# `t = torch.zeros((), dtype=torch.float64, requires_grad=True)`. The first call of `torch.autograd.grad` needs `create_graph=True`, so that its
# result can be differentiated again.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The slope of a straight line does not depend on $t$, and autograd refuses to differentiate it. Look at `slope.requires_grad` first.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 3

# %% [raw]
# # BEGIN SOLUTION


# %%
def split(g):
    """First-order estimate, quadratic term and remainder of g(1) - g(0)."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    start = g(t)
    (slope,) = torch.autograd.grad(start, t, create_graph=True)
    q = torch.zeros(())
    if slope.requires_grad:  # a straight line has a slope that depends on nothing
        q = torch.autograd.grad(slope, t)[0] / 2
    slope = slope.detach()
    with torch.no_grad():
        effect = g(torch.ones_like(t)) - start
    return float(slope), float(q), float(effect - slope - q)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.1 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** It is Taylor's theorem with the last term left whole. The three numbers add up to the true effect whatever the
# curve does, so nothing is approximated here; what is open is only how much sits in which term. A finite difference
# $(g(h) - 2g(0) + g(-h)) / h^2$ would give $q$ too, on a polynomial in float64. On the model it does not: the metric is known to about
# seven digits, and dividing its rounding by $h^2$ leaves noise. Derivatives by autograd subtract nothing.
#
# **What you see.** Of the two heads below, L20H0 is off by +1.5 nats: $q$ = +2.3, of which $R_3$ takes a third back. Any second-order test would have warned
# of it. L23H3 has the largest effect of all heads, is off by 1.5 nats, and its $q$ is small and has the *wrong sign*. Everything is in $R_3$.

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
def test_cubic(split):
    parts = split(lambda t: 2 + 3 * t + 4 * t**2 - 5 * t**3)
    assert parts is not None and len(parts) == 3, "Return three numbers: f_AP, q and R3."
    f_ap, q, rest = (float(part) for part in parts)

    def near(a, b):
        return abs(a - b) < 1e-4

    assert not near(f_ap, -4), "This is the slope at t = 1. Attribution patching starts at 0."
    assert not near(f_ap, 2), "This is g(0), the value of the metric. f_AP is the slope there."
    assert near(f_ap, 3), f"f_AP should be 3, the slope of 2 + 3t + 4t² - 5t³ at 0, not {f_ap}."
    assert not near(q, 8), "q is 8 here: g'' itself. The quadratic term is half of it."
    assert not near(q, -11), "This is the curvature at t = 1. q is taken at t = 0."
    assert near(q, 4), f"q should be 4, half the second derivative at 0, not {q}."
    assert not near(rest, -1), "This is the whole error of AP. Take q off it too."
    assert not near(rest, 5), "The sign is the wrong way round: R3 is truth less estimate."
    assert not near(rest, -3), "Did you forget to take off g(0)? The effect is g(1) - g(0)."
    assert near(rest, -5), f"R3 should be -5, what the cubic term adds, not {rest}."
    try:
        line = split(lambda t: 3 * t + 1)
    except RuntimeError as error:
        raise AssertionError(
            "A straight line ends in an error of autograd: its slope does not depend on t. "
            "Look at slope.requires_grad before you differentiate it."
        ) from error
    assert [round(float(part), 6) for part in line] == [3, 0, 0], "On 3t + 1 it should be 3, 0, 0."

# %%
""" # BEGIN TEST CONFIG
name: curves of other kinds
points: 1
hidden: true
""" # END TEST CONFIG
def test_curves_canary_hidden(split):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 1)
    for _ in range(5):
        a, b, c = (torch.rand(3, generator=rng, dtype=torch.float64) * 4 - 2).tolist()
        f_ap, q, rest = split(lambda t: c * torch.sigmoid(a + b * t))
        s, end = (1 / (1 + torch.exp(-torch.tensor(x, dtype=torch.float64))) for x in (a, a + b))
        slope, bend = c * b * s * (1 - s), c * b * b * s * (1 - s) * (1 - 2 * s) / 2
        truth = (slope, bend, c * (end - s) - slope - bend)
        for mine, exact in zip((f_ap, q, rest), truth, strict=True):
            assert abs(float(mine) - float(exact)) < 1e-10

# %%
""" # BEGIN TEST CONFIG
name: heads of the model on another prompt
points: 1
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(split, model):
    import torch
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 1)[0]
    M = PatchedMetric(model, pair)
    heads = M.gradient().abs().topk(2).indices.cpu()
    at, end = M.along_axes(0.0, 2, heads), M.along_axes(1.0, 0, heads)
    for i, c in enumerate(heads.tolist()):
        axis = torch.zeros(M.n)
        axis[c] = 1.0
        mine = [float(part) for part in split(lambda t, axis=axis: M(t * axis))]
        f_ap, q = float(at.slope[i]), float(at.curvature[i]) / 2
        effect = float(end.value[i]) - M.base
        for part, exact in zip(mine, (f_ap, q, effect - f_ap - q), strict=True):
            assert abs(part - exact) < 1e-3 * (1 + abs(f_ap) + abs(q))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: two heads on one prompt. Which of them would a second derivative have warned you of?
with contextlib.suppress(NotImplementedError):
    for layer, head in ((20, 0), (23, 3)):
        f_ap, q, rest = split(head_curve(reference_pair(), layer, head))
        print(f"L{layer}H{head}: f = {f_ap + q + rest:+.2f} = {f_ap:+.2f} {q:+.2f} {rest:+.2f} nats")

# %% [markdown]
# ## 2.2 A Hessian without the Hessian
#
# **Difficulty** ●●○○○ · **Time** 25 minutes · **Points** 4
#
# **Why it matters.** The activation of one head has about a thousand entries, so its Hessian has about a million. All that a correction needs
# of it is what it does to one vector, and that can be had for the price of two backward passes (Pearlmutter, 1994).
#
# Write `hvp(f, x, v)`: the product $H v$, where $H$ is the Hessian of `f` at `x`. `x` and `v` are tensors of one shape, whatever it is, and
# so is the result. `f(x)` is a tensor of one number. Call `f` once, build no Hessian, and leave `x` as it was.
# If `f` is linear, the product is zero.
#
# <details><summary>Hint</summary>
#
# The dot product of the gradient with $v$ is a *number* that depends on $x$. What is its gradient?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `x = x.detach().clone().requires_grad_()`, then `torch.autograd.grad` twice, the first time with `create_graph=True`. A dot
# product of tensors of any shape is `(a * b).sum()`.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 4

# %% [raw]
# # BEGIN SOLUTION


# %%
def hvp(f, x, v):
    """The Hessian of f at x, times v; all tensors have the shape of x."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not gradient.requires_grad:  # f is linear: its gradient is the same everywhere
        return torch.zeros_like(x).detach()
    (product,) = torch.autograd.grad((gradient * v).sum(), x)
    return product
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.2 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** $\nabla_x (\nabla f \cdot v) = H v$ as long as $v$ does not depend on $x$, because the derivative of
# $\sum_j \partial_j f\, v_j$ in $x_i$ is $\sum_j H_{ij} v_j$. It takes a run, a backward pass, and a second backward pass through both,
# however large $H$ is. Computing the whole Hessian and multiplying gives the same vector and takes one backward pass *for each
# entry of x*: the test counts them. With $v = (1, \dots, 1)$ you would get row sums, with all interactions in them, and not the diagonal.
#
# **What you see.** A Hessian that no computer at hand could hold, used at the price of a few gradients. With a head's patch $\delta$ for $v$, one product
# has all that the correction needs: $\delta^\top H \delta / 2$ is the quadratic term $q$ of exercise 2.1.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two numbers
points: 1
hidden: false
""" # END TEST CONFIG
def test_two_by_two(hvp):
    import torch
    A, b = torch.tensor([[2.0, 1.0], [1.0, -3.0]]), torch.tensor([10.0, 20.0])
    x, v = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])
    product = hvp(lambda x: b @ x + x @ A @ x / 2, x, v)
    assert isinstance(product, torch.Tensor), "Return a tensor."
    assert not x.requires_grad and x.tolist() == [1, 1], "You changed x itself: work on a copy."
    assert product.shape != (), "This is a number, v·Hv perhaps. Return the vector Hv."
    assert product.shape == x.shape, f"Hv has the shape of x, (2,), not {tuple(product.shape)}."
    assert not product.requires_grad, "The result still drags its graph along: detach it."
    found = [round(value, 4) for value in product.tolist()]
    assert found != [13, 18], "This is the gradient. Differentiate its dot product with v."
    assert found != [3, -2], "This is H times x, or H times ones. Multiply the gradient by v."
    assert found != [2, -6], "Only the diagonal of H was used: the interactions are missing."
    assert found != [2, -2.5], "This is half of Hv. The half belongs to q, not to the product."
    assert found == [4, -5], f"Hv should be [4, -5], not {found}."
    try:
        flat = hvp(lambda x: 3 * x.sum(), x, v)
    except RuntimeError as error:
        raise AssertionError(
            "A linear f ends in an error of autograd: its gradient does not depend on x, and Hv = 0."
        ) from error
    assert flat.tolist() == [0, 0], "For a linear f the product is 0."

# %%
""" # BEGIN TEST CONFIG
name: a small network
points: 1
hidden: true
""" # END TEST CONFIG
def test_network_canary_hidden(hvp):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 2)
    W, u = (torch.randn(s, generator=rng, dtype=torch.float64) for s in ((4, 6), (6,)))
    x, v = (torch.randn(3, 4, generator=rng, dtype=torch.float64) for _ in range(2))

    def f(x):
        return (torch.tanh(x @ W) @ u).logsumexp(0)

    H = torch.autograd.functional.hessian(f, x).reshape(12, 12)
    torch.testing.assert_close(hvp(f, x, v), (H @ v.flatten()).reshape(3, 4), rtol=1e-6, atol=1e-8)

# %%
""" # BEGIN TEST CONFIG
name: the price
points: 1
hidden: true
""" # END TEST CONFIG
def test_price_canary_hidden(hvp):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 2)
    x, v = (torch.randn(60, generator=rng, dtype=torch.float64) for _ in range(2))
    runs, backward = [], []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            backward.append(1)
            return gradient.clone()

    def f(x):
        runs.append(1)
        return torch.sin(Counted.apply(x)).sum()

    torch.testing.assert_close(hvp(f, x, v), -torch.sin(x) * v, rtol=1e-4, atol=1e-6)
    assert len(runs) == 1 and len(backward) <= 3

# %%
""" # BEGIN TEST CONFIG
name: a head of the model
points: 1
hidden: true
""" # END TEST CONFIG
def test_head_canary_hidden(hvp, model):
    import torch
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 2)[0]
    M = PatchedMetric(model, pair)
    c = int(M.gradient().abs().argmax())
    layer, head = divmod(c, model.cfg.n_heads)
    resolved, name = pair.resolve(model), f"blocks.{layer}.attn.hook_z"
    with torch.no_grad():
        _, clean = model.run_with_cache(resolved.clean[None], names_filter=[name])
        _, corrupted = model.run_with_cache(resolved.corrupted[None], names_filter=[name])
    x, delta = corrupted[name][0, :, head], (clean[name] - corrupted[name])[0, :, head]

    def f(x):
        def put(z, hook):
            return torch.cat([z[:, :, :head], x[None, :, None], z[:, :, head + 1 :]], dim=2)
        logits = model.run_with_hooks(resolved.corrupted[None], fwd_hooks=[(name, put)])
        return resolved.metric(logits[:, -1])[0]

    theirs = M.hessian_delta(0.0, torch.tensor([c]))[0].reshape(M.n_run, model.cfg.n_heads, -1)
    mine = hvp(f, x, delta)[-M.n_run :]
    assert (mine - theirs[:, head]).norm() < 1e-2 * theirs.norm() + 1e-5

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: a function of 100,000 numbers. Its Hessian would take 80 GB; one product takes no time.
with contextlib.suppress(NotImplementedError):
    x = torch.linspace(0, 1, 100_000, dtype=torch.float64)
    product = hvp(lambda x: torch.sin(x).sum() ** 2, x, torch.ones_like(x))
    print(f"{x.numel() ** 2 * 8 / 1e9:,.0f} GB were not needed; |Hv| = {product.norm():,.0f}")

# %% [markdown]
# ## 2.3 Which operation bends it?
#
# **Difficulty** ●●●●○ · **Time** 35 minutes · **Points** 5
#
# **Why it matters.** To learn what a part of a machine does, take it out. Make one operation straight and see what $q$ loses:
# that is what the operation contributed, and the contributions add up. So "where does the error come from" has an exact answer.
#
# Write two functions.
#
# * `straight(op)` takes an operation (a function of one tensor to one tensor, of any shapes; not only elementwise) and returns an
#   operation with the **same value** and the **same first derivative** wherever it is evaluated, and **no curvature**: at an input $x_0$ it is
#   $\mathrm{op}(x_0) + J(x_0)\,(x - x_0)$, with $x_0$ and $J(x_0)$ held fixed.
# * `parts(ops)` takes a list of operations, to be applied one after another to a strength $t$ (a tensor of one number, of type
#   `torch.float64`; the last operation returns one number), and returns $q = \tfrac12 g''(0)$ of the whole chain, and a list with what each operation contributes to it.
#
# <details><summary>Hint</summary>
#
# `x.detach()` is $x_0$, which autograd takes for a constant. What operation $i$ contributes is $q$ less the $q$ of the chain in which only
# operation $i$ is straight.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `value, change = torch.func.jvp(op, (x0,), (x - x0,))` gives $\mathrm{op}(x_0)$ and $J(x_0)(x - x_0)$, for operations of every kind. The change is zero,
# and its derivative in $x$ is not. For $q$ of a chain, begin with `t = torch.zeros((), dtype=torch.float64, requires_grad=True)` and go through the list; if every
# bent operation was made straight, the slope does not depend on $t$ any more (`slope.requires_grad` says so) and $q$ is 0.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def straight(op):
    """An operation with the values and first derivatives of op, and no second ones."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    def linear(x):
        x0 = x.detach()
        value, change = torch.func.jvp(op, (x0,), (x - x0,))
        return value.detach() + change

    return linear
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.3 is yours to write.")
    """ # END PROMPT


def parts(ops):
    """q of t -> ops[-1](... ops[0](t)) at t = 0, and the contribution of each operation."""
    # BEGIN SOLUTION NO PROMPT
    def quadratic(ops):
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        x = t
        for op in ops:
            x = op(x)
        (slope,) = torch.autograd.grad(x, t, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(slope)
        return torch.autograd.grad(slope, t, materialize_grads=True)[0] / 2

    q = quadratic(ops)
    without = [quadratic([*ops[:i], straight(op), *ops[i + 1 :]]) for i, op in enumerate(ops)]
    return q, [q - rest for rest in without]
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.3 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Differentiate a chain twice: by the product rule each term of $g''$ differentiates exactly *one* operation twice,
# and all others once. Straightening operation $i$ deletes its term and touches no other, since values and first derivatives stay. So the
# contributions add up to $q$, with none left over and none counted twice (Theorem 5 of the theory page). A term is
# the operation's curvature, times the *square* of how far its input moves, times how steeply the rest passes it on.
#
# For an elementwise operation $J$ is a diagonal, and `value + slope * (x - x0)` would do. A softmax or a norm mixes its inputs;
# there the derivative of the sum of the outputs is not $J$ (for a softmax it is 0), and only the directional derivative is right.
#
# **What you see.** In the chain $((1 + 2t)^2)^3$ the square contributes 12 and the cube 48. Half the second derivative of the square
# is 1. Its input moves twice as fast as $t$, and the square of 2 makes it 4; the cube's slope of 3 stretches that to 12. Half the second
# derivative of the cube is 3. Its input moves four times as fast as $t$, and the square of 4 makes it 48. On the model the same experiment
# says that SiLU is responsible for most of $q$ of the neurons that sit in front of it.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a square and a cube
points: 1
hidden: false
""" # END TEST CONFIG
def test_square_and_cube(straight, parts):
    import torch
    x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    y = straight(lambda u: u**2)(x)
    assert isinstance(y, torch.Tensor), "straight(op) must return a function of a tensor."
    value = float(y.detach())
    assert abs(value - 9) < 1e-9, (
        f"The value has changed: 3² is 9, not {value}. Take the tangent at x itself, not at 0."
    )
    assert y.requires_grad, "All derivatives are gone. Only x0 is a constant; x is not."
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    tilt = float(slope.detach())
    assert abs(tilt - 6) < 1e-9, (
        f"The slope has changed: at 3 it is 6, not {tilt}. Is x0 = x.detach()?"
    )
    bend = 0.0
    if slope.requires_grad:
        bend = float(torch.autograd.grad(slope, x, materialize_grads=True)[0])
    assert abs(bend) < 1e-9, "There is still curvature: J must be taken at x.detach()."
    q, of = parts([lambda t: 1 + 2 * t, lambda u: u**2, lambda w: w**3])
    assert abs(float(q) - 120) > 1e-6, "This is g''. The quadratic term is half of it."
    assert abs(float(q) - 60) < 1e-6, f"(1 + 2t)⁶ has q = 60, not {float(q)}."
    of = [round(float(part), 6) for part in of]
    assert of != [60, 48, 12], "This is what is left. The contribution is q less what is left."
    assert of != [0, 24, 96], "These are contributions to g''. Halve them."
    assert of == [0, 12, 48], f"The contributions should be [0, 12, 48], not {of}."
    assert abs(sum(of) - float(q)) < 1e-6, "The contributions must add up to q."

# %%
""" # BEGIN TEST CONFIG
name: operations that mix their inputs
points: 2
hidden: true
""" # END TEST CONFIG
def test_mixing_canary_hidden(straight, parts):
    import torch
    rng = torch.Generator().manual_seed(TEACHER_SEED + 3)
    a, b, u = (torch.randn(5, generator=rng, dtype=torch.float64) for _ in range(3))
    W = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    x = torch.randn(5, generator=rng, dtype=torch.float64)

    def softmax(h):
        return (3 * h).softmax(-1)

    def norm(h):
        return h / (h.square().mean() + 0.1).sqrt()

    J = torch.autograd.functional.jacobian
    for op in (softmax, norm, torch.tanh):
        torch.testing.assert_close(straight(op)(x), op(x))
        torch.testing.assert_close(J(straight(op), x), J(op, x))
        H = torch.autograd.functional.hessian(lambda x, op=op: (straight(op)(x) * u).sum(), x)
        assert H.abs().max() < 1e-9
    ops = [lambda t: a + t * b, norm, lambda h: W @ h, softmax, torch.tanh, lambda h: (h @ u).exp()]

    def g(t):
        for op in ops:
            t = op(t)
        return t

    q, of = parts(ops)
    zero = torch.zeros((), dtype=torch.float64)
    truth = torch.autograd.functional.hessian(g, zero) / 2
    assert abs(float(q) - float(truth)) < 1e-8 * (1 + abs(float(truth)))
    scale = 1e-8 * (1 + sum(abs(float(part)) for part in of))
    assert abs(float(sum(of)) - float(truth)) < scale
    assert abs(float(of[0])) < scale and abs(float(of[2])) < scale
    # The last operation alone: half its second derivative, times the square of its input's motion.
    moved, motion = torch.func.jvp(lambda t: ops[4](ops[3](ops[2](ops[1](ops[0](t))))), (zero,), (zero + 1,))
    assert abs(float(of[5]) - float((moved @ u).exp() * (motion @ u) ** 2 / 2)) < scale

# %%
""" # BEGIN TEST CONFIG
name: neurons of the model
points: 2
hidden: true
""" # END TEST CONFIG
def test_neurons_canary_hidden(straight, model):
    import torch
    from hvp_utils.estimators import local_quadratic_term, quadratic_term
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 3)[0]
    M = PatchedMetric(model, pair, "neurons_pre:6", seed=TEACHER_SEED + 3)
    layer = 12
    chosen = torch.where(M.layers.cpu() == layer)[0]
    q, own = quadratic_term(M, chosen), local_quadratic_term(M, chosen)
    act = model.original_model.model.layers[layer].mlp.original_component.act_fn
    line = straight(torch.nn.functional.silu)
    handle = act.register_forward_hook(lambda module, args, out: line(args[0]))
    try:
        left = quadratic_term(PatchedMetric(model, pair, "neurons_pre:6", seed=M.seed), chosen)
    finally:
        handle.remove()
    assert (q - left - own).abs().max() < 1e-3 * q.abs().max() + 1e-7

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: a gated unit, act(x) * y, behind a norm. Which of its operations bends the metric?
with contextlib.suppress(NotImplementedError):
    w = torch.linspace(-1, 2, 4, dtype=torch.float64)
    ops = {
        "patch": lambda t: w + t * w.flip(0),
        "norm": lambda h: h / h.square().mean().sqrt(),
        "gated unit": lambda h: torch.nn.functional.silu(h) * h.roll(1),
        "log softmax": lambda h: h.log_softmax(-1)[0],
    }
    q, of = parts(list(ops.values()))
    print(f"q = {float(q):+.3f} =", *(f"{float(p):+.3f} ({name})" for name, p in zip(ops, of)))

# %% [markdown]
# ## 2.4 The score, and what it calls safe
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 3
#
# **Why it matters.** The reliability score $R = |q| / |f_\mathrm{AP}|$ is all that one can say without patching: how large the first
# neglected term is beside what was kept. A warning sign is judged by what it fails to warn of.
#
# Write `judge(f_ap, q, f, tau)`. The first three are tensors `[n]`, in nats: estimates, quadratic terms and true effects. Return a pair:
#
# * the scores `R`, `[n]`. Where $q = 0$ nothing is missing to second order, and $R = 0$, even if $f_\mathrm{AP}$ is 0 too. Where only $f_\mathrm{AP}$ is 0, $R$ is infinite;
# * the numbers of the components that were **missed**, a tensor of integers in increasing order. A component is missed if it is called safe ($R \le \tau$), matters (its $|f|$ is at least 1 % of the
#   largest $|f|$), and AP is off by more than $\tau$ in relation to its own estimate, $|f - f_\mathrm{AP}| > \tau\,|f_\mathrm{AP}|$.
#
# <details><summary>Hint</summary>
#
# `0 / 0` is NaN, and every comparison with NaN is false. Decide what the score is there before you compare it with anything.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `torch.where(q == 0, torch.zeros_like(q), ...)` sees to the first zero, and division to the second. The three conditions are three masks: join them with `&`,
# and `mask.nonzero()[:, 0]` gives the numbers at which the result is true, in order.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 3

# %% [raw]
# # BEGIN SOLUTION


# %%
def judge(f_ap, q, f, tau=0.1):
    """Scores R [n], and the numbers of the components that they wrongly call safe."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    R = torch.where(q == 0, torch.zeros_like(q), q.abs() / f_ap.abs())
    matters = f.abs() >= 0.01 * f.abs().max()
    off = (f - f_ap).abs() > tau * f_ap.abs()
    return R, ((R <= tau) & matters & off).nonzero()[:, 0]
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.4 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Both magnitudes are needed: the score asks how large, not which way. The two zeros are different cases. If
# nothing is predicted and nothing is neglected, there is nothing to warn of; if nothing is predicted and something is neglected, the relative error has no bound.
# Writing the error as a product instead of a quotient keeps zeros out of the second half.
#
# **What you see.** Few heads are missed, and one of them is L23H3, the head with the largest effect of all: its score is among the smallest and
# its error is 1.5 nats. No threshold mends that: its curve is straight where the score looks and bends later. This is what a
# large remainder $R_3$ means, and no quantity taken at $t = 0$ alone can see it.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: six components
points: 1
hidden: false
""" # END TEST CONFIG
def test_six(judge):
    import torch
    #                     safe  flagged missed small  0/0  only f_AP is 0
    f_ap = torch.tensor([-2.00, 1.0, -4.00, 0.001, 0.0, 0.0])
    q = torch.tensor([0.10, -0.5, -0.04, 0.0, 0.0, 0.3])
    f = torch.tensor([-1.90, 0.5, -3.00, 0.002, 0.0, 0.3])
    answer = judge(f_ap, q, f, 0.1)
    assert isinstance(answer, tuple) and len(answer) == 2, "Return the scores and the missed."
    R, missed = answer
    assert R.shape == (6,), f"There is a score for each component: [6], not {list(R.shape)}."
    assert not (R < 0).any(), "A score is negative: take magnitudes, above and below."
    assert not R.isnan().any(), "A score is NaN: 0/0. Where q = 0 the score is 0."
    assert abs(float(R[1]) - 1) > 1e-6, "Twice too large: q is the half already."
    assert abs(float(R[0]) - 20) > 1e-3, "Upside down: |q| comes above, |f_AP| below."
    assert R[5] == float("inf"), f"Where only f_AP is 0, R is infinite, not {float(R[5])}."
    found = [round(float(r), 4) for r in R[:5]]
    assert found == [0.05, 0.5, 0.01, 0, 0], f"R should be [0.05, 0.5, 0.01, 0, 0, inf], not {found}."
    numbers = torch.as_tensor(missed).tolist()
    assert 3 not in numbers, "Number 3 is off, but too small to matter."
    assert 1 not in numbers and 5 not in numbers, "A component that was flagged is not missed."
    assert numbers == [2], f"Only number 2 is missed (R = 0.01, off by 25 %), not {numbers}."

# %%
""" # BEGIN TEST CONFIG
name: many components
points: 1
hidden: true
""" # END TEST CONFIG
def test_many_canary_hidden(judge):
    import torch
    from hvp_utils.reliability import reliability_score
    rng = torch.Generator().manual_seed(TEACHER_SEED + 4)
    f_ap, q, rest = torch.randn(3, 400, generator=rng, dtype=torch.float64)
    size = 10 ** (-3 * torch.rand(400, generator=rng, dtype=torch.float64))
    f_ap, q, rest = f_ap * size, 0.3 * q * size, 0.3 * rest * size
    f_ap[::7], q[::5] = 0.0, 0.0
    f, tau = f_ap + q + rest, 0.25
    R, missed = judge(f_ap, q, f, tau)
    torch.testing.assert_close(R, reliability_score(f_ap, q))
    truth = [
        c for c in range(400)
        if R[c] <= tau and abs(f[c]) >= 0.01 * f.abs().max() and abs(f[c] - f_ap[c]) > tau * abs(f_ap[c])
    ]
    assert torch.as_tensor(missed).tolist() == truth

# %%
""" # BEGIN TEST CONFIG
name: MLPs of the model
points: 1
hidden: true
""" # END TEST CONFIG
def test_model_canary_hidden(judge, model):
    import torch
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.reliability import reliability_score
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 4)[0]
    M = PatchedMetric(model, pair, "mlp_out")
    at, end = M.along_axes(0.0), M.along_axes(1.0, 0)
    f_ap, q = at.slope, at.curvature / 2
    R, _ = judge(f_ap, q, M.effects(end.value), 0.3)
    torch.testing.assert_close(R, reliability_score(f_ap, q))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: the heads of the last seven layers, on one prompt. How large is what the score misses?
with contextlib.suppress(NotImplementedError):
    M = PatchedMetric(model, reference_pair())
    heads = torch.arange(M.n - 63, M.n)
    at, end = M.along_axes(0.0, 2, heads), M.along_axes(1.0, 0, heads)
    f = M.effects(end.value)
    R, missed = judge(at.slope, at.curvature / 2, f, 0.1)
    for i in missed.tolist():
        print(f"{M.labels[heads[i]]}: R = {R[i]:.2f}, AP {at.slope[i]:+.2f}, truth {f[i]:+.2f} nats")
    print(f"The largest true effect is that of {M.labels[heads[f.abs().argmax()]]}.")

# %% [markdown]
# ## 2.5 Is it a good alarm?
#
# **Difficulty** ●●●○○ · **Time** 25 minutes · **Points** 4
#
# **Why it matters.** Any threshold trades alarms against misses, and a score can be made to look good by choosing it afterwards. The AUROC asks a question
# without a threshold: of one component on which AP is bad and one on which it is good, which has the higher score?
#
# Write `auroc(score, bad)`. `score` is a tensor `[n]` without NaN that may hold $\pm\infty$, `bad` a tensor of booleans `[n]`. Draw one bad and one good component at random:
# return the chance that the bad one has the higher score. If both scores are equal, that counts as half. If there is no pair to draw, return NaN. Do not sort:
# compare all pairs.
#
# <details><summary>Hint</summary>
#
# `a[:, None] > b[None, :]` compares each entry of `a` with each entry of `b`. The mean of such a table is a chance.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Compare the scores, never their differences: $\infty - \infty$ is NaN, and two components may well have an infinite score.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 4

# %% [raw]
# # BEGIN SOLUTION


# %%
def auroc(score, bad):
    """Chance that a bad component has a higher score than a good one; ties count half."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    high, low = score[bad][:, None], score[~bad][None, :]
    if high.numel() == 0 or low.numel() == 0:
        return float("nan")
    wins = (high > low).double() + (high == low).double() / 2
    return float(wins.mean())
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.5 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** The area under the ROC curve *is* this chance, so no curve has to be drawn. It depends on the order of the scores alone; $\log R$
# has the same AUROC as $R$. Ties must count half, or a score that says the same of everything would seem worse than guessing (0) or better (1).
#
# **What you see.** $R$ is far above guessing, on a prompt on which exercise 2.4 showed it fail where it matters most. Both are true:
# an AUROC counts pairs and weighs no harm. Missing the one head with the largest effect costs it as much as missing one that hardly matters.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: six pairs
points: 1
hidden: false
""" # END TEST CONFIG
def test_six_pairs(auroc):
    import torch
    score = torch.tensor([0.9, 0.4, 0.4, 0.1, 0.5])
    bad = torch.tensor([True, True, False, False, False])
    area = auroc(score, bad)
    assert area is not None, "Return a number."
    area = float(area)

    def near(value):
        return abs(area - value) < 1e-6

    assert not near(4.5), "You counted the pairs that are won. Divide by all pairs, 2 × 3."
    assert not near(4 / 6), "A tie counts half, not zero (0.4 against 0.4)."
    assert not near(5 / 6), "A tie counts half, not one (0.4 against 0.4)."
    assert not near(1.5 / 6), "The wrong way round: the bad one should have the higher score."
    assert not near(4.5 / 25), "Compare only the bad with the good: 2 × 3 pairs, not 5 × 5."
    assert near(4.5 / 6), f"4.5 of 6 pairs are won: 0.75, not {area}."
    perfect = float(auroc(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, False])))
    assert perfect == 1, "Where every bad score is above every good one, it is 1."
    nothing = auroc(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    assert nothing != nothing, "With no good component there is no pair: return float('nan')."

# %%
""" # BEGIN TEST CONFIG
name: ties and infinities
points: 2
hidden: true
""" # END TEST CONFIG
def test_infinities_canary_hidden(auroc):
    import torch
    from hvp_utils.stats import Auroc
    rng = torch.Generator().manual_seed(TEACHER_SEED + 5)
    for n in (12, 60, 300):
        score = torch.randint(0, 8, (n,), generator=rng).double()
        bad = torch.rand(n, generator=rng) < 0.15 + 0.08 * score
        bad[:4] = torch.tensor([True, False, True, False])
        score[:2], score[2] = float("inf"), float("-inf")
        truth = Auroc(score[None].numpy(), bad[None].numpy())()
        assert abs(float(auroc(score, bad)) - truth) < 1e-6
        assert abs(float(auroc(-score, bad)) - (1 - truth)) < 1e-6

# %%
""" # BEGIN TEST CONFIG
name: scores of heads
points: 1
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(auroc, model):
    import torch
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.reliability import reliability_score
    from hvp_utils.stats import Auroc
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 5)[0]
    M = PatchedMetric(model, pair)
    heads = torch.arange(M.n - 45, M.n)
    at, end = M.along_axes(0.0, 2, heads), M.along_axes(1.0, 0, heads)
    error = ((M.effects(end.value) - at.slope) / at.slope).abs().nan_to_num(0.0)
    R, bad = reliability_score(at.slope, at.curvature / 2).cpu(), (error > error.median()).cpu()
    truth = Auroc(R[None].numpy(), bad[None].numpy())()
    assert abs(float(auroc(R, bad)) - truth) < 1e-6

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: three alarms on the heads of the last seven layers. 0.5 is guessing.
with contextlib.suppress(NotImplementedError):
    M = PatchedMetric(model, reference_pair())
    heads = torch.arange(M.n - 63, M.n)
    at, end = M.along_axes(0.0, 2, heads), M.along_axes(1.0, 0, heads)
    f, f_ap, q = M.effects(end.value), at.slope, at.curvature / 2
    bad = (f - f_ap).abs() > 0.1 * f_ap.abs()
    alarms = {"R": q.abs() / f_ap.abs(), "|q|": q.abs(), "|f_AP|": f_ap.abs()}
    for name, score in alarms.items():
        print(f"{name:>7}: {auroc(score, bad):.2f}")

# %% [markdown]
# ## 2.6 From a warning to a guarantee
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 5
#
# **Why it matters.** If the Hessian changes by at most $L_H$ for each unit of length, the remainder is at most $L_H |\delta|^3 / 6$, and a
# score turns into a bound. You build the bound from three products with the Hessian, and find out when it says nothing.
#
# Write `certificate(points, products, delta_norm, f_ap, q)` for one component.
#
# * `points`: strengths $t_i$, all different, a tensor `[p]` with $p \ge 2$. `products`: the vectors $H(t_i)\,\delta$, a tensor `[p, size]`.
# * `delta_norm`: the length $|\delta|$. `f_ap` (not 0) and `q`: numbers.
#
# Return four numbers: the constant
#
# $$L_H = \max_{i \ne j} \frac{\big|H(t_i)\delta - H(t_j)\delta\big|}{|t_i - t_j|\,|\delta|^2},$$
#
# the bound $L_H|\delta|^3/6$ on $|R_3|$, and the two ends, low and high, of the interval in which the relative error $|f - f_\mathrm{AP}| / |f_\mathrm{AP}|$ must lie if the bound holds.
# An error is never negative.
#
# <details><summary>Hint</summary>
#
# $f - f_\mathrm{AP} = q + R_3$. Between which two numbers lies $|q + R_3|$, if $|R_3| \le B$?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# $|q| - B \le |q + R_3| \le |q| + B$, and the left end becomes 0 when $B > |q|$. The constant wants the length of a difference of two vectors, which is not the difference of their lengths.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def certificate(points, products, delta_norm, f_ap, q):
    """L_H, the bound on the remainder, and the ends of the interval of the relative error."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    rates = [
        float((products[i] - products[j]).norm() / (points[i] - points[j]).abs())
        for i in range(len(points))
        for j in range(i)
    ]
    L_H = max(rates) / delta_norm**2
    bound = L_H * delta_norm**3 / 6
    low, high = max(abs(q) - bound, 0.0), abs(q) + bound
    return L_H, bound, low / abs(f_ap), high / abs(f_ap)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("2.6 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** The remainder is $\int_0^1 (1-t)\,\delta^\top (H(t) - H(0))\,\delta\, dt$. The integrand is at most
# $(1-t)\, t\, L_H |\delta|^3$, and $\int (1-t)t\,dt = 1/6$. Then the triangle inequality, both ways. With $\eta = B/|q|$ the interval is
# $[(1-\eta)R, (1+\eta)R]$, Proposition 1 of the paper.
#
# **What it is not.** $L_H$ was probed at three points, so it is a *lower* bound on the true constant, and a bound made with it can
# fail. It counts every change of the vector $H\delta$, where the remainder feels only the part along $\delta$: mostly it is far too large. Where $B \ge |q|$ the
# interval begins at 0 and is *vacuous* below; where it ends above 1, AP may be off by more than all it says.
#
# **What you see.** For L23H3, which the score called safe ($R = 0.03$), the interval is so wide that nobody would call it safe any more. The guarantee is honest about it, at the price of three
# products: more than the exact patch costs.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: one number, cubed
points: 1
hidden: false
""" # END TEST CONFIG
def test_cube(certificate):
    import torch
    # The metric is a³; a goes from 1 to 3, so δ = 2. f = 26, f_AP = 6, q = 12, R3 = 8.
    points = torch.tensor([0.0, 0.25, 0.5])
    products = torch.tensor([[12.0], [18.0], [24.0]])  # H(t) δ = 6 (1 + 2t) · 2
    answer = certificate(points, products, 2.0, 6.0, 12.0)
    assert answer is not None and len(answer) == 4, "Return L_H, the bound, low and high."
    L_H, bound, low, high = (float(number) for number in answer)

    def near(a, b):
        return abs(a - b) < 1e-4

    assert not near(L_H, 24), "Divide by |δ|² as well: L_H is a change for each unit of length."
    assert not near(L_H, 12), "Divide by |δ|², not |δ|: one for the length, one for the vector Hδ."
    assert not near(L_H, 3), "Divide by |t_i - t_j|: the points are not 1 apart."
    assert near(L_H, 6), f"The third derivative of a³ is 6, and so is L_H; yours is {L_H}."
    assert not near(bound, 48), "The 1/6 is missing from the bound."
    assert not near(bound, 24), "The bound has 1/6 in it, not 1/2."
    assert not near(bound, 4), "The bound has the cube of |δ|, not its square."
    assert near(bound, 8), f"The bound should be 8 (and the remainder is 8), not {bound}."
    assert not (near(low, 4) and near(high, 20)), "Divide by |f_AP|: the error is relative."
    assert near(high, 20 / 6), f"high should be (12 + 8)/6, the true error of AP here, not {high}."
    assert near(low, 4 / 6), f"low should be (12 - 8)/6, not {low}."
    *_, low, high = certificate(points, products, 2.0, -6.0, -1.0)
    assert float(low) >= 0 and float(high) >= 0, "An error is never negative: see q = -1, f_AP = -6."
    assert near(float(low), 0), "With a bound above |q| the error may be 0: low is 0."
    assert near(float(high), 9 / 6), "With q = -1 and f_AP = -6, high is (1 + 8)/6: use magnitudes."

# %%
""" # BEGIN TEST CONFIG
name: vectors
points: 2
hidden: true
""" # END TEST CONFIG
def test_vectors_canary_hidden(certificate):
    import torch
    from hvp_utils.reliability import error_bounds
    rng = torch.Generator().manual_seed(TEACHER_SEED + 6)
    for p in (2, 3, 5):
        points = torch.rand(p, generator=rng, dtype=torch.float64)
        products = torch.randn(p, 20, generator=rng, dtype=torch.float64)
        norm, f_ap, q = torch.randn(3, generator=rng, dtype=torch.float64).tolist()
        norm, q = abs(norm) + 0.5, 3 * q
        apart = torch.cdist(products, products) / (points[:, None] - points).abs()
        truth = float(apart[~torch.eye(p, dtype=bool)].max()) / norm**2
        tensors = (torch.tensor([x], dtype=torch.float64) for x in (f_ap, q, norm, truth))
        bounds = error_bounds(*tensors)
        exact = (truth, bounds.hvp, bounds.relative_lower, bounds.relative_upper)
        mine = certificate(points, products, norm, f_ap, q)
        for a, b in zip(mine, exact, strict=True):
            assert abs(float(a) - float(b)) < 1e-6 * (1 + abs(float(b)))

# %%
""" # BEGIN TEST CONFIG
name: heads of the model
points: 2
hidden: true
""" # END TEST CONFIG
def test_heads_canary_hidden(certificate, model):
    import torch
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.reliability import error_bounds, hessian_lipschitz
    from hvp_utils.tasks import make_prompts
    pair = make_prompts("ioi", model, 1, seed=TEACHER_SEED + 6)[0]
    M = PatchedMetric(model, pair)
    heads = M.gradient().abs().topk(2).indices.cpu()
    points = torch.tensor([0.0, 0.5, 1.0])
    products = torch.stack([M.hessian_delta(float(t), heads).cpu() for t in points])
    at, norms = M.along_axes(0.0, 2, heads), M.delta_norm[heads]
    L = hessian_lipschitz(M, components=heads)
    bounds = error_bounds(at.slope, at.curvature / 2, norms, L)
    for i in range(2):
        f_ap, q, norm = float(at.slope[i]), float(at.curvature[i]) / 2, float(norms[i])
        mine = certificate(points, products[:, i], norm, f_ap, q)
        exact = (L[i], bounds.hvp[i], bounds.relative_lower[i], bounds.relative_upper[i])
        for a, b in zip(mine, exact, strict=True):
            assert abs(float(a) - float(b)) < 1e-2 * (1e-3 + abs(float(b)))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: two heads that the score calls safe, the first of them wrongly.
with contextlib.suppress(NotImplementedError):
    M, points = PatchedMetric(model, reference_pair()), torch.tensor([0.0, 0.5, 1.0])
    for label in ("L23H3", "L24H4"):
        c = M.index([label])
        products = torch.stack([M.hessian_delta(float(t), c)[0] for t in points])
        at, end = M.along_axes(0.0, 2, c), M.along_axes(1.0, 0, c)
        f_ap, q, f = float(at.slope), float(at.curvature) / 2, float(M.effects(end.value))
        *_, low, high = certificate(points, products, float(M.delta_norm[c]), f_ap, q)
        true = abs(f - f_ap) / abs(f_ap)
        print(f"{label}: R = {abs(q / f_ap):.2f}, interval {low:.2f} to {high:.2f}, truth {true:.2f}")

# %% [markdown]
# ## 2.7 When would you trust the score?
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 6
#
# **Why it matters.** A colleague has attribution patching scores of 30,000 components, and $R$ for all of them. They ask you a question that no formula answers: "May I
# publish those with $R < 0.1$?"
#
# Answer in at most 250 words, with evidence that you measured. The cell below holds slopes, quadratic terms and true effects of all heads on one prompt; take other prompts, tasks,
# components or metrics as you like. Marks are given for:
#
# | points | for |
# | --- | --- |
# | 2 | two cases of your own finding, with numbers: a component that the score calls safe and that is badly off, and one that it flags and that is right (or so small that nobody minds) |
# | 1 | *why* each happens, from the shape of the curve between 0 and 1 (draw it, or give $g''$ along it) |
# | 1 | how often it happens, with the number of cases counted, and a rate among components that matter |
# | 1 | a rule that your colleague can follow, with what it costs in runs of the model beside exact patching |
# | 1 | what your evidence cannot tell |
#
# <details><summary>Hint</summary>
#
# Look at `q.abs() / f_ap.abs()` only where `f` matters, say at least 1 % of the largest. Sort what is left by the error, once among the safe and once among the flagged.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For one component `c` of `M`, `M.along_axes(t, 2, torch.tensor([c]))` gives value, slope and curvature at strength $t$: take them at $t = 0, 0.1, \dots, 1$ and draw. For the
# price, count runs: an exact effect takes one. What do a slope and a curvature take, and what is left to gain once you have them?
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
# *A model answer.* "No, not on the score alone. On five IOI prompts of SmolLM2 (seed 0) I counted the heads with at least 1 % of their prompt's largest effect. Of 322 with
# $R < 0.1$, 16 are off by more than 10 %. The worst is L17H4 on the fourth prompt: $R = 0.06$, AP −1.19 nats, truth −0.48. Its curve starts straight and bends back later ($g''$ grows and changes sign), so nothing
# measured at 0 can see it. Flagged and right: L23H3 on the third prompt, $R = 0.24$, AP +2.92, truth +3.01. There $q$ is +0.70 and the remainder takes most of it back. Of 117 flagged heads that matter, 7 are right.
#
# So: use $R$ to sort what to look at, and never to certify. What you publish you can patch: one run each. The score of a component costs more than two runs, so
# if it is still to be computed, do not. As you have it: take the 50 components with the largest $|f_\mathrm{AP}| + |q|$, patch them exactly, 50 runs, and report only those.
#
# What I cannot tell: one small quantised model, name swaps only, heads only; your components may bend elsewhere. Heads of a prompt are not independent, so 16 of 322 says less than it seems, and a small rate
# of misses says nothing of their size."
#
# *Marking.* Two points for two cases with numbers (one each; none for a case quoted from the book, such as L23H3, without the student's own measurement). One for the mechanism: a change of $g''$
# along the path for the miss, a small denominator or a cancellation for the false alarm. One for a rate with its denominator stated; a rate over *all* heads earns half, since most of those are rounding. One for a rule with a price: the remark that exact patching costs
# one run and the score more than two is the point; a rule that ignores it earns half. One for limits that concern *this* evidence.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # END QUESTION
