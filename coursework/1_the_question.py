# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 1. The question
#
# Attribution patching estimates what every attention head does to a prediction, with one gradient. In this set you build it, and
# what it estimates, from hooks and `torch.autograd` alone. Then you count how often it is wrong, and find a head that it misjudges.
#
# **You need** chapters 1 to 3 of the book. **Time**: about three hours. **Points**: 34.
#
# Every exercise stands alone: if one defeats you, go on with the next. Below each exercise is a check on a case small enough to
# do on paper; it says what is probably wrong. Other tests, on other numbers and prompts, are run when your work is marked. The last exercise
# has no right answer, and is read by a person. Cells that begin with `# See it` show what your function does; they do nothing until it is written.

# %%
# SETUP CELL

# %%
from types import SimpleNamespace

import matplotlib.pyplot as plt
import otter
import torch

from hvp_utils import PromptPair, load_model, make_prompts, reference_pair

grader = otter.Notebook("set1.ipynb")

# %% [markdown]
# ## A real model and a small one
#
# `model` is a language model with 30 layers of 9 heads. Its hook `blocks.{layer}.attn.hook_z` shows what the heads of a layer compute, a
# tensor `[batch, position, head, d_head]`. You can look at it, and you can replace it:
#
#     logits, cache = model.run_with_cache(tokens, names_filter=[name])    # cache[name] is the activation
#     logits = model.run_with_hooks(tokens, fwd_hooks=[(name, change)])    # change(z, hook) gives the new one
#
# `tokens` is `[batch, position]` and `logits` is `[batch, position, vocabulary]`. `toy` has the same two functions, two layers of two heads, and only two words in
# its vocabulary. What you write for one works for the other.

# %%
model = load_model("smollm2-135m")


class Toy:
    """Two layers of two heads, each head a number. A word is its token's value."""

    cfg = SimpleNamespace(n_layers=2, n_heads=2)

    def run_with_cache(self, tokens, names_filter=None):
        """The logits, and what the heads compute."""
        cache = {}
        logits = self.run_with_hooks(tokens, remember=cache)
        return logits, cache

    def run_with_hooks(self, tokens, fwd_hooks=(), remember=None):
        """The logits, with activations changed by hooks (name, change)."""
        stream = tokens.float()
        for layer, weights in enumerate([(1.0, 0.5), (2.0, -1.0)]):
            place = f"blocks.{layer}.attn.hook_z"
            seen = stream.cumsum(-1) if layer == 0 else torch.tanh(stream)
            z = torch.stack([weight * seen for weight in weights], dim=-1)[..., None]
            for hooked, change in fwd_hooks:
                if hooked == place:
                    z = change(z, hook=None)
            if remember is not None:
                remember[place] = z
            stream = stream + z.sum((-1, -2)) / 10
        return torch.stack([stream, torch.zeros_like(stream)], dim=-1)


toy = Toy()

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 5

# %% [markdown]
# ## 1.1 Patch one head
#
# **Difficulty** ●●○○○ · **Time** 25 minutes · **Points** 5
#
# **Why it matters.** Everything in this book is an estimate of one experiment: move what one head computed from one run into another, and see how far the
# prediction moves. Whoever has done it by hand knows what the estimates are estimates of.
#
# Run the model on the `base` tokens. At the one head `(layer, head)`, add `t` times the difference between its activation on the `other` tokens
# and on the `base` tokens, at all positions. All that comes after the head reacts. Return the log probability of the token `answer` after the last position, in nats.
#
# * `base`, `other`: token ids, `[1, position]`, of equal length; `answer`: a token id.
# * `t`: a number, or a tensor with one number. Your result must be differentiable with respect to it.

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two runs with a cache give the two activations, without gradients. A third run, with a hook, gives the answer.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Make a tensor `difference` of zeros, shaped like the activation, and fill in only `[:, :, head]`. The hook returns `z + t * difference`. The
# log probability is `log_softmax` of the last position's logits.
#
# </details>

# %% [raw]
# # BEGIN SOLUTION


