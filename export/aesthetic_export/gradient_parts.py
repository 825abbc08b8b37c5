"""What the tower and the heads are made of, each with its derivative written out.

A part's `forward` gives its output and what its `backward` needs; `backward` takes the derivative
by the output and gives that by the input. Rows are tokens: (rows, width). The formulas are those of
LayerNorm (Ba, Kiros and Hinton, arXiv 1607.06450), of attention (Vaswani et al., arXiv 1706.03762)
and of the logistic function; that softmax's sum over gradients is the sum of output times its
gradient is noted in FlashAttention (Dao et al., arXiv 2205.14135, appendix B).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from aesthetic_export.modules import GROUPS, AestheticHeads, Affine, ReluMlp
from aesthetic_export.towers import QUICK_GELU_FACTOR

Rows: TypeAlias = torch.Tensor
linear = functional.linear  # x @ weight.T + bias: one Gemm where x has two axes


def product_sum(a: Rows, b: Rows) -> Rows:
    """(N, 768), (N, 768) -> (N, 1), summed in groups first, as in `Affine` and for its reason."""
    return (a * b).reshape(-1, GROUPS, a.shape[1] // GROUPS).sum(-1).sum(-1, keepdim=True)


class Norm(nn.Module):
    """LayerNorm: weight * x^ + bias, x^ = (x - mean) / deviation."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.register_buffer("weight", norm.weight.detach())
        self.register_buffer("bias", norm.bias.detach())
        self.eps = float(norm.eps)

    def forward(self, x: Rows) -> tuple[Rows, tuple[Rows, Rows]]:
        centred = x - x.mean(-1, keepdim=True)
        deviation = ((centred * centred).mean(-1, keepdim=True) + self.eps).sqrt()
        unit = centred / deviation
        return unit * self.weight + self.bias, (unit, deviation)

    def backward(self, grad: Rows, kept: tuple[Rows, Rows]) -> Rows:
        unit, deviation = kept
        grad = grad * self.weight
        along = (grad * unit).mean(-1, keepdim=True)
        return (grad - grad.mean(-1, keepdim=True) - unit * along) / deviation


