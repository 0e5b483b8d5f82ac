"""`engine.logprobs.Logprobs` as protobuf columns. Column by column, never entry by entry."""

from engine.logprobs import Logprobs
from tiercel.v1 import common_pb2


def logprobs_to_wire(logprobs: Logprobs) -> common_pb2.LogprobColumns:
    return common_pb2.LogprobColumns(
        token_ids=logprobs.token_ids,
        logprobs=logprobs.logprobs,
        ranks=logprobs.ranks,
        num_top=logprobs.num_top,
        top_token_ids=logprobs.top_token_ids,
        top_logprobs=logprobs.top_logprobs,
    )


def logprobs_from_wire(columns: common_pb2.LogprobColumns) -> Logprobs:
    return Logprobs(
        token_ids=list(columns.token_ids),
        logprobs=list(columns.logprobs),
        ranks=list(columns.ranks),
        num_top=list(columns.num_top),
        top_token_ids=list(columns.top_token_ids),
        top_logprobs=list(columns.top_logprobs),
    )


def split_entries(logprobs: Logprobs) -> list[Logprobs]:
    """One `Logprobs` of a single entry per entry, in order."""
    entries = []
    offset = 0
    for i, num_top in enumerate(logprobs.num_top):
        end = offset + num_top
        entries.append(
            Logprobs(
                [logprobs.token_ids[i]],
                [logprobs.logprobs[i]],
                [logprobs.ranks[i]],
                [num_top],
                logprobs.top_token_ids[offset:end],
                logprobs.top_logprobs[offset:end],
            )
        )
        offset = end
    return entries
