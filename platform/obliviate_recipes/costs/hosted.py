"""What asking a hosted model costs: requests and tokens, and the money that they come to."""

from dataclasses import dataclass

from obliviate.schema import PriceSpec


@dataclass(frozen=True)
class Requested:
    """Answers are taken to be as long as they may be, so that all of it is an upper end."""

    title: str
    requests: int
    prompt_tokens: float
    completion_tokens: float
    price: PriceSpec | None

    @property
    def cost(self) -> float | None:
        """None without prices."""
        if self.price is None:
            return None
        return (self.prompt_tokens * self.price.prompt + self.completion_tokens * self.price.completion) / 1e6

    def __str__(self) -> str:
        cost = "" if self.cost is None else f": {self.cost:.4g} at most"
        return (
            f"{self.title}: {self.requests} requests, {self.prompt_tokens:.3g} tokens to read and at most "
            f"{self.completion_tokens:.3g} to write{cost}"
        )
