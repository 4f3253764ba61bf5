"""Addition and subtraction, after the benchmark MIB (Mueller et al. 2025).

"2 + 2 = 4, 1 + 4 = 5, 3 + 5 =" is continued with 8. What is asked depends on the tokenizer:

* **Two-digit numbers are single tokens** (GPT-2, Llama-3). Operands have two digits, as in MIB.
* **Numbers are split into digits** (SmolLM2, Gemma, Qwen). Only answers of one digit are one token,
  so operands have one digit too. That is a much easier question; do not compare values across
  models. The answer's token may also be the beginning of a longer number, which the metric cannot
  know.

The space before a number is a token of its own in some tokenizers. Prompts are therefore token ids,
all that comes before the answer's token, with the text in ``name``.

MIB asks in words and without examples. The equations before the question are our addition: without
them small models mostly do not see what is wanted.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from hvp_utils import _checks

from .prompt_pair import PromptPair
from .sampling import require_tokenizer, take, token_ids

if TYPE_CHECKING:
    _Asked = tuple[tuple[int, ...], int]  # what comes before the answer, and its token

Operation = Literal["addition", "subtraction"]

_SIGNS = {"addition": "+", "subtraction": "-"}


def arithmetic(
    model: Any,
    n: int,
    seed: int = 0,
    operation: Operation = "addition",
    n_examples: int = 2,
) -> list[PromptPair]:
    """Make arithmetic pairs (Mueller et al. 2025); metric ``logit_diff``.

    The corrupted prompt has the same examples and a question of its own, with another first operand
    and another answer. No example has the answer of the clean prompt, so it cannot be copied.

    Args:
        model: A ``TransformerBridge``; only its tokenizer is used.
        n: Number of pairs, all with different clean prompts.
        seed: With the same tokenizer and seed, a longer list begins with the shorter one.
        operation: ``"addition"``, or ``"subtraction"`` with answers above zero.
        n_examples: How many solved equations come before the question.

    Returns:
        Pairs of token ids, whose ``answer`` is the token of the result and whose ``wrong_answer``
        is that of the corrupted question's (see the module's text for how large numbers are).

    Raises:
        ValueError: If the tokenizer writes no number as one token, fewer than ``n`` different
            prompts exist, the operation is unknown, ``n_examples`` is negative, or the model has no
            tokenizer.
    """
    _checks.one_of("operation", operation, get_args(Operation))
    _checks.whole("n_examples", n_examples, 0)
    require_tokenizer(model, "arithmetic")
    results = {q: _result(q, operation) for q in _questions(operation, _digits(model))}
    questions = list(results)
    # Which examples go together is no matter of the seed: it is part of which prompts there are.
    order = random.Random("arithmetic examples").sample(questions, len(questions))

    def differs(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] != other[0] and results[one] != results[other]

    def build(index: int, rng: random.Random) -> PromptPair | None:
        index, start = divmod(index, len(order) if n_examples else 1)
        clean = questions[index]
        # Each start of its own has a first example of its own, so no prompt comes twice.
        if n_examples and results[order[start]] == results[clean]:
            return None
        later = (q for q in order[start:] + order[:start] if results[q] != results[clean])
        examples = list(itertools.islice(later, n_examples))
        drawn = (rng.choice(questions) for _ in range(1000))
        other = next((q for q in drawn if differs(q, clean) and q not in examples), None)
        if other is None or len(examples) < n_examples:
            return None
        shown = "".join(f"{_equation(q, operation)} {results[q]}, " for q in examples)
        asked, instead = (shown + _equation(question, operation) for question in (clean, other))
        right, wrong = results[clean], results[other]
        prompts = [
            _before_answer(model, text, number)
            for text, number in ((asked, right), (asked, wrong), (instead, wrong))
        ]
        if None in prompts:
            return None
        (ids, answer), (again, wrong_answer), (other_ids, other_answer) = cast(
            "list[_Asked]", prompts
        )
        if ids != again or wrong_answer != other_answer or len(ids) != len(other_ids):
            return None
        name = f"arithmetic {operation}: {asked} [{_equation(other, operation)}]"
        return PromptPair(ids, other_ids, answer, wrong_answer, "logit_diff", name)

    total = len(questions) * (len(order) if n_examples else 1)
    return take(n, total, build, f"arithmetic_{operation}", seed)


def _questions(operation: Operation, digits: int) -> list[tuple[int, int]]:
    """All questions with operands of so many digits; of one digit, with answers of one digit."""
    numbers = range(10 ** (digits - 1), 10**digits)
    largest = 9 if digits == 1 else 198
    pairs = [(a, b) for a in numbers for b in numbers]
    return [pair for pair in pairs if 1 <= _result(pair, operation) <= largest]


def _result(question: tuple[int, int], operation: Operation) -> int:
    a, b = question
    return a + b if operation == "addition" else a - b


def _equation(question: tuple[int, int], operation: Operation) -> str:
    a, b = question
    return f"{a} {_SIGNS[operation]} {b} ="


def _before_answer(model: Any, text: str, number: int) -> tuple[tuple[int, ...], int] | None:
    """What the model reads before the number that follows the text, and the number's token."""
    *before, token = token_ids(model, f"{text} {number}")
    if model.tokenizer.decode([token]).strip() != str(number):
        return None
    return tuple(before), token


def _digits(model: Any) -> int:
    """How many digits a number of one token can have after an equals sign: 2 or 1."""
    for digits, numbers in ((2, (37, 58)), (1, (3, 5))):
        found = [_before_answer(model, "4 + 3 =", number) for number in numbers]
        if None not in found and cast("_Asked", found[0])[0] == cast("_Asked", found[1])[0]:
            return digits
    shown = "|".join(model.tokenizer.decode([i]) for i in token_ids(model, "4 + 3 = 7"))
    raise ValueError(
        f"task 'arithmetic' scores one token, the result, but this model's tokenizer writes not "
        f"even a number of one digit as one token: {shown}"
    )
