"""The prompts of an M, by batches: what is computed for each of them, in their order, or its mean.

Batches hold prompts of one shape (``PromptBatch``), whatever their order. Here results of batches
become results of prompts; what is computed, ``PatchedMetric`` knows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from hvp_utils.axes import NO_BAR
from hvp_utils.prompt_batch import PromptBatch, tokens_per_batch
from hvp_utils.suffix_run import Rows
from hvp_utils.tasks import ResolvedPair

__all__ = ["OverPrompts", "by_shape"]


def by_shape(
    resolved: Sequence[ResolvedPair], batch_size: int | None, whole_prompts: bool
) -> list[list[int]]:
    """Numbers of the prompts of each batch: of one shape, and no more than are run together."""
    shapes: dict[tuple, list[int]] = {}
    for i, pair in enumerate(resolved):
        shape = (len(pair), 0 if whole_prompts else pair.first_difference, pair.corrupted is None)
        shapes.setdefault(shape, []).append(i)
    groups = []
    for (length, start, _), members in shapes.items():
        most = tokens_per_batch(resolved[0].clean.device.type) // (length - start)
        n_batches = math.ceil(len(members) / (batch_size or max(1, most)))
        groups += [part.tolist() for part in torch.tensor(members).tensor_split(n_batches)]
    return groups


class OverPrompts:
    """Results for each prompt, or their mean.

    Args:
        batches: The prompts by batches.
        numbers: For each batch the numbers of its prompts.
        name: What a progress bar says.

    Attributes:
        mean: Whether results are the mean over prompts, or have a first dimension for them.

    Raises:
        ValueError: Batches whose components do not line up.
    """

    def __init__(self, batches: Sequence[PromptBatch], numbers: Sequence[list[int]], name: str):
        self.batches, self.mean, self._name = list(batches), True, name
        self.numbers = [torch.tensor(part) for part in numbers]
        self.n = sum(map(len, numbers))
        # For each prompt its place among the prompts of all batches.
        self._order = torch.cat(self.numbers).argsort().to(self.batches[0].base.device)
        first = self.batches[0].patches.labels
        for batch in self.batches:
            mine = batch.patches.labels
            if mine != first:
                raise ValueError(
                    f"The prompts must have the same components, but these have {len(first)} and "
                    f"{len(mine)}, from {first[0]!r} and from {mine[0]!r}: {name} are counted by "
                    "position, and line up only for prompts of one length and first difference. "
                    "Choose such prompts, or another kind of component."
                )

    def side_by_side(self) -> OverPrompts:
        """The same without the mean."""
        view = copy.copy(self)
        view.mean = False
        return view

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of results for the prompts: none for a mean."""
        return () if self.mean else (self.n,)

    def only_batch(self) -> PromptBatch:
        """The batch, where there is only one.

        Raises:
            ValueError: There are more.
        """
        if len(self.batches) > 1:
            raise ValueError(
                f"These {self.n} prompts have {len(self.batches)} shapes or batches; what was "
                "asked for exists for each: see M.batches."
            )
        return self.batches[0]

    def of_batch(self, batch: PromptBatch, values: Float[Tensor, "prompt ..."]) -> Tensor:
        """Of values for all prompts, those of one batch."""
        return values[self.numbers[self.batches.index(batch)].to(values.device)]

    def in_order(self, parts: list[Float[Tensor, "prompt ..."]]) -> Float[Tensor, "prompt ..."]:
        """What batches give for each of their prompts, in the order of the prompts."""
        return parts[0] if len(self.batches) == 1 else torch.cat(parts)[self._order]

    def result(self, parts: list[Float[Tensor, "prompt ..."]]) -> Float[Tensor, "..."]:
        """The same as a result: its mean, or as it is."""
        values = self.in_order(parts)
        if not self.mean:
            return values
        return values[0] if self.n == 1 else values.mean(0)

    def map(
        self, function: Callable[[PromptBatch, slice], Float[Tensor, "rows ..."]]
    ) -> list[Float[Tensor, "prompt ..."]]:
        """For each batch what a function of it and some of its prompts gives."""
        with self.bar(self.n) as bar:
            return [
                torch.cat(list(batch.map(lambda part, b=batch: function(b, part), len(batch), bar)))
                for batch in self.batches
            ]

    def map_and_count(
        self, function: Callable[[PromptBatch, slice, tqdm], Tensor], total: int
    ) -> list[Tensor]:
        """The same for a function that tells a progress bar itself how far it has come."""
        with self.bar(total) as bar:
            return [
                torch.cat(
                    list(
                        batch.map(lambda part, b=batch: function(b, part, bar), len(batch), NO_BAR)
                    )
                )
                for batch in self.batches
            ]

    def map_points(
        self,
        function: Callable[[PromptBatch, Tensor, Rows], Float[Tensor, "rows ..."]],
        points: Float[Tensor, "point prompt n"],
    ) -> Float[Tensor, "..."]:
        """A function of many points for every prompt: rows are points times prompts.

        Args:
            function: Gets a batch, the point of each row, and the rows.
            points: Those of each prompt, or with a prompt dimension of 1 the same for all.

        Returns:
            ``[point, ...]``, or ``[prompt, point, ...]``.
        """
        parts = []
        with self.bar(len(points) * self.n) as bar:
            for batch, numbers in zip(self.batches, self.numbers, strict=True):

                def of_rows(part: slice, batch=batch, numbers=numbers) -> Tensor:
                    index = torch.arange(part.start, part.stop)
                    point, prompt = index // len(batch), index % len(batch)
                    own = numbers[prompt] if points.shape[1] > 1 else torch.zeros_like(prompt)
                    at = points[point.to(points.device), own.to(points.device)]
                    return function(batch, at, batch.rows(prompt))

                found = torch.cat(list(batch.map(of_rows, len(points) * len(batch), bar)))
                parts.append(found.unflatten(0, (len(points), len(batch))).movedim(1, 0))
        return self.result(parts)

    def bar(self, total: int) -> tqdm:
        """A progress bar, which appears only for work that takes a while."""
        return tqdm(total=total, desc=self._name, unit="run", delay=2, leave=False)
