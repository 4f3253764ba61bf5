"""Typical wrong answers to problem set 1, and the marks that each must get."""

from coursework_answers import Wrong

PATCH = """
def metric_at(model, base, other, answer, layer, head, t):
    name = f"blocks.{{layer}}.attn.hook_z"
    with torch.no_grad():
        z_base = model.run_with_cache(base, names_filter=[name])[1][name]
        z_other = model.run_with_cache(other, names_filter=[name])[1][name]
    difference = torch.zeros_like(z_base)
    difference[{where}] = (z_other - z_base)[{where}]
    hooks = [(name, lambda z, hook: z + t * difference)]
    logits = model.run_with_hooks({start}, fwd_hooks=hooks)
    return logits[0, -1].{score}(-1)[answer]
"""

ATTRIBUTION = """
def attribution(model, base, other, answer):
    names = [f"blocks.{{layer}}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    live = {{}}

    def keep(name):
        def hook(z, hook):
            live[name] = z if z.requires_grad else z.requires_grad_()
            return live[name]

        return hook

    with torch.no_grad():
        _, cache = model.run_with_cache(other, names_filter=names)
    logits = model.run_with_hooks(base, fwd_hooks=[(name, keep(name)) for name in names])
    metric = logits[0, -1]{score}[answer]
    gradients = torch.autograd.grad(metric, [live[name] for name in names])
    pairs = [(g, cache[name] - live[name].detach()) for g, name in zip(gradients, names)]
    return torch.cat([{row} for g, d in pairs])
"""

SCORED = ".log_softmax(-1)"

POWERS = """
def powers(g, value, slope, curvature, scales):
    import numpy as np

    s = np.array(scales)
    tangent = np.array([float(g(x)) for x in s]) - value - {slope}
    parabola = tangent - s**2 * curvature / 2
    return tuple(np.polyfit({fit}, 1)[0] for e in (tangent, parabola))
"""

