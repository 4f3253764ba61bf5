"""How much of a behaviour a circuit keeps: faithfulness, and the areas under its curve.

With m(C) = M(1 - mask of C) in the noising direction, m(all edges) is the metric of the clean run
and m(no edge) that of the corrupted one. Faithfulness is where m(C) lies between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.integrate import trapezoid
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.stats import Interval, bootstrap_ci, drawn_prompts

from .circuit import Circuit

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hvp_utils.stats import BootstrapOptions

__all__ = ["FRACTIONS", "Curve", "Kept", "cmd", "cpr", "curve", "faithfulness"]

#: The shares of all edges at which MIB cuts a ranking.
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Kept:
    """What circuits keep of a behaviour, prompt by prompt.

    Attributes:
        values: The metric of each circuit, ``[prompt, circuit]``.
        full: The metric with every component kept: that of the clean run, ``[prompt]``.
        empty: The metric with none kept; of edges that of the corrupted run, ``[prompt]``.
    """

    values: Float[ndarray, "prompt circuit"]
    full: Float[ndarray, " prompt"]
    empty: Float[ndarray, " prompt"]

    def faithfulness(
        self, prompts: Sequence[int] | ndarray | None = None
    ) -> Float[ndarray, " circuit"]:
        """Faithfulness of each circuit: 1 is the clean run, 0 the corrupted one.

        A ratio of means over prompts. The mean of each prompt's ratio would be ruled by prompts on
        which the two runs hardly differ.

        Args:
            prompts: Numbers of prompts, some of them perhaps several times; all by default.
        """
        chosen = slice(None) if prompts is None else drawn_prompts(prompts, len(self.values))
        full, empty = self.full[chosen].mean(), self.empty[chosen].mean()
        return (self.values[chosen].mean(0) - empty) / (full - empty)

    def interval(
        self,
        statistic: Callable[[Float[ndarray, " circuit"]], float],
        **options: Unpack[BootstrapOptions],
    ) -> Interval:
        """A number made from the circuits' faithfulness, with its interval over prompts.

        Args:
            statistic: Makes the number; for that of the first circuit ``lambda f: f[0]``.
            options: Those of ``bootstrap_ci``.
        """
        return bootstrap_ci(
            np.arange(len(self.values)),
            lambda drawn: statistic(self.faithfulness(drawn)),
            **options,
        )


@dataclass(frozen=True)
class Curve:
    """Faithfulness of circuits of growing size, all cut from one ranking.

    Attributes:
        fractions: Share of all components that each circuit was allowed.
        circuits: The circuits.
        kept: What they keep.
    """

    fractions: tuple[float, ...]
    circuits: tuple[Circuit, ...]
    kept: Kept

    @property
    def faithfulness(self) -> Float[ndarray, " fraction"]:
        """Faithfulness of each circuit."""
        return self.kept.faithfulness()

    def cpr(self, **options: Unpack[BootstrapOptions]) -> Interval:
        """Area under the curve, with its interval over prompts; see ``cpr``."""
        return self._area(lambda f: f, options)

    def cmd(self, **options: Unpack[BootstrapOptions]) -> Interval:
        """Area between the curve and 1, with its interval over prompts; see ``cmd``."""
        return self._area(lambda f: abs(1 - f), options)

    def _area(self, height: Callable[[ndarray], ndarray], options: BootstrapOptions) -> Interval:
        def area(f: ndarray) -> float:
            return float(trapezoid(height(f), self.fractions))

        if len(self.kept.values) < 2:
            value = area(self.faithfulness)
            return Interval(value, float("nan"), float("nan"))
        return self.kept.interval(area, **options)


@of_metric
def faithfulness(
    M: PatchedMetric, circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "circuit n"]
) -> Kept:
    """Run some circuits on every prompt of M, all circuits of a prompt in one batch.

    Args:
        M: The metric, in the noising direction, of one prompt or many.
        circuits: Circuits; or masks of the components that are kept, for nodes too.

    Returns:
        The metric of each, and of all and no components kept; see ``Kept.faithfulness``.

    Raises:
        ValueError: The other direction, masks that do not fit, or prompts on which the clean and
            the corrupted run do not differ.

    Source:
        Hanna, Pezzelle & Belinkov (2024); Mueller et al. (2025).
    """
    if M.direction != "noising":
        raise ValueError(
            "A circuit keeps what the clean run has and takes the rest from the corrupted one, so "
            'M must start from the clean run. Use direction="noising".'
        )
    mask = _masks(M, circuits)
    rows, place = torch.unique(mask, dim=0, return_inverse=True)
    # Circuits of all edges and of none need no runs.
    known = rows.all(1) | (~rows.any(1) if M.components == "edges" else False)
    if M.components != "edges":
        rows = torch.cat([rows, torch.zeros(1, M.n, dtype=torch.bool)])
        known = torch.cat([known, torch.tensor([False])])
    side_by_side = M.each
    full = cast("Tensor", side_by_side.base).cpu().double()
    values = full[:, None].repeat(1, len(rows))
    if (~known).any():
        points = (~rows[~known]).to(full)[:, None]  # the same for all prompts
        values[:, ~known] = side_by_side(points).T.cpu().double()
    empty = (
        cast("Tensor", side_by_side.other).cpu().double()
        if M.components == "edges"
        else values[:, -1]
    )
    if M.components == "edges":
        values[:, ~rows.any(1)] = empty[:, None]
    if abs((full - empty).mean()) < 1e-9:
        raise ValueError(
            "Keeping everything and keeping nothing give the same metric, so there is nothing to "
            "be faithful to. Do the clean and the corrupted prompt differ?"
        )
    return Kept(values[:, place].numpy(), full.numpy(), empty.numpy())


@of_metric
def curve(
    M: PatchedMetric,
    effects: Float[Tensor, " n"],
    signed: bool = True,
    fractions: Sequence[float] = FRACTIONS,
    cut: Callable[..., Circuit] = Circuit.top,
) -> Curve:
    """Faithfulness of the circuits that one ranking of the edges gives.

    Args:
        M: The metric over edges, in the noising direction. Its prompts need not be those that the
            effects were measured on.
        effects: One number per edge, as an estimator on an M of this direction gives it.
        signed: Whether edges are ranked by what they do for the clean behaviour or by magnitude.
        fractions: Shares of all edges, rounded down to whole numbers of edges.
        cut: How a circuit is made from effects: ``Circuit.top`` as MIB does by default, or
            ``Circuit.greedy``.
    """
    fractions = _checks.items("fractions", fractions, "a list of shares from 0 to 1")
    fractions = [_checks.number("each of fractions", f, least=0, most=1) for f in fractions]
    if not fractions:
        raise ValueError("fractions is empty: give at least one share of the edges.")
    _checks.instance("cut", cut, cast("type", Callable), "a function such as Circuit.top")
    circuits = []
    for share in fractions:
        try:
            circuits.append(cut(M, effects, int(share * M.n), signed))
        except TypeError as error:
            raise TypeError(
                "cut must take (M, effects, n_edges, signed) and give a Circuit, as Circuit.top "
                f"does, but {_checks.shown(cut)} raised: {error}"
            ) from error
    return Curve(tuple(fractions), tuple(circuits), faithfulness(M, circuits))


@of_metric
def cpr(
    M: PatchedMetric, effects: Float[Tensor, " n"], **options: Unpack[BootstrapOptions]
) -> Interval:
    """Circuit performance ratio: the area under the faithfulness curve.

    Edges are ranked by sign, since the question is how much of the behaviour few edges bring back.
    More is better, and above 1 is more than the whole model.

    Args:
        M: The metric over edges, in the noising direction.
        effects: One number per edge.
        options: Those of ``bootstrap_ci``.

    Source:
        Mueller et al. (2025), MIB, circuit track: the trapezoidal rule on the fractions, from the
        first of them to 1.
    """
    return curve(M, effects, signed=True).cpr(**options)


@of_metric
def cmd(
    M: PatchedMetric, effects: Float[Tensor, " n"], **options: Unpack[BootstrapOptions]
) -> Interval:
    """Circuit-model distance: the area between the faithfulness curve and 1.

    Edges are ranked by magnitude, since the question is how close few edges come to the model, what
    works against the behaviour included. Less is better. Arguments and source as of ``cpr``.
    """
    return curve(M, effects, signed=False).cmd(**options)


def _masks(
    M: PatchedMetric, circuits: Circuit | Sequence[Circuit] | Tensor
) -> Bool[Tensor, "circuit n"]:
    if isinstance(circuits, Circuit):
        circuits = [circuits]
    if not isinstance(circuits, Tensor):
        circuits = _checks.items("circuits", circuits, "circuits or masks")
        if not circuits:
            raise ValueError("There is no circuit to run.")
        for circuit in circuits:
            if not isinstance(circuit, Circuit):
                raise TypeError(
                    f"Circuits, or a tensor of masks, were expected, not {type(circuit).__name__}."
                )
        masks = [circuit.mask() for circuit in circuits]
        if len({len(mask) for mask in masks}) > 1:
            raise ValueError("circuits are of models of different shapes.")
        circuits = torch.stack(masks)
        if circuits.shape[1:] != (M.n,):
            raise ValueError(f"These circuits have {circuits.shape[1]} edges, and M has {M.n}.")
    mask = circuits.cpu()
    if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape[1] != M.n:
        raise ValueError(
            f"Masks must be truth values [circuits, {M.n}], one per component; these are "
            f"{mask.dtype} of shape {tuple(mask.shape)}."
        )
    return mask