# %%
def metric_at(model, base, other, answer, layer, head, t):
    """Log probability of the answer, with one head patched by the fraction t."""
    # BEGIN SOLUTION
    # canary-answer-key
    name = f"blocks.{layer}.attn.hook_z"
    with torch.no_grad():
        z_base = model.run_with_cache(base, names_filter=[name])[1][name]
        z_other = model.run_with_cache(other, names_filter=[name])[1][name]
    difference = torch.zeros_like(z_base)
    difference[:, :, head] = (z_other - z_base)[:, :, head]
    hooks = [(name, lambda z, hook: z + t * difference)]
    logits = model.run_with_hooks(base, fwd_hooks=hooks)
    return logits[0, -1].log_softmax(-1)[answer]
    # END SOLUTION


# %% [markdown]
# canary-answer-key
#
# The hook adds to the activation that is there, so the rest of the network sees everything else of the base run and reacts to the head. At $t = 0$
# nothing is patched, at $t = 1$ the head does exactly what it did in the other run. Between the two lies no run that the model ever makes by itself; it is a path that we chose.
# A hook that *replaces* the activation by the other run's would patch all heads of the layer.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: on the toy
points: 1
hidden: false
""" # END TEST CONFIG
def test_q1_toy(metric_at, toy, torch):
    base, other = torch.tensor([[0, 0, 1]]), torch.tensor([[2, 0, 1]])
    start = metric_at(toy, base, other, 0, 0, 0, 0.0)
    assert start is not None, "Your function returns nothing yet."
    assert getattr(start, "shape", ()) == (), f"Return one number, not a tensor of shape {tuple(start.shape)}."
    start = float(start)
    assert abs(start - 0.7741) > 2e-3, "That is a probability. Take its logarithm."
    assert abs(start - 1.2318) > 2e-3, "That is a logit. Take log_softmax over the vocabulary first."
    assert abs(start - -0.1943) > 2e-3, "At t = 0 this is the run on `other`. Start from `base`."
    assert abs(start - -0.2560) < 2e-3, f"At t = 0 nothing is patched: expected -0.2560, got {start:.4f}."
    end = float(metric_at(toy, base, other, 0, 0, 0, 1.0))
    assert abs(end - start) > 1e-4, "t = 1 changes nothing. Does your hook return the new activation?"
    assert abs(end - -0.1943) > 3e-4, "That is what patching the whole layer gives. Patch only [:, :, head]."
    assert abs(end - -0.2131) < 3e-4, f"At t = 1 expected -0.2131, got {end:.4f}."
    half = float(metric_at(toy, base, other, 0, 0, 0, 0.5))
    assert abs(half - -0.2337) < 3e-4, "t = 1 is right and t = 0.5 is not: add t times the difference."
    t = torch.zeros((), requires_grad=True)
    assert getattr(metric_at(toy, base, other, 0, 0, 0, t), "requires_grad", False), "Your result cannot be differentiated by t: no float(), no .item(), no no_grad() around the last run."

# %%
""" # BEGIN TEST CONFIG
name: unseen prompts
points: 4
hidden: true
""" # END TEST CONFIG
def test_q1_canary_hidden(metric_at, model, torch):
    import random

    from hvp_utils import PatchedMetric, make_prompts

    rng = random.Random(TEACHER_SEED + 1)
    for pair in make_prompts("ioi", model, 2, seed=TEACHER_SEED + 1):
        tokens = pair.resolve(model)
        M = PatchedMetric(model, pair)
        for _ in range(3):
            layer, head, t = rng.randrange(30), rng.randrange(9), round(rng.uniform(0.2, 1.2), 2)
            alpha = torch.zeros(M.n)
            alpha[9 * layer + head] = t
            got = metric_at(model, tokens.corrupted[None], tokens.clean[None], tokens.answer_ids[0], layer, head, t)
            torch.testing.assert_close(got.detach(), M(alpha).detach(), rtol=1e-3, atol=1e-3)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: one head of the real model, by degrees. The first number is the base run, the last an exact patch.
tokens = reference_pair().resolve(model)
clean, corrupted, answer = tokens.clean[None], tokens.corrupted[None], tokens.answer_ids[0]
with torch.no_grad():
    heights = [metric_at(model, corrupted, clean, answer, 23, 3, t / 4) for t in range(5)]
if heights[0] is not None:
    print([round(float(x), 3) for x in heights])

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 4

# %% [markdown]
# ## 1.2 One curve, three numbers
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 4
#
# **Why it matters.** Call the metric along the way $g(t)$. The true effect, attribution patching and its second-order correction are three readings of this
# one curve. To see that is half of the book.
#
# `g` takes a tensor with one number and returns a tensor with one number. It may be a straight line. Return, as three floats,
#
# * the true effect $g(1) - g(0)$,
# * the tangent's estimate of it, $g'(0)$,
# * the parabola's, $g'(0) + \tfrac12 g''(0)$.
#
# Take the derivatives with `torch.autograd`, in the floating-point type `torch.float64`.

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.autograd.grad` with `create_graph=True` gives a derivative that you can differentiate again.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For a straight line the first derivative no longer depends on `t`, and the second call complains. Look at `slope.requires_grad` first: if it is
# false, the curvature is 0.
#
# </details>

# %% [raw]
# # BEGIN SOLUTION


# %%
def readings(g):
    """The true effect of a patch, the tangent's estimate and the parabola's."""
    # BEGIN SOLUTION
    # canary-answer-key
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    start = g(t)
    (slope,) = torch.autograd.grad(start, t, create_graph=True)
    curvature = torch.zeros(())
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope, t)
    effect = g(torch.ones_like(t)) - start
    return float(effect), float(slope), float(slope + curvature / 2)
    # END SOLUTION


# %% [markdown]
# canary-answer-key
#
# All three are derivatives or differences at the *start* of the curve, except $g(1)$, the one that costs a run for each head. Nothing in $g'(0)$ and $g''(0)$ can know what the
# curve does later. That is the whole trouble, and no amount of care at $t = 0$ removes it.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a parabola
points: 1
hidden: false
""" # END TEST CONFIG
def test_q2_parabola(readings):
    got = readings(lambda t: 5 + 3 * t + 2 * t * t)
    assert got is not None, "Your function returns nothing yet."
    assert len(got) == 3, "Return three numbers: effect, tangent, parabola."
    effect, tangent, parabola = map(float, got)
    assert abs(effect - 10) > 1e-6, "That is g(1). The effect is what is gained: subtract g(0)."
    assert abs(effect - 5) < 1e-6, f"5 + 3t + 2t² gains 5 from 0 to 1, not {effect:.4f}."
    assert abs(tangent - 7) > 1e-6, "That is the slope at t = 1. Take it at t = 0."
    assert abs(tangent - 3) < 1e-6, f"The slope of 5 + 3t + 2t² at 0 is 3, not {tangent:.4f}."
    assert abs(parabola - 7) > 1e-6, "Taylor's second term is HALF the second derivative."
    assert abs(parabola - 4) > 1e-6, "That is g''(0) alone. The parabola's estimate is g'(0) + g''(0) / 2."
    assert abs(parabola - 5) < 1e-6, f"A parabola describes a parabola exactly: 5, not {parabola:.4f}."
    try:
        line = readings(lambda t: 3 * t + 1)
    except RuntimeError as error:
        raise AssertionError(
            "A straight line ends in an error of autograd: its slope does not depend on t. Look at slope.requires_grad before you differentiate it."
        ) from error
    assert [round(float(x), 6) for x in line] == [3, 3, 3], "On the straight line 3t + 1 all three are 3."

