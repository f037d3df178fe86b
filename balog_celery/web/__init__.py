"""``celery -A app balog web``: pages for people on call, about topics, consumers and dead letters.

``server`` builds the ASGI application; ``pages`` and ``dead_pages`` are its pages; ``access`` and ``security`` guard
them. ``sampler`` collects numbers in the background. ``dead_letters`` calls the code of ``celery balog dead``.
"""
