"""The wiring of a Celery app: its configuration, its connections to queues and Redis, and the loading of its consumers.

``app_wiring`` puts them together for one app; ``integration`` installs that.
"""
