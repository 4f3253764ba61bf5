# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 5. Stress
#
# So far you have learnt what attribution patching (AP) does. In this set you try to break it, and then to say what may be said. You build the three
# failures that have names, and a diagnosis that is not taken in by symptoms; you see what a corruption does to one head; you judge a claim by a rule that was
# written down first; you bound what a search has missed; and you go hunting for the head that AP misjudges most.
#
# **You need** chapters 14, 15 and 16 of the book, and chapter 9 for exercise 5.6. **Time**: about three hours. **Points**: 40.
#
# Every exercise stands alone: if one defeats you, go on with the next. Below each exercise is a check on a case small enough to
# do in your head; it says what is probably wrong. Other tests, on other numbers and prompts, are run when your work is marked. The last exercise has no right
# answer, and is read by a person. Cells that begin with `# See it` show what your function does; they do nothing until it is written.

# %%
# SETUP CELL

# %%
import contextlib
import math

import numpy as np
import otter
import scipy.stats
import torch
from torch.func import grad

from hvp_utils import PatchedMetric, PromptPair, load_model, reference_pair

grader = otter.Notebook("set5.ipynb")

# %% [markdown]
# ## 5.1 Three failures in three lines
#
# **Difficulty** ●●○○○ · **Time** 20 minutes · **Points** 4
#
# **Why it matters.** Three failures of AP have names, and all three fit in a line. Who can build a failure knows what it looks like from outside.
#
# Patch one component with strength $t$ and follow the metric $M(t)$; AP is the slope at 0. Write three functions of a tensor `t`, in operations that torch can differentiate.
#
# 1. `saturated(t, p, value)`. A head reads one of two tokens, by a softmax of two scores. In the base run it reads token A with probability `p`, at $t = 1$ token B
#    with probability `p`; in between the *difference of the scores* moves in a straight line. Token A is worth 0 and token B is worth `value`; the metric is the mean worth.
# 2. `cancelling(t, direct, indirect, over)`. The sum of a direct effect, linear in $t$ and `direct` at $t = 1$, and of an indirect one, a parabola that begins at 0 and ends at
#    `indirect`, whose slope at 0 is `(1 + over) * indirect`.
# 3. `stepped(t, width)`. A sigmoid that rises from nearly 0 to nearly 1, with its middle at $t = 1/2$; `width` is what $t$ must move for its argument to move by 1.
#
# <details><summary>Hint</summary>
#
# A softmax of two scores is a sigmoid of their difference. Which difference gives A the probability `p`? And at the end?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The difference that gives `p` is $\ell = \ln (p / (1 - p))$, and it moves from $\ell$ to $-\ell$. A parabola $a t + b t^2$ has the slope $a$ at 0 and ends at $a + b$.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 4

# %% [raw]
# # BEGIN SOLUTION


# %%
def saturated(t, p, value):
    """Mean worth of what a head reads, on the way from token A to token B."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    logit = math.log(p / (1 - p))
    return value * torch.sigmoid((2 * t - 1) * logit)
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.1 is yours to write.")
    """ # END PROMPT


def cancelling(t, direct, indirect, over):
    """A direct effect, and an indirect one whose slope at 0 is too large."""
    # BEGIN SOLUTION NO PROMPT
    return direct * t + indirect * ((1 + over) * t - over * t**2)  # canary-answer-key
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.1 is yours to write.")
    """ # END PROMPT


def stepped(t, width):
    """A step in the middle of the path."""
    # BEGIN SOLUTION NO PROMPT
    return torch.sigmoid((t - 0.5) / width)  # canary-answer-key
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.1 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** The slope of the first at 0 is $2 \ell\, p (1 - p)$ times the value: $p (1 - p)$ is the slope of a softmax, and next to nothing near 0 and 1. If the
# *probability* moved in a straight line, AP would be exact; it is the scores that are patched. In the second an error of `over` in one part becomes an error of
# `over * indirect` in a total that may be far smaller. The third has no reason at all: a flat beginning is what it looks like, not why.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: beginnings, middles and ends
points: 1
hidden: false
""" # END TEST CONFIG
def test_paths(saturated, cancelling, stepped):
    import torch

    def at(path, t, *how):
        return round(float(path(torch.tensor(t, dtype=torch.double), *how)), 4)

    assert at(saturated, 0.0, 0.9, 10.0) != 9, "At t = 0 the head reads A, which is worth nothing. Are A and B interchanged?"
    assert at(saturated, 0.0, 0.9, 10.0) == 1, "At t = 0 B is read with probability 0.1 and worth 10: that makes 1."
    assert at(saturated, 1.0, 0.9, 10.0) == 9, "At t = 1 B is read with probability 0.9 and worth 10: that makes 9."
    quarter = at(saturated, 0.25, 0.9, 10.0)
    assert quarter != 3, "At t = 1/4 you give 3: the probability moves in a straight line. Move the difference of the scores."
    assert quarter == 2.5, f"At t = 1/4 the odds of A are 9 to the power 1/2, so B has probability 1/4: 2.5, not {quarter}."
    assert at(cancelling, 1.0, 5.0, -4.8, 0.1) == 0.2, "At t = 1 the effects are 5 and -4.8, whatever the slope was at first."
    half = at(cancelling, 0.5, 5.0, -4.0, 0.5)
    assert half != 0.5, "At t = 1/2 the indirect effect is on its chord: the slope at 0 must be (1 + over) times indirect."
    assert half == 0, f"At t = 1/2 the effects are 2.5 and -4 (1.5/2 - 0.5/4) = -2.5: 0, not {half}."
    assert at(stepped, 0.5, 0.1) == 0.5, "The middle of the step is at t = 1/2."
    assert at(stepped, 0.0, 0.1) != round(1 / (1 + 2.718281828**0.05), 4), "Divide by the width; do not multiply."
    assert at(stepped, 0.0, 0.1) == 0.0067, "At t = 0 and width 0.1 the argument is -5."

