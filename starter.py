"""The command line; `starter.py --help` lists its commands."""

from app.cli.main import main
from config.temporal import leave

if __name__ == "__main__":
    leave(main())
