"""A local SQS, S3 and SNS for the tests, in a process: ``python moto_server.py [PORT]`` prints its URL and serves."""

import logging
import sys
import threading

from moto.server import ThreadedMotoServer

if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, verbose=False)
    server.start()
    print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
    threading.Event().wait()