# %%
""" # BEGIN TEST CONFIG
name: attention, other numbers
points: 1
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_saturated(saturated):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 51)
    for _ in range(5):
        p, value = 0.55 + 0.44 * torch.rand(1, generator=rng).item(), torch.randn(1, generator=rng).item()
        t = torch.rand(4, generator=rng, dtype=torch.double).requires_grad_()
        score = (torch.tensor(p).double().logit() * (1 - 2 * t)).unsqueeze(-1)
        right = value * torch.cat([score, torch.zeros_like(score)], -1).softmax(-1)[:, 1]
        found = saturated(t, p, value)
        assert torch.allclose(found, right, atol=1e-5)
        slopes = [torch.autograd.grad(out.sum(), t)[0] for out in (found, right)]
        assert torch.allclose(*slopes, atol=1e-4)

# %%
""" # BEGIN TEST CONFIG
name: cancellation, other numbers
points: 1
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_cancelling(cancelling):
    import torch
    from torch.func import grad

    rng = torch.Generator().manual_seed(TEACHER_SEED + 52)
    for _ in range(5):
        direct, indirect, over = torch.randn(3, generator=rng, dtype=torch.double)
        zero, one = torch.tensor([0.0, 1.0], dtype=torch.double)
        M = lambda t: cancelling(t, direct, indirect, over)  # noqa: E731
        assert torch.allclose(M(zero), zero, atol=1e-9)
        assert torch.allclose(M(one), direct + indirect)
        assert torch.allclose(grad(M)(zero), direct + (1 + over) * indirect)
        assert torch.allclose(grad(grad(M))(one * 0.3), -2 * over * indirect)

# %%
""" # BEGIN TEST CONFIG
name: steps of other widths
points: 1
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_stepped(stepped):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 53)
    t = torch.rand(6, generator=rng, dtype=torch.double)
    for width in (0.02 + torch.rand(4, generator=rng, dtype=torch.double)).tolist():
        assert torch.allclose(stepped(t, width), 1 / (1 + ((0.5 - t) / width).exp()))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it
with contextlib.suppress(NotImplementedError):
    begin, end = (torch.tensor(t, dtype=torch.double) for t in (0.0, 1.0))
    paths = {
        "saturated": lambda t: saturated(t, 0.998, 1.0),
        "cancelling": lambda t: cancelling(t, 5.0, -4.8, 0.0625),
        "stepped": lambda t: stepped(t, 0.05),
    }
    for name, path in paths.items():
        slope, bend = grad(path)(begin), grad(grad(path))(begin) / 2
        print(f"{name:10}  true {path(end) - path(begin):+.3f}  AP {slope:+.3f}  with curvature {slope + bend:+.3f}")

# %% [markdown]
# ## 5.2 A symptom is not a cause
#
# **Difficulty** ●●●●○ · **Time** 35 minutes · **Points** 6
#
# **Why it matters.** Saturated attention is easy to see, and mostly innocent. A diagnosis has to ask what makes the *error*, not what looks suspicious.
#
# The path of a component is given by three functions that torch can differentiate, `t` being a tensor of one number, of type `torch.float64`. `pattern(t)` is the attention probability that a later head, which reads this component, gives to the token
# it favours in the base run. `metric(t, p)` is the metric if that probability is `p`; so $M(t) =$ `metric(t, pattern(t))`. `direct(t)` is the direct part of $M$. With $f = M(1) - M(0)$, AP's estimate $M'(0)$ and the error $E = f - M'(0)$, the direct effect
# $d =$ `direct(1) - direct(0)` and the indirect effect $i = f - d$, write
# `verdict(metric, pattern, direct)`. It returns the *first* of these that holds:
#
# | verdict | rule |
# | --- | --- |
# | `"well judged"` | $\lvert E\rvert \le 0.1\,\lvert f\rvert$ |
# | `"attention saturation"` | the pattern starts at 0.95 or more, differs at $t = 1$ by 0.1 or more from what it was at 0, and *accounts for* the error: replace it by its tangent at 0, $p(0) + t\,p'(0)$, and at least half of $E$ is gone |
# | `"effect cancellation"` | $d$ and $i$ have opposite signs, $\lvert d\rvert + \lvert i\rvert \ge 5\,\lvert f\rvert$, and $\lvert E\rvert \le 0.1\,(\lvert d\rvert + \lvert i\rvert)$ |
# | `"zero gradient"` | $\lvert M'(0)\rvert$ is at most a tenth of the mean of $\lvert M'(t)\rvert$ over $t = 0.1, 0.3, 0.5, 0.7, 0.9$ |
# | `"none of the three"` | |
#
# *At least half of $E$ is gone*: with $E'$ the error of the path with the tangent, $(E - E')/E \ge \tfrac12$. The quotient may be negative, or above 1.
#
# <details><summary>Hint</summary>
#
# `torch.func.grad` gives slopes. With the tangent in place of the pattern you have another path; compute its error in the same way, with the same function.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Write a helper `effect_and_slope(path)`. With `E` and the error `E_line` of the path with the tangent, the part of the pattern is `(E - E_line) / E`.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 6

# %% [raw]
# # BEGIN SOLUTION


# %%
def verdict(metric, pattern, direct):
    """The first of the five verdicts that holds for a path."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.double)

    def effect_and_slope(path):
        return path(one) - path(zero), grad(path)(zero)

    def M(t):
        return metric(t, pattern(t))

    start, tilt = pattern(zero), grad(pattern)(zero)
    f, slope = effect_and_slope(M)
    f_line, slope_line = effect_and_slope(lambda t: metric(t, start + t * tilt))
    error = f - slope
    if abs(error) <= 0.1 * abs(f):
        return "well judged"
    part = (error - (f_line - slope_line)) / error
    if start >= 0.95 and abs(pattern(one) - start) >= 0.1 and part >= 0.5:
        return "attention saturation"
    d = direct(one) - direct(zero)
    sizes = abs(d) + abs(f - d)
    if d * (f - d) < 0 and sizes >= 5 * abs(f) and abs(error) <= 0.1 * sizes:
        return "effect cancellation"
    along = torch.stack([grad(M)(t * one).abs() for t in (0.1, 0.3, 0.5, 0.7, 0.9)])
    return "zero gradient" if abs(slope) <= 0.1 * along.mean() else "none of the three"
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.2 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** A tangent has no curvature, so what disappears with it is what the pattern's curvature made. The book's `diagnose` does the same with every kind of operation of a
# real network. The order matters: saturation is a cause, cancellation a structure, and a zero gradient only says what the path looks like; every strongly saturated path has one. The 0.95
# alone decides nothing: where nobody listens to the head, its pattern may do what it likes.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: one path of each kind
points: 1
hidden: false
""" # END TEST CONFIG
def test_kinds(verdict):
    import torch

    def leaves(t):
        return torch.sigmoid(4.6 * (1 - 2 * t))  # from 0.99 to 0.01

    def stays(t):
        return 0.5 + 0 * t

    found = verdict(lambda t, p: 3 * t, leaves, lambda t: 3 * t)
    assert found == "well judged", f"On a straight path AP is exact, whatever the pattern does; you say {found!r}."
    found = verdict(lambda t, p: 1 - p, leaves, lambda t: 1 - leaves(t))
    assert found != "zero gradient", "It has a zero gradient, and a cause for it: saturation comes first."
    assert found == "attention saturation", f"All of this error comes from a pattern that leaves 0.99; you say {found!r}."
    found = verdict(lambda t, p: t + t**2 + 0.01 * (1 - p), leaves, lambda t: t + t**2)
    assert found != "attention saturation", "The pattern is saturated and leaves, but the error is that of t**2. A symptom is not a cause: put the tangent in."
    assert found == "none of the three", f"This error comes from t**2: none of the three; you say {found!r}."
    found = verdict(lambda t, p: 5 * t - 5.1 * t + 0.3 * t**2, stays, lambda t: 5 * t)
    assert found == "effect cancellation", f"+5 and -4.8 are cancellation; you say {found!r}."
    found = verdict(lambda t, p: torch.sigmoid(20 * t - 10), stays, lambda t: torch.sigmoid(20 * t - 10))
    assert found == "zero gradient", f"A step without saturation or cancellation is a zero gradient; you say {found!r}."

# %%
""" # BEGIN TEST CONFIG
name: paths drawn at random
points: 3
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_random(verdict):
    import torch
    from torch.func import grad

    from hvp_utils.diagnosis import criteria as rules

    rng = torch.Generator().manual_seed(TEACHER_SEED + 54)
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.double)
    seen = set()
    for kind in range(60):
        logit, w, a, b, c, s = torch.randn(6, generator=rng, dtype=torch.double)
        logit = 2 + 4 * torch.rand(1, generator=rng, dtype=torch.double)[0]
        if kind % 3 == 0:
            w, b = 8 * w, 0.1 * b
        if kind % 3 == 1:
            a, c, w = 5 + a, -(5 + a) * (0.95 + 0.05 * c.tanh()), 0.05 * w
            b, s = 0.2 * b, 0 * s

        def pattern(t):
            return torch.sigmoid(logit * (1 - 2 * t))

        def direct(t):
            return a * t

        def metric(t, p):
            return a * t + c * t + b * t**2 + w * (1 - p) + s * torch.sigmoid(12 * t - 6)

        def M(t):
            return metric(t, pattern(t))

        p0, p1 = pattern(zero), pattern(one)
        line = metric(one, p0 + grad(pattern)(zero)) - metric(zero, p0)
        f, slope = M(one) - M(zero), grad(M)(zero)
        along = torch.stack([grad(M)(t * one).abs() for t in (0.1, 0.3, 0.5, 0.7, 0.9)]).mean()
        leaves = p0 >= rules.SATURATED and p0 - p1 >= rules.CHANGED
        if abs(f - slope) <= rules.MISJUDGED * abs(f):
            right = rules.NO_FAILURE
        elif rules.is_saturation(f - slope, f - line, float(leaves)):
            right = rules.SATURATION
        elif rules.is_cancellation(a, f - a, f - slope):
            right = rules.CANCELLATION
        elif rules.is_zero_gradient(slope, along):
            right = rules.ZERO_GRADIENT
        else:
            right = rules.OTHER
        seen.add(right)
        assert verdict(metric, pattern, direct) == right
    assert len(seen) >= 4

