"""Pre-norm transformer: the only place where tokens look at each other.

Axes: r sequence, l token, k kept token, d width, h head.
Source: the layers that the official code takes from vit-pytorch: no bias in qkv, GELU, a closing LayerNorm.
"""

from torch import Tensor, nn
from torch.nn import functional

from geomaestro.nn.gather import pick


class Attention(nn.Module):
    """Multi-head attention over one sequence; `norm` comes first."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, attendable: Tensor | None, keep: Tensor | None) -> Tensor:
        """(r l d) -> (r l d), or (r k d) where only the tokens `keep` (r k) ask."""
        x = self.norm(x)
        if keep is None:
            q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        else:
            to_q, to_kv = self.qkv.weight.tensor_split([self.out.in_features])
            q = self._split(functional.linear(pick(x, keep), to_q))
            k, v = (self._split(part) for part in functional.linear(x, to_kv).chunk(2, dim=-1))
        allowed = None if attendable is None else attendable[:, None, None, :]
        heard = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.out(heard.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a GELU between; `norm` comes first."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.gelu(self.up(self.norm(x))))
        return out


class Block(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, head_dim)
        self.mlp = Mlp(dim, mlp_dim)

    def forward(self, x: Tensor, attendable: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """(r l d) -> (r l d), or (r k d) with `keep`."""
        heard = self.attention(x, attendable, keep)
        x = (x if keep is None else pick(x, keep)) + heard
        out: Tensor = x + self.mlp(x)
        return out


class Transformer(nn.Module):
    """Blocks and a closing LayerNorm."""

    def __init__(self, dim: int, depth: int, *, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, head_dim, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, attendable: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """(r l d) -> (r l d).

        `attendable` (r l) is True where a token may be looked at; None means everywhere. With `keep` (r k) the answer
        is (r k d): those tokens alone, equal to `pick(all of them, keep)`; the last block then skips the others.
        """
        if keep is not None and not self.blocks:
            x = pick(x, keep)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, attendable, keep if number == len(self.blocks) else None)
        out: Tensor = self.norm(x)
        return out
