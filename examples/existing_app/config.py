"""The app's own configuration: its broker is where its environment says."""

import os

broker_url = os.environ.get("BROKER_URL", "redis://localhost:6379/0")
task_default_queue = "shop"