# %%
""" # BEGIN TEST CONFIG
name: other curves
points: 3
hidden: true
""" # END TEST CONFIG
def test_q2_canary_hidden(readings, torch):
    import math
    import random

    rng = random.Random(TEACHER_SEED + 2)
    for _ in range(5):
        a, b, c = (rng.uniform(0.5, 2) for _ in range(3))

        def g(t):
            return a * torch.exp(b * t) + c * torch.sin(t)

        want = (a * (math.exp(b) - 1) + c * math.sin(1), a * b + c, a * b + c + a * b * b / 2)
        assert all(abs(x - y) < 1e-5 for x, y in zip(readings(g), want))
        assert all(abs(x - y) < 1e-5 for x, y in zip(readings(lambda t: b * t + a), (b, b, b)))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 6

# %% [markdown]
# ## 1.3 All heads from one gradient
#
# **Difficulty** ●●●○○ · **Time** 40 minutes · **Points** 6
#
# **Why it matters.** To patch every head takes a run for each. One backward pass gives the tangent of every head's curve at once. That is attribution patching, and the
# reason why people use it in spite of what you are about to find.
#
# Return a tensor with one number for each head of the model, in the order layer 0 head 0, layer 0 head 1, and so on: the tangent's estimate $g'(0)$ of patching that head alone, in nats. Make
# **one** forward pass and **one** backward pass on `base`, and one forward pass on `other`; no loop over heads that runs the model.

