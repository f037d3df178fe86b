"""The task of PyQS, which its messages name."""

from __future__ import annotations

from function import QUEUE, note
from pyqs import task

consume = task(queue=QUEUE)(note)