# %%
""" # BEGIN TEST CONFIG
name: paths that look like what they are not
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_decoys(verdict):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 55)
    for _ in range(4):
        x = torch.rand(1, generator=rng, dtype=torch.double)[0]

        def hardly(t):  # saturated, the cause of the error, but it does not leave
            return 0.99 - 0.06 * t**3 - 0.01 * t

        found = verdict(lambda t, p: (20 + x) * (1 - p), hardly, lambda t: t)
        assert found == "none of the three", found

        def medium(t):  # leaves, is the cause, but was never saturated
            return 0.9 - (0.5 + 0.2 * x) * t**2 - 0.1 * t

        found = verdict(lambda t, p: 1 - p, medium, lambda t: 1 - medium(t))
        assert found == "none of the three", found
        found = verdict(lambda t, p: (1 + x) * (2.2 * t - t**2) + 0 * p, medium, lambda t: -3 * t)
        assert found == "none of the three", found  # opposite signs that do not cancel

        def goes(t):  # its curvature works against the error
            return torch.sigmoid(4.6 * (1 - 2 * t))

        found = verdict(lambda t, p: p + (6 + x) * t**2 + t, goes, lambda t: t)
        assert found == "none of the three", found

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## 5.3 One head under three corruptions
#
# **Difficulty** ●●●○○ · **Time** 25 minutes · **Points** 6
#
# **Why it matters.** "The effect of a head" means nothing until one says what its output was replaced by. Neither does "AP is off by 30 %".

# %%
model = load_model("smollm2-135m")
pair = reference_pair()
tokens = pair.resolve(model)
print(pair.clean, "|", pair.corrupted)

# %% [markdown]
# We start from the *clean* run, and replace the output of one head. Write `head_effect(model, tokens, metric, layer, head, replacement)`:
#
# * `tokens` are token ids `[pos]`, a batch of one is `tokens[None]`; `metric` takes logits at the last position, `[batch, d_vocab]`, and gives one number for each;
# * the outputs of a layer's heads are the activation `blocks.{layer}.attn.hook_z`, of shape `[batch, pos, head, d_head]`;
# * `replacement [pos, d_head]` is what the head writes instead, at all positions.
#
# Return two numbers (floats): the *exact* effect, the metric with the replacement less the metric without, and *AP's estimate* of it: the gradient of the metric at the head's output, times
# what the replacement changes.
#
# <details><summary>Hint</summary>
#
# A hook is a function `f(z, hook)` that gives the new activation: `model.run_with_hooks(tokens[None], fwd_hooks=[(name, f)])`. Clone before you write into an activation.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# One function does both: `run(t)`, in which the hook adds `t * (replacement - z)` at the head. The effect is `run(1) - run(0)`, and AP is its derivative at 0. For that `t` must be a tensor with
# `requires_grad=True`, and the `z` in the difference must be detached.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 6

# %% [raw]
# # BEGIN SOLUTION


# %%
def head_effect(model, tokens, metric, layer, head, replacement):
    """Exact effect, and AP's estimate, of replacing one head's output [pos, d_head]."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    def run(t):
        def patch(z, hook):
            z = z.clone()
            z[0, :, head] = z[0, :, head] + t * (replacement - z[0, :, head].detach())
            return z

        name = f"blocks.{layer}.attn.hook_z"
        logits = model.run_with_hooks(tokens[None], fwd_hooks=[(name, patch)])
        return metric(logits[:, -1])[0]

    t = torch.tensor(0.0, requires_grad=True)
    base = run(t)
    (slope,) = torch.autograd.grad(base, t)
    with torch.no_grad():
        return (run(1.0) - base).item(), slope.item()
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.3 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** With `t` the patch is a path from the head's own output to the replacement. Its ends give the effect, its slope at 0 the estimate; by the chain rule that slope is
# the gradient at the head's output times the change. Nothing in it depends on where the replacement comes from: another prompt, noise or zeros. The base run is always the clean one, so zero ablation needs no
# second prompt, and effects of heads that help are negative.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: replacements of which the answer is known
points: 1
hidden: false
""" # END TEST CONFIG
def test_known_replacements(head_effect, model):
    import torch

    from hvp_utils.tasks import reference_pair

    tokens = reference_pair().resolve(model)
    name = "blocks.20.attn.hook_z"
    with torch.no_grad():
        own, other = (
            model.run_with_cache(ids[None], names_filter=name)[1][name][0, :, 0].clone()
            for ids in (tokens.clean, tokens.corrupted)
        )
    exact, ap = head_effect(model, tokens.clean, tokens.metric, 20, 0, own)
    assert abs(exact) < 1e-3, (
        f"Replacing a head's output by itself changes the metric by {exact:.3f}. Did you replace that of other heads too, or forget to subtract the base run?"
    )
    assert abs(ap) < 1e-3, f"Nothing was changed, so AP is 0 and not {ap:.3f}. Multiply the gradient by the change, not by the replacement."
    short, ap_short = head_effect(model, tokens.clean, tokens.metric, 20, 0, own + 0.02 * (other - own))
    full, ap_full = head_effect(model, tokens.clean, tokens.metric, 20, 0, other)
    assert ap_full * ap_short > 0 and abs(ap_full - 50 * ap_short) < 0.02 * abs(ap_full), (
        "AP is linear in the change: a fiftieth of the change must have a fiftieth of the estimate."
    )
    assert not abs(short + ap_short) < 0.1 * abs(short), "For a tiny change the effect and AP's estimate must agree, and yours have opposite signs."
    assert abs(short - ap_short) < 0.1 * abs(short), f"For a tiny change AP is nearly exact, but you give {short:.5f} and {ap_short:.5f}."
    assert full < 0, (
        f"The head helps, so without what it writes the metric falls; yours changes by {full:+.3f}. The effect is the metric with the replacement less the metric without."
    )
    assert abs(full - ap_full) > 1e-3, "For the whole change AP is not exact. Did you return the same number twice?"

# %%
""" # BEGIN TEST CONFIG
name: exact effects on other prompts
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_exact(head_effect, model):
    import torch

    from hvp_utils.estimators import activation_patching
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts

    rng = torch.Generator().manual_seed(TEACHER_SEED + 56)
    for task in ("ioi", "ioi_random_token", "ioi_zero"):
        pair = make_prompts(task, model, 1, seed=TEACHER_SEED + 57)[0]
        tokens = pair.resolve(model)
        M = PatchedMetric(model, pair, direction="noising")
        c = int(torch.randint(9 * 15, 9 * 28, (1,), generator=rng))
        layer, head = divmod(c, model.cfg.n_heads)
        name = f"blocks.{layer}.attn.hook_z"
        ids = tokens.clean if tokens.corrupted is None else tokens.corrupted
        with torch.no_grad():
            z = model.run_with_cache(ids[None], names_filter=name)[1][name][0, :, head].clone()
        if tokens.corrupted is None:
            z = torch.zeros_like(z)
        right = float(activation_patching(M, [c])[0])
        exact, _ = head_effect(model, tokens.clean, tokens.metric, layer, head, z)
        assert abs(exact - right) < 1e-3 + 2e-3 * abs(right)

