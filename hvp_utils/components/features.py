"""Features of a sparse autoencoder (SAE): an activation, taken apart into known directions.

An SAE writes the activation x at one hook as ``x = sum_f a_f(x) W_dec[f] + b_dec + error(x)``, with
few a_f that are not 0. Feature f's difference between two runs is the vector
``(a_f(other) - a_f(base)) W_dec[f]`` at every position. What the SAE does not explain, the
difference of the errors, is one more component, so that with all strengths at 1 the other run comes
out exactly, however bad the SAE is. Activations of features are values: the encoder never enters a
derivative.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import _checks
from hvp_utils.suffix_run import Patch, Rows

from .nodes import Site
from .patches import Patches

if TYPE_CHECKING:
    from typing_extensions import Self

    class _Normalising(Protocol):
        def scale(self, x: Tensor) -> Tensor: ...


__all__ = ["FeaturePatches", "SAEFeatures", "SparseAutoencoder"]


@runtime_checkable
class SparseAutoencoder(Protocol):
    """What an SAE needs to have; those of SAELens and ``hvp_utils.load_sae`` do.

    One that normalises its input has ``scale(x)`` too: by what the decoder's output is multiplied.
    """

    @property
    def W_dec(self) -> Float[Tensor, "n d"]:
        """Directions of the features."""
        ...

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """Activations of the features."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class SAEFeatures:
    """The features of an SAE as components: ``PatchedMetric(model, pairs, SAEFeatures(sae))``.

    Components are the features that are active in either run of any of the prompts, labelled such
    as ``L12F345``, and last the SAE's error, ``L12.error``.

    Args:
        sae: The SAE; see ``SparseAutoencoder`` and ``load_sae``.
        hook: TransformerLens name of the activation that it reads, in a block; by default what the
            SAE says itself (``sae.hook``, or SAELens' ``sae.cfg``).
        per_position: One component for each feature and position (``L12F345P7``) instead of one
            for all positions together.

    Raises:
        TypeError: Something that is no SAE, or one in whole numbers.
        ValueError: No hook is known, or not one inside a block; an SAE that normalises its input
            and does not say by how much; a decoder with a NaN.
    """

    sae: SparseAutoencoder
    hook: str | None = None
    per_position: bool = False

    def __post_init__(self):
        decoder = getattr(self.sae, "W_dec", None)
        if not (isinstance(self.sae, SparseAutoencoder) and isinstance(decoder, Tensor)):
            raise TypeError(
                "sae must have a method encode and a decoder W_dec [features, width]; "
                f"{type(self.sae).__name__} has not."
            )
        if decoder.ndim != 2 or not decoder.is_floating_point():
            raise TypeError(
                "W_dec of the SAE must be a matrix [features, width] of floating-point numbers, "
                f"not {tuple(decoder.shape)} of {decoder.dtype}."
            )
        if not torch.isfinite(decoder).all():
            raise ValueError("W_dec of the SAE has entries that are NaN or infinite.")
        _checks.instance("hook", self.hook, str | None, "the name of an activation, or None")
        _checks.truth("per_position", self.per_position)
        hook = self.hook or _said(self.sae, "hook") or _said(self.sae, "hook_name")
        if hook is None:
            raise ValueError(
                "The SAE does not say which activation it reads. Say it: "
                'SAEFeatures(sae, hook="blocks.12.hook_resid_pre").'
            )
        if not re.match(r"blocks\.\d+\.", hook):
            raise ValueError(
                f"The SAE reads {hook!r}, which is no activation inside a block, such as "
                '"blocks.12.hook_resid_pre".'
            )
        normalised = _said(self.sae, "normalize_activations") or "none"
        if normalised not in ("none", "expected_average_only_in") and not hasattr(
            self.sae, "scale"
        ):
            raise ValueError(
                f"The SAE normalises its input ({normalised}) and has no method scale(x) that says "
                "by how much. Read it with hvp_utils.load_sae, whose SAEs have."
            )
        object.__setattr__(self, "hook", hook)

    def __str__(self) -> str:
        return "SAE features"

    def __repr__(self) -> str:
        return f"SAE features of {self.hook}"

    @property
    def layer(self) -> int:
        """The block that the activation lies in."""
        return int(cast("str", self.hook).split(".")[1])

    def hooks(self, bridge: TransformerBridge) -> list[str]:
        """The hook, if this model has it.

        Raises:
            ValueError: It has not.
        """
        if self.hook not in bridge.hook_dict:
            raise ValueError(
                f"This model, which has {bridge.cfg.n_layers} layers, has no hook {self.hook!r}, "
                "which the SAE reads: was it trained on another model?"
            )
        return [self.hook]

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """Activations of the features, in the dtype and on the device of x.

        Raises:
            ValueError: The SAE is made for another width, or gives something that cannot be.
        """
        decoder = self.sae.W_dec
        if x.shape[-1] != decoder.shape[1]:
            raise ValueError(
                f"The SAE is made for activations of width {decoder.shape[1]}, but {self.hook} of "
                f"this model has width {x.shape[-1]}: was it trained on another model or hook?"
            )
        with torch.no_grad():
            found = self.sae.encode(x.to(decoder.device, decoder.dtype)).detach().to(x)
        if found.shape != (*x.shape[:-1], len(decoder)):
            raise ValueError(
                f"encode gave {tuple(found.shape)} for activations {tuple(x.shape)}; a number for "
                f"each of the {len(decoder)} features was expected."
            )
        if not torch.isfinite(found).all():
            raise ValueError(
                "encode of the SAE gave NaN or infinite activations. Check its weights and dtype "
                f"({decoder.dtype})."
            )
        return found