# %% [markdown]
# <details><summary>Hint</summary>
#
# By the chain rule $g'(0)$ is the gradient of the metric with respect to the head's activation, times the difference between the two activations, summed over
# positions and over `d_head`.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A hook on each layer may keep the live activation in a dictionary, after `requires_grad_()` if it does not require a gradient yet: the model's weights are frozen, so the first activation that
# needs a gradient is the one that you say needs it. `torch.autograd.grad(metric, list_of_activations)` gives all gradients together.
#
# </details>

# %% [raw]
# # BEGIN SOLUTION


# %%
def attribution(model, base, other, answer):
    """Attribution patching of every head: a tensor with one number for each."""
    # BEGIN SOLUTION
    # canary-answer-key
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    live = {}

    def keep(name):
        def hook(z, hook):
            live[name] = z if z.requires_grad else z.requires_grad_()
            return live[name]

        return hook

    with torch.no_grad():
        _, cache = model.run_with_cache(other, names_filter=names)
    logits = model.run_with_hooks(base, fwd_hooks=[(name, keep(name)) for name in names])
    metric = logits[0, -1].log_softmax(-1)[answer]
    gradients = torch.autograd.grad(metric, [live[name] for name in names])
    rows = [
        (gradient * (cache[name] - live[name].detach())).sum((0, 1, 3))
        for name, gradient in zip(names, gradients, strict=True)
    ]
    return torch.cat(rows)
    # END SOLUTION


# %% [markdown]
# canary-answer-key
#
# The gradient is taken where the base run is, for all layers at once: a change of an early head is carried through the later ones by the backward pass. The sum runs over all
# positions, since the patch moves the head at all of them. A mean would answer another question, and so would the gradient in the other run: that is the tangent at the other end of the
# curve, which belongs to patching in the other direction.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: on the toy
points: 1
hidden: false
""" # END TEST CONFIG
def test_q3_toy(attribution, toy, torch):
    base, other = torch.tensor([[0, 0, 1]]), torch.tensor([[2, 0, 1]])
    got = attribution(toy, base, other, 0)
    assert got is not None, "Your function returns nothing yet."
    assert tuple(got.shape) == (4,), f"One number for each of the 4 heads, not a tensor of shape {tuple(got.shape)}."
    got = got.detach()
    want = torch.tensor([0.0467, 0.0233, 0.0035, -0.0018])
    assert not torch.allclose(got, -want, atol=3e-4), "Every sign is turned: the difference is other minus base."
    assert not torch.allclose(got, want / 3, atol=3e-4), "Sum over the positions; you seem to take their mean."
    assert not torch.allclose(got, torch.tensor([0.0360, 0.0180, 0.0028, -0.0014]), atol=3e-4), "The gradient seems to come from the `other` run. The tangent starts at `base`."
    assert torch.allclose(got, want, atol=3e-4), f"Expected {want.tolist()}, got {[round(x, 4) for x in got.tolist()]}."

# %%
""" # BEGIN TEST CONFIG
name: unseen prompts
points: 5
hidden: true
""" # END TEST CONFIG
def test_q3_canary_hidden(attribution, model, torch):
    from hvp_utils import PatchedMetric, attribution_patching, make_prompts

    for task in ("ioi", "factual"):
        (pair,) = make_prompts(task, model, 1, seed=TEACHER_SEED + 3)
        tokens = pair.resolve(model)
        answer = int(tokens.answer_ids[0])
        M = PatchedMetric(model, pair)
        got = attribution(model, tokens.corrupted[None], tokens.clean[None], answer)
        torch.testing.assert_close(got.detach(), attribution_patching(M), rtol=1e-3, atol=1e-4)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it: 270 estimates from one gradient, and the five largest.
estimate = attribution(model, corrupted, clean, answer)
if estimate is not None:
    for h in estimate.abs().topk(5).indices.tolist():
        print(f"L{h // 9}H{h % 9}  {estimate[h]:+.3f} nats")

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 5

# %% [markdown]
# ## 1.4 Off by a factor of two
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 5
#
# **Why it matters.** "It is usually fine" is no measurement. Whether a method may be trusted depends on the heads that matter, and on how you count.
#
# `truth` and `estimate` are `[prompts, heads]`. Take, for each prompt, the `k` heads with the largest true effects *in size*. Count for how many of them the estimate is off by a factor of two or
# more, up or down, or has the wrong sign. Return a tensor `[prompts]` of whole numbers. (True effects among the `k` largest are not 0.)

# %% [markdown]
# <details><summary>Hint</summary>
#
# One quotient answers all three questions: `estimate / truth` is negative where the sign is wrong.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `truth.abs().topk(k, dim=-1).indices`, then `torch.gather` on both. Good are the quotients strictly between 1/2 and 2.
#
# </details>

# %% [raw]
# # BEGIN SOLUTION


# %%
def off_by_two(truth, estimate, k=10):
    """How many of each prompt's k largest effects are badly estimated."""
    # BEGIN SOLUTION
    # canary-answer-key
    largest = truth.abs().topk(k, dim=-1).indices
    quotient = estimate.gather(-1, largest) / truth.gather(-1, largest)
    good = (quotient > 0.5) & (quotient < 2)
    return (~good).sum(-1)
    # END SOLUTION


