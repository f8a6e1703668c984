// https-proxy-agent under Node's own http and https: one GET for each argument, with one agent.

import { CA, PROXY, answer, failure, urls } from './report.mjs';

// docs: begin
import http from 'node:http';
import https from 'node:https';
import { HttpsProxyAgent } from 'https-proxy-agent';

const agent = PROXY && new HttpsProxyAgent(PROXY, { keepAlive: true });

function get(url, done) {
  const { get } = url.startsWith('https:') ? https : http;
  const options = { agent, ca: CA, timeout: 120_000 }; // ca: only for an authority of one's own
  const request = get(url, options, done);
  request.on('timeout', () => request.destroy(new Error('no answer in time')));
  return request;
}
// docs: end

for (const url of urls) {
  try {
    await new Promise((resolve, reject) => {
      get(url, async (response) => {
        try {
          const body = await Array.fromAsync(response.setEncoding('utf8'));
          answer(response.statusCode, body.join(''));
          resolve();
        } catch (error) {
          reject(error);
        }
      }).on('error', reject);
    });
  } catch (error) {
    failure(error);
  }
}
agent?.destroy();