# %%
""" # BEGIN TEST CONFIG
name: estimates on other prompts
points: 3
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_estimates(head_effect, model):
    import torch

    from hvp_utils.estimators import attribution_patching
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts

    for task in ("ioi", "ioi_random_token", "ioi_zero"):
        pair = make_prompts(task, model, 1, seed=TEACHER_SEED + 58)[0]
        tokens = pair.resolve(model)
        estimates = attribution_patching(PatchedMetric(model, pair, direction="noising")).cpu()
        c = int(estimates.abs().argmax())
        layer, head = divmod(c, model.cfg.n_heads)
        name = f"blocks.{layer}.attn.hook_z"
        ids = tokens.clean if tokens.corrupted is None else tokens.corrupted
        with torch.no_grad():
            z = model.run_with_cache(ids[None], names_filter=name)[1][name][0, :, head].clone()
        if tokens.corrupted is None:
            z = torch.zeros_like(z)
        _, ap = head_effect(model, tokens.clean, tokens.metric, layer, head, z)
        assert abs(ap - float(estimates[c])) < 1e-3 + 2e-3 * abs(float(estimates[c]))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it
with contextlib.suppress(NotImplementedError):
    layer, head = 20, 0
    hook = f"blocks.{layer}.attn.hook_z"
    z, z_swap = (
        model.run_with_cache(ids[None], names_filter=hook)[1][hook][0, :, head].detach().clone()
        for ids in (tokens.clean, tokens.corrupted)
    )
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    ways = {"name swap": z_swap, "zeros": torch.zeros_like(z), "noise as large": noise * z.std()}
    for way, written in ways.items():
        exact, ap = head_effect(model, tokens.clean, tokens.metric, layer, head, written)
        print(f"L{layer}H{head}, {way:15} exact {exact:+.3f}  AP {ap:+.3f} nats")

# %% [markdown]
# ## 5.4 A claim, a rule, a verdict
#
# **Difficulty** ●●○○○ · **Time** 15 minutes · **Points** 5
#
# **Why it matters.** "The method is better" cannot fail. It can once the rule is written down before anyone measures.
#
# The claim: *the method has smaller errors than AP*. The rule: the claim `"holds"` if on *every* model the 95 % interval of the mean difference, method less AP, lies below 0; it `"holds partly"` if on some
# model it does; otherwise it `"does not hold here"`.
#
# Write `judge(method, ap, draws)`. `method` and `ap` are dictionaries from a model's name to its errors, one a prompt, on the *same* prompts in the same order (numpy arrays `[n]`). `draws` is an array `[resample, n]` of prompt
# numbers: each row is one bootstrap sample of the prompts, the same for all models. Return `(intervals, verdict)`: a dictionary from the model's name to `(low, high)`, the 2.5 and 97.5 percentiles (`np.quantile`) of the resampled means
# of the difference, and the verdict.
#
# <details><summary>Hint</summary>
#
# Keep the pairs together: take the difference prompt by prompt, and resample that.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `difference[draws]` has the shape of `draws`; the mean goes along its rows. An interval lies below 0 if its *upper* end does.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 5

# %% [raw]
# # BEGIN SOLUTION


# %%
def judge(method, ap, draws):
    """Intervals of the mean difference for each model, and the verdict on the claim."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    intervals = {}
    for name in method:
        means = (method[name] - ap[name])[draws].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    below = [high < 0 for _, high in intervals.values()]
    return intervals, "holds" if all(below) else "holds partly" if any(below) else "does not hold here"
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.4 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Prompts differ far more than methods do: a hard prompt is hard for both. Subtracting first removes what they share, and the interval shrinks by as much. Two intervals, one for
# each method, may overlap although the method wins on every single prompt. A mean below 0 is not the rule; the interval is. And "partly" is not a consolation prize: it says that the claim depends on the model.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: three prompts
points: 1
hidden: false
""" # END TEST CONFIG
def test_three_prompts(judge):
    import numpy as np

    ap = {"A": np.array([10.0, 20.0, 60.0]), "B": np.array([1.0, 2.0, 3.0])}
    better = {"A": ap["A"] - 1, "B": ap["B"] - 0.5}
    draws = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 1, 2]])
    intervals, said = judge(better, ap, draws)
    low, high = (round(float(x), 6) for x in intervals["A"])
    assert (low, high) != (1, 1), "The difference is method less AP: negative where the method is better."
    assert high - low < 1, (
        "The method is better by exactly 1 on every prompt, and your interval is wide. Were the two methods resampled apart? Take the difference first."
    )
    assert (low, high) == (-1, -1), f"The difference is -1 on every prompt, and so are both ends, not {low, high}."
    assert said == "holds", f"Both intervals lie below 0, so the claim holds; you say {said!r}."
    assert judge({"A": ap["A"] - 1, "B": ap["B"] + 1}, ap, draws)[1] == "holds partly", "Below 0 on one model only: it holds partly."
    said = judge({"A": ap["A"] + 1, "B": ap["B"] + 1}, ap, draws)[1]
    assert said == "does not hold here", f"Worse on both models, and you say {said!r}."

# %%
""" # BEGIN TEST CONFIG
name: intervals of other errors
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_intervals(judge):
    import numpy as np

    from hvp_utils.stats import paired_bootstrap

    for k in range(3):
        rng = np.random.default_rng(TEACHER_SEED + 59 + k)
        n = int(rng.integers(5, 20))
        ap = {name: rng.gamma(2.0, 5.0, n) for name in ("P", "Q")}
        method = {name: errors * rng.uniform(0.5, 1.2, n) for name, errors in ap.items()}
        draws = np.random.default_rng(k).integers(n, size=(1000, n))
        intervals, _ = judge(method, ap, draws)
        for name in ap:
            right = paired_bootstrap(method[name], ap[name], seed=k)
            assert np.allclose(intervals[name], (right.low, right.high))