WRONG = {
    "q1": [
        Wrong(
            "patches all heads of the layer",
            0,
            PATCH.format(where=":", start="base", score="log_softmax"),
        ),
        Wrong(
            "scores the probability",
            0,
            PATCH.format(where=":, :, head", start="base", score="softmax"),
        ),
        Wrong(
            "patches the last position only, which is all that the toy's answer depends on",
            1,
            PATCH.format(where=":, -1, head", start="base", score="log_softmax"),
        ),
        Wrong(
            "starts from the other run",
            0,
            PATCH.format(where=":, :, head", start="other", score="log_softmax"),
        ),
        Wrong(
            "returns a float, which cannot be differentiated",
            0,
            PATCH.format(where=":, :, head", start="base", score="log_softmax").rstrip()
            + ".item()\n",
            told="cannot be differentiated by t",
        ),
    ],
    "q2": [
        Wrong(
            "forgets the half",
            0,
            """
def readings(g):
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, t)
    return float(g(torch.ones_like(t)) - g(t)), float(slope), float(slope + curvature)
""",
        ),
        Wrong(
            "takes the slope at the end of the curve",
            0,
            """
def readings(g):
    t = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, t)
    return float(g(t) - g(torch.zeros_like(t))), float(slope), float(slope + curvature / 2)
""",
        ),
        Wrong(
            "differentiates the slope of a straight line, which depends on nothing",
            0,
            """
def readings(g):
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, t)
    return float(g(torch.ones_like(t)) - g(t)), float(slope), float(slope + curvature / 2)
""",
            told="A straight line ends in an error of autograd",
        ),
        Wrong(
            "takes a parabola through the end point, which only a parabola forgives",
            1,
            """
def readings(g):
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(g(t), t)
    effect = float(g(torch.ones_like(t)) - g(t))
    bend = effect - float(slope)
    return effect, float(slope), float(slope) + bend
""",
        ),
    ],
    "q3": [
        Wrong(
            "subtracts the other way round",
            0,
            ATTRIBUTION.format(score=SCORED, row="-(g * d).sum((0, 1, 3))"),
        ),
        Wrong(
            "takes the mean over positions",
            0,
            ATTRIBUTION.format(score=SCORED, row="(g * d).mean((0, 1)).sum(-1)"),
        ),
        Wrong(
            "differentiates the logit",
            0,
            ATTRIBUTION.format(score="", row="(g * d).sum((0, 1, 3))"),
        ),
        Wrong(
            "reads the last position only, which is all that the toy's answer depends on",
            1,
            ATTRIBUTION.format(score=SCORED, row="(g * d)[:, -1].sum((0, 2))"),
        ),
    ],
    "q4": [
        Wrong(
            "chooses the heads by the estimate",
            0,
            """
def off_by_two(truth, estimate, k=10):
    largest = estimate.abs().topk(k, dim=-1).indices
    quotient = estimate.gather(-1, largest) / truth.gather(-1, largest)
    return ((quotient <= 0.5) | (quotient >= 2)).sum(-1)
""",
            told="Choose by the truth, not by the estimate",
        ),
        Wrong(
            "takes the largest effects with their sign",
            0,
            """
def off_by_two(truth, estimate, k=10):
    largest = truth.topk(k, dim=-1).indices
    quotient = estimate.gather(-1, largest) / truth.gather(-1, largest)
    return ((quotient <= 0.5) | (quotient >= 2)).sum(-1)
""",
            told="take the largest in size",
        ),
        Wrong(
            "does not look at the sign",
            0,
            """
def off_by_two(truth, estimate, k=10):
    largest = truth.abs().topk(k, dim=-1).indices
    quotient = (estimate.gather(-1, largest) / truth.gather(-1, largest)).abs()
    return ((quotient <= 0.5) | (quotient >= 2)).sum(-1)
""",
        ),
        Wrong(
            "takes the first prompt's largest heads for all prompts",
            1,
            """
def off_by_two(truth, estimate, k=10):
    largest = truth[0].abs().topk(k).indices
    quotient = estimate[:, largest] / truth[:, largest]
    return ((quotient <= 0.5) | (quotient >= 2)).sum(-1)
""",
        ),
    ],
    "q5": [
        Wrong(
            "adds the errors up",
            0,
            """
def top_k_error(truth, estimate, k=5):
    largest = truth.abs().topk(k).indices
    error = (estimate - truth)[largest].abs().sum()
    return float(100 * error / (truth.max() - truth.min()))
""",
        ),
        Wrong(
            "divides by the largest effect",
            0,
            """
def top_k_error(truth, estimate, k=5):
    largest = truth.abs().topk(k).indices
    return float(100 * (estimate - truth)[largest].abs().mean() / truth.abs().max())
""",
        ),
        Wrong(
            "takes the range of the k largest only",
            1,
            """
def top_k_error(truth, estimate, k=5):
    largest = truth.abs().topk(k).indices
    error = (estimate - truth)[largest].abs().mean()
    return float(100 * error / (truth[largest].max() - truth[largest].min()))
""",
        ),
    ],
    "q6": [
        Wrong(
            "forgets the half",
            0,
            """
def powers(g, value, slope, curvature, scales):
    import numpy as np

    s = np.array(scales)
    tangent = np.array([float(g(x)) for x in s]) - value - s * slope
    parabola = tangent - s**2 * curvature
    return tuple(np.polyfit(np.log(s), np.log(abs(e)), 1)[0] for e in (tangent, parabola))
""",
            told="wrong factor",
        ),
        Wrong(
            "forgets the s before the slope",
            0,
            POWERS.format(slope="slope", fit="np.log(s), np.log(abs(e))"),
            told="g'(0) multiplied by s",
        ),
        Wrong(
            "forgets the slope",
            0,
            POWERS.format(slope="0", fit="np.log(s), np.log(abs(e))"),
            told="the term s·g'(0) is missing",
        ),
        Wrong(
            "exchanges the axes",
            0,
            POWERS.format(slope="s * slope", fit="np.log(abs(e)), np.log(s)"),
            told="the axes are exchanged",
        ),
        Wrong(
            "fits against the logarithm of 1/s",
            0,
            POWERS.format(slope="s * slope", fit="np.log(1 / s), np.log(abs(e))"),
            told="Did you take an inverse?",
        ),
        Wrong(
            "joins the first and the last point, not fitting a line, which passes for tiny steps",
            0,
            """
def powers(g, value, slope, curvature, scales):
    import numpy as np

    s = np.array(scales)
    tangent = np.array([float(g(x)) for x in s]) - value - s * slope
    parabola = tangent - s**2 * curvature / 2
    run = np.log(s[-1] / s[0])
    return tuple(np.log(abs(e[-1] / e[0])) / run for e in (tangent, parabola))
""",
        ),
    ],
}
