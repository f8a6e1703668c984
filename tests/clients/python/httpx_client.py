"""Python httpx: one GET for each argument, in one client."""

import ssl
import sys

from report import CA, PROXY, answer, failure

# docs: begin
import httpx

context = ssl.create_default_context(cafile=CA)  # only for a certificate authority of one's own
# Five seconds, the default, is less than an exit may take to start.
timeout = httpx.Timeout(120, connect=10)
client = httpx.Client(proxy=PROXY, verify=context, timeout=timeout)
# docs: end

for url in sys.argv[1:]:
    try:
        response = client.get(url)
        answer(response.status_code, response.text)
    except httpx.HTTPError as error:
        failure(error)
