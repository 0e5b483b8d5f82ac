"""What the tiers hold of a request's beginning now. Pure: it pins nothing and changes nothing."""

from engine.blocks.residency import Residency, Tier
from engine.ids import BlockKey
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.live_request import key_chain
from engine.scheduling.request import CachedTokens, Request


def block_keys(request: Request, config: SchedulerConfig) -> list[BlockKey]:
    """The keys of the request's full blocks."""
    chain = key_chain(request, config)
    chain.extend([*request.prompt_token_ids, *request.resume_token_ids])
    return chain.keys


def prefix_hits(request: Request, config: SchedulerConfig, residency: Residency) -> CachedTokens:
    """How many of the request's first tokens are in some tier, each in its nearest. One token is left to compute."""
    hits = CachedTokens()
    if not config.prefix_cache or request.sampling.prompt_logprobs is not None:
        return hits
    size = config.block_size
    max_blocks = (len(request.prompt_token_ids) + len(request.resume_token_ids) - 1) // size
    for run in residency.longest_prefix(block_keys(request, config), max_blocks):
        match run.tier:
            case Tier.DEVICE:
                hits.device += run.count * size
            case Tier.HOST:
                hits.host += run.count * size
            case Tier.DISK:
                hits.disk += run.count * size
    return hits
