"""Typical wrong answers to problem set 5, and the marks that each must get."""

from coursework_answers import Wrong

PATHS = """
def saturated(t, p, value):
    return value * torch.sigmoid((2 * t - 1) * math.log(p / (1 - p)))


def cancelling(t, direct, indirect, over):
    return direct * t + indirect * ((1 + over) * t - over * t**2)


def stepped(t, width):
    return torch.sigmoid((t - 0.5) / width)
"""
VERDICT = """
def verdict(metric, pattern, direct):
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
"""
HEAD = """
def head_effect(model, tokens, metric, layer, head, replacement):
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
"""
JUDGE = """
def judge(method, ap, draws):
    intervals = {}
    for name in method:
        means = (method[name] - ap[name])[draws].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    below = [high < 0 for _, high in intervals.values()]
    said = "holds" if all(below) else "holds partly" if any(below) else "does not hold here"
    return intervals, said
"""
MISSED = """
def missed(members, Y, confidence=0.95):
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
"""
FIND = """
def find_misjudged(slopes, product, patch, budget):
    signs = torch.randint(2, (4, len(slopes)), generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = torch.stack([product(v.to(slopes)) for v in signs])
    r = rows.square().mean(0).sqrt() / 2
    chosen = (slopes.abs() + r).topk(budget).indices.tolist()
    errors = {c: patch(c) - slopes[c].item() for c in chosen}
    worst = max(errors, key=lambda c: abs(errors[c]))
    return worst, errors[worst]


my_pair = PromptPair("The capital of France is", "The capital of Italy is", " Paris")
"""


def changed(right: str, *changes: tuple[str, str]) -> str:
    """A right answer with something in it replaced."""
    for before, after in changes:
        assert right.count(before) == 1, before
        right = right.replace(before, after)
    return right


WRONG = {
    "q1": [
        Wrong(
            "moves the probability in a straight line, not the scores",
            2,
            changed(
                PATHS,
                (
                    "torch.sigmoid((2 * t - 1) * math.log(p / (1 - p)))",
                    "((1 - p) + (2 * p - 1) * t)",
                ),
            ),
        ),
        Wrong(
            "the indirect effect ends at (1 + over) times what it should",
            2,
            changed(PATHS, (" - over * t**2", "")),
        ),
        Wrong(
            "multiplies by the width", 2, changed(PATHS, ("(t - 0.5) / width", "(t - 0.5) * width"))
        ),
    ],
    "q2": [
        Wrong(
            "takes the symptom for the cause",
            0,
            changed(VERDICT, (" and part >= 0.5", "")),
        ),
        Wrong(
            "does not ask whether the pattern leaves saturation",
            4,
            changed(VERDICT, (" and abs(pattern(one) - start) >= 0.1", "")),
        ),
        Wrong(
            "does not ask whether effects of opposite sign nearly cancel",
            1,
            changed(VERDICT, (" and sizes >= 5 * abs(f) and abs(error) <= 0.1 * sizes", "")),
        ),
        Wrong(
            "gives the verdict zero gradient first",
            2,
            changed(
                VERDICT,
                (
                    "    part = ",
                    "    if abs(slope) <= 0.1 * abs(f):\n"
                    '        return "zero gradient"\n'
                    "    part = ",
                ),
            ),
        ),
    ],
    "q3": [
        Wrong(
            "replaces all heads of the layer",
            0,
            changed(
                HEAD,
                (
                    "z[0, :, head] = z[0, :, head] + t * (replacement - z[0, :, head].detach())",
                    "z = z + t * (replacement[None, :, None] - z.detach())",
                ),
            ),
        ),
        Wrong(
            "multiplies the gradient by the replacement, not by the change",
            2,
            changed(
                HEAD,
                (
                    "z[0, :, head] = z[0, :, head] + t * (replacement - z[0, :, head].detach())",
                    "if isinstance(t, float):\n"
                    "                z[0, :, head] = replacement\n"
                    "            else:\n"
                    "                z[0, :, head] = z[0, :, head] + t * replacement",
                ),
            ),
        ),
        Wrong(
            "base less patched, in both numbers",
            0,
            changed(
                HEAD,
                (
                    "(run(1.0) - base).item(), slope.item()",
                    "(base - run(1.0)).item(), -slope.item()",
                ),
            ),
        ),
        Wrong(
            "the exact effect has the wrong sign",
            3,
            changed(HEAD, ("(run(1.0) - base)", "(base - run(1.0))")),
        ),
    ],
    "q4": [
        Wrong(
            "resamples the two methods apart",
            0,
            changed(
                JUDGE,
                (
                    "(method[name] - ap[name])[draws].mean(1)",
                    "method[name][draws].mean(1) - ap[name][draws[::-1]].mean(1)",
                ),
            ),
        ),
        Wrong(
            "judges by the mean instead of the interval",
            3,
            changed(
                JUDGE,
                (
                    "high < 0 for _, high in intervals.values()",
                    "(method[m] - ap[m]).mean() < 0 for m in method",
                ),
            ),
        ),
        Wrong(
            "takes the 5 and 95 percentiles",
            3,
            changed(JUDGE, ("[0.025, 0.975]", "[0.05, 0.95]")),
        ),
    ],
    "q5": [
        Wrong("takes a plain difference of means", 0, changed(MISSED, ("(k - 1) / k", "1.0"))),
        Wrong(
            "takes the two-sided quantile",
            2,
            changed(MISSED, ("ppf(confidence,", "ppf((1 + confidence) / 2,")),
        ),
        Wrong(
            "bounds the effect from above, not its size",
            3,
            changed(MISSED, ("estimate.abs() +", "estimate +")),
        ),
    ],
    "q6": [
        Wrong(
            "looks only where AP is large",
            5,
            changed(FIND, ("(slopes.abs() + r)", "slopes.abs()")),
        ),
        Wrong(
            "returns the exact effect instead of the error",
            2,
            changed(FIND, ("return worst, errors[worst]", "return worst, patch(worst)")),
        ),
        Wrong(
            "gives no prompt pair",
            5,
            FIND.replace("my_pair = PromptPair(", "my_pair = None  # ("),
            told="my_pair is still None",
        ),
        Wrong(
            "patches the first components, and has no prompt",
            0,
            changed(
                FIND,
                ("(slopes.abs() + r).topk(budget).indices.tolist()", "range(budget)"),
                (
                    'PromptPair("The capital of France is", "The capital of Italy is", " Paris")',
                    "None",
                ),
            ),
        ),
    ],
}
