// Node's undici: one fetch for each argument, with one dispatcher.

import { CA, PROXY, answer, failure, urls } from './report.mjs';

// docs: begin
import { EnvHttpProxyAgent, ProxyAgent, fetch } from 'undici';

const options = { requestTls: { ca: CA } }; // only for a certificate authority of one's own
const dispatcher = PROXY ? new ProxyAgent({ uri: PROXY, ...options }) : new EnvHttpProxyAgent(options);

const get = (url) => fetch(url, { dispatcher, signal: AbortSignal.timeout(120_000) });
// docs: end

for (const url of urls) {
  try {
    const response = await get(url);
    answer(response.status, await response.text());
  } catch (error) {
    failure(error);
  }
}
await dispatcher.close();