def _said(sae: Any, name: str) -> str | None:
    """What an SAE says of itself: an attribute of it, of its cfg, or of the metadata there."""
    cfg = getattr(sae, "cfg", None)
    for where in (sae, cfg, getattr(cfg, "metadata", None)):
        said = getattr(where, name, None)
        if isinstance(said, str):
            return said
    return None


class FeaturePatches(Patches):
    """Patches of SAE features between two runs of some prompts.

    Args:
        features: The SAE, and how its features are counted.
        positions: Positions of the tokens that are run.
        base: Activations of the base run at the hook, ``[prompt, pos, *rest]``.
        other: Those of the other run.
    """

    def __init__(
        self,
        features: SAEFeatures,
        positions: range,
        base: Mapping[str, Tensor],
        other: Mapping[str, Tensor],
    ):
        self._of, self._positions = features, positions
        # Heads side by side.
        a, b = (run[cast("str", features.hook)].flatten(2) for run in (base, other))
        self._difference = b - a
        f, g = features.encode(a), features.encode(b)
        self._change = g - f
        if hasattr(features.sae, "scale"):
            self._change *= cast("_Normalising", features.sae).scale(a).to(f)
        active = ((f != 0) | (g != 0)).any(0)  # [pos, n]
        self._active = active if features.per_position else active.any(0)[None]
        self._take(self._active)

    def aligned(self, others: Sequence[Patches]) -> Self:
        """See ``Patches``: what is active in any of them."""
        if all(
            cast("FeaturePatches", patches)._active.shape == self._active.shape
            for patches in others
        ):
            self._take(
                torch.stack([cast("FeaturePatches", patches)._active for patches in others]).any(0)
            )
        return self

    def _take(self, wanted: Bool[Tensor, "pos n"]) -> None:
        """Make components of some features."""
        layer, decoder = self._of.layer, self._of.sae.W_dec
        which = wanted.any(0).nonzero()[:, 0]
        self._directions = decoder.detach()[which.to(decoder.device)].to(self._difference)
        self._coefficients = self._change[..., which]
        self._error = self._difference - self._coefficients @ self._directions
        # At each position the features in a row, and the error behind them.
        names = [*(f"L{layer}F{feature}" for feature in which.tolist()), f"L{layer}.error"]
        chosen = None
        if self._of.per_position:
            names = [f"{name}P{pos}" for pos in self._positions for name in names]
            grid = torch.cat([wanted[:, which], wanted.new_ones(len(wanted), 1)], dim=1)
            chosen = grid.flatten().nonzero()[:, 0].cpu()
            names = [names[i] for i in chosen.tolist()]
        shape = (len(wanted), len(which) + 1)
        self._site = Site(cast("str", self._of.hook), layer, tuple(names), shape, chosen)
        self.labels, self.sizes, self.site_layers = self._site.labels, [len(names)], [layer]
        lengths = torch.cat(
            [
                self._coefficients.abs() * self._directions.norm(dim=-1),
                self._error.norm(dim=-1, keepdim=True),
            ],
            dim=-1,
        )
        self.delta_norm = self._site.norms(lengths)

    def direction(self, component: int) -> Float[Tensor, "prompt pos d"]:
        """The difference that one component stands for."""
        alpha = self._difference.new_zeros(1, self.sizes[0])
        alpha[0, component] = 1.0
        rows = Rows(torch.arange(len(self._difference)), len(self._difference))
        return self._shift(alpha.expand(len(rows), -1), rows)

    def _shift(self, alpha: Float[Tensor, "rows n"], rows: Rows) -> Float[Tensor, "rows pos d"]:
        """What some strengths add to the activation."""
        strength, n = self._site.spread(alpha), len(alpha)
        features = (strength[..., :-1] * rows.of(self._coefficients, n)) @ self._directions
        return features + strength[..., -1:] * rows.of(self._error, n)

    def patch(self, strengths: Mapping[int, Tensor], rows: Rows) -> dict[str, Patch]:
        """See ``Patches``: the live activation plus strength times difference."""
        if 0 not in strengths:
            return {}

        def shift(live: Tensor) -> Tensor:
            return live + self._shift(strengths[0][: len(live)], rows).reshape(live.shape)

        return {cast("str", self._of.hook): shift}
