// Starts an exit through the admin port, fetches a page through it, and destroys it.
import { ProxyAgent, request } from "undici";

const api = (process.env.GLUETUN_K8S_API_URL ?? "http://127.0.0.1:8001").replace(/\/$/, "");
const token = process.env.ADMIN_TOKEN;
const country = process.env.COUNTRY ?? "Sweden";
const target = process.env.TARGET_URL ?? "http://whoami.test/";

/** Posts JSON to the admin port. A cold start is held until the VPN is up: allow for it. */
async function call(path, body) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(api + path, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(100_000),
  });
  const json = await answer.json();
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${json.error}`);
  return json;
}

/** Fetches a page through a proxy whose URL holds its credentials. */
async function fetchThrough(proxy, url) {
  const { username, password, origin } = new URL(proxy);
  const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  const dispatcher = new ProxyAgent({ uri: origin, token: `Basic ${Buffer.from(login).toString("base64")}` });
  try {
    const { statusCode, body } = await request(url, { dispatcher });
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`${url}: ${statusCode} ${text}`);
    return text;
  } finally {
    await dispatcher.close();
  }
}

const started = await call("/start", { country });
console.error("started", started.pod_name);
try {
  console.log((await fetchThrough(started.service_url, target)).trim());
} finally {
  console.error((await call("/destroy", { id: started.id })).message);
}
