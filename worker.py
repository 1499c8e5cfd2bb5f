"""The worker process: it runs the workflows and activities of all orders until SIGTERM or SIGINT."""

from app.process import launch
from app.wiring import worker_program

if __name__ == "__main__":
    launch("worker.py", worker_program)
