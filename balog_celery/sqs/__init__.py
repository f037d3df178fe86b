"""Amazon SQS: receive, delete, extend and send messages, and create queues.

``queues`` has the queue that the rest of the package uses, ``messages`` and ``protocols`` its types, ``addresses`` the
names and URLs of queues, and ``diagnostics`` the questions of the commands. The other modules call AWS: the clients, a
fast path for the frequent calls, answers, error codes, and bodies in S3. The engine receives messages from here, and
deletes them here once their events are processed.
"""