# %%
""" # BEGIN TEST CONFIG
name: verdicts where the mean misleads
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_verdicts(judge):
    import numpy as np

    from hvp_utils.claims import verdict
    from hvp_utils.stats import paired_bootstrap

    rng = np.random.default_rng(TEACHER_SEED + 62)
    n = 12
    draws = np.random.default_rng(0).integers(n, size=(1000, n))
    sure, unsure = -1 + 0.1 * rng.random(n), np.where(np.arange(n) == 3, -8.0, 0.5) + 0.1 * rng.random(n)
    worse = 1 + rng.random(n)
    for first, second in ((sure, unsure), (unsure, unsure), (sure, sure), (worse, sure), (unsure, worse)):
        ap = {name: rng.gamma(2.0, 5.0, n) for name in "PQ"}
        method = {"P": ap["P"] + first, "Q": ap["Q"] + second}
        below = [paired_bootstrap(method[name], ap[name], seed=0).high < 0 for name in ap]
        assert judge(method, ap, draws)[1] == verdict(all(below), any(below))

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## 5.5 What did the search miss?
#
# **Difficulty** ●●●●○ · **Time** 25 minutes · **Points** 6
#
# **Why it matters.** A list of the largest effects is worth as much as what can be said of those that are not on it. Random subsets can say it, for all components at once.
#
# Patch $m$ random subsets of $k$ of the $n$ components, each subset together. `members [m, n]` says who was in which (`bool`, $k$ in every row), and `Y [m]` what the metric did. For component $c$ compare the subsets with it and those without
# it:
#
# $$\hat f_c = \bar Y_\text{with} - \frac{k - 1}{k}\, \bar Y_\text{without}.$$
#
# The factor is there since subsets without $c$ hold one more of the *others*: $k$ instead of $k - 1$. With the variances $v$ of the two groups (dividing by their number less 1), their numbers $N$, and
#
# $$A = \frac{v_\text{with}}{N_\text{with}}, \qquad B = \Big(\frac{k - 1}{k}\Big)^2 \frac{v_\text{without}}{N_\text{without}}, \qquad s = \sqrt{A + B}, \qquad \nu = \frac{(A + B)^2}{A^2 / (N_\text{with} - 1) + B^2 / (N_\text{without} - 1)},$$
#
# the one-sided bound of $c$ is $\lvert \hat f_c \rvert + s\, t_\nu$, with $t_\nu$ the quantile of Student's $t$ at `confidence` and $\nu$ degrees of freedom. The largest of these bounds holds for all. Write `missed(members, Y, confidence=0.95)` and return
# `(estimates [n], bound)`. Both arguments are torch tensors, `Y` in double precision; every component is in and out of two subsets at least, and every group varies.
#
# <details><summary>Hint</summary>
#
# A loop over components is fine: `Y[members[:, c]]` and `Y[~members[:, c]]`. `.var()` of torch divides by the number less 1.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `scipy.stats.t.ppf(confidence, nu)` is the one-sided quantile. (The two-sided one would take `(1 + confidence) / 2`.)
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 6

# %% [raw]
# # BEGIN SOLUTION


# %%
def missed(members, Y, confidence=0.95):
    """Estimates [n] from random subsets, and the bound on the largest |effect|."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    k = int(members[0].sum())
    fewer = (k - 1) / k
    estimates, bounds = [], []
    for inside in members.T:
        with_c, without = Y[inside], Y[~inside]
        estimate = with_c.mean() - fewer * without.mean()
        a, b = with_c.var() / len(with_c), fewer**2 * without.var() / len(without)
        nu = (a + b) ** 2 / (a**2 / (len(with_c) - 1) + b**2 / (len(without) - 1))
        quantile = scipy.stats.t.ppf(confidence, nu.item())
        estimates.append(estimate)
        bounds.append(estimate.abs() + (a + b).sqrt() * quantile)
    return torch.stack(estimates), max(bounds).item()
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.5 is yours to write.")
    """ # END PROMPT


# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** Where effects add up, a subset with $c$ has the mean $f_c + (k - 1) \mu$ and one without it $k \mu$, with $\mu$ the mean effect of the others; the factor makes $\mu$ drop out. The rest is Welch's test. The largest bound needs no correction for the
# number of components: the promise concerns the *one* component whose true effect is largest, and its own bound is below the largest one. Where components interact, the estimate is an effect on top of a random subset, which is
# not the effect alone.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: effects that add up
points: 1
hidden: false
""" # END TEST CONFIG
def test_additive(missed):
    import itertools

    import torch

    effects = torch.tensor([3.0, 1.0, 0.0, -1.0], dtype=torch.double)
    rows = [[c in pair for c in range(4)] for pair in itertools.combinations(range(4), 2)]
    members = torch.tensor(rows)  # every pair of four components
    estimates, bound = missed(members, members.double() @ effects)
    found = [round(float(e), 3) for e in estimates]
    assert found != [3, 0.333, -1, -2.333], (
        "That is the plain difference of means. Subsets without c hold one more of the others: use the factor (k - 1) / k."
    )
    assert found == [3, 1, 0, -1], f"The effects are [3, 1, 0, -1], and they add up; you find {found}."
    wrong = {
        5.325: "That is the two-sided quantile: a bound from above needs the one-sided one.",
        4.251: "Variances divide by the number less 1.",
        3.0: "That is the largest estimate. Add what chance may hide: s times the quantile.",
    }
    assert round(float(bound), 3) not in wrong, wrong[round(float(bound), 3)]
    assert abs(bound - 4.5316) < 1e-3, f"The first component has the largest bound, 4.532; you give {float(bound):.3f}."

