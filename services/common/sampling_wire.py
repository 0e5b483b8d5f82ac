"""`engine.sampling.SamplingParams` as the protobuf that travels from tokenizer to scheduler to worker."""

from engine.sampling import SamplingParams
from tiercel.v1 import common_pb2

_NO_LOGPROBS = -1


def sampling_to_wire(params: SamplingParams) -> common_pb2.TokenSampling:
    return common_pb2.TokenSampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed,
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias_ids=[token_id for token_id, _ in params.logit_bias],
        logit_bias_values=[bias for _, bias in params.logit_bias],
        allowed_token_ids=params.allowed_token_ids,
        stop_token_ids=params.stop_token_ids,
        bad_words=[common_pb2.TokenIds(ids=ids) for ids in params.bad_words],
        logprobs=_NO_LOGPROBS if params.logprobs is None else params.logprobs,
        prompt_logprobs=_NO_LOGPROBS if params.prompt_logprobs is None else params.prompt_logprobs,
    )


def sampling_from_wire(message: common_pb2.TokenSampling) -> SamplingParams:
    return SamplingParams(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        min_p=message.min_p,
        seed=message.seed,
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        repetition_penalty=message.repetition_penalty,
        logit_bias=tuple(zip(message.logit_bias_ids, message.logit_bias_values, strict=True)),
        allowed_token_ids=tuple(message.allowed_token_ids),
        stop_token_ids=tuple(message.stop_token_ids),
        bad_words=tuple(tuple(word.ids) for word in message.bad_words),
        logprobs=None if message.logprobs == _NO_LOGPROBS else message.logprobs,
        prompt_logprobs=None if message.prompt_logprobs == _NO_LOGPROBS else message.prompt_logprobs,
    )
