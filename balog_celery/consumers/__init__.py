"""Consumers, the functions that ask for events: declare them, find them, and route events to them.

``declaration`` has the decorator, ``annotations`` reads what a function asks for, and ``calling`` passes it that;
``existing`` makes consumers of tasks. ``options`` and ``time_limits`` check task options. ``hub`` finds consumers,
``router`` routes events, ``operator`` resolves topics and calls functions, and ``attributes`` names the message
attributes that consumers read. ``explain`` and ``lint`` tell a developer why an event goes where it goes. Events come
in decoded; next, a ``delivery`` carries them to a dispatcher of ``dispatch``.
"""

from ..errors import BatchFailure
from .consumer import Consumer
from .declaration import consumer_config
from .hub import ConsumerHub
from .operator import ConsumerOperator

__all__ = ["BatchFailure", "Consumer", "ConsumerHub", "ConsumerOperator", "consumer_config"]