# %% [markdown]
# canary-answer-key
#
# The heads are chosen by the truth. Chosen by the estimate, the worst failures would vanish from the count: a large effect that is estimated as 0 is never among the largest estimates.
# Writing `~good` instead of listing what is bad also counts an estimate that is not a number.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: on paper
points: 1
hidden: false
""" # END TEST CONFIG
def test_q4_paper(off_by_two, torch):
    truth = torch.tensor([[4.0, -3.0, 2.0, 0.1]])

    def count(*estimate, k=3):
        return int(off_by_two(truth, torch.tensor([estimate]), k=k)[0])

    got = off_by_two(truth, truth, k=3)
    assert got is not None, "Your function returns nothing yet."
    assert tuple(got.shape) == (1,), f"One number for each prompt: shape (1,), not {tuple(got.shape)}."
    assert int(got[0]) == 0, "A perfect estimate is off nowhere."
    assert count(4.0, 3.0, 2.0, 0.1) == 1, "Head 1 has the wrong sign, or was not chosen: take the largest in size."
    assert count(4.0, -3.0, 2.0, 9.0) == 0, "The fourth head is not among the three largest true effects. Choose by the truth, not by the estimate."
    assert count(1.0, -3.0, 2.0, 0.1) == 1, "1 for 4 is off by a factor of four, downwards."
    assert count(4.0, -9.0, 2.0, 0.1) == 1, "-9 for -3 is off by a factor of three, upwards."
    assert count(2.0, -3.0, 2.0, 0.1) == 1, "Exactly a factor of two counts."

# %%
""" # BEGIN TEST CONFIG
name: many prompts
points: 4
hidden: true
""" # END TEST CONFIG
def test_q4_canary_hidden(off_by_two, torch):
    rng = torch.Generator().manual_seed(TEACHER_SEED + 4)
    for k in (5, 10):
        truth = torch.randn(20, 40, generator=rng)
        estimate = truth * (1 + 1.2 * torch.randn(20, 40, generator=rng))
        got = off_by_two(truth, estimate, k=k)
        for row in range(20):
            order = sorted(range(40), key=lambda h: -abs(float(truth[row, h])))[:k]
            bad = 0
            for h in order:
                x, y = float(truth[row, h]), float(estimate[row, h])
                bad += x * y <= 0 or abs(y) >= 2 * abs(x) or abs(x) >= 2 * abs(y)
            assert int(got[row]) == bad

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 3

# %% [markdown]
# ## 1.5 The paper's yardstick
#
# **Difficulty** ●○○○○ · **Time** 15 minutes · **Points** 3
#
# **Why it matters.** A factor of two on a small effect is a small error. The paper's measure weighs errors by their size, and divides by the range of the truth, so that prompts and models can
# be compared.
#
# For one prompt, `truth` and `estimate` are `[heads]`. Return, as a float, the mean absolute error over the `k` largest true effects in size, in percent of the range of the true effects: the largest minus the smallest of **all** heads.

# %% [markdown]
# <details><summary>Hint</summary>
#
# Choose by the size of the truth, as before. The range is `truth.max() - truth.min()`.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `(estimate - truth).abs()` at the chosen heads, its mean, times 100, divided by the range.
#
# </details>

# %% [raw]
# # BEGIN SOLUTION


# %%
def top_k_error(truth, estimate, k=5):
    """Mean absolute error on the k largest effects, in percent of the truth's range."""
    # BEGIN SOLUTION
    # canary-answer-key
    largest = truth.abs().topk(k).indices
    error = (estimate - truth)[largest].abs().mean()
    return float(100 * error / (truth.max() - truth.min()))
    # END SOLUTION


