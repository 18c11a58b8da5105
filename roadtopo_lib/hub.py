"""The hub of pretrained weights: where it is, and whether it answers.

Nothing but the standard library is imported at the top: ``doctor`` asks, too, where everything else is broken.
"""

import threading

HUB_TIMEOUT = 3.0
"""Seconds that the hub has to answer, name look-up included."""


def hub_settings() -> tuple[str, bool]:
    """The hub's address, and whether it must not be asked (``HF_HUB_OFFLINE``); ImportError without its client."""
    from huggingface_hub import constants

    return constants.ENDPOINT, constants.HF_HUB_OFFLINE


def ask_hub(endpoint: str) -> str | None:
    """Sends one HEAD request to the address of a hub; returns what went wrong, or ``None``."""
    from huggingface_hub.utils import get_session

    problems = [f"no answer within {HUB_TIMEOUT:.0f} s"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=HUB_TIMEOUT).status_code
            problems.append(f"HTTP status {status}" if status >= 500 else None)
        except Exception as error:  # the client's errors differ between versions of huggingface_hub
            problems.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}")

    # The client's timeout does not cover the name look-up, which can hang for many seconds without a network.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return problems[-1]
