"""The web process: it takes signed events from Stripe and the warehouse until SIGTERM or SIGINT."""

from app.process import launch
from app.web.wiring import web_program

if __name__ == "__main__":
    launch("webhooks.py", web_program)
