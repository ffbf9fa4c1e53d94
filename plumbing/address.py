"""The address of a server, and the key that must be seen nowhere.

The key is in the environment alone: flags are written to files, and shown by the system.
"""

import argparse
import ipaddress
import os
import re
import urllib.parse

from tqdm import tqdm

from plumbing.errors import UserError

KEY = "OPENAI_API_KEY"


def check_address(address: str) -> str:
    """Return an address without its last slash. ValueError if it is none, or has a key in it.

    The message does not repeat it.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, user = parts.hostname, parts.username or parts.password
        _ = parts.port
    except ValueError:
        raise ValueError("not an address; write http://localhost:8000/v1") from None
    if user or parts.query or parts.fragment:
        raise ValueError(
            "an address must have no key in it, nor anything else before @ or after ?: "
            f"files and messages would show it; export {KEY}=... instead"
        )
    if not host:
        raise ValueError("an address needs a host; write http://localhost:8000/v1")
    return address.rstrip("/").removesuffix("/chat/completions")


def api_key(address: str) -> str:
    """Read the key from the environment, the only place it comes from. UserError if it is none."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        return "none"  # servers at home want none
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{KEY} has characters that no key has; export it again")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "http" and not is_here(parts.hostname):
        tqdm.write(f"note: {KEY} goes to {parts.hostname} unencrypted; https:// would hide it")
    return key


def is_here(host: str) -> bool:
    """Tell whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def without_key(text: str, key: str) -> str:
    """Take the key out of a text."""
    if len(key) < 8:
        return text
    return text.replace(key, "***").replace(urllib.parse.quote(key), "***")


def make_client(address: str, key: str, timeout: float) -> object:
    """Make the client. UserError if it is not installed."""
    try:
        import openai
    except ImportError:
        raise UserError(f"{address} needs the openai client: pip install openai") from None
    patience = openai.Timeout(timeout, connect=min(10.0, timeout))
    return openai.OpenAI(base_url=address, api_key=key, max_retries=0, timeout=patience)


def model_or_address(text: str) -> str:
    """argparse type: a checkpoint, or an address without a key in it."""
    if re.match(r"[\w.-]+:\d+(/|$)", text):
        raise argparse.ArgumentTypeError("an address begins with http:// or https://")
    if "://" not in text:
        return text
    if not re.match("https?://", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError("an address begins with http:// or https://")
    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
