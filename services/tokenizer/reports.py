"""Reports of requests that have ended, the latest few thousand."""

import heapq
import itertools
from collections import OrderedDict

from engine.errors import InvalidRequest, ModelNotFound
from tiercel.v1 import common_pb2, inference_pb2

_DEFAULT_LIMIT, _MAX_LIMIT = 10, 1000


class ReportBook:
    """Forgets the oldest report first. Each is kept as its few hundred bytes on the wire."""

    def __init__(self, max_reports: int) -> None:
        self._max_reports = max_reports
        # By request id: time end to end, and the report.
        self._reports: OrderedDict[str, tuple[int, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: common_pb2.RequestReport, usage: common_pb2.Usage) -> None:
        response = inference_pb2.GetReportResponse(report=report, usage=usage)
        self._reports.pop(report.request_id, None)
        self._reports[report.request_id] = (report.e2e_ns, response.SerializeToString())
        if len(self._reports) > self._max_reports:
            self._reports.popitem(last=False)

    def get(self, request_id: str) -> inference_pb2.GetReportResponse:
        kept = self._reports.get(request_id)
        if kept is None:
            raise ModelNotFound(
                f"there is no report of request {request_id!r}: it has not ended here, or was too long ago "
                f"(the last {self._max_reports} are kept)",
                field="request_id",
            )
        return inference_pb2.GetReportResponse.FromString(kept[1])

    def select(self, order: inference_pb2.ReportOrder, limit: int) -> list[inference_pb2.GetReportResponse]:
        """Latest or slowest first; `limit` 0 stands for a default. Raises InvalidRequest."""
        if limit > _MAX_LIMIT:
            raise InvalidRequest(f"limit is {limit}; ask for at most {_MAX_LIMIT} reports", field="limit")
        limit = limit or _DEFAULT_LIMIT
        if order == inference_pb2.REPORT_ORDER_SLOWEST:
            chosen = heapq.nlargest(limit, self._reports.values(), key=lambda kept: kept[0])
        else:
            chosen = list(itertools.islice(reversed(self._reports.values()), limit))
        return [inference_pb2.GetReportResponse.FromString(content) for _, content in chosen]
