from otter.test_files import test_case

OK_FORMAT = False

name = "q3"
points = 6

@test_case(points=1, hidden=False)
def test_known_replacements(head_effect, model):
    import torch
    from hvp_utils.tasks import reference_pair
    tokens = reference_pair().resolve(model)
    name = 'blocks.20.attn.hook_z'
    with torch.no_grad():
        own, other = (model.run_with_cache(ids[None], names_filter=name)[1][name][0, :, 0].clone() for ids in (tokens.clean, tokens.corrupted))
    exact, ap = head_effect(model, tokens.clean, tokens.metric, 20, 0, own)
    assert abs(exact) < 0.001, f"Replacing a head's output by itself changes the metric by {exact:.3f}. Did you replace that of other heads too, or forget to subtract the base run?"
    assert abs(ap) < 0.001, f'Nothing was changed, so AP is 0 and not {ap:.3f}. Multiply the gradient by the change, not by the replacement.'
    short, ap_short = head_effect(model, tokens.clean, tokens.metric, 20, 0, own + 0.02 * (other - own))
    full, ap_full = head_effect(model, tokens.clean, tokens.metric, 20, 0, other)
    assert ap_full * ap_short > 0 and abs(ap_full - 50 * ap_short) < 0.02 * abs(ap_full), 'AP is linear in the change: a fiftieth of the change must have a fiftieth of the estimate.'
    assert not abs(short + ap_short) < 0.1 * abs(short), "For a tiny change the effect and AP's estimate must agree, and yours have opposite signs."
    assert abs(short - ap_short) < 0.1 * abs(short), f'For a tiny change AP is nearly exact, but you give {short:.5f} and {ap_short:.5f}.'
    assert full < 0, f'The head helps, so without what it writes the metric falls; yours changes by {full:+.3f}. The effect is the metric with the replacement less the metric without.'
    assert abs(full - ap_full) > 0.001, 'For the whole change AP is not exact. Did you return the same number twice?'

