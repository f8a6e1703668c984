"""Python requests: one GET for each argument, in one session."""

import sys

from report import CA, PROXY, answer, failure

# docs: begin
import requests

session = requests.Session()
session.verify = CA  # only for a certificate authority of one's own
if PROXY:
    session.trust_env = False  # HTTP_PROXY of the environment would go before session.proxies
    session.proxies = {"http": PROXY, "https": PROXY}


def get(url):
    return session.get(url, timeout=(10, 120))
    # docs: end


for url in sys.argv[1:]:
    try:
        response = get(url)
        answer(response.status_code, response.text)
    except requests.RequestException as error:
        failure(error)
