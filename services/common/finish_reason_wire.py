"""`engine.scheduling.request.FinishReason` as its protobuf enum."""

from engine.scheduling.request import FinishReason
from tiercel.v1 import common_pb2

_TO_WIRE = {
    FinishReason.STOP: common_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: common_pb2.FINISH_REASON_CANCELLED,
}
_FROM_WIRE = {wire: reason for reason, wire in _TO_WIRE.items()}


def finish_reason_to_wire(reason: FinishReason) -> common_pb2.FinishReason:
    return _TO_WIRE[reason]


def finish_reason_from_wire(reason: common_pb2.FinishReason) -> FinishReason:
    return _FROM_WIRE[reason]