# %%
""" # BEGIN TEST CONFIG
name: subsets drawn at random
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_estimates(missed):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 63)
    for n, k in ((12, 3), (20, 5)):
        order = torch.rand(200, n, generator=rng).argsort(1)
        members = order < k
        Y = members.double() @ torch.randn(n, generator=rng, dtype=torch.double)
        Y += torch.randn(200, generator=rng, dtype=torch.double)
        with_c = torch.stack([Y[members[:, c]].mean() for c in range(n)])
        without = torch.stack([Y[~members[:, c]].mean() for c in range(n)])
        assert torch.allclose(missed(members, Y)[0], with_c - (k - 1) / k * without)

# %%
""" # BEGIN TEST CONFIG
name: the heads of a network
points: 3
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_bounds(missed):
    import torch

    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.planted import planted_model
    from hvp_utils.reliability import missed_bound
    from hvp_utils.tasks import PromptPair

    rng = torch.Generator().manual_seed(TEACHER_SEED + 64)
    model = planted_model(TEACHER_SEED + 65, n_layers=4, density=0.6).model
    clean, corrupted = torch.randint(40, (2, 6), generator=rng).tolist()
    drawn = []

    class Watched(PatchedMetric):
        def __call__(self, alpha):
            drawn.append((alpha, super().__call__(alpha)))
            return drawn[-1][1]

    M = Watched(model, PromptPair(clean, corrupted, answer=2))
    for confidence in (0.9, 0.95):
        drawn.clear()
        right = missed_bound(M, n_subsets=80, p=0.3, control=None, confidence=confidence)
        members = torch.cat([alpha for alpha, _ in drawn]).cpu() > 0
        Y = torch.cat([value for _, value in drawn]).double().cpu() - M.base
        used = members.any(0)
        for sign in (1, -1):
            estimates, bound = missed(members[:, used], sign * Y, confidence)
            assert torch.allclose(sign * estimates, right.estimates.cpu()[used], atol=1e-8)
            assert abs(bound - right.bound) < 1e-6

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Thirty components with small effects, one with 0.3, and noise. How often does the bound hold what it promises?

