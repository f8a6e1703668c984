// How Chromium is launched, for the programs here that drive it.

// docs: begin
/** Playwright takes the user apart from the address: `http://USER:PASSWORD@HOST:PORT` is not understood. */
export function launchOptions(proxy) {
  const { host, username, password } = new URL(proxy);
  return {
    proxy: {
      server: `http://${host}`,
      username: decodeURIComponent(username),
      password: decodeURIComponent(password),
    },
    args: ['--disable-quic', '--webrtc-ip-handling-policy=disable_non_proxied_udp'],
  };
}
// docs: end

/** For a machine without a display or a network, as root. */
export const TEST_FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
