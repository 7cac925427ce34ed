"""Exit status 0 while the server's engine lives."""

import os
import urllib.request

urllib.request.urlopen(f"http://127.0.0.1:{os.environ.get('ASR_PORT', '8000')}/healthz", timeout=4).close()
