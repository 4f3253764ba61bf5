"""Typical wrong answers to problem set 4, and the marks that each must get."""

from coursework_answers import Wrong

WRONG = {
    "q1": [
        Wrong(
            "patches the node A instead of the edge A->out",
            0,
            """
def patched(toy, base, other, alpha):
    a = toy.A(base)
    a = a + alpha[1] * (toy.A(other) - a)
    b_other = toy.B(toy.A(other))
    b = toy.B(a + alpha[0] * (toy.A(other) - a))
    return toy.metric(a + b + alpha[2] * (b_other - b))
""",
        ),
        Wrong(
            "takes the difference of B->out from the base run, not from what B writes now",
            0,
            """
def patched(toy, base, other, alpha):
    a, a_other = toy.A(base), toy.A(other)
    b_base, b_other = toy.B(a), toy.B(a_other)
    b = toy.B(a + alpha[0] * (a_other - a))
    return toy.metric(a + b + alpha[1] * (a_other - a) + alpha[2] * (b_other - b_base))
""",
        ),
        Wrong(
            "forgets B->out, which has nothing to add once A->B is patched",
            0,
            """
def patched(toy, base, other, alpha):
    a, a_other = toy.A(base), toy.A(other)
    b = toy.B(a + alpha[0] * (a_other - a))
    return toy.metric(a + b + alpha[1] * (a_other - a))
""",
            told="B->out alone",
        ),
        Wrong(
            "switches edges on or off instead of patching them by degrees",
            1,
            """
def patched(toy, base, other, alpha):
    a, a_other = toy.A(base), toy.A(other)
    b = toy.B(a_other if alpha[0] > 0 else a)
    heard = (a_other if alpha[1] > 0 else a) + (toy.B(a_other) if alpha[2] > 0 else b)
    return toy.metric(heard)
""",
        ),
        Wrong(
            "turns the strengths into plain numbers, so nothing can be differentiated",
            3,
            """
def patched(toy, base, other, alpha):
    ab, ao, bo = alpha.tolist()
    a, a_other = toy.A(base), toy.A(other)
    b = toy.B(a + ab * (a_other - a))
    return toy.metric(a + b + ao * (a_other - a) + bo * (toy.B(a_other) - b))
""",
        ),
    ],
    "q2": [
        Wrong(
            "takes the gradient at what A writes, which counts both edges that leave it",
            0,
            """
def edge_scores(toy, base, other, points=(0.0,)):
    d_A = toy.A(other) - toy.A(base)
    d_B = toy.B(toy.A(other)) - toy.B(toy.A(base))
    scores = []
    for t in points:
        out_A = torch.zeros_like(d_A, requires_grad=True)
        into_B, into_out = (torch.zeros_like(d_A, requires_grad=True) for _ in range(2))
        a = toy.A(base + t * (other - base)) + out_A
        value = toy.metric(a + toy.B(a + into_B) + into_out)
        g_A, g_B, g_out = torch.autograd.grad(value, (out_A, into_B, into_out))
        scores.append(torch.stack([g_B @ d_A, g_A @ d_A, g_out @ d_B]))
    return torch.stack(scores).mean(0)
""",
        ),
        Wrong(
            "adds the gradients of the points up instead of averaging them",
            2,
            """
def edge_scores(toy, base, other, points=(0.0,)):
    d_A = toy.A(other) - toy.A(base)
    d_B = toy.B(toy.A(other)) - toy.B(toy.A(base))
    total = 0
    for t in points:
        a = toy.A(base + t * (other - base))
        into_B, into_out = (torch.zeros_like(a, requires_grad=True) for _ in range(2))
        value = toy.metric(a + toy.B(a + into_B) + into_out)
        g_B, g_out = torch.autograd.grad(value, (into_B, into_out))
        total = total + torch.stack([g_B @ d_A, g_out @ d_A, g_out @ d_B])
    return total
""",
        ),
        Wrong(
            "moves the difference in front along with the input",
            3,
            """
def edge_scores(toy, base, other, points=(0.0,)):
    scores = []
    for t in points:
        x = base + t * (other - base)
        d_A = (toy.A(other) - toy.A(x)) / (1 - t if t < 1 else 1)
        d_B = (toy.B(toy.A(other)) - toy.B(toy.A(x))) / (1 - t if t < 1 else 1)
        if t == 1:
            d_A = toy.A(other) - toy.A(base)
            d_B = toy.B(toy.A(other)) - toy.B(toy.A(base))
        a = toy.A(x)
        into_B, into_out = (torch.zeros_like(a, requires_grad=True) for _ in range(2))
        value = toy.metric(a + toy.B(a + into_B) + into_out)
        g_B, g_out = torch.autograd.grad(value, (into_B, into_out))
        scores.append(torch.stack([g_B @ d_A, g_out @ d_A, g_out @ d_B]))
    return torch.stack(scores).mean(0)
""",
        ),
    ],
    "q3": [
        Wrong(
            "looks forwards from the embedding only",
            0,
            """
def on_a_path(edges):
    fed = {"embed"}
    for _ in edges:
        fed |= {reader for writer, reader in edges if writer in fed}
    return {(writer, reader) for writer, reader in edges if writer in fed}
""",
        ),
        Wrong(
            "takes away dead ends once, and makes new ones",
            0,
            """
def on_a_path(edges):
    writers = {writer for writer, _ in edges} | {"logits"}
    readers = {reader for _, reader in edges} | {"embed"}
    return {(w, r) for w, r in edges if w in readers and r in writers}
""",
        ),
        Wrong(
            "repeats four times instead of until nothing changes",
            1,
            """
def on_a_path(edges):
    fed, heard = {"embed"}, {"logits"}
    for _ in range(4):
        fed = fed | {reader for writer, reader in edges if writer in fed}
        heard = heard | {writer for writer, reader in edges if reader in heard}
    return {(w, r) for w, r in edges if w in fed and r in heard}
""",
        ),
    ],
    "q4": [
        Wrong(
            "takes the mean of each prompt's ratio",
            0,
            """
def areas(values, full, empty, fractions):
    f = ((values - empty[:, None]) / (full - empty)[:, None]).mean(0)
    return f, np.trapezoid(f, fractions), np.trapezoid(abs(1 - f), fractions)
""",
        ),
        Wrong(
            "takes CMD to be 1 - CPR",
            0,
            """
def areas(values, full, empty, fractions):
    f = (values.mean(0) - empty.mean()) / (full.mean() - empty.mean())
    cpr = np.trapezoid(f, fractions)
    return f, cpr, 1 - cpr
""",
        ),
        Wrong(
            "adds the strip from 0 to the first fraction",
            1,
            """
def areas(values, full, empty, fractions):
    f = (values.mean(0) - empty.mean()) / (full.mean() - empty.mean())
    x, y = np.append(0.0, fractions), np.append(0.0, f)
    return f, np.trapezoid(y, x), np.trapezoid(abs(1 - y), x)
""",
        ),
    ],
    "q5": [
        Wrong(
            "ranks by sign instead of size",
            0,
            """
def recovery(scores, members, k):
    precision = members[scores.topk(k).indices].double().mean()
    inside, outside = scores[members][:, None], scores[~members]
    auroc = (inside > outside).double().mean() + (inside == outside).double().mean() / 2
    return precision.item(), auroc.item()
""",
        ),
        Wrong(
            "gives recall instead of precision",
            0,
            """
def recovery(scores, members, k):
    size = scores.abs()
    recall = members[size.topk(k).indices].double().sum() / members.sum()
    inside, outside = size[members][:, None], size[~members]
    auroc = (inside > outside).double().mean() + (inside == outside).double().mean() / 2
    return recall.item(), auroc.item()
""",
        ),
        Wrong(
            "counts a tie as lost, which shows only where there are ties",
            2,
            """
def recovery(scores, members, k):
    size = scores.abs()
    precision = members[size.topk(k).indices].double().mean()
    return precision.item(), (size[members][:, None] > size[~members]).double().mean().item()
""",
        ),
    ],
    "q6": [
        Wrong(
            "encodes the difference instead of taking the difference of the codes",
            0,
            """
def feature_effects(metric_of, x, y, encode, W_dec):
    change = encode(y - x)
    moved = change.T[:, :, None] * W_dec[:, None, :]
    moved = torch.cat([moved, (y - x - moved.sum(0))[None]])
    return torch.stack([metric_of(x + delta) - metric_of(x) for delta in moved])
""",
        ),
        Wrong(
            "takes all of y - x for the error component",
            0,
            """
def feature_effects(metric_of, x, y, encode, W_dec):
    change = encode(y) - encode(x)
    moved = change.T[:, :, None] * W_dec[:, None, :]
    moved = torch.cat([moved, (y - x)[None]])
    return torch.stack([metric_of(x + delta) - metric_of(x) for delta in moved])
""",
        ),
        Wrong(
            "finds the effect of the error by subtraction, as if effects added up",
            1,
            """
def feature_effects(metric_of, x, y, encode, W_dec):
    change, base = encode(y) - encode(x), metric_of(x)
    moved = change.T[:, :, None] * W_dec[:, None, :]
    effects = torch.stack([metric_of(x + delta) - base for delta in moved])
    return torch.cat([effects, (metric_of(y) - base - effects.sum())[None]])
""",
        ),
    ],
}
