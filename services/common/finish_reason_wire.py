"""`engine.scheduling.request.FinishReason` as its protobuf enum."""

from engine.scheduling.request import FinishReason
from tiercel.v1 import common_pb2

_TO_WIRE = {
    FinishReason.STOP: common_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: common_pb2.FINISH_REASON_CANCELLED,
}


def finish_reason_to_wire(reason: FinishReason) -> common_pb2.FinishReason:
    return _TO_WIRE[reason]
