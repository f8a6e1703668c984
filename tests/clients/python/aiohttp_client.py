"""Python aiohttp: one GET for each argument, in one session."""

import asyncio
import ssl
import sys

from report import CA, PROXY, answer, failure

# docs: begin
import aiohttp


async def get_all(urls):
    context = ssl.create_default_context(cafile=CA)  # only for a certificate authority of one's own
    connector = aiohttp.TCPConnector(ssl=context)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=not PROXY) as session:
        for url in urls:
            try:
                async with session.get(url, proxy=PROXY) as response:
                    answer(response.status, await response.text())
            except aiohttp.ClientHttpProxyError as error:
                # The gateway has refused the CONNECT. The body is lost, the header is not.
                failure(error, error.headers.get("X-Gateway-Error"))
            # docs: end
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                failure(error)


asyncio.run(get_all(sys.argv[1:]))