class Mlp(nn.Module):
    """A block's second half without its residual: LayerNorm, up, QuickGELU, down."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm = Norm(block.ln_2)
        self.up = _Layer(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        self.down = _Layer(block.mlp.c_proj.weight, block.mlp.c_proj.bias)

    def forward(self, x: Rows) -> tuple[Rows, Any]:
        x, normed = self.norm(x)
        x = self.up(x)
        gate = torch.sigmoid(QUICK_GELU_FACTOR * x)
        x = x * gate
        return self.down(x), (normed, gate, x)

    def backward(self, grad: Rows, kept: Any) -> Rows:
        normed, gate, output = kept
        # h sigmoid(c h) has the derivative sigmoid(c h) + c h sigmoid(c h) (1 - sigmoid(c h)).
        slope = gate + QUICK_GELU_FACTOR * output * (1 - gate)
        grad = self.up.backward(self.down.backward(grad) * slope)
        return self.norm.backward(grad, normed)


class Attention(nn.Module):
    """A block's first half without its residual: LayerNorm, attention among a picture's tokens."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention = block.attn
        self.heads = int(attention.num_heads)
        self.norm = Norm(block.ln_1)
        self.qkv = _Layer(attention.in_proj_weight, attention.in_proj_bias)
        self.out = _Layer(attention.out_proj.weight, attention.out_proj.bias)

    def forward(self, stream: Rows, tokens: int) -> tuple[Rows, Any]:
        x, normed = self.norm(stream)
        width = x.shape[1]
        # three (N, heads, tokens, width / heads)
        q, k, v = (
            self.qkv(x).view(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed, attended = attend(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(-1, width)), (normed, attended)

    def backward(self, grad: Rows, kept: Any) -> Rows:
        normed, attended = kept
        _, heads, tokens, size = attended[0].shape
        grad = self.out.backward(grad).view(-1, tokens, heads, size).transpose(1, 2)
        by_qkv = torch.stack(attend_backward(grad, attended))  # (3, N, heads, tokens, size)
        by_qkv = by_qkv.permute(1, 3, 0, 2, 4).reshape(-1, 3 * heads * size)
        return self.norm.backward(self.qkv.backward(by_qkv), normed)


class ClassAttention(nn.Module):
    """Attention of the class tokens alone: (N * tokens, width) -> (N, width)."""

    def __init__(self, block: Any, tokens: int) -> None:
        super().__init__()
        attention = block.attn
        self.heads, self.tokens = int(attention.num_heads), tokens
        self.norm = Norm(block.ln_1)
        width = attention.in_proj_weight.shape[1]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.q = _Layer(weight[:width], bias[:width])
        self.kv = _Layer(weight[width:], bias[width:])
        self.out = _Layer(attention.out_proj.weight, attention.out_proj.bias)

    def forward(self, stream: Rows) -> tuple[Rows, Any]:
        x, normed = self.norm(stream)
        width = x.shape[1]
        size = width // self.heads
        q = self.q(x.view(-1, self.tokens, width)[:, 0]).view(-1, self.heads, 1, size)
        k, v = self.kv(x).view(-1, self.tokens, 2, self.heads, size).permute(2, 0, 3, 1, 4)
        mixed, attended = attend(q, k, v)
        return self.out(mixed.reshape(-1, width)), (normed, attended)

    def backward(self, grad: Rows, kept: Any) -> Rows:
        """By all of the stream; `grad` (N, width) also goes past the attention, to class tokens."""
        normed, attended = kept
        width = grad.shape[1]
        size = width // self.heads
        by_mixed = self.out.backward(grad).view(-1, self.heads, 1, size)
        by_q, by_k, by_v = attend_backward(by_mixed, attended)
        by_kv = torch.stack([by_k, by_v]).permute(1, 3, 0, 2, 4).reshape(-1, 2 * width)
        by_x = self.kv.backward(by_kv).view(-1, self.tokens, width)
        by_q = self.q.backward(by_q.reshape(-1, width))[:, None]
        by_x = torch.cat([by_x[:, :1] + by_q, by_x[:, 1:]], dim=1).reshape(-1, width)
        by_stream = self.norm.backward(by_x, normed).view(-1, self.tokens, width)
        by_stream = torch.cat([by_stream[:, :1] + grad[:, None], by_stream[:, 1:]], dim=1)
        return by_stream.reshape(-1, width)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """softmax(q k' / sqrt(size)) v, each (N, heads, tokens, size)."""
    scaled = q * q.shape[-1] ** -0.5
    weights = torch.softmax(scaled @ k.transpose(-1, -2), dim=-1)
    mixed = weights @ v
    return mixed, (scaled, k, v, weights, mixed)


def attend_backward(
    grad: torch.Tensor, kept: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By q, k and v."""
    scaled, k, v, weights, mixed = kept
    by_v = weights.transpose(-1, -2) @ grad
    # Softmax: p * (g - sum(p * g)); the sum over tokens is that of output * its gradient.
    by_logits = weights * (grad @ v.transpose(-1, -2) - (grad * mixed).sum(-1, keepdim=True))
    by_q = by_logits @ k * k.shape[-1] ** -0.5
    return by_q, by_logits.transpose(-1, -2) @ scaled, by_v


def heads_with_gradient(
    heads: AestheticHeads, embedding: Rows, head_weights: Rows
) -> tuple[Rows, Rows]:
    """sum of head_weights (N, heads) * heads (N, 1), and its gradient (N, 768)."""
    score = gradient = torch.zeros_like(embedding[:, :1])
    for index, head in enumerate(heads.heads):
        of_head = _mlp_gradient if isinstance(head, ReluMlp) else _affine_gradient
        value, slope = of_head(head, embedding)  # type: ignore[arg-type]
        weight = head_weights[:, index : index + 1]
        score, gradient = score + weight * value, gradient + weight * slope
    return score, gradient


def _affine_gradient(head: Affine, embedding: Rows) -> tuple[Rows, Rows]:
    """Of w . e + b; or, of w . e / |e| + b, what is across e: (w - e (w . e) / |e|^2) / |e|."""
    weight = head.weight.reshape(1, -1)
    if not head.normalizes:
        return head(embedding), weight
    squares = product_sum(embedding, embedding)
    across = weight - embedding * (product_sum(embedding, weight) / squares)
    return head(embedding), across / squares.sqrt()


def _mlp_gradient(head: ReluMlp, embedding: Rows) -> tuple[Rows, Rows]:
    """A ReLU lets pass the gradient where it let pass the value."""
    *hidden, (last_weight, last_bias) = [_tensors_of(layer) for layer in head.layers]
    x, passed = embedding, []
    for weight, bias in hidden:
        x = functional.relu(linear(x, weight, bias))
        passed.append((x > 0).to(x.dtype))
    grad = last_weight
    for (weight, _), mask in zip(reversed(hidden), reversed(passed), strict=True):
        grad = (grad * mask) @ weight
    return linear(x, last_weight, last_bias), grad


def _tensors_of(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


class _Layer(nn.Module):
    """x @ weight' + bias on rows, and its derivative."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", bias.detach())

    def forward(self, x: Rows) -> Rows:
        return linear(x, self.weight, self.bias)

    def backward(self, grad: Rows) -> Rows:
        return grad @ self.weight
