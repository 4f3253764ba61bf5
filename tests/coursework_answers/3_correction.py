"""Typical wrong answers to problem set 3."""

from coursework_answers import Wrong

SPEND = """
def spend(f_ap, r, patch, budget, screen):
    size = {size}
    k = max(0, min(int(budget - screen), int((f_ap.abs() + r > 0).sum())))
    chosen = size.argsort(descending=True)[:k]
    effects = f_ap.clone()
    if k:
        effects[chosen] = patch(chosen)
    return effects, chosen
"""

WRONG = {
    "q1": [
        Wrong(
            "one product with a vector of ones: row sums, with all interactions in them",
            1,
            """
def second_order(metric, n):
    alpha = torch.zeros(n, requires_grad=True)
    (gradient,) = torch.autograd.grad(metric(alpha), alpha, create_graph=True)
    if not gradient.requires_grad:
        return gradient
    (sums,) = torch.autograd.grad(gradient.sum(), alpha)
    return gradient.detach() + sums / 2
""",
        ),
        Wrong(
            "forgot the half",
            0,
            """
def second_order(metric, n):
    alpha = torch.zeros(n)
    gradient = torch.autograd.functional.jacobian(metric, alpha)
    return gradient + torch.autograd.functional.hessian(metric, alpha).diagonal()
""",
        ),
        Wrong(
            "row sums, and no half",
            0,
            """
def second_order(metric, n):
    alpha = torch.zeros(n, requires_grad=True)
    (gradient,) = torch.autograd.grad(metric(alpha), alpha, create_graph=True)
    if not gradient.requires_grad:
        return gradient
    return gradient.detach() + torch.autograd.grad(gradient.sum(), alpha)[0]
""",
            told="and without a half",
        ),
        Wrong(
            "ran the metric anew for each component",
            3,
            """
def second_order(metric, n):
    estimate = torch.zeros(n)
    for c in range(n):
        alpha = torch.zeros(n, requires_grad=True)
        (gradient,) = torch.autograd.grad(metric(alpha), alpha, create_graph=True)
        estimate[c] = gradient[c].detach()
        if gradient.requires_grad:
            estimate[c] += torch.autograd.grad(gradient[c], alpha)[0][c] / 2
    return estimate
""",
        ),
    ],
    "q2": [
        Wrong(
            "weighted the curvature by the length of a step, not by half its square",
            0,
            """
def in_steps(g, K):
    total = 0.0
    for k in range(K):
        t = torch.tensor(k / K, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
        total += slope.item() / K
        if slope.requires_grad:
            total += torch.autograd.grad(slope, t)[0].item() / (2 * K)
    return total
""",
        ),
        Wrong(
            "counted the steps with arange(0, 1, 1 / K), which has K + 1 points where 1/K rounds",
            3,
            """
def in_steps(g, K):
    total = 0.0
    for start in torch.arange(0, 1, 1 / K, dtype=torch.float64):
        t = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
        total += slope.item() / K
        if slope.requires_grad:
            total += torch.autograd.grad(slope, t)[0].item() / (2 * K * K)
    return total
""",
        ),
        Wrong(
            "took the slopes alone: left ends of integrated gradients",
            0,
            """
def in_steps(g, K):
    total = 0.0
    for k in range(K):
        t = torch.tensor(k / K, dtype=torch.float64, requires_grad=True)
        total += torch.autograd.grad(g(t), t)[0].item() / K
    return total
""",
        ),
    ],
    "q3": [
        Wrong(
            "moved the points of Gauss-Legendre and left the weights, which add up to 2",
            0,
            """
def by_rule(g, n, rule):
    if rule == "gauss":
        points, weights = np.polynomial.legendre.leggauss(n)
        points = (points + 1) / 2
    elif rule in ("left", "midpoint"):
        points, weights = (np.arange(n) + 0.5 * (rule == "midpoint")) / n, np.full(n, 1 / n)
    else:
        raise ValueError(rule)
    total = 0.0
    for point, weight in zip(points, weights):
        t = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        total += weight * torch.autograd.grad(g(t), t)[0].item()
    return total
""",
        ),
        Wrong(
            "the mean of the slopes, which takes all Gauss points for equally important",
            1,
            """
def by_rule(g, n, rule):
    if rule == "gauss":
        points = (np.polynomial.legendre.leggauss(n)[0] + 1) / 2
    elif rule in ("left", "midpoint"):
        points = (np.arange(n) + 0.5 * (rule == "midpoint")) / n
    else:
        raise ValueError(rule)
    slopes = []
    for point in points:
        t = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        slopes.append(torch.autograd.grad(g(t), t)[0].item())
    return sum(slopes) / n
""",
        ),
        Wrong(
            "a grid that takes both ends of the way",
            2,
            """
def by_rule(g, n, rule):
    points, weights = np.linspace(0, 1, n), np.full(n, 1 / n)
    if rule == "midpoint":
        points = (np.arange(n) + 0.5) / n
    elif rule == "gauss":
        points, weights = np.polynomial.legendre.leggauss(n)
        points, weights = (points + 1) / 2, weights / 2
    elif rule != "left":
        raise ValueError(rule)
    total = 0.0
    for point, weight in zip(points, weights):
        t = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        total += weight * torch.autograd.grad(g(t), t)[0].item()
    return total
""",
        ),
    ],
    "q4": [
        Wrong(
            "took one backward pass for each run that records a graph",
            0,
            """
def bill(method, g):
    runs = []

    def counted(t):
        runs.append(t.requires_grad)
        return g(t)

    method(counted)
    return len(runs), sum(runs)
""",
        ),
        Wrong(
            "counted calls of torch.autograd.grad, and so no .backward()",
            3,
            """
def bill(method, g):
    runs, calls = [], []
    grad = torch.autograd.grad

    def counted(t):
        runs.append(1)
        return g(t)

    def counted_grad(*args, **options):
        calls.append(1)
        return grad(*args, **options)

    torch.autograd.grad = counted_grad
    try:
        method(counted)
    finally:
        torch.autograd.grad = grad
    return len(runs), len(calls)
""",
        ),
        Wrong(
            "registered the hook without looking whether there is anything to hook",
            0,
            """
def bill(method, g):
    forward, backward = [], []

    def counted(t):
        forward.append(1)
        copy = t.clone()
        copy.register_hook(lambda gradient: backward.append(1))
        return g(copy)

    method(counted)
    return len(forward), len(backward)
""",
        ),
    ],
    "q5": [
        Wrong(
            "took the mean before the square, and entries of opposite sign cancelled",
            0,
            """
def shake(gradient, signs, step=0.01):
    f_ap = gradient(torch.zeros_like(signs[0]))
    products = torch.stack([(gradient(step * w) - f_ap) / step for w in signs])
    return f_ap, (signs * products).mean(0) / 2, products.mean(0).abs() / 2
""",
        ),
        Wrong(
            "kept to a step of 0.01, whatever was asked for",
            3,
            """
def shake(gradient, signs, step=0.01):
    f_ap = gradient(torch.zeros_like(signs[0]))
    products = torch.stack([(gradient(0.01 * w) - f_ap) / 0.01 for w in signs])
    return f_ap, (signs * products).mean(0) / 2, products.square().mean(0).sqrt() / 2
""",
        ),
        Wrong(
            "forgot the signs in the diagonal",
            0,
            """
def shake(gradient, signs, step=0.01):
    f_ap = gradient(torch.zeros_like(signs[0]))
    products = torch.stack([(gradient(step * w) - f_ap) / step for w in signs])
    return f_ap, products.mean(0) / 2, products.square().mean(0).sqrt() / 2
""",
        ),
    ],
    "q6": [
        Wrong(
            "called the screen free",
            0,
            """
def spend(f_ap, r, patch, budget, screen):
    size = f_ap.abs() + r
    k = min(int(budget), int((size > 0).sum()))
    chosen = size.argsort(descending=True)[:k]
    effects = f_ap.clone()
    effects[chosen] = patch(chosen)
    return effects, chosen
""",
        ),
        Wrong(
            "when the screen has eaten the budget, [:k] with a negative k takes nearly all",
            3,
            """
def spend(f_ap, r, patch, budget, screen):
    size = f_ap.abs() + r
    k = min(int(budget - screen), int((size > 0).sum()))
    chosen = size.argsort(descending=True)[:k]
    effects = f_ap.clone()
    if k:
        effects[chosen] = patch(chosen)
    return effects, chosen
""",
        ),
        Wrong(
            "flagged by a ratio: small components first",
            0,
            SPEND.format(size="(r / f_ap.abs()).nan_to_num(0.0)"),
            told="Chosen by r, by r / |f_ap|",
        ),
        Wrong(
            "flagged by a ratio, and 0/0 is not a number",
            0,
            SPEND.format(size="r / f_ap.abs()"),
            told="r / |f_ap| is NaN there",
        ),
        Wrong(
            "chose by the length of the row alone",
            0,
            SPEND.format(size="r"),
            told="Chosen by r,",
        ),
        Wrong(
            "took f_ap with its sign",
            0,
            SPEND.format(size="f_ap + r"),
            told="by f_ap with its sign",
        ),
        Wrong(
            "gave the smallest of the chosen first",
            2,
            SPEND.format(size="f_ap.abs() + r").replace("[:k]", "[:k].flip(0)"),
            told="The largest first",
        ),
    ],
}
