// Fetches a page through the gateway's proxy port. The username says where from.
import { ProxyAgent, request } from "undici";

const proxy = process.env.PROXY_URL ?? "http://demo-country-se:demo@127.0.0.1:8080";
const target = process.env.TARGET_URL ?? "http://whoami.test/";

const { username, password, origin } = new URL(proxy);
const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
const dispatcher = new ProxyAgent({
  uri: origin,
  token: `Basic ${Buffer.from(login).toString("base64")}`,
});
try {
  // The first request to a place waits for its VPN, up to 90 s by the gateway's defaults.
  const { statusCode, body } = await request(target, { dispatcher, signal: AbortSignal.timeout(100_000) });
  const text = (await body.text()).trim();
  if (statusCode !== 200) throw new Error(`${target}: ${statusCode} ${text}`);
  console.log(text);
} finally {
  await dispatcher.close();
}
