"""The same echo as a subclass of BaseHandler, with a status and headers of its own.

Request headers choose them: X-Status, X-Reason, X-Content-Type.
"""

from ts.torch_handler.base_handler import BaseHandler


class EchoHandler(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def preprocess(self, data):
        for idx in range(len(data)):
            headers = self.context.get_all_request_header(idx)
            if "X-Status" in headers:
                reason = headers.get("X-Reason", "")
                self.context.set_response_status(int(headers["X-Status"]), reason, idx)
            if "X-Content-Type" in headers:
                self.context.set_response_content_type(idx, headers["X-Content-Type"])
            self.context.set_response_header(idx, "X-Batch-Size", len(data))
        return data

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        return [row.get("data") or row.get("body") or b"" for row in data]
