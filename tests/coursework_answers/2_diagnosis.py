"""Typical wrong answers to problem set 2."""

from coursework_answers import Wrong

WRONG = {
    "q1": [
        Wrong(
            "took the whole second derivative for q",
            0,
            """
def split(g):
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    start = g(t)
    (slope,) = torch.autograd.grad(start, t, create_graph=True)
    (q,) = torch.autograd.grad(slope, t)
    return slope.item(), q.item(), (g(torch.ones_like(t)) - start - slope - q).item()
""",
        ),
        Wrong(
            "finite differences: near enough on a cubic, noise on a model in float32",
            1,
            """
def split(g, h=1e-3):
    before, start, after, end = (
        g(torch.tensor(t, dtype=torch.float64)).item() for t in (-h, 0.0, h, 1.0)
    )
    slope, q = (after - before) / (2 * h), (after - 2 * start + before) / (2 * h * h)
    return slope, q, end - start - slope - q
""",
        ),
        Wrong(
            "took the metric of the patched run for the effect",
            0,
            """
def split(g):
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(g(t), t, create_graph=True)
    q = torch.autograd.grad(slope, t)[0] / 2 if slope.requires_grad else torch.zeros(())
    return slope.item(), q.item(), (g(torch.ones_like(t)) - slope - q).item()
""",
        ),
    ],
    "q2": [
        Wrong(
            "halved the product, as if it were q",
            0,
            """
def hvp(f, x, v):
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x).detach()
    return torch.autograd.grad((gradient * v).sum(), x)[0] / 2
""",
        ),
        Wrong(
            "differentiated the sum of the gradient: row sums, whatever v is",
            0,
            """
def hvp(f, x, v):
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x).detach()
    return torch.autograd.grad(gradient.sum(), x)[0]
""",
        ),
        Wrong(
            "a dot product that is one for vectors only",
            2,
            """
def hvp(f, x, v):
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x).detach()
    return torch.autograd.grad(gradient @ v, x)[0]
""",
        ),
    ],
    "q3": [
        Wrong(
            "the derivative of the sum, which is the Jacobian of elementwise operations only",
            3,
            """
def straight(op):
    def linear(x):
        with torch.enable_grad():
            x0 = x.detach().clone().requires_grad_()
            value = op(x0)
            (slope,) = torch.autograd.grad(value.sum(), x0)
        return value.detach() + slope * (x - x.detach())

    return linear


def parts(ops):
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
    return q, [
        q - quadratic([*ops[:i], straight(op), *ops[i + 1 :]]) for i, op in enumerate(ops)
    ]
""",
        ),
        Wrong(
            "gave what is left without the operation, not what it contributes",
            2,
            """
def straight(op):
    def linear(x):
        value, change = torch.func.jvp(op, (x.detach(),), (x - x.detach(),))
        return value.detach() + change

    return linear


def parts(ops):
    def quadratic(ops):
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        x = t
        for op in ops:
            x = op(x)
        (slope,) = torch.autograd.grad(x, t, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(slope)
        return torch.autograd.grad(slope, t, materialize_grads=True)[0] / 2

    return quadratic(ops), [
        quadratic([*ops[:i], straight(op), *ops[i + 1 :]]) for i, op in enumerate(ops)
    ]
""",
        ),
        Wrong(
            "took the tangent at 0 and not where the operation is evaluated",
            0,
            """
def straight(op):
    def linear(x):
        value, change = torch.func.jvp(op, (torch.zeros_like(x),), (x,))
        return value + change

    return linear


def parts(ops):
    def quadratic(ops):
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        x = t
        for op in ops:
            x = op(x)
        (slope,) = torch.autograd.grad(x, t, create_graph=True)
        return torch.autograd.grad(slope, t)[0] / 2 if slope.requires_grad else slope * 0

    q = quadratic(ops)
    return q, [
        q - quadratic([*ops[:i], straight(op), *ops[i + 1 :]]) for i, op in enumerate(ops)
    ]
""",
        ),
    ],
    "q4": [
        Wrong(
            "left 0/0 as it is",
            1,
            """
def judge(f_ap, q, f, tau=0.1):
    R = q.abs() / f_ap.abs()
    missed = (R <= tau) & (f.abs() >= 0.01 * f.abs().max())
    return R, (missed & ((f - f_ap).abs() > tau * f_ap.abs())).nonzero()[:, 0]
""",
        ),
        Wrong(
            "a score with a sign",
            0,
            """
def judge(f_ap, q, f, tau=0.1):
    R = torch.where(q == 0, torch.zeros_like(q), q / f_ap)
    missed = (R <= tau) & (f.abs() >= 0.01 * f.abs().max())
    return R, (missed & ((f - f_ap).abs() > tau * f_ap.abs())).nonzero()[:, 0]
""",
        ),
        Wrong(
            "took the error in relation to the truth, where the score has the estimate",
            2,
            """
def judge(f_ap, q, f, tau=0.1):
    R = torch.where(q == 0, torch.zeros_like(q), q.abs() / f_ap.abs())
    missed = (R <= tau) & (f.abs() >= 0.01 * f.abs().max())
    return R, (missed & ((f - f_ap).abs() > tau * f.abs())).nonzero()[:, 0]
""",
        ),
    ],
    "q5": [
        Wrong(
            "a tie counts nothing",
            1,
            """
def auroc(score, bad):
    wins = score[bad][:, None] > score[~bad][None, :]
    return float(wins.double().mean())
""",
        ),
        Wrong(
            "compared differences, and infinity less infinity is not a number",
            2,
            """
def auroc(score, bad):
    ahead = score[bad][:, None] - score[~bad][None, :]
    return float(((ahead > 0).double() + (ahead == 0).double() / 2).mean())
""",
        ),
        Wrong(
            "the wrong way round",
            0,
            """
def auroc(score, bad):
    good, low = score[~bad][:, None], score[bad][None, :]
    return float(((good > low).double() + (good == low).double() / 2).mean())
""",
        ),
    ],
    "q6": [
        Wrong(
            "the difference of two lengths, not the length of the difference",
            1,
            """
def certificate(points, products, delta_norm, f_ap, q):
    lengths = products.norm(dim=1)
    rates = [
        float((lengths[i] - lengths[j]).abs() / (points[i] - points[j]).abs())
        for i in range(len(points))
        for j in range(i)
    ]
    L_H = max(rates) / delta_norm**2
    bound = L_H * delta_norm**3 / 6
    low, high = max(abs(q) - bound, 0.0), abs(q) + bound
    return L_H, bound, low / abs(f_ap), high / abs(f_ap)
""",
        ),
        Wrong(
            "forgot the sixth",
            0,
            """
def certificate(points, products, delta_norm, f_ap, q):
    rates = [
        float((products[i] - products[j]).norm() / (points[i] - points[j]).abs())
        for i in range(len(points))
        for j in range(i)
    ]
    L_H = max(rates) / delta_norm**2
    bound = L_H * delta_norm**3
    low, high = max(abs(q) - bound, 0.0), abs(q) + bound
    return L_H, bound, low / abs(f_ap), high / abs(f_ap)
""",
        ),
        Wrong(
            "took no notice of how far apart the points are",
            0,
            """
def certificate(points, products, delta_norm, f_ap, q):
    L_H = float(torch.cdist(products, products).max()) / delta_norm**2
    bound = L_H * delta_norm**3 / 6
    low, high = max(abs(q) - bound, 0.0), abs(q) + bound
    return L_H, bound, low / abs(f_ap), high / abs(f_ap)
""",
        ),
    ],
}
