"""What a scheduler refuses at once, and why."""

from engine.errors import DeadlinePassed, InvalidRequest, Overloaded, PromptTooLong
from engine.scheduling.book import RequestBook
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.request import FinishReason, Request

_UINT32_END = 2**32


def check_request(request: Request, config: SchedulerConfig, book: RequestBook, now_ns: int) -> None:
    """Raise InvalidRequest, PromptTooLong or DeadlinePassed for what can never be served."""
    num_prompt_tokens = len(request.prompt_token_ids)
    if request.request_id in book.requests:
        raise InvalidRequest(
            f"Request id {request.request_id!r} belongs to a request that is still running; choose another",
            field="request_id",
        )
    if not num_prompt_tokens:
        raise InvalidRequest("The prompt has no tokens; at least one is needed", field="prompt")
    if request.n < 1:
        raise InvalidRequest(f"n is {request.n}; it must be at least 1", field="n")
    if request.resume_token_ids and request.n > 1:
        raise InvalidRequest(
            f"resume_token_ids go with n = 1 only, not n = {request.n}; send each choice on its own",
            field="resume_token_ids",
        )
    if request.sampling.max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {request.sampling.max_tokens}; it must be at least 1", field="max_tokens")
    if num_prompt_tokens >= config.max_model_tokens:
        raise PromptTooLong(
            f"The prompt has {num_prompt_tokens} tokens; with one token of output at most "
            f"{config.max_model_tokens - 1} fit here. Shorten it",
            field="prompt",
        )
    for field, token_ids in (("prompt", request.prompt_token_ids), ("resume_token_ids", request.resume_token_ids)):
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < _UINT32_END:
            raise InvalidRequest(f"A token id in {field} is outside of 0 .. {_UINT32_END - 1}", field=field)
    if request.deadline_ns is not None and request.deadline_ns <= now_ns:
        late_ms = (now_ns - request.deadline_ns) / 1e6
        raise DeadlinePassed(f"The deadline had passed by {late_ms:.0f} ms when the request arrived; allow more time")


def check_load(config: SchedulerConfig, book: RequestBook, now_ns: int) -> None:
    """Raise Overloaded when the queue is full."""
    if book.num_unstarted < config.max_waiting:
        return
    retry_after_s = book.completion_rate.retry_after_s(book.num_unstarted, now_ns)
    raise Overloaded(
        f"{book.num_unstarted} requests are waiting and no more than {config.max_waiting} may; "
        f"try again in {retry_after_s:.2g} s",
        retry_after_s,
    )


def completed_by_resume(request: Request, config: SchedulerConfig) -> tuple[FinishReason, int | None] | None:
    """How the request has ended already, when the output that the client holds is whole."""
    resumed = request.resume_token_ids
    if not resumed:
        return None
    if resumed[-1] in request.sampling.stop_token_ids:
        return FinishReason.STOP, resumed[-1]
    max_total = min(len(request.prompt_token_ids) + request.sampling.max_tokens, config.max_model_tokens)
    if len(request.prompt_token_ids) + len(resumed) >= max_total:
        return FinishReason.LENGTH, None
    return None
