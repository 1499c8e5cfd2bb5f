"""The codec server: it decrypts payloads for the Web UI and the `temporal` command, until SIGTERM or SIGINT."""

from app.codec.wiring import codec_program
from app.process import launch

if __name__ == "__main__":
    launch("codec_server.py", codec_program)
