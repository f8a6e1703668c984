// How many UDP packets Chromium sends around its proxy: for WebRTC and for QUIC, each with nothing set against
// it and as `launchOptions` has it. Prints one JSON object.

import dgram from 'node:dgram';
import { once } from 'node:events';
import { chromium } from 'playwright-core';

import { TEST_FLAGS, launchOptions } from './chromium-options.mjs';
import { PROXY } from './report.mjs';

/** Calls `use` with a page of a new browser, and counts what comes in on a UDP port until it has ended; that
 * something comes ends it, too. */
async function packets(options, flags, use) {
  const socket = dgram.createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  let count = 0;
  socket.on('message', () => count++);
  const packet = once(socket, 'message');
  const { port } = socket.address();
  const { args = [], ...rest } = options;
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    ...rest,
    args: [...args, ...TEST_FLAGS, ...flags(port)],
  });
  try {
    // Nobody answers, so Chromium would go on asking for a while. Closing the browser ends `use`.
    const used = use(await browser.newPage(), port);
    used.catch(() => {});
    await Promise.race([used, packet]);
  } finally {
    await browser.close();
    socket.close();
  }
  return count;
}

const webrtc = (options) =>
  packets(options, () => [], (page, port) =>
    page.evaluate(async (server) => {
      const connection = new RTCPeerConnection({ iceServers: [{ urls: server }] });
      connection.createDataChannel('any');
      const gathered = new Promise((resolve) => {
        connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && resolve();
      });
      await connection.setLocalDescription(await connection.createOffer());
      await gathered;
    }, `stun:127.0.0.1:${port}`),
  );

// The origin is said to speak QUIC, and to be at the socket's address, so that nothing else keeps Chromium from it.
const quic = (options) =>
  packets(
    options,
    (port) => [`--origin-to-force-quic-on=quic.test:${port}`, '--host-resolver-rules=MAP quic.test 127.0.0.1'],
    // There is no such origin: that it fails is no news.
    (page, port) => page.goto(`https://quic.test:${port}/`).catch(() => {}),
  );

const options = launchOptions(PROXY);
const { proxy } = options;
console.log(
  JSON.stringify({
    webrtc: { open: await webrtc({ proxy }), closed: await webrtc(options) },
    quic: { open: await quic({}), closed: await quic({ proxy }) },
  }),
);