# %%
# See it
with contextlib.suppress(NotImplementedError):
    draw, held, bounds = torch.Generator().manual_seed(0), 0, []
    effects = 0.05 * torch.randn(30, generator=draw, dtype=torch.double)
    effects[7] = 0.3
    for _ in range(50):
        members = torch.rand(300, 30, generator=draw).argsort(1) < 3
        Y = members.double() @ effects + 0.2 * torch.randn(300, generator=draw, dtype=torch.double)
        bounds.append(missed(members, Y)[1])
        held += bounds[-1] >= 0.3
    print(f"The largest effect is 0.3. The bound is {np.mean(bounds):.2f} on average, and holds in {held} of 50 draws.")

# %% [markdown]
# ## 5.6 Find the head that AP misjudges
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 7
#
# **Why it matters.** To know all errors of AP one would have to patch everything, and then nobody needs AP. With a few patches one can still find the worst, if one knows where to look.
#
# Write `find_misjudged(slopes, product, patch, budget)`:
#
# * `slopes [n]` are AP's estimates of all components, a tensor;
# * `product(v)` gives the Hessian of $M$ times a vector `v [n]`: how fast all slopes change as the components are patched in proportion to `v`. You may call it up to four times;
# * `patch(c)` gives the exact effect of component number `c`, a float. You may call it up to `budget` times; `budget` is at most $n$.
#
# Return `(c, error)`: the number of the component that AP misjudges most *among those that you patched*, and the error there with its sign, exact effect less estimate. Two things are asked of your
# choice. A component with a large effect and a slope of 0 must not escape it. And on heads of SmolLM2, with 20 patches, the error that you find must be on average at least 70 % of the largest that there is.
#
# And give a prompt pair of your own, `my_pair`, for SmolLM2: two prompts of equal length in tokens and one answer token, whose log-probability is higher by a nat at least after the clean prompt than after the corrupted one. It must not be about people who give things to people (nor contain the word *gave*).
#
# <details><summary>Hint</summary>
#
# Two things make an error large: a large effect, which AP mostly sees, and a slope that moves as one goes. A head whose slope is 0 at the start may still do a lot.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For a vector `v` of random signs, the square of `product(v)[c]` is on average the squared length of row `c` of the Hessian. Patch the components with the largest `slopes.abs() + r`, where `r` is half the root of the mean of these squares.
#
# </details>

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 7

# %% [raw]
# # BEGIN SOLUTION