# %% [markdown]
# canary-answer-key
#
# The range has the sign of the effects in it: if the largest effects are +3 and -3, the range is 6, and an error of 3 on one head of five is 10 %. One number for a prompt hides which head is wrong, so it goes with a count such as
# that of exercise 1.4.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: on paper
points: 1
hidden: false
""" # END TEST CONFIG
def test_q5_paper(top_k_error, torch):
    truth = torch.tensor([3.0, -2.0, 1.0, 0.0])
    got = top_k_error(truth, torch.tensor([2.0, -1.0, 9.0, 9.0]), k=2)
    assert got is not None, "Your function returns nothing yet."
    got = float(got)
    assert abs(got - 0.2) > 1e-6, "In percent: times 100."
    assert abs(got - 40) > 1e-4, "Take the mean over the k heads, not the sum."
    assert abs(got) > 1e-4, "Errors must not cancel: take their absolute values before the mean."
    assert abs(got - 33.3333) > 1e-2, "The range is the largest minus the smallest true effect, here 5."
    assert abs(got - 20) < 1e-4, f"Two errors of 1, a range of 5: 20 %, not {got:.2f}."

# %%
""" # BEGIN TEST CONFIG
name: other numbers
points: 2
hidden: true
""" # END TEST CONFIG
def test_q5_canary_hidden(top_k_error, torch):
    from hvp_utils.stats import top_k_relative_error

    rng = torch.Generator().manual_seed(TEACHER_SEED + 5)
    for _ in range(10):
        truth = torch.randn(30, generator=rng) + 0.3
        estimate = truth + torch.randn(30, generator=rng)
        want = float(top_k_relative_error(estimate.numpy(), truth.numpy(), k=5))
        assert abs(float(top_k_error(truth, estimate, k=5)) - want) < 1e-3

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 3

# %% [markdown]
# ## 1.6 Shrink the patch
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 3
#
# **Why it matters.** Attribution patching is not a bad method for small patches. How fast its error goes away as the patch shrinks says which term of Taylor's series it leaves out, and is the best test
# of your own code: a wrong factor changes the power.
#
# `g` is a curve as in exercise 1.2, with its `value`, `slope` and `curvature` at 0 given as floats. `scales` is a list of floats. Compute in `torch.float64`: in float32 the parabola's error drowns in
# rounding. For each strength $s$ of `scales` take the error of the tangent, $|g(s) - g(0) - s\,g'(0)|$, and of the parabola,
# $|g(s) - g(0) - s\,g'(0) - \tfrac12 s^2 g''(0)|$. Each behaves like a power of $s$. Return the two powers as floats: the slopes of straight lines fitted to $\log$ error against $\log s$.

# %% [markdown]
# <details><summary>Hint</summary>
#
# `numpy.polyfit(log_s, log_error, 1)` gives the slope first.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# If the tangent's power is 2 and the parabola's 2 as well, the factor of the last term is wrong.
#
# </details>

# %% [raw]
# # BEGIN SOLUTION


# %%
def powers(g, value, slope, curvature, scales):
    """With which power of the patch the tangent's and the parabola's errors fall."""
    # BEGIN SOLUTION
    # canary-answer-key
    s = torch.as_tensor(scales, dtype=torch.float64)
    gained = torch.stack([torch.as_tensor(g(x)) for x in s]) - value
    tangent = gained - s * slope
    parabola = tangent - s**2 * curvature / 2
    x = s.log() - s.log().mean()
    return tuple(float(x @ e.abs().log() / (x @ x)) for e in (tangent, parabola))
    # END SOLUTION


# %% [markdown]
# canary-answer-key
#
# The powers are 2 and 3: each estimate leaves out the next term. On a real head they are so only for small $s$. At $s = 1$, the whole patch, all terms that were left out speak at once, and that is where patching is used.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a cubic
points: 0
hidden: false
""" # END TEST CONFIG
def test_q6_cubic(powers):
    got = powers(lambda t: 1 + t + t**2 + t**3, 1.0, 1.0, 2.0, [2.0**-i for i in range(6, 11)])
    assert got is not None, "Your function returns nothing yet."
    assert len(got) == 2, "Return two powers, the tangent's and the parabola's."
    tangent, parabola = map(float, got)
    assert abs(tangent) < 99 and abs(parabola) < 99, "Not a finite number: some error came out as 0. Compute in float64."
    assert abs(tangent - 1) > 0.1, "Power 1: the term s·g'(0) is missing."
    assert abs(tangent) > 0.1, "Power 0: is g(0) subtracted, and g'(0) multiplied by s?"
    assert abs(tangent - 0.5) > 0.1, "One half: the axes are exchanged. Fit log error against log s."
    assert tangent > 0, "Negative: the error shrinks with s. Did you take an inverse?"
    assert abs(tangent - 2) < 0.1, f"The tangent's error falls with the power 2, not {tangent:.2f}."
    assert abs(parabola - 2) > 0.1, "The parabola's power is still 2: its last term has a wrong factor. Taylor says s²/2."
    assert abs(parabola - 3) < 0.1, f"The parabola's error falls with the power 3, not {parabola:.2f}."

