"""Reports of finished requests, the latest few thousand."""

from collections import OrderedDict

from engine.errors import ModelNotFound
from tiercel.v1 import common_pb2, inference_pb2


class ReportBook:
    """Forgets the oldest report first."""

    def __init__(self, max_reports: int) -> None:
        self._max_reports = max_reports
        self._reports: OrderedDict[str, inference_pb2.GetReportResponse] = OrderedDict()

    def add(self, report: common_pb2.RequestReport, usage: common_pb2.Usage) -> None:
        self._reports.pop(report.request_id, None)
        self._reports[report.request_id] = inference_pb2.GetReportResponse(report=report, usage=usage)
        if len(self._reports) > self._max_reports:
            self._reports.popitem(last=False)

    def get(self, request_id: str) -> inference_pb2.GetReportResponse:
        report = self._reports.get(request_id)
        if report is None:
            raise ModelNotFound(
                f"there is no report of request {request_id!r}: it has not finished here, or was too long ago "
                f"(the last {self._max_reports} are kept)",
                field="request_id",
            )
        return report