# %%
def find_misjudged(slopes, product, patch, budget):
    """The component with the largest |error| of AP among those patched, and its error."""
    # BEGIN SOLUTION NO PROMPT
    # canary-answer-key
    signs = torch.randint(2, (4, len(slopes)), generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = torch.stack([product(v.to(slopes)) for v in signs])
    r = rows.square().mean(0).sqrt() / 2
    chosen = (slopes.abs() + r).topk(budget).indices.tolist()
    errors = {c: patch(c) - slopes[c].item() for c in chosen}
    worst = max(errors, key=lambda c: abs(errors[c]))
    return worst, errors[worst]
    # END SOLUTION
    """ # BEGIN PROMPT
    raise NotImplementedError("5.6 is yours to write.")
    """ # END PROMPT


""" # BEGIN PROMPT
my_pair = None  # PromptPair(clean=..., corrupted=..., answer=...)
""" # END PROMPT
# BEGIN SOLUTION NO PROMPT
my_pair = PromptPair(  # canary-answer-key
    clean="The capital of France is Paris. The capital of Italy is Rome. The capital of France is",
    corrupted="The capital of France is Paris. The capital of Italy is Rome. The capital of Italy is",
    answer=" Paris",
)
# END SOLUTION

# %% [markdown]
# <!-- canary-answer-key -->
# **Why this is right.** AP alone puts components with a vanishing slope last, whatever they do at the end of the path. The length of a row of the Hessian says how far a slope moves when *anything* is patched, and four products estimate
# it for all components at once. It is a hint about where to look and no more: what is reported comes from exact patches. On SmolLM2 the largest errors sit on heads that AP thinks large, so its own ranking would do there; on
# the networks of the marking tests it would not, and beforehand one does not know which it is.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: six components that bend by themselves
points: 1
hidden: false
""" # END TEST CONFIG
def test_six(find_misjudged):
    import torch

    slopes, bends = torch.tensor([2.0, 1.0, 0.0, 3.0, -4.0, 5.0]), torch.tensor([0.1, 0.3, 0.4, 0.1, -3.0, 0.2])
    patched, products = [], []

    def patch(c):
        patched.append(int(c))
        return float(slopes[int(c)] + bends[int(c)])

    def product(v):
        products.append(v)
        return 2 * bends * v

    c, error = find_misjudged(slopes, product, patch, 3)
    assert len(patched) <= 3, f"You may patch 3 components, and patched {len(patched)}."
    assert len(products) <= 4, f"You may call product four times, and called it {len(products)} times."
    assert int(c) in patched, "The error of a component that was not patched is not known. Return one that you patched."
    assert int(c) == 4, f"With 3 patches number 4 can be found, which has the second largest slope and the longest row; you return number {int(c)}."
    assert abs(error - 7) > 1e-4 and abs(error + 7) > 1e-4, "That is the exact effect. The error is the effect less the estimate."
    assert abs(error - 3) > 1e-4, "The error is the exact effect less the estimate: yours has the other sign."
    assert abs(error + 3) < 1e-4, f"The effect is -7 and the estimate -4: the error is -3, not {error:g}."

# %%
""" # BEGIN TEST CONFIG
name: a prompt pair is there
points: 0
hidden: false
""" # END TEST CONFIG
def test_pair(my_pair):
    assert my_pair is not None, "my_pair is still None: give a PromptPair of your own."

# %%
""" # BEGIN TEST CONFIG
name: a component that AP does not see
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_quadratic(find_misjudged):
    import torch

    rng = torch.Generator().manual_seed(TEACHER_SEED + 66)
    for _ in range(5):
        n = 60
        slopes = torch.randn(n, generator=rng)
        H = 0.05 * torch.randn(n, n, generator=rng)
        H = H + H.T
        culprit = int(torch.randint(n, (1,), generator=rng))
        slopes[culprit], H[culprit, culprit] = 0.0, -9.0
        calls = {"patch": [], "product": 0}

        def product(v):
            calls["product"] += 1
            return H @ v

        def patch(c):
            calls["patch"].append(int(c))
            return float(slopes[int(c)] + H[int(c), int(c)] / 2)

        c, error = find_misjudged(slopes, product, patch, 8)
        assert len(calls["patch"]) <= 8 and calls["product"] <= 4
        assert int(c) == culprit and abs(error + 4.5) < 1e-4

# %%
""" # BEGIN TEST CONFIG
name: SmolLM2 on other prompts
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_heads(find_misjudged, model):
    import torch

    from hvp_utils.estimators import activation_patching, attribution_patching
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import make_prompts

    shares = []
    for pair in make_prompts("ioi", model, 3, seed=TEACHER_SEED + 67):
        M = PatchedMetric(model, pair)
        exact, slopes = activation_patching(M).cpu(), attribution_patching(M).cpu()
        asked = []

        def patch(c):
            asked.append(int(c))
            return float(exact[int(c)])

        c, error = find_misjudged(slopes, lambda v: M.hvp(v.to(M.delta_norm)).cpu(), patch, 20)
        assert len(asked) <= 20 and int(c) in asked
        assert abs(error - float(exact[int(c)] - slopes[int(c)])) < 1e-4
        shares.append(abs(error) / float((exact - slopes).abs().max()))
    assert sum(shares) / 3 > 0.7

# %%
""" # BEGIN TEST CONFIG
name: a prompt of your own
points: 2
hidden: true
""" # END TEST CONFIG
def test_canary_hidden_own_prompt(my_pair, model):
    from hvp_utils.patched_metric import PatchedMetric
    from hvp_utils.tasks import PromptPair

    assert isinstance(my_pair, PromptPair)
    assert " gave " not in my_pair.clean and my_pair.clean != my_pair.corrupted
    M = PatchedMetric(model, my_pair)
    assert M.other - M.base >= 1

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %%
# See it
with contextlib.suppress(NotImplementedError):
    M = PatchedMetric(model, my_pair or pair)
    slopes = M.gradient(torch.zeros(M.n).to(M.delta_norm)).detach()

    def patch(c):
        return float(M(torch.eye(M.n)[c].to(M.delta_norm))) - M.base

    c, error = find_misjudged(slopes, M.hvp, patch, 20)
    print(f"{M.labels[c]}: AP says {slopes[c]:+.3f}, the truth is {slopes[c] + error:+.3f} nats")

# %% [markdown]
# ## 5.7 Review a claim
#
# **Difficulty** ●●●●○ · **Time** 30 minutes · **Points** 6
#
# **Why it matters.** A reader of papers makes judgements of this kind every day, mostly without saying by which rule.
#
# Open the scoreboard of chapter 16: its evidence page, `notebooks/evidence/16_scoreboard.ipynb`, lists every claim with a rule, two numbers and a verdict. Choose one claim whose verdict is *holds partly* or *does
# not hold here*, and write a review in at most 300 words:
#
# 1. the claim in your own words, so that it can fail;
# 2. whether the rule is a fair reading of what the paper says, and a better one if not;
# 3. two reasons why the numbers here may differ from the paper's that do *not* make the paper wrong, and for each an experiment that would tell;
# 4. your verdict, and how sure you are.
#
# Marks: one point for each of 1 and 4, two for each of 2 and 3. Whether you agree with the book earns nothing.
#
# <details><summary>Hint</summary>
#
# Chapter 16 says under "Where this fails" in what the models here differ from those of the paper. Which of them could matter for *this* claim, and through what?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# An experiment that would tell has two outcomes, and you can say beforehand what you would conclude from each.
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
# **A good answer**, for a claim such as "HVP improves the top-5 error under every corruption": restates it as "on each of the paper's tasks the mean top-5 relative error of HVP is below that of AP, with a 95 % interval of the paired difference below 0"; notes that the paper reports
# medians of reductions and the rule here uses ratios of means; names size of the model (larger models may spread an effect over more heads, so each patch is shorter) with the experiment "the same rows on Pythia-410M and 1.4B: if the reduction grows with size, the model is the reason";
# names weights stored in four bits with the experiment "the same on weights of 16 bits; if the numbers agree within their intervals, it is not that"; ends with a verdict and a degree of belief that fits what was said.
#
# **Rubric** (6 points). 1: the claim can fail, with what is counted, on what, and what must come out. 2: the rule is judged against the paper's own words, with a quotation or a table; one of the two for a better rule without a reason. 2: two
# reasons, each with an experiment whose outcomes are said beforehand (one point each). 1: a verdict that follows from what was written, with its certainty. No point for agreeing or disagreeing with the book.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # END QUESTION
