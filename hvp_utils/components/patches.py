"""What the engine has to know of components: how strengths become changes of activations.

Each kind of component (nodes, edges, features) is a subclass of ``Patches``. The components lie at
*sites*, one for each hook that they act on; M's strengths are cut up site by site. A site turns the
strengths of its components into a change of its live activation, and the engine knows nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils.suffix_run import Patch, Rows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Patches"]


class Patches:
    """Components between two runs of some prompts, and how they are patched.

    Attributes:
        labels: One label per component, site by site, sites in layer order.
        sizes: How many components each site has.
        site_layers: The layer at whose beginning a run may start when only this site is patched.
        delta_norm: Euclidean norm of each component's difference, ``[prompt, n]``.
        one_run_at_base: Whether derivatives along many axes at 0 are best taken from a single run
            with all components in it. Not where one product with all of them costs more than a run
            for one of them.
        product_rows: How many rows of a run take as much memory as one Hessian-vector product.
    """

    labels: tuple[str, ...]
    sizes: list[int]
    site_layers: list[int]
    delta_norm: Float[Tensor, "prompt n"]
    one_run_at_base = True
    product_rows = 1

    def aligned(self, others: Sequence[Patches]) -> Self:
        """The same with the components of all of some prompts, where prompts differ in theirs.

        Args:
            others: The patches of all batches of prompts, these among them.
        """
        return self

    def patch(self, strengths: Mapping[int, Tensor], rows: Rows) -> dict[str, Patch]:
        """Changes of activations, by hook, for one batch of runs.

        Args:
            strengths: For some sites i the strengths ``[rows, sizes[i]]``.
            rows: Whose copy each row is. A change sees the rows that have entered so far.
        """
        raise NotImplementedError

    def patch_on_axes(
        self,
        places: Mapping[int, tuple[Int[Tensor, " k"], Int[Tensor, " k"]]],
        t: Float[Tensor, " rows"],
        rows: Rows,
    ) -> dict[str, Patch]:
        """The same with one component a row.

        Args:
            places: For some sites i, which rows have their component there, and which it is.
            t: Strength of each row's component.
            rows: Whose copy each row is.
        """
        strengths = {
            i: t.new_zeros(len(t), self.sizes[i]).index_put((row, column), t[row])
            for i, (row, column) in places.items()
        }
        return self.patch(strengths, rows)