# %%
""" # BEGIN TEST CONFIG
name: other curves
points: 3
hidden: true
""" # END TEST CONFIG
def test_q6_canary_hidden(powers, torch):
    import random

    import numpy as np

    rng = random.Random(TEACHER_SEED + 6)
    for _ in range(3):
        a, b = rng.uniform(0.5, 2), rng.uniform(0.5, 2)
        scales = np.geomspace(0.05, 0.8, 7)

        def g(t):
            return a * torch.exp(b * torch.as_tensor(t, dtype=torch.float64))

        tangent = a * (np.exp(b * scales) - 1 - b * scales)
        parabola = tangent - a * (b * scales) ** 2 / 2
        want = [np.polyfit(np.log(scales), np.log(e), 1)[0] for e in (tangent, parabola)]
        got = powers(g, a, a * b, a * b * b, list(scales))
        assert np.allclose(got, want, atol=1e-3)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 8
# manual: true

# %% [markdown]
# ## 1.7 A head that attribution patching misjudges
#
# **Difficulty** ●●●●○ · **Time** 40 minutes · **Points** 8
#
# **Why it matters.** A number that is wrong teaches little. A curve that shows why it is wrong, and a guess that could have been refuted, is research.
#
# Choose a prompt pair of your own: another one of `make_prompts("ioi", model, 20, seed=...)`, another task, or two sentences that you write (`PromptPair(clean=…, corrupted=…, answer=…)`). Estimate all heads by attribution patching. Make exact
# patches of the ten heads with the largest estimates, and of ten others, chosen by a rule that you write down first. Find a head that is off by a factor of two or more; if there is none, say so and take the worst. Draw its curve $g(t)$ with the tangent,
# in a cell below. Then write, in at most 200 words,
#
# 1. which head, on which prompt, the two numbers, and the rule for the other ten;
# 2. what the curve does that the tangent does not see;
# 3. why you think it does so: which part of the network, after the head, responds differently at the end than at the start;
# 4. one measurement that would prove your explanation wrong.
#
# Marks: 2 for each part.

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# canary-answer-key
#
# **Rubric, 2 points a part.** *1, the find*: 2 if the numbers can be reproduced from what is written (prompt, direction, head, both numbers) and the other ten were chosen by a rule that was stated before looking; 1 if one of these is missing.
# *2, the curve*: 2 for a drawn curve with its tangent and a description that fits it (bends away at which $t$, saturates, turns); 1 for a description without the drawing, or a drawing without words. *3, the reason*: 2 for a mechanism after the head that would
# bend the curve in this direction (attention of a later head that moves to another token, a log probability near its ceiling, an MLP that switches on); 1 for "the network is non-linear". *4, the test*: 2 for a measurement that is possible with the tools of this set and whose
# outcome would differ if the reason were wrong (replace the log probability by a logit difference: if the bend goes, it was the softmax at the end; freeze the later attention patterns; look at the same head on ten prompts); 1 for a measurement that could only agree.
#
# **An answer of full marks** need not find a large error. Honest negative results count: twenty heads patched, none off by two, the worst one explained.
#
# **What goes wrong.** The head is chosen because its curve is pretty. The ten others are the next ten of the estimate, so that an overlooked head cannot be found. The reason restates the curve ("it saturates because it bends").

# %% [raw]
# # END SOLUTION

# %% [raw]
# # END QUESTION

# %%
# Your curve goes here.
