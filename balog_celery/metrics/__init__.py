"""Metrics for Prometheus, and probes, on a port of a worker or an engine: the setting ``balog_metrics_port``.

``exposition`` turns the status of engines and the ends of tasks into metrics, and ``server`` serves them.
"""
