"""Log probabilities of token positions, in columns."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Logprobs:
    """Entry i is one token position: its log probability and the most likely alternatives.

    The flat `top_*` columns hold `num_top[i]` entries for entry i, most likely first. Log probabilities
    are of the model's raw distribution (before temperature, penalties and masks), as in vLLM.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    num_top: list[int] = field(default_factory=list)
    top_token_ids: list[int] = field(default_factory=list)
    top_logprobs: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    def append(
        self, token_id: int, logprob: float, rank: int, top_token_ids: list[int], top_logprobs: list[float]
    ) -> None:
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.ranks.append(rank)
        self.num_top.append(len(top_token_ids))
        self.top_token_ids.extend(top_token_ids)
        self.top_logprobs.extend(top_logprobs)

    def extend(self, other: "Logprobs") -> None:
        self.token_ids.extend(other.token_ids)
        self.logprobs.extend(other.logprobs)
        self.ranks.extend(other.ranks)
        self.num_top.extend(other.num_top)
        self.top_token_ids.extend(other.top_token_ids)
        self.top_logprobs.extend(other.top_logprobs)
