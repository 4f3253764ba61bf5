"""A language model with a known circuit, to test methods that look for one.

A small Llama with random weights in which every writer owns a few coordinates of the residual
stream, and every reader reads those of some writers, drawn at random. What a reader does not read
cannot reach it, so the edges are known. Norms would mix everything with everything; they are made
the identity by one more coordinate that holds a large constant, 1e6, beside which the rest does not
count: the norm of the stream is constant to one part in 1e12, and the norm's weight undoes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hvp_utils import _checks
from hvp_utils.components import edge_graph

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

__all__ = ["Planted", "planted_model"]

_WIDTH, _D_HEAD, _D_MLP = 6, 8, 16  # coordinates of a writer, width of a head and of an MLP
_PIN = 1e6
_LARGEST_VOCABULARY = 1_000_000


class Planted(NamedTuple):
    """A model and its circuit.

    Attributes:
        model: The model, in float64.
        edges: Labels of the edges that were planted: what a reader reads.
        circuit: Those among them that can matter: a path leads through them from the embedding to
            the logits.
    """

    model: LlamaForCausalLM
    edges: frozenset[str]
    circuit: frozenset[str]


def planted_model(
    seed: int = 0, n_layers: int = 3, n_heads: int = 4, density: float = 0.4, d_vocab: int = 40
) -> Planted:
    """Draw a model with a known circuit.

    Args:
        seed: Seed of everything that is drawn.
        n_layers: Number of blocks.
        n_heads: Heads of a block.
        density: The share of edges that are planted.
        d_vocab: Tokens in the vocabulary.

    Returns:
        The model, its edges, and those that can matter.
    """
    for name, count in (("n_layers", n_layers), ("n_heads", n_heads)):
        _checks.steps(name, count)
    _checks.whole("d_vocab", d_vocab, 1, _LARGEST_VOCABULARY)
    density = _checks.number("density", density, least=0, most=1)
    generator = torch.Generator().manual_seed(_checks.seed(seed))
    graph = edge_graph(n_layers, n_heads)
    names = graph.writer_labels
    d_model = 1 + len(names) * _WIDTH
    d_model += -d_model % n_heads
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=d_vocab,
            hidden_size=d_model,
            intermediate_size=_D_MLP,
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            num_key_value_heads=n_heads,
            head_dim=_D_HEAD,
            max_position_embeddings=64,
            rms_norm_eps=1e-12,
            tie_word_embeddings=False,
            architectures=["LlamaForCausalLM"],
        )
    ).double()
    edges = set()

    def draw(rows: int, columns: int, scale: float) -> Tensor:
        return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    def own(writer: str) -> slice:
        start = 1 + names.index(writer) * _WIDTH
        return slice(start, start + _WIDTH)

    def plant(reader: str, n_writers: int, weights: list[Tensor], scale: float) -> None:
        for writer in names[:n_writers]:
            if torch.rand(1, generator=generator) < density:
                edges.add(f"{writer}->{reader}")
                for weight in weights:
                    weight[:, own(writer)] = draw(len(weight), _WIDTH, scale / _WIDTH**0.5)

    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(_PIN / d_model**0.5)
        model.model.embed_tokens.weight[:, 0] = _PIN
        model.model.embed_tokens.weight[:, own("embed")] = draw(d_vocab, _WIDTH, 1.0)
        for group in graph.readers[:-1]:
            block = cast("LlamaDecoderLayer", model.model.layers[group.layer])
            attention, mlp = block.self_attn, block.mlp
            if "attn" not in group.hook:
                (reader,) = group.labels
                plant(reader, group.n_writers, [mlp.gate_proj.weight, mlp.up_proj.weight], 0.8)
                mlp.down_proj.weight[own(reader)] = draw(_WIDTH, _D_MLP, 0.8 / _D_MLP**0.5)
                continue
            for h, reader in enumerate(group.labels):
                rows = slice(h * _D_HEAD, (h + 1) * _D_HEAD)
                projection = getattr(attention, f"{reader[-1]}_proj").weight
                plant(reader, group.n_writers, [projection[rows]], 0.8)
                if reader.endswith("q"):
                    writes = draw(_WIDTH, _D_HEAD, 0.8 / _D_HEAD**0.5)
                    attention.o_proj.weight[own(reader.removesuffix(".q")), rows] = writes
        plant("logits", len(names), [model.lm_head.weight], _WIDTH**0.5)
    return Planted(model.eval(), frozenset(edges), _that_can_matter(edges))


def _that_can_matter(edges: set[str]) -> frozenset[str]:
    """Edges on a path from the embedding to the logits, along which something can flow."""
    live = {tuple(edge.split("->")) for edge in edges}
    while True:
        read = {reader for _, reader in live}
        feeding = {writer for writer, _ in live}
        # A head writes something that varies only if it reads values that do; an MLP, anything.
        fed = {"embed"} | {reader.removesuffix(".v") for reader in read if reader[-2:] != ".q"}
        fed -= {reader for reader in read if reader.endswith((".q", ".k"))}

        def flows(writer: str, reader: str, read=read, feeding=feeding, fed=fed) -> bool:
            if writer not in fed:
                return False
            if reader == "logits":
                return True
            node, _, part = reader.partition(".")
            if part == "mlp":
                return reader in feeding
            # A score is a product: a query matters only with a key, and neither without a value.
            other = {"q": f"{node}.k", "k": f"{node}.q", "v": reader}[part]
            return node in feeding and node in fed and other in read

        left = {edge for edge in live if flows(*edge)}
        if left == live:
            return frozenset(f"{writer}->{reader}" for writer, reader in live)
        live = left
