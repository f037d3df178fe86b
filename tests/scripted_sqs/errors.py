"""The errors that SQS answers with, in the forms of its AWS JSON 1.0 protocol."""

from __future__ import annotations

from typing import Any

#: The codes of the former query protocol, which ``x-amzn-query-error`` carries, where they differ.
_QUERY_CODES = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "BatchEntryIdsNotDistinct": "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "BatchRequestTooLong": "AWS.SimpleQueueService.BatchRequestTooLong",
    "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
    "InvalidBatchEntryId": "AWS.SimpleQueueService.InvalidBatchEntryId",
    "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
    "MessageNotInflight": "AWS.SimpleQueueService.MessageNotInflight",
    "PurgeQueueInProgress": "AWS.SimpleQueueService.PurgeQueueInProgress",
    "UnsupportedOperation": "AWS.SimpleQueueService.UnsupportedOperation",
}


class ApiError(Exception):
    """An error that SQS answers with, for a call or for one entry of a batch.

    :param code: the service's code.
    :param message: its words.
    :param status: the HTTP status of a call that ends with it.
    :param sender_fault: whether the caller is to blame.
    """

    def __init__(self, code: str, message: str = "injected", status: int = 400, *, sender_fault: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.sender_fault = sender_fault

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"__type": f"com.amazonaws.sqs#{self.code}", "message": self.message}

    @property
    def query_error(self) -> str:
        """The value of the ``x-amzn-query-error`` header."""
        return f"{_QUERY_CODES.get(self.code, self.code)};{'Sender' if self.sender_fault else 'Receiver'}"

    def entry(self, entry_id: str) -> dict[str, Any]:
        """The entry of ``Failed`` in the answer to a batch."""
        return {"Id": entry_id, "Code": self.code, "Message": self.message, "SenderFault": self.sender_fault}


def invalid(message: str) -> ApiError:
    """A parameter has a value that SQS does not take."""
    return ApiError("InvalidParameterValue", message)


def bad_handle(handle: str, reason: str) -> ApiError:
    """A receipt handle is not taken."""
    return invalid(f"Value {handle} for parameter ReceiptHandle is invalid. Reason: {reason}")


def missing(parameter: str) -> ApiError:
    """A required parameter is missing."""
    return ApiError("MissingParameter", f"The request must contain the parameter {parameter}.")


def no_queue() -> ApiError:
    """There is no such queue."""
    return ApiError("QueueDoesNotExist", "The specified queue does not exist.")


def denied(action: str, arn: str) -> ApiError:
    """The caller's policy does not allow *action* on the queue."""
    who = "User: arn:aws:iam::000000000000:user/worker is not authorized to perform"
    why = f"because no identity-based policy allows the sqs:{action.lower()} action"
    return ApiError("AccessDeniedException", f"{who}: sqs:{action.lower()} on resource: {arn} {why}", 403)
